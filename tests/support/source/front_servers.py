"""Real source servers on loopback with every option of their front, and blunt ways to ask them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from fusery.source import wire
from fusery.source.api import ERROR_KEY, Document, Engine
from fusery.source.pb import distributions_pb2 as pb
from fusery.source.pb import distributions_pb2_grpc as pb_grpc
from fusery.source.server.interceptor import Token
from fusery.source.server.server import Front, SourceServer
from support.models.pico_models import TEXTS
from support.source.source_servers import RunningServer

DOCUMENTS = [Document(f"d{i}", text) for i, text in enumerate(TEXTS)]


class FrontServer(RunningServer):
    """As RunningServer, with a `front`, and a token that may follow a file."""

    def __init__(self, load: Callable[[], Engine], front: Front, token: Token | str | None, waiting: int) -> None:
        async def make(load: Callable[[], Engine], _token: str | None, waiting_requests: int) -> SourceServer:
            return SourceServer(load, token, waiting_requests, front)

        self._make = make  # type: ignore[method-assign]
        super().__init__(load, None, waiting, 0)

    @property
    def health_address(self) -> str:
        assert self._server.health_address is not None
        return self._server.health_address

    def wait_for_waiting(self, requests: int) -> None:
        """Returns when so many requests wait for the model."""
        while self._server._thread.waiting() != requests:
            time.sleep(0.01)

    @property
    def metrics_address(self) -> str:
        assert self._server.metrics_address is not None
        return self._server.metrics_address


@contextmanager
def fronted(
    engine: Engine | Callable[[], Engine],
    front: Front | None = None,
    *,
    token: Token | str | None = None,
    waiting_requests: int = 32,
    wait: bool = True,
) -> Iterator[FrontServer]:
    load: Callable[[], Engine] = engine if callable(engine) else lambda: engine
    server = FrontServer(load, front or Front(), token, waiting_requests)
    try:
        if wait:
            server.loading.result(60)
        yield server
    finally:
        server.close()


class Hold:
    """Keeps a model's thread busy: `begun` is set when it is reached, and it goes on after `release`."""

    def __init__(self) -> None:
        self.begun, self._go_on = threading.Event(), threading.Event()

    def __call__(self, _: Sequence[Document]) -> None:
        self.begun.set()
        self._go_on.wait(60)

    def release(self) -> None:
        self._go_on.set()


def usual_request(**changes: Any) -> pb.ComputeDistributionsRequest:
    request = wire.write_request(DOCUMENTS, 4, "float16", None)
    for name, value in changes.items():
        setattr(request, name, value)
    return request


def ask(address: str, request: pb.ComputeDistributionsRequest, **named: Any) -> list[pb.ComputeDistributionsResponse]:
    with grpc.insecure_channel(address) as channel:
        return ask_over(channel, request, **named)


def ask_over(channel: Any, request: pb.ComputeDistributionsRequest, **named: Any) -> list[Any]:
    stub = pb_grpc.DistributionsServiceStub(channel)  # type: ignore[no-untyped-call]
    return list(stub.ComputeDistributions(request, **({"timeout": 60} | named)))


def refused(address: str, request: pb.ComputeDistributionsRequest, **named: Any) -> Any:
    """The RpcError with which a call fails."""
    with pytest.raises(grpc.RpcError) as caught:
        ask(address, request, **named)
    return caught.value


def class_of(error: Any) -> str | None:
    """The name of the class of errors.py in the trailing metadata."""
    return dict(error.trailing_metadata() or ()).get(ERROR_KEY)


def health_of(address: str, service: str) -> str:
    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        status = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=60).status
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(status))
