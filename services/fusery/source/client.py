"""A source, as a worker sees it: blocking calls, values of `api`, errors of our own tree, retries inside.

A call is repeated whole, at the next server if there are several, until it succeeds or `retry_for_s` has passed: a
source that is killed and started again at its address costs time and nothing else. gRPC's own retries are off: they
stop at five attempts, and at the first message of a stream. Channels are made at the first call, never before a fork.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, TypeVar

from fusery.core.tokens import ByteTokenizer
from fusery.runtime.errors import Mismatch, Unavailable
from fusery.runtime.settings import settings
from fusery.source import wire
from fusery.source.address import RoundRobin, parse_address
from fusery.source.api import MAX_MESSAGE_BYTES, Distributions, Document, ModelDescription
from fusery.source.call import Call, Outlast, Peers, in_order
from fusery.source.packing import LogProbs
from fusery.source.pb import distributions_pb2 as pb
from fusery.source.pb import distributions_pb2_grpc as pb_grpc
from fusery.source.tls import ClientTls, client_tls, open_channel
from fusery.source.token import read_token

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
_BALANCED = (
    ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})),
    # A server that came up is found when another one fails, and not up to 30 s later.
    ("grpc.dns_min_time_between_resolutions_ms", 2_000),
)
"""For a name with several servers behind it; by default all calls go to the first of them."""


class SourceClient:
    """A source at `address`: host:port, a list host:port,host:port, or dns:///name:port; several are taken in turn.

    `timeout_s` is the deadline of one attempt, waiting in the server's queue included; attempts go on for
    `retry_for_s` after the first failure; `deadline_s` is the deadline of the whole call, None: the sum of both.
    `outlast` is asked after that, where the source is away: it may wait, and have the call go on. One thread at a time.

    Raises:
        AddressError: `address` has none of these forms.
    """

    def __init__(
        self,
        address: str,
        *,
        token: str | None = None,
        tls: ClientTls | None = None,
        timeout_s: float = 600.0,
        retry_for_s: float = 120.0,
        deadline_s: float | None = None,
        outlast: Outlast | None = None,
    ) -> None:
        self.address = address
        parsed = parse_address(address)
        self._options = _OPTIONS + (_BALANCED if parsed.balanced else ())
        deadline_s = timeout_s + retry_for_s if deadline_s is None else deadline_s
        self._metadata = () if token is None else (("authorization", f"Bearer {token}"),)
        self._tls = tls
        self._channels: dict[str, Any] = {}
        # Many workers begin at the same time; they must not all begin with the same server.
        turns = RoundRobin(len(parsed.targets), random.randrange(len(parsed.targets)))
        self._peers = Peers(parsed.targets, turns, timeout_s, retry_for_s, deadline_s, outlast)

    def __enter__(self) -> SourceClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        while self._channels:
            self._channels.popitem()[1].close()

    @property
    def servers(self) -> int:
        """How many servers the address names; 1 for a DNS name, whatever is behind it."""
        return len(self._peers.targets)

    def model(self) -> ModelDescription:
        """Which model is served. Every server of a list is asked.

        Raises:
            Mismatch: two servers of the list serve different models.
            FuseryError: as `compute`.
        """
        first, *others = (self._ask_model(server) for server in range(self.servers))
        for target, model in zip(self._peers.targets[1:], others, strict=True):
            if model.fingerprint != first.fingerprint:
                raise Mismatch(
                    f"source fingerprints: {first.name} at {self._peers.targets[0]} is {first.fingerprint[:12]}…, "
                    f"{model.name} at {target} is {model.fingerprint[:12]}…; all servers of a list must serve the "
                    "same model with the same dtype"
                )
        return first

    def knock(self) -> None:
        """Returns if one of the servers answers and is not loading; each has its own `timeout_s` and `retry_for_s`.

        Raises:
            FuseryError: as `compute`, of the last server.
        """
        for server in range(self.servers):
            try:
                self._ask_model(server)
            except Unavailable:
                if server == self.servers - 1:
                    raise
            else:
                return

    def tokenizer(self) -> ByteTokenizer:
        """The very tokenizer that the source uses.

        Raises:
            Mismatch: it behaves differently here than there: the tokenizers packages differ.
        """
        server = self._peers.turns.take()
        expected = self._ask_model(server).tokenizer_fingerprint
        tokenizer = self._call("GetTokenizer", pb.GetTokenizerRequest(), wire.read_tokenizer, server).result()
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
        return self._compute(documents, top_k, log_probs, expected_fingerprint).result()

    def compute_many(
        self,
        requests: Iterable[Sequence[Document]],
        top_k: int,
        log_probs: LogProbs = "float16",
        expected_fingerprint: str | None = None,
        *,
        in_flight: int = 2,
    ) -> Iterator[list[Distributions]]:
        """The answers of `compute` to each of the requests, in order, byte for byte the same.

        At most `in_flight` requests for each server that the address names are under way at any time: with 2, a model
        works on the next one while this one's answer is received and used. A request that fails is repeated alone; an
        error that no repeating helps cancels those behind it, and so does a caller that stops iterating. The deadline
        of an attempt runs from its start, so it includes the time that an answer waits for the caller.

        Raises:
            FuseryError: as `compute`; an error of a later request may come before an earlier answer.
        """
        return in_order(
            lambda documents: self._compute(documents, top_k, log_probs, expected_fingerprint),
            requests,
            in_flight * self.servers,
        )

    def _compute(
        self, documents: Sequence[Document], top_k: int, log_probs: LogProbs, expected_fingerprint: str | None
    ) -> Call[list[Distributions]]:
        request = wire.write_request(documents, top_k, log_probs, expected_fingerprint)

        def read(rpc: Any) -> list[Distributions]:
            return wire.read_answers(self.address, rpc, documents, top_k, log_probs)

        return self._call("ComputeDistributions", request, read)

    def _ask_model(self, server: int) -> ModelDescription:
        return self._call("GetModel", pb.GetModelRequest(), lambda rpc: wire.read_model(rpc.result()), server).result()

    def _call(self, method: str, request: Any, read: Callable[[Any], T], server: int | None = None) -> Call[T]:
        def begin(target: str, timeout_s: float, metadata: tuple[tuple[str, str], ...]) -> Any:
            sent = getattr(self._stub(target), method)
            # A call with one answer blocks, unless it is asked for as a future.
            sent = getattr(sent, "future", sent)
            return sent(request, timeout=timeout_s, metadata=(*self._metadata, *metadata))

        return Call(method, begin, read, self._peers, server)

    def _stub(self, target: str) -> Any:
        if target not in self._channels:
            self._channels[target] = open_channel(target, self._options, self._tls)
        return pb_grpc.DistributionsServiceStub(self._channels[target])  # type: ignore[no-untyped-call]


def client_from_settings(
    address: str, *, timeout_s: float = 600.0, retry_for_s: float = 120.0, outlast: Outlast | None = None
) -> SourceClient:
    """A client with the token and the TLS files that this process's environment names, FUSERY_SOURCE_….

    Raises:
        AddressError: see SourceClient.
        ConfigError: a file that the environment names can't be used.
    """
    token = read_token(settings().source_token_file)
    return SourceClient(
        address, token=token, tls=client_tls(), timeout_s=timeout_s, retry_for_s=retry_for_s, outlast=outlast
    )
