"""The source server: asyncio in front, the model in its own thread behind a bounded queue.

It listens before the model is loaded, so that probes and clients get an answer (NOT_SERVING, UNAVAILABLE) and
not a refused connection. SIGTERM: health turns NOT_SERVING, new calls are refused, those begun are answered.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health_pb2

from fusery.runtime.errors import ConfigError
from fusery.source.api import MAX_MESSAGE_BYTES, Engine
from fusery.source.pb import distributions_pb2_grpc as pb_grpc
from fusery.source.server.call_record import Observer, RequestLog
from fusery.source.server.interceptor import AuthInterceptor, Token
from fusery.source.server.model_thread import ModelThread
from fusery.source.server.probes import Probes
from fusery.source.server.service import SERVICE, DistributionsService
from fusery.source.tls import ServerTls, server_credentials
from fusery.source.token import FixedToken

if TYPE_CHECKING:
    from fusery.source.server.metrics import Metrics
    from fusery.source.server.metrics_port import MetricsPort


@dataclass(frozen=True, slots=True)
class Front:
    """How a source server meets the network. Ports None: not opened, 0: a free one.

    `health_port` answers health checks alone, in plain text, for probes that know no TLS. `hang_s`: a computation
    that takes longer counts as hanging. `max_connection_age_s`: clients connect anew after it, so that they find new
    servers and take new certificates; calls that are running get `connection_grace_s`, longer than any should take.
    """

    tls: ServerTls | None = None
    health_port: int | None = None
    metrics_port: int | None = None
    reflection: bool = False
    hang_s: float = 600.0
    max_request_bytes: int = 16 << 20
    max_connection_age_s: float = 1800.0
    connection_grace_s: float = 660.0
    max_connection_idle_s: float = 900.0

    def __post_init__(self) -> None:
        times = (self.hang_s, self.max_connection_age_s, self.connection_grace_s, self.max_connection_idle_s)
        if min(times) <= 0:
            raise ConfigError(f"times of the source server {times}: expected seconds over 0")
        if not 1 <= self.max_request_bytes <= MAX_MESSAGE_BYTES:
            raise ConfigError(f"max_request_bytes: got {self.max_request_bytes}, expected 1 to {MAX_MESSAGE_BYTES}")

    def options(self) -> tuple[tuple[str, int], ...]:
        """gRPC's options."""
        return (
            ("grpc.max_receive_message_length", self.max_request_bytes),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            # Two servers on one port would share its calls at random; the second must fail.
            ("grpc.so_reuseport", 0),
            # Clients ping every 30 s to find out that a machine is gone; by default that counts as abuse.
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ("grpc.keepalive_permit_without_calls", 1),
            # And a client that is gone must not keep its place in the queue.
            ("grpc.keepalive_time_ms", 60_000),
            ("grpc.keepalive_timeout_ms", 20_000),
            ("grpc.max_connection_age_ms", round(self.max_connection_age_s * 1000)),
            ("grpc.max_connection_age_grace_ms", round(self.connection_grace_s * 1000)),
            ("grpc.max_connection_idle_ms", round(self.max_connection_idle_s * 1000)),
        )


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
        self._metrics: Metrics | None = None
        if self._front.metrics_port is not None:
            from fusery.source.server.metrics import Metrics

            self._metrics = Metrics(self._thread.waiting, self._thread.busy_s, lambda: self._probes.ready)
        checked = FixedToken(token) if token is None or isinstance(token, str) else token
        observers: list[Observer] = [RequestLog(), *([] if self._metrics is None else [self._metrics])]
        interceptor = AuthInterceptor(SERVICE, checked, self._service.admit, observers)
        self._server = grpc.aio.server(options=self._front.options(), interceptors=(interceptor,))
        pb_grpc.add_DistributionsServiceServicer_to_server(  # type: ignore[no-untyped-call]
            self._service, self._server
        )
        self._probes.add_to(self._server)
        if self._front.reflection:
            from grpc_reflection.v1alpha import reflection

            health = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
            reflection.enable_server_reflection((SERVICE, health, reflection.SERVICE_NAME), self._server)
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
            from fusery.source.server.metrics_port import MetricsPort

            self._metrics_port = await asyncio.to_thread(
                MetricsPort, self._metrics.registry, host, self._front.metrics_port
            )
            self.metrics_address = f"{shown}:{self._metrics_port.port}"
        self._watching = asyncio.ensure_future(self._probes.watch())
        return f"{shown}:{bound}"

    async def _open_health(self, shown: str, port: int) -> str:
        # A server of its own: a plain port of the other one would serve everything in plain text.
        self._plain = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        self._probes.add_to(self._plain)
        bound = _listen(self._plain, f"{shown}:{port}", None)
        await self._plain.start()
        return f"{shown}:{bound}"

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


def _listen(server: Any, address: str, credentials: Any) -> int:
    try:
        port: int = (
            server.add_insecure_port(address) if credentials is None else server.add_secure_port(address, credentials)
        )
    except RuntimeError as error:
        raise ConfigError(f"{address} can't be listened on: {error}; is another server there?") from error
    return port
