"""Several requests under way: in order, never more than allowed, the same bytes, and errors that stop the rest."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusery.runtime import errors
from fusery.source import wire
from fusery.source.api import Distributions, Document
from fusery.source.call import in_order
from fusery.source.client import SourceClient
from fusery.source.engines.transformers import load_engine
from fusery.source.packing import LogProbs
from fusery.source.pb import distributions_pb2 as pb
from fusery.source.pb import distributions_pb2_grpc as pb_grpc
from support.models.pico_models import TEXTS, pico_model
from support.source.source_servers import UniformEngine, running

REQUESTS = [[Document(f"r{i}", TEXTS[i % len(TEXTS)])] for i in range(7)]


@dataclass
class Desk:
    """Counts requests under way. Those in `broken` fail; nothing is answered before it is asked for."""

    broken: frozenset[int] = frozenset()
    under_way: set[int] = field(default_factory=set)
    most: int = 0
    started: list[int] = field(default_factory=list)
    cancelled: set[int] = field(default_factory=set)

    def start(self, number: int) -> Held:
        self.started.append(number)
        self.under_way.add(number)
        self.most = max(self.most, len(self.under_way))
        return Held(self, number)


@dataclass
class Held:
    desk: Desk
    number: int

    def result(self) -> str:
        if self.number in self.desk.broken:
            raise errors.InvalidInput(f"request {self.number}")
        self.desk.under_way.discard(self.number)
        return f"answer {self.number}"

    def cancel(self) -> None:
        self.desk.under_way.discard(self.number)
        self.desk.cancelled.add(self.number)


@given(requests=st.integers(0, 12), limit=st.integers(1, 5))
def test_answers_come_in_order_and_the_limit_is_used_and_kept(requests: int, limit: int) -> None:
    desk = Desk()
    answers = []
    for done, answer in enumerate(in_order(desk.start, range(requests), limit), start=1):
        answers.append(answer)
        # While the caller works on an answer, as many as allowed are under way.
        assert len(desk.under_way) == min(limit, requests - done)
    assert answers == [f"answer {number}" for number in range(requests)]
    assert desk.started == list(range(requests))
    assert desk.most == min(limit, requests)
    assert not desk.cancelled


@given(requests=st.integers(1, 12), limit=st.integers(1, 5), data=st.data())
def test_an_error_cancels_what_is_under_way_and_nothing_more_is_started(
    requests: int, limit: int, data: st.DataObject
) -> None:
    broken = data.draw(st.integers(0, requests - 1))
    desk = Desk(frozenset([broken]))
    answers = []
    with pytest.raises(errors.InvalidInput, match=f"request {broken}"):
        answers.extend(in_order(desk.start, range(requests), limit))
    assert answers == [f"answer {number}" for number in range(broken)]
    assert not desk.under_way
    assert desk.started == list(range(min(requests, broken + limit)))
    assert desk.cancelled == set(desk.started[broken:])


@given(limit=st.integers(1, 5), taken=st.integers(0, 5))
def test_a_caller_that_stops_cancels_what_is_under_way(limit: int, taken: int) -> None:
    desk = Desk()
    answers = in_order(desk.start, range(20), limit)
    for _ in range(taken):
        next(answers)
    answers.close()  # type: ignore[attr-defined]
    assert not desk.under_way
    assert len(desk.started) == (taken + limit if taken else 0)


def test_requests_are_read_only_when_they_are_sent() -> None:
    read: list[int] = []

    def requests() -> Iterator[int]:
        for number in range(100):
            read.append(number)
            yield number

    answers = in_order(Desk().start, requests(), 2)
    assert read == []
    next(answers)
    assert read == [0, 1, 2]


@pytest.mark.parametrize("limit", [0, -1])
def test_no_request_in_flight_is_refused_at_once(limit: int) -> None:
    with pytest.raises(errors.InvalidInput, match=f"in flight: got {limit}, expected at least 1"):
        in_order(Desk().start, range(3), limit)


Behaviour = Callable[[pb.ComputeDistributionsRequest, Any], Iterator[pb.ComputeDistributionsResponse]]


@contextmanager
def serving(compute: Behaviour) -> Iterator[str]:
    """A server with room for eight calls at a time, whose ComputeDistributions is `compute`."""

    class Servicer(pb_grpc.DistributionsServiceServicer):
        def ComputeDistributions(self, request: Any, context: Any) -> Iterator[pb.ComputeDistributionsResponse]:
            return compute(request, context)

    server = grpc.server(futures.ThreadPoolExecutor(8))
    pb_grpc.add_DistributionsServiceServicer_to_server(Servicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()


def answers_to(request: pb.ComputeDistributionsRequest) -> list[pb.ComputeDistributionsResponse]:
    documents = wire.read_documents(request)
    answers = UniformEngine().compute(documents, request.top_k)
    log_probs = wire.read_log_probs(request.log_probs)
    return [wire.write_answer(*of, log_probs) for of in zip(answers, documents, strict=True)]


def client_of(address: str, **named: Any) -> SourceClient:
    return SourceClient(address, **({"timeout_s": 60.0, "retry_for_s": 30.0} | named))


def ids(answers: Sequence[Distributions]) -> list[str]:
    return [answer.document_id for answer in answers]


def test_with_a_slow_server_two_are_in_flight_and_never_three() -> None:
    together = threading.Barrier(2)
    lock = threading.Lock()
    inside: list[int] = [0]
    most: list[int] = []

    def slow(request: Any, context: Any) -> Iterator[pb.ComputeDistributionsResponse]:
        with lock:
            inside[0] += 1
            most.append(inside[0])
        # Nobody is answered before a second request is here: one at a time would break the barrier.
        together.wait(30)
        messages = answers_to(request)
        with lock:
            inside[0] -= 1
        yield from messages

    requests = REQUESTS[:6]
    with serving(slow) as address, client_of(address) as client:
        answers = list(client.compute_many(requests, 2))
    assert [ids(answer) for answer in answers] == [[request[0].id] for request in requests]
    assert max(most) == 2


def test_one_in_flight_is_one_after_the_other() -> None:
    lock = threading.Lock()

    def alone(request: Any, context: Any) -> Iterator[pb.ComputeDistributionsResponse]:
        if not lock.acquire(blocking=False):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "two at a time")
        messages = answers_to(request)
        lock.release()
        yield from messages

    with serving(alone) as address, client_of(address) as client:
        assert len(list(client.compute_many(REQUESTS, 2, in_flight=1))) == len(REQUESTS)


@pytest.mark.parametrize("log_probs", ["float16", "float32"])
def test_answers_are_those_of_one_request_at_a_time_byte_for_byte(log_probs: LogProbs) -> None:
    engine = load_engine(str(pico_model("llama")), device="cpu")
    documents = [Document(f"d{i}", text) for i, text in enumerate(TEXTS)]
    requests = [documents[i : i + 1 + i % 3] for i in range(len(documents))]
    with running(engine) as server, client_of(server.address) as client:
        alone = [client.compute(request, 5, log_probs) for request in requests]
        for in_flight in (1, 2, 4):
            together = list(client.compute_many(requests, 5, log_probs, in_flight=in_flight))
            assert [ids(answers) for answers in together] == [ids(answers) for answers in alone]
            assert as_bytes(together) == as_bytes(alone)


def as_bytes(answers: Sequence[Sequence[Distributions]]) -> list[bytes]:
    found = []
    for answer in (answer for batch in answers for answer in batch):
        top = answer.top
        arrays = (answer.token_ids_T, answer.byte_ends_T, top.ids_RK, top.log_probs_RK, answer.next_log_probs_T)
        found.append(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays))
    return found


def test_a_request_that_fails_is_repeated_alone() -> None:
    asked: list[str] = []

    def first_is_refused(documents: Sequence[Document]) -> None:
        asked.append(documents[0].id)
        if documents[0].id == "r2" and asked.count("r2") < 3:
            raise errors.Overloaded("not now")

    with running(UniformEngine(first_is_refused)) as server, client_of(server.address) as client:
        answers = list(client.compute_many(REQUESTS, 2))
    assert [ids(answer) for answer in answers] == [[request[0].id] for request in REQUESTS]
    assert {name: asked.count(name) for name in asked} == {f"r{i}": 3 if i == 2 else 1 for i in range(len(REQUESTS))}


def test_an_error_for_good_cancels_the_rest_at_the_server() -> None:
    cancelled = threading.Event()
    third_begun = threading.Event()

    def compute(request: Any, context: Any) -> Iterator[pb.ComputeDistributionsResponse]:
        [document] = wire.read_documents(request)
        if document.id == "r1":
            third_begun.wait(30)
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no")
        if document.id == "r2":
            context.add_callback(cancelled.set)
            third_begun.set()
            cancelled.wait(30)
        yield from answers_to(request)

    with serving(compute) as address, client_of(address) as client:
        answers = client.compute_many(REQUESTS, 2)
        assert ids(next(answers)) == ["r0"]
        with pytest.raises(errors.InvalidInput, match="INVALID_ARGUMENT: no"):
            next(answers)
        assert cancelled.wait(30)
        assert list(answers) == []


def test_a_text_that_is_none_is_an_error_before_it_is_sent() -> None:
    broken = [[Document("d", "\ud800")]]
    with running(UniformEngine()) as server, client_of(server.address) as client:
        answers = client.compute_many([*REQUESTS[:1], *broken], 2)
        with pytest.raises(errors.InvalidInput, match="document 'd': not encodable as UTF-8"):
            list(answers)


def test_every_request_reaches_the_model_once() -> None:
    seen: list[str] = []
    engine = UniformEngine(lambda documents: seen.append(documents[0].id))
    with running(engine) as server, client_of(server.address) as client:
        list(client.compute_many(REQUESTS, 2, in_flight=3))
    assert sorted(seen) == sorted(request[0].id for request in REQUESTS)
