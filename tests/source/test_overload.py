"""Ten times what the queue holds, a model that hangs, callers that give up, watchers of health."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from fusery.runtime.errors import Overloaded
from fusery.source import wire
from fusery.source.api import Distributions, Document
from fusery.source.client import SourceClient
from fusery.source.engines.transformers import TransformersEngine, load_engine
from fusery.source.server.model_thread import ModelThread
from fusery.source.server.probes import LIVENESS, READINESS
from fusery.source.server.server import SERVICE, Front
from support.models.pico_models import pico_model
from support.source.front_servers import (
    DOCUMENTS,
    Hold,
    ask,
    ask_over,
    class_of,
    fronted,
    health_of,
    refused,
    usual_request,
)
from support.source.source_servers import UniformEngine

Status = health_pb2.HealthCheckResponse


class Watched:
    """The states that a Watch of one name has told, each waited for."""

    def __init__(self, channel: Any, service: str) -> None:
        self.call = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(service=service), timeout=60
        )

    def next(self) -> str:
        return str(Status.ServingStatus.Name(next(self.call).status))


@contextmanager
def watching(address: str, *services: str) -> Iterator[list[Watched]]:
    with grpc.insecure_channel(address) as channel:
        yield [Watched(channel, service) for service in services]


def test_ten_times_the_queue_is_refused_at_once_and_what_was_accepted_is_right() -> None:
    waiting = 4
    engine = load_engine(str(pico_model("llama")), device="cpu")
    requests = [wire.write_request(DOCUMENTS[i % 5 : i % 5 + 1], 4, "float32", None) for i in range(10 * waiting)]
    expected = [wire.write_answer(engine.compute([one], 4)[0], one, "float32") for one in DOCUMENTS[:5]]
    hold = Hold()

    class Held(TransformersEngine):
        def compute(self, documents: Sequence[Document], top_k: int) -> list[Distributions]:
            hold(documents)
            return engine.compute(documents, top_k)

    held = Held(engine.model, engine.tokenizer, engine.network)
    with fronted(held, waiting_requests=waiting) as server, ThreadPoolExecutor(len(requests)) as pool:
        first = pool.submit(ask, server.address, requests[0])
        assert hold.begun.wait(60)
        flood = [pool.submit(ask, server.address, request) for request in requests]
        refusals = wait_for_refusals(flood, len(flood) - waiting)
        assert refusals == len(flood) - waiting
        hold.release()
        assert first.result(60) == [expected[0]]
        codes: Counter[str] = Counter()
        for i, future in enumerate(flood):
            error = future.exception(60)
            if error is None:
                assert future.result() == [expected[i % 5]]
                codes["answered"] += 1
            else:
                assert isinstance(error, grpc.RpcError)
                assert class_of(error) == "Overloaded"
                codes[error.code().name] += 1
        assert codes == {"answered": waiting, "RESOURCE_EXHAUSTED": len(flood) - waiting}


def wait_for_refusals(flood: list[Future[Any]], expected: int) -> int:
    """How many calls have ended, once `expected` have: while the model is held nothing but a refusal ends one."""
    ended = threading.Semaphore(0)
    for future in flood:
        future.add_done_callback(lambda _: ended.release())
    for _ in range(expected):
        assert ended.acquire(timeout=60)
    return sum(future.done() for future in flood)


def test_a_refused_flood_leaves_nothing_in_the_queue() -> None:
    hold = Hold()
    with fronted(UniformEngine(hold), waiting_requests=1) as server, ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask, server.address, usual_request())
        assert hold.begun.wait(60)
        second = pool.submit(ask, server.address, usual_request())
        server.wait_for_waiting(1)
        with grpc.insecure_channel(server.address) as channel:
            for _ in range(50):
                with pytest.raises(grpc.RpcError) as caught:
                    ask_over(channel, usual_request())
                assert class_of(caught.value) == "Overloaded"
        hold.release()
        assert len(first.result(60)) == len(second.result(60)) == len(DOCUMENTS)
        assert len(ask(server.address, usual_request())) == len(DOCUMENTS)


def test_a_hung_model_lets_deadlines_fire_and_turns_liveness_and_readiness_off_and_on_again() -> None:
    hold = Hold()
    with (
        fronted(UniformEngine(hold), Front(hang_s=0.2)) as server,
        ThreadPoolExecutor(1) as pool,
        watching(server.address, LIVENESS, READINESS, SERVICE) as watched,
    ):
        assert [watch.next() for watch in watched] == ["SERVING"] * 3
        stuck = pool.submit(ask, server.address, usual_request())
        assert hold.begun.wait(60)
        assert refused(server.address, usual_request(), timeout=0.1).code() in (
            grpc.StatusCode.DEADLINE_EXCEEDED,
            grpc.StatusCode.UNAVAILABLE,
        )
        assert [watch.next() for watch in watched] == ["NOT_SERVING"] * 3
        for name in (LIVENESS, READINESS, SERVICE, ""):
            assert health_of(server.address, name) == "NOT_SERVING"
        late = refused(server.address, usual_request())
        assert (late.code(), class_of(late)) == (grpc.StatusCode.UNAVAILABLE, "Unavailable")
        assert "for too long" in late.details()
        hold.release()
        assert len(stuck.result(60)) == len(DOCUMENTS)
        assert [watch.next() for watch in watched] == ["SERVING"] * 3
        assert ask(server.address, usual_request())


def test_a_deadline_fires_at_the_caller_while_the_model_is_busy() -> None:
    hold = Hold()
    with fronted(UniformEngine(hold)) as server:
        got = refused(server.address, usual_request(), timeout=0.3)
        assert got.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert health_of(server.address, LIVENESS) == "SERVING"
        hold.release()


def test_a_long_load_is_no_hang() -> None:
    go_on = threading.Event()

    def load() -> UniformEngine:
        go_on.wait(60)
        return UniformEngine()

    with (
        fronted(load, Front(hang_s=0.05), wait=False) as server,
        watching(server.address, LIVENESS, READINESS) as (alive, ready),
    ):
        assert (alive.next(), ready.next()) == ("SERVING", "NOT_SERVING")
        threading.Timer(0.5, go_on.set).start()
        server.loading.result(60)
        # Had liveness been off in between, that would come first.
        assert ready.next() == "SERVING"
        assert health_of(server.address, LIVENESS) == "SERVING"


def test_draining_tells_watchers_ends_their_watch_and_stays_alive() -> None:
    hold = Hold()
    with fronted(UniformEngine(hold)) as server, ThreadPoolExecutor(2) as pool:
        with watching(server.address, READINESS, LIVENESS) as (ready, alive):
            assert (ready.next(), alive.next()) == ("SERVING", "SERVING")
            answer = pool.submit(ask, server.address, usual_request())
            assert hold.begun.wait(60)
            drained = pool.submit(server.drain, 50.0)
            assert ready.next() == "NOT_SERVING"
            # Both watches end well, long before the grace is over; liveness never turned off.
            assert list(ready.call) == list(alive.call) == []
        hold.release()
        assert len(answer.result(60)) == len(DOCUMENTS)
        drained.result(60)


def test_connections_that_are_closed_for_their_age_cost_no_call() -> None:
    old_soon = Front(max_connection_age_s=0.05, max_connection_idle_s=0.05)
    with fronted(UniformEngine(), old_soon) as server, SourceClient(server.address, timeout_s=60) as client:
        for _ in range(40):
            assert len(client.compute(DOCUMENTS, 2)) == len(DOCUMENTS)
            time.sleep(0.01)


def test_an_unknown_name_is_not_found() -> None:
    with fronted(UniformEngine()) as server, pytest.raises(grpc.RpcError) as caught:
        health_of(server.address, "nobody")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_callers_that_gave_up_make_room_while_the_model_is_busy() -> None:
    async def flood() -> None:
        thread, hold, begun = ModelThread(2), threading.Event(), threading.Event()

        def wait() -> bool:
            begun.set()
            return hold.wait(60)

        running = asyncio.ensure_future(thread.run(wait))
        await asyncio.to_thread(begun.wait, 60)
        gone = [asyncio.ensure_future(thread.run(lambda: True)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            thread.check_room()
        for future in gone:
            future.cancel()
        await asyncio.gather(*gone, return_exceptions=True)
        thread.check_room()
        waiting = [asyncio.ensure_future(thread.run(lambda: True)) for _ in range(2)]
        await asyncio.sleep(0)
        assert thread.waiting() == 2
        assert thread.busy_s() > 0
        hold.set()
        assert all(await asyncio.gather(running, *waiting))
        assert thread.busy_s() == 0
        thread.close(10)

    asyncio.run(flood())
