"""The source server: asyncio in front, the model in its own thread behind a bounded queue.

It listens before the model is loaded, so that probes and clients get an answer (NOT_SERVING, UNAVAILABLE) and
not a refused connection. SIGTERM: health turns NOT_SERVING, new calls are refused, those begun are answered.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health_pb2

from fusery.core.rules import Dtype
from fusery.errors import ConfigError
from fusery.pb import distributions_pb2_grpc as pb_grpc
from fusery.run_config import EngineKind, split_engine
from fusery.source.api import Limits
from fusery.source.call_record import Observer, RequestLog
from fusery.source.engines import check_engine, load_engine
from fusery.source.front import Front
from fusery.source.guard import Guard, Token
from fusery.source.model_thread import ModelThread
from fusery.source.probes import Probes
from fusery.source.service import SERVICE, DistributionsService
from fusery.source.tls import server_credentials
from fusery.source.token_file import FixedToken, TokenFile

if TYPE_CHECKING:
    from fusery.source.engine import Engine
    from fusery.source.metrics import Metrics
    from fusery.source.metrics_port import MetricsPort

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServeConfig:
    """A source server: which model (`engines` tells how it is named), how, where it listens. `port` 0: a free one.

    `ready_file` is written with host:port once the model is loaded. `token_file` holds the bearer token that
    calls must carry. `device` is a torch device, None: a GPU if there is one; `threads` are torch's on a CPU.
    """

    model: str
    revision: str | None = None
    tokenizer: str | None = None
    same_as: str | None = None
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
    front: Front = field(default_factory=Front)


def serve(config: ServeConfig) -> int:
    """Exit code 0, after SIGTERM or SIGINT and a graceful drain.

    Raises:
        ModelError: the checkpoint can't be used.
        ConfigError: a port can't be had, or the files of token or TLS can't be used.
    """
    token = None if config.token_file is None else TokenFile(config.token_file)
    if config.front.tls is not None:
        config.front.tls.read()
    check_engine(config.model, config.revision, config.tokenizer, config.same_as)
    if config.ready_file is not None:
        config.ready_file.unlink(missing_ok=True)
    asyncio.run(_serve(config, token))
    return 0


async def _serve(config: ServeConfig, token: TokenFile | None) -> None:
    stop = _stop_event()
    server = SourceServer(lambda: _load(config), token, config.waiting_requests, config.front)
    try:
        address = await server.start(config.host, config.port)
        log.info("%s: listening on %s, loading", config.model, address)
        _tell_of(server, config, open_to_all=token is None and not _asks_for_certificates(config))
        await _serve_until(stop, server, config, address)
        log.info("%s: draining", config.model)
    finally:
        await server.drain(config.drain_s)


def _stop_event() -> asyncio.Event:
    """Set at SIGTERM, and at Ctrl-C unless that is ignored from the start, as in what a script starts with &."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) is not signal.SIG_IGN:
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


def _asks_for_certificates(config: ServeConfig) -> bool:
    return config.front.tls is not None and config.front.tls.client_ca is not None


_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def _tell_of(server: SourceServer, config: ServeConfig, *, open_to_all: bool) -> None:
    for what, address in (("health checks", server.health_address), ("metrics", server.metrics_address)):
        if address is not None:
            log.info("%s: %s on %s", config.model, what, address)
    if open_to_all and config.host not in _LOOPBACK:
        log.warning("whoever reaches %s may use this server: it asks for no token and no certificate", config.host)
    if config.token_file is not None and config.front.tls is None and config.host not in _LOOPBACK:
        log.warning("the token travels in the clear to %s: there is no TLS", config.host)


async def _serve_until(stop: asyncio.Event, server: SourceServer, config: ServeConfig, address: str) -> None:
    stopping, loading = asyncio.ensure_future(stop.wait()), asyncio.ensure_future(server.load())
    try:
        await asyncio.wait((stopping, loading), return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            loading.result()
            log.info("%s: serving on %s", config.model, address)
            if config.ready_file is not None:
                _write_whole(config.ready_file, address)
            await stopping
    finally:
        stopping.cancel()
        loading.cancel()


def _load(config: ServeConfig) -> Engine:
    if config.threads is not None and split_engine(config.model)[0] is EngineKind.TRANSFORMERS:
        import torch

        torch.set_num_threads(config.threads)
    return load_engine(
        config.model,
        config.revision,
        Dtype(config.dtype),
        tokenizer=config.tokenizer,
        attention=config.attention,
        device=config.device,
        name=config.name,
        limits=config.limits,
        same_as=config.same_as,
    )


def _write_whole(path: Path, content: str) -> None:
    """A reader finds the whole content or no file."""
    beside = path.with_name(path.name + ".part")
    beside.write_text(content, encoding="utf-8")
    beside.replace(path)


class SourceServer:
    """A gRPC server of one engine, which `load` makes in the model's thread."""

    def __init__(
        self,
        load: Callable[[], Engine],
        token: Token | str | None = None,
        waiting_requests: int = 32,
        front: Front | None = None,
    ) -> None:
        self._load = load
        self._front = front or Front()
        self._thread = ModelThread(waiting_requests)
        self._probes = Probes(SERVICE, self._thread.busy_s, self._front.hang_s)
        self._service = DistributionsService(self._thread, self._probes)
        self._metrics = self._make_metrics()
        checked = FixedToken(token) if token is None or isinstance(token, str) else token
        observers: list[Observer] = [RequestLog(), *([] if self._metrics is None else [self._metrics])]
        guard = Guard(SERVICE, checked, self._service.admit, observers)
        self._server = grpc.aio.server(options=self._front.options(), interceptors=(guard,))
        pb_grpc.add_DistributionsServiceServicer_to_server(  # type: ignore[no-untyped-call]
            self._service, self._server
        )
        self._probes.add_to(self._server)
        if self._front.reflection:
            _reflect(self._server)
        self._plain: Any = None
        self._metrics_port: MetricsPort | None = None
        self._watching: asyncio.Task[None] | None = None
        self.health_address: str | None = None
        self.metrics_address: str | None = None

    async def start(self, host: str, port: int) -> str:
        """host:port that it listens on, not serving yet.

        Raises:
            ConfigError: a port can't be had, or the files of TLS can't be used.
        """
        await self._probes.refresh()
        tls, shown = self._front.tls, f"[{host}]" if ":" in host else host
        bound = _listen(self._server, f"{shown}:{port}", None if tls is None else server_credentials(tls))
        await self._server.start()
        if self._front.health_port is not None:
            self.health_address = await self._open_health(shown, self._front.health_port)
        if self._metrics is not None and self._front.metrics_port is not None:
            self.metrics_address = await self._open_metrics(host, shown, self._front.metrics_port, self._metrics)
        self._watching = asyncio.ensure_future(self._probes.watch())
        return f"{shown}:{bound}"

    async def _open_health(self, shown: str, port: int) -> str:
        # A server of its own: a plain port of the other one would serve everything in plain text.
        self._plain = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        self._probes.add_to(self._plain)
        bound = _listen(self._plain, f"{shown}:{port}", None)
        await self._plain.start()
        return f"{shown}:{bound}"

    async def _open_metrics(self, host: str, shown: str, port: int, metrics: Metrics) -> str:
        from fusery.source.metrics_port import MetricsPort

        self._metrics_port = await asyncio.to_thread(MetricsPort, metrics.registry, host, port)
        return f"{shown}:{self._metrics_port.port}"

    async def load(self) -> None:
        """Serving, when this returns; raises what `load` raises."""
        engine = self._service.engine = await self._thread.run(self._load)
        if self._metrics is not None:
            self._metrics.describe(engine.model)
        await self._probes.show_loaded()

    async def drain(self, grace_s: float) -> None:
        """Refuses new calls, answers those begun for `grace_s`, then ends."""
        until = time.monotonic() + grace_s
        await self._probes.show_draining()
        await self._server.stop(grace_s)
        if self._plain is not None:
            await self._plain.stop(0)
        await asyncio.to_thread(self._thread.close, max(0.0, until - time.monotonic()))
        if self._metrics_port is not None:
            await asyncio.to_thread(self._metrics_port.close)
        if self._watching is not None:
            self._watching.cancel()

    def _make_metrics(self) -> Metrics | None:
        if self._front.metrics_port is None:
            return None
        from fusery.source.metrics import Metrics

        return Metrics(self._thread.waiting, self._thread.busy_s, lambda: self._probes.ready)


def _listen(server: Any, address: str, credentials: Any) -> int:
    try:
        port: int = (
            server.add_insecure_port(address) if credentials is None else server.add_secure_port(address, credentials)
        )
    except RuntimeError as error:
        raise ConfigError(f"{address} can't be listened on: {error}; is another server there?") from error
    return port


def _reflect(server: Any) -> None:
    from grpc_reflection.v1alpha import reflection

    health = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
    reflection.enable_server_reflection((SERVICE, health, reflection.SERVICE_NAME), server)
