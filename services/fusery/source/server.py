"""The source server: asyncio in front, the model in its own thread behind a bounded queue.

It listens before the model is loaded, so that probes and clients get an answer (NOT_SERVING, UNAVAILABLE) and
not a refused connection. SIGTERM: health turns NOT_SERVING, new calls are refused, those begun are answered.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from fusery.core.rules import Dtype
from fusery.errors import ConfigError, Mismatch, Unavailable
from fusery.formats.packing import LogProbs
from fusery.models.checkpoint import check_checkpoint
from fusery.pb import distributions_pb2 as pb
from fusery.pb import distributions_pb2_grpc as pb_grpc
from fusery.source import wire
from fusery.source.api import MAX_MESSAGE_BYTES, Document, Limits, check_request
from fusery.source.client import read_token
from fusery.source.guard import Guard
from fusery.source.model_thread import ModelThread

if TYPE_CHECKING:
    from fusery.source.engine import Engine

log = logging.getLogger(__name__)

SERVICE = pb.DESCRIPTOR.services_by_name["DistributionsService"].full_name

_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # Two servers on one port would share its calls at random; the second must fail.
    ("grpc.so_reuseport", 0),
    # Clients ping every 30 s to find out that a machine is gone; by default that counts as abuse.
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
)


@dataclass(frozen=True, slots=True)
class ServeConfig:
    """A source server: which model, how, and where it listens. `port` 0 takes a free one.

    `ready_file` is written with host:port once the model is loaded. `token_file` holds the bearer token that
    calls must carry. `device` is a torch device, None: a GPU if there is one; `threads` are torch's on a CPU.
    """

    model: str
    revision: str | None = None
    dtype: str = Dtype.FLOAT32.value
    attention: str | None = None
    device: str | None = None
    name: str | None = None
    threads: int | None = None
    host: str = "127.0.0.1"
    port: int = 50051
    ready_file: Path | None = None
    token_file: Path | None = None
    waiting_requests: int = 32
    drain_s: float = 30.0
    limits: Limits = field(default_factory=Limits)


def serve(config: ServeConfig) -> int:
    """Exit code 0, after SIGTERM or SIGINT and a graceful drain.

    Raises:
        ModelError: the checkpoint can't be used.
        ConfigError: the port can't be had, or the token file can't be read.
    """
    check_checkpoint(config.model, config.revision)
    if config.ready_file is not None:
        config.ready_file.unlink(missing_ok=True)
    asyncio.run(_serve(config))
    return 0


async def _serve(config: ServeConfig) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    server = SourceServer(lambda: _load(config), read_token(config.token_file), config.waiting_requests)
    address = await server.start(config.host, config.port)
    log.info("%s: listening on %s, loading", config.model, address)
    stopping, loading = asyncio.ensure_future(stop.wait()), asyncio.ensure_future(server.load())
    try:
        await asyncio.wait((stopping, loading), return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            loading.result()
            log.info("%s: serving on %s", config.model, address)
            if config.ready_file is not None:
                _write_whole(config.ready_file, address)
            await stopping
        log.info("%s: draining", config.model)
    finally:
        stopping.cancel()
        await server.drain(config.drain_s)
        loading.cancel()


def _load(config: ServeConfig) -> Engine:
    import torch

    from fusery.source.engine import load_engine

    if config.threads is not None:
        torch.set_num_threads(config.threads)
    return load_engine(
        config.model,
        config.revision,
        Dtype(config.dtype),
        attention=config.attention,
        device=config.device,
        name=config.name,
        limits=config.limits,
    )


def _write_whole(path: Path, content: str) -> None:
    """A reader finds the whole content or no file."""
    beside = path.with_name(path.name + ".part")
    beside.write_text(content, encoding="utf-8")
    beside.replace(path)


class SourceServer:
    """A gRPC server of one engine, which `load` makes in the model's thread."""

    def __init__(self, load: Callable[[], Engine], token: str | None = None, waiting_requests: int = 32) -> None:
        self._load = load
        self._thread = ModelThread(waiting_requests)
        self._service = DistributionsService(self._thread)
        self._health = health.aio.HealthServicer()
        self._server = grpc.aio.server(options=_OPTIONS, interceptors=(Guard(SERVICE, token),))
        pb_grpc.add_DistributionsServiceServicer_to_server(  # type: ignore[no-untyped-call]
            self._service, self._server
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)

    async def start(self, host: str, port: int) -> str:
        """host:port that it listens on, not serving yet.

        Raises:
            ConfigError: the port can't be had.
        """
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        shown = f"[{host}]" if ":" in host else host
        try:
            bound = self._server.add_insecure_port(f"{shown}:{port}")
        except RuntimeError as error:
            raise ConfigError(f"{shown}:{port} can't be listened on: {error}; is another server there?") from error
        await self._server.start()
        return f"{shown}:{bound}"

    async def load(self) -> None:
        """Serving, when this returns; raises what `load` raises."""
        self._service.engine = await self._thread.run(self._load)
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)

    async def drain(self, grace_s: float) -> None:
        """Refuses new calls, answers those begun for `grace_s`, then ends."""
        self._service.draining = True
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_s)
        await asyncio.to_thread(self._thread.close, grace_s)

    async def _set_health(self, status: Any) -> None:
        for service in ("", SERVICE):
            await self._health.set(service, status)


class DistributionsService(pb_grpc.DistributionsServiceServicer):
    """The methods of distributions.proto."""

    def __init__(self, thread: ModelThread) -> None:
        self._thread = thread
        self.engine: Engine | None = None
        self.draining = False

    def _ready(self) -> Engine:
        if self.draining:
            raise Unavailable("this source server is draining; try again at its successor")
        if self.engine is None:
            raise Unavailable("the model is loading; try again")
        return self.engine

    async def GetModel(self, _request: pb.GetModelRequest, _context: Any) -> pb.GetModelResponse:
        return wire.write_model(self._ready().model)

    async def GetTokenizer(
        self, _request: pb.GetTokenizerRequest, _context: Any
    ) -> AsyncIterator[pb.GetTokenizerResponse]:
        for message in await asyncio.to_thread(list, wire.write_tokenizer(self._ready().tokenizer)):
            yield message

    async def ComputeDistributions(
        self, request: pb.ComputeDistributionsRequest, _context: Any
    ) -> AsyncIterator[pb.ComputeDistributionsResponse]:
        engine = self._ready()
        expected = request.expected_fingerprint
        if expected and expected != engine.model.fingerprint:
            raise Mismatch(
                f"source fingerprint: {engine.model.name} here is {engine.model.fingerprint[:12]}…, "
                f"the request expects {expected[:12]}…; plan the run again for this source, or serve the expected one"
            )
        log_probs = wire.read_log_probs(request.log_probs)
        documents, top_k = wire.read_documents(request), request.top_k
        # Here too, so that what can never be answered does not wait in the queue.
        check_request(documents, top_k, engine.model)
        for message in await self._thread.run(lambda: _answer(engine, documents, top_k, log_probs)):
            yield message


def _answer(
    engine: Engine, documents: list[Document], top_k: int, log_probs: LogProbs
) -> list[pb.ComputeDistributionsResponse]:
    return [wire.write_answer(answer, log_probs) for answer in engine.compute(documents, top_k)]
