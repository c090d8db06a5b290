"""Health as Kubernetes and load balancers ask for it (grpc.health.v1), and the watchdog of the model's thread.

Readiness, the whole server ("") and the service are SERVING while calls are answered: not while the model loads, not
while the server drains, not while a computation is overdue. Liveness is about a restart: NOT_SERVING only while the
model's thread hangs. Loading may take as long as it takes: a startup probe bounds it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

log = logging.getLogger(__name__)

LIVENESS, READINESS = "liveness", "readiness"

_LONGEST_NAME, _MOST_WATCHES = 200, 256
_TICK_S = 1.0
_LAST_WORD_S = 0.1
"""Time for watchers to be told that the server drains."""


class Probes:
    """The states of one server; `busy_s` says how long the model has been at one computation."""

    def __init__(self, service: str, busy_s: Callable[[], float], hang_s: float) -> None:
        self._servicer = _Health()
        self._names_of_readiness = ("", service, READINESS)
        self._busy_s = busy_s
        self._hang_s = hang_s
        self._loaded = self._draining = self._was_overdue = False

    @property
    def ready(self) -> bool:
        return self._loaded and not self._draining and not self.overdue

    @property
    def draining(self) -> bool:
        return self._draining

    @property
    def overdue(self) -> bool:
        """Whether the model has been at one computation for longer than any should take."""
        return self._loaded and self._busy_s() > self._hang_s

    def add_to(self, server: Any) -> None:
        """Makes a gRPC server answer health checks."""
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    async def show_loaded(self) -> None:
        self._loaded = True
        await self.refresh()

    async def show_draining(self) -> None:
        """Tells the watchers, and ends the watches: a server that stops waits for every open call."""
        self._draining = True
        await self.refresh()
        await self._servicer.end_watches()

    async def refresh(self) -> None:
        """Tells the watchers what is true now."""
        overdue = self.overdue
        if overdue and not self._was_overdue:
            log.error("the model has been at one request for over %g s; liveness is NOT_SERVING", self._hang_s)
        elif self._was_overdue and not overdue:
            log.warning("the model has ended the overdue request")
        self._was_overdue = overdue
        for name in self._names_of_readiness:
            await self._set(name, self._loaded and not self._draining and not overdue)
        await self._set(LIVENESS, not overdue)

    async def watch(self) -> None:
        """Refreshes until it is cancelled."""
        while True:
            await asyncio.sleep(min(_TICK_S, self._hang_s / 4))
            await self.refresh()

    async def _set(self, name: str, serving: bool) -> None:
        states = health_pb2.HealthCheckResponse
        await self._servicer.set(name, states.SERVING if serving else states.NOT_SERVING)


class _Health(health.aio.HealthServicer):  # type: ignore[misc]  # grpc has no types
    """gRPC's own, with watches that can be ended."""

    def __init__(self) -> None:
        super().__init__()
        self._watches: set[asyncio.Task[None]] = set()
        self._ended = False

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:
        # Watches need no token and last, so what they may take is little.
        if len(request.service) > _LONGEST_NAME:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"service: at most {_LONGEST_NAME} characters")
        if len(self._watches) >= _MOST_WATCHES:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{_MOST_WATCHES} callers are watching; use Check")
        watch = asyncio.ensure_future(super().Watch(request, context))
        self._watches.add(watch)
        try:
            await watch
        except asyncio.CancelledError:
            # Cancelled from outside it means that the caller has gone.
            if not self._ended:
                raise
        finally:
            self._watches.discard(watch)

    async def end_watches(self) -> None:
        await asyncio.sleep(_LAST_WORD_S)
        self._ended = True
        for watch in self._watches:
            watch.cancel()
