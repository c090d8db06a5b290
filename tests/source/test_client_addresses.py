"""Addresses of a source: one server, a list, a DNS name; whose turn it is, and what happens when one is lost."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusery.runtime import errors
from fusery.source.address import RoundRobin, parse_address
from fusery.source.api import Document
from fusery.source.client import SourceClient
from support.models.pico_models import TEXTS
from support.source.source_servers import UniformEngine, running

REQUESTS = [[Document(f"r{i}", TEXTS[i % len(TEXTS)])] for i in range(12)]


@pytest.mark.parametrize(
    ("text", "targets"),
    [
        ("127.0.0.1:50051", ["127.0.0.1:50051"]),
        ("source-a:1", ["source-a:1"]),
        ("[::1]:50051", ["[::1]:50051"]),
        ("a.b.svc:1, 10.0.0.2:65535,[fe80::1%eth0]:7", ["a.b.svc:1", "10.0.0.2:65535", "[fe80::1%eth0]:7"]),
        ("dns:///sources.fusery:50051", ["dns:///sources.fusery:50051"]),
    ],
)
def test_the_three_forms_are_read(text: str, targets: list[str]) -> None:
    parsed = parse_address(text)
    assert list(parsed.targets) == targets
    assert parsed.balanced == text.startswith("dns:")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "'' is no server; expected host:port, a list host:port,host:port or dns:///name:port"),
        ("a", "'a' is no server"),
        ("a:1,", "'' is no server"),
        ("http://a:1", "'http://a:1' is no server"),
        ("a:1,dns:///b:1", "'dns:///b:1' is no server"),
        ("dns:///b", "'b' is no server"),
        ("dns:///b:1,c:1", "'b:1,c:1' is no server"),
        ("::1:50051", "no server"),
        ("a:0", "the port is 0, expected 1 to 65535"),
        ("a:1,b:65536", "the port is 65536"),
        ("a:1,b:1,a:1", "a:1 stands twice"),
        ("user@a b:1", "no server"),
    ],
)
def test_anything_else_is_refused_before_any_call(text: str, says: str) -> None:
    with pytest.raises(errors.AddressError) as caught:
        SourceClient(text)
    assert says in str(caught.value)
    assert caught.value.exit_code == 2


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@given(count=st.integers(1, 6), start=st.integers(0, 5), rounds=st.integers(1, 4))
def test_servers_that_answer_are_asked_equally_often(count: int, start: int, rounds: int) -> None:
    turns = RoundRobin(count, start % count)
    taken = [turns.take() for _ in range(rounds * count)]
    assert {taken.count(server) for server in range(count)} == {rounds}


@given(count=st.integers(2, 6), data=st.data())
def test_a_server_that_failed_is_left_out_until_it_has_rested(count: int, data: st.DataObject) -> None:
    clock = Clock()
    turns = RoundRobin(count, clock=clock)
    lost = data.draw(st.sets(st.integers(0, count - 1), min_size=1, max_size=count - 1))
    assert all(turns.failed(server) for server in lost)
    assert {turns.take() for _ in range(2 * count)} == set(range(count)) - lost
    clock.now = turns.rest_s
    assert {turns.take() for _ in range(count)} == set(range(count))


@given(count=st.integers(1, 6))
def test_when_all_have_failed_the_first_to_fail_is_asked_first(count: int) -> None:
    clock = Clock()
    turns = RoundRobin(count, clock=clock)
    for server in reversed(range(count)):
        clock.now += 0.1
        assert turns.failed(server) == (server > 0)
    assert turns.take() == count - 1


def test_a_server_that_answers_again_is_awake() -> None:
    turns = RoundRobin(2, clock=Clock())
    turns.failed(0)
    turns.answered(0)
    assert {turns.take(), turns.take()} == {0, 1}


class Noting(UniformEngine):
    """Notes the ids of the documents that it is asked about."""

    def __init__(self, **changes: Any) -> None:
        self.asked: list[str] = []
        super().__init__(self._note)
        self.model = replace(self.model, **changes)

    def _note(self, documents: Sequence[Document]) -> None:
        self.asked.extend(document.id for document in documents)


def client_of(*addresses: str, **named: Any) -> SourceClient:
    return SourceClient(",".join(addresses), **({"timeout_s": 60.0, "retry_for_s": 30.0} | named))


def test_all_servers_of_a_list_get_requests_and_all_answers_arrive_when_one_is_lost() -> None:
    one, other = Noting(), Noting()
    with running(one) as first, running(other) as second, client_of(first.address, second.address) as client:
        assert client.servers == 2
        client.model()
        answers = client.compute_many(REQUESTS, 2)
        found = [next(answers) for _ in range(4)]
        assert one.asked
        assert other.asked
        second.drain(0.0)
        found += answers
    assert [answer.document_id for batch in found for answer in batch] == [request[0].id for request in REQUESTS]
    assert len(one.asked) > len(other.asked)
    # Nothing that was answered is asked again.
    assert len(one.asked) + len(other.asked) <= len(REQUESTS) + 2


def test_a_server_that_is_not_there_costs_no_answers() -> None:
    engine = Noting()
    with running(engine) as server, client_of("127.0.0.1:1", server.address) as client:
        for request in REQUESTS[:4]:
            client.compute(request, 2)
    assert engine.asked == [request[0].id for request in REQUESTS[:4]]


def test_an_overloaded_server_sends_its_clients_to_the_others() -> None:
    def full(_: Sequence[Document]) -> None:
        raise errors.Overloaded("full")

    engine = Noting()
    with (
        running(UniformEngine(full)) as busy,
        running(engine) as idle,
        client_of(busy.address, idle.address) as client,
    ):
        assert len(list(client.compute_many(REQUESTS, 2))) == len(REQUESTS)
    assert sorted(engine.asked) == sorted(request[0].id for request in REQUESTS)


def test_servers_of_a_list_that_serve_different_models_are_refused_by_name() -> None:
    one, other = Noting(), Noting(name="another", weights_fingerprint="1" * 64)
    with (
        running(one) as first,
        running(other) as second,
        client_of(first.address, second.address) as client,
        pytest.raises(errors.Mismatch) as caught,
    ):
        client.model()
    for expected in (first.address, second.address, one.model.fingerprint[:12], other.model.fingerprint[:12]):
        assert expected in str(caught.value)


def test_a_list_of_which_one_does_not_answer_has_no_model() -> None:
    with (
        running(UniformEngine()) as server,
        client_of(server.address, "127.0.0.1:1", retry_for_s=0.0) as client,
        pytest.raises(errors.Unavailable, match=r"source 127\.0\.0\.1:1: UNAVAILABLE"),
    ):
        client.model()


def test_names_in_a_list_are_resolved() -> None:
    one, other = Noting(), Noting()
    with running(one) as first, running(other) as second:
        ports = [server.address.rpartition(":")[2] for server in (first, second)]
        with client_of(f"localhost:{ports[0]}", f"127.0.0.1:{ports[1]}") as client:
            list(client.compute_many(REQUESTS, 2))
    assert one.asked
    assert other.asked


def test_a_dns_name_reaches_its_server() -> None:
    engine = Noting()
    with running(engine) as server, client_of(f"dns:///localhost:{server.address.rpartition(':')[2]}") as client:
        assert client.model() == engine.model
        assert len(list(client.compute_many(REQUESTS, 2))) == len(REQUESTS)
    assert len(engine.asked) == len(REQUESTS)


def test_the_channel_of_a_dns_name_takes_all_of_its_addresses_in_turn() -> None:
    """The name's addresses are given as a target of numbers: gRPC resolves names itself, past Python's resolver."""
    one, other = Noting(), Noting()
    with (
        running(one) as first,
        running(other) as second,
        SourceClient("dns:///localhost:1", timeout_s=60.0) as client,
    ):
        client._peers = replace(client._peers, targets=(f"ipv4:{first.address},{second.address}",))
        # A server that is not connected yet gets nothing.
        while not (one.asked and other.asked):
            list(client.compute_many(REQUESTS, 2))
        one.asked.clear()
        other.asked.clear()
        list(client.compute_many(REQUESTS, 2))
        assert len(one.asked) == len(other.asked) == len(REQUESTS) / 2


def test_deadlines_hold_for_one_attempt_and_for_the_whole_call() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        for times in ({"timeout_s": 0.2, "retry_for_s": 0.0}, {"timeout_s": 60.0, "deadline_s": 0.2}):
            with SourceClient(address, **times) as client, pytest.raises(errors.Unavailable, match="DEADLINE_EXCEEDED"):
                client.model()
