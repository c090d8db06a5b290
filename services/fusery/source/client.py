"""A source, as a worker sees it: blocking calls, values of `api`, errors of our own tree, retries inside.

A call is repeated whole until it succeeds or `retry_for_s` has passed: a source that is killed and started
again at its address costs time and nothing else. gRPC's own retries are off: they stop at five attempts, and at
the first message of a stream. The channel is made at the first call, never before a fork.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import grpc

from fusery.core.tokens import ByteTokenizer
from fusery.errors import AddressError, ConfigError, Corrupt, FuseryError, Mismatch, TooLarge, Unavailable
from fusery.formats.packing import LogProbs
from fusery.pb import distributions_pb2 as pb
from fusery.pb import distributions_pb2_grpc as pb_grpc
from fusery.source import wire
from fusery.source.api import ERROR_KEY, MAX_MESSAGE_BYTES, Distributions, Document, ModelDescription

log = logging.getLogger(__name__)

T = TypeVar("T")

_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.enable_retries", 0),
    # By default a broken connection is tried again after up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # A machine that vanishes sends no farewell; without pings a call waits for its whole deadline.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # Sources are peers in one network; a proxy meant for the internet must not see them.
    ("grpc.enable_http_proxy", 0),
    # Clients of one process share neither connections nor their back-off.
    ("grpc.use_local_subchannel_pool", 1),
)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0

_WITHOUT_CLASS: dict[grpc.StatusCode, type[FuseryError]] = {
    grpc.StatusCode.UNAUTHENTICATED: ConfigError,
    grpc.StatusCode.UNIMPLEMENTED: AddressError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: TooLarge,
}
"""Statuses that gRPC makes itself, or that carry no class; every other one is a broken connection: Unavailable."""


def read_token(path: Path | None) -> str | None:
    """The bearer token that a file holds; None without a file.

    Raises:
        ConfigError: the file can't be read, or holds anything but one line of printable ASCII.
    """
    if path is None:
        return None
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"token file {path} can't be read: {error}; check FUSERY_SOURCE_TOKEN_FILE") from error
    if not token or not token.isascii() or not token.isprintable():
        raise ConfigError(f"token file {path}: expected one line of printable ASCII characters")
    return token


class SourceClient:
    """A source server at `address` (host:port).

    `timeout_s` is the deadline of one attempt, waiting in the server's queue included.
    """

    def __init__(
        self, address: str, *, token: str | None = None, timeout_s: float = 600.0, retry_for_s: float = 120.0
    ) -> None:
        self.address = address
        self._timeout_s = timeout_s
        self._retry_for_s = retry_for_s
        self._metadata = () if token is None else (("authorization", f"Bearer {token}"),)
        self._channel: Any = None
        self._random = random.Random()

    def __enter__(self) -> SourceClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def model(self) -> ModelDescription:
        """Which model is served.

        Raises:
            FuseryError: as `compute`.
        """
        return self._retrying(lambda: wire.read_model(self._stub().GetModel(pb.GetModelRequest(), **self._call())))

    def tokenizer(self) -> ByteTokenizer:
        """The very tokenizer that the source uses.

        Raises:
            Mismatch: it behaves differently here than there: the tokenizers packages differ.
        """
        tokenizer, expected = self._retrying(self._read_tokenizer)
        if tokenizer.fingerprint != expected:
            raise Mismatch(
                f"{self.address}: tokenizer mismatch: the source's is {expected[:12]}…, here it becomes "
                f"{tokenizer.fingerprint[:12]}…; install the same version of tokenizers on both sides"
            )
        return tokenizer

    def compute(
        self,
        documents: Sequence[Document],
        top_k: int,
        log_probs: LogProbs = "float16",
        expected_fingerprint: str | None = None,
    ) -> list[Distributions]:
        """One answer per document, in their order; all of them are one batch of the model.

        Raises:
            Unavailable: the source could not be reached, or was overloaded, for as long as retries went on.
            InvalidInput: the source refuses the request; its subclasses TooLarge, Mismatch and so on say why.
            FuseryError: the source has a defect.
        """
        request = wire.write_request(documents, top_k, log_probs, expected_fingerprint)
        return self._retrying(lambda: self._compute(request, documents, top_k, log_probs))

    def _compute(
        self, request: pb.ComputeDistributionsRequest, documents: Sequence[Document], top_k: int, log_probs: LogProbs
    ) -> list[Distributions]:
        messages = list(self._stub().ComputeDistributions(request, **self._call()))
        if len(messages) != len(documents):
            raise Corrupt(f"{self.address}: {len(messages)} answers to {len(documents)} documents; ask again")
        return [
            wire.read_answer(message, document, top_k, log_probs)
            for message, document in zip(messages, documents, strict=True)
        ]

    def _read_tokenizer(self) -> tuple[ByteTokenizer, str]:
        model = wire.read_model(self._stub().GetModel(pb.GetModelRequest(), **self._call()))
        tokenizer = wire.read_tokenizer(self._stub().GetTokenizer(pb.GetTokenizerRequest(), **self._call()))
        return tokenizer, model.tokenizer_fingerprint

    def _stub(self) -> Any:
        if self._channel is None:
            self._channel = grpc.insecure_channel(self.address, _OPTIONS)
        return pb_grpc.DistributionsServiceStub(self._channel)  # type: ignore[no-untyped-call]

    def _call(self) -> dict[str, Any]:
        return {"timeout": self._timeout_s, "metadata": self._metadata}

    def _retrying(self, call: Callable[[], T]) -> T:
        give_up = time.monotonic() + self._retry_for_s
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                return call()
            except grpc.RpcError as broken:
                error, cause = error_of(broken, self.address), broken
            except Corrupt as corrupt:
                error, cause = corrupt, corrupt.__cause__
            wait_s = pause_s * self._random.uniform(0.5, 1.0)
            if not error.retryable or time.monotonic() + wait_s > give_up:
                raise error from cause
            log.info("%s: %s; trying again in %.1f s", self.address, error, wait_s)
            time.sleep(wait_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def error_of(broken: Any, address: str) -> FuseryError:
    """The error of our tree that a failed call stands for."""
    code, details = broken.code(), broken.details()
    name = next((value for key, value in broken.trailing_metadata() or () if key == ERROR_KEY), None)
    kind = wire.error_classes().get(str(name)) or _WITHOUT_CLASS.get(code, Unavailable)
    hint = "; is this a fusery source server?" if code is grpc.StatusCode.UNIMPLEMENTED else ""
    return kind(f"source {address}: {details}{hint}" if name else f"source {address}: {code.name}: {details}{hint}")
