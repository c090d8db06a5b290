"""A bucket that is busy, slow, or breaks off in the middle: nothing is lost, and in the end a clear error."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from fusery.hops.store import bucket
from fusery.hops.store.bucket import Bucket, Patience
from fusery.hops.store.store import Store
from fusery.runtime.errors import Unavailable
from support.store.s3_faults import Fault, Proxy, proxy
from support.store.s3_server import SECRET_KEY, forget_connections, new_store_url, s3_server

CONTENT = random.Random(0).randbytes(200_000)
IMPATIENT = Patience(answered_s=1.0, unreached_s=0.0, pause_s=0.05)
PATIENT = Patience(answered_s=60.0, unreached_s=60.0, pause_s=0.05)
PASSING = [Fault.BUSY, Fault.BROKEN, Fault.CUT_REQUEST, Fault.LOST_ANSWER, Fault.CUT_ANSWER, Fault.HANG, Fault.SLOW]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture
def bad(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy that every store opened from now on speaks to."""
    monkeypatch.setattr(bucket, "_READ_S", 0.5)
    with proxy(server) as found:
        forget_connections()
        monkeypatch.setenv("AWS_ENDPOINT_URL", found.address)
        yield found
    forget_connections()


def opened(patience: Patience = PATIENT) -> tuple[Store, Bucket]:
    store = Store(new_store_url())
    place = store._place
    assert isinstance(place, Bucket)
    place._patience = patience
    return store, place


@pytest.mark.parametrize("fault", PASSING)
def test_what_passes_is_tried_again_and_every_byte_arrives(bad: Proxy, fault: Fault) -> None:
    store, _ = opened()
    for methods in (("PUT",), ("GET",), ("HEAD",)):
        bad.faults(fault, 2, *methods)
        entry = store.publish(f"a/{methods[0]}", CONTENT)
        assert store.find(f"a/{methods[0]}") == entry
        assert store.read(f"a/{methods[0]}") == CONTENT
    bad.faults(fault, 2)
    assert store.listed("a") == {f"a/{method}": len(CONTENT) for method in ("GET", "HEAD", "PUT")}
    bad.faults(fault, 2)
    store.discard("a/PUT")
    assert store.find("a/PUT") is None
    # Not every answer has a body that can be cut, or can trickle.
    assert bad.count(fault) >= 8


@pytest.mark.parametrize("fault", [fault for fault in PASSING if fault is not Fault.SLOW])
def test_what_stays_ends_in_an_error_that_says_where(bad: Proxy, fault: Fault) -> None:
    store, _ = opened(IMPATIENT)
    store.publish("a/b", CONTENT)
    bad.faults(fault, 1000)
    for ask in (lambda: store.read("a/b"), lambda: store.publish("a/c", CONTENT), lambda: store.listed("a")):
        with pytest.raises(Unavailable, match=rf"store {store.url}: a.*check AWS_ENDPOINT_URL") as caught:
            ask()
        assert SECRET_KEY not in str(caught.value)
    assert bad.count(fault) >= 6, "each was tried again"
    bad.faults(fault, 0)
    assert store.find("a/c") is None
    assert store.read("a/b") == CONTENT


def test_whoever_was_first_and_did_not_hear_it_finds_its_own_bytes(bad: Proxy) -> None:
    store, place = opened()
    bad.faults(Fault.LOST_ANSWER, 1, "PUT")
    assert not place.create("entry", b"1")
    assert place.read("entry") == b"1"
    bad.faults(Fault.LOST_ANSWER, 2, "PUT")
    entry = store.publish("a/b", CONTENT)
    assert store.publish("a/b", CONTENT) == entry


def test_a_server_that_does_not_say_which_condition_failed_is_understood(bad: Proxy) -> None:
    _, place = opened()
    bad.faults(Fault.TERSE, 100)
    assert place.create("entry", b"1")
    assert not place.create("entry", b"2")
    assert place.read("entry") == b"1"


def test_a_small_file_is_read_by_one_request(bad: Proxy) -> None:
    store, place = opened()
    store.publish("a/b", CONTENT)
    bad.seen.clear()
    assert place.read("a/b") == CONTENT
    assert [method for method, _, _ in bad.seen] == ["GET"]


@pytest.mark.parametrize("seed", range(3))
def test_any_mixture_of_faults_loses_nothing(bad: Proxy, seed: int) -> None:
    store, _ = opened()
    chance = random.Random(seed)
    bad.choose = lambda _method, _path: (
        chance.choice([fault for fault in PASSING if fault is not Fault.HANG]) if chance.random() < 0.3 else None
    )
    contents = {f"a/{number}": chance.randbytes(chance.randrange(1, 20_000)) for number in range(8)}
    entries = {name: store.publish(name, content, {"tokens": 1}) for name, content in contents.items()}
    bad.choose = lambda _method, _path: None
    assert {name: store.find(name) for name in contents} == entries
    assert {name: store.read(name) for name in contents} == contents
    assert store.listed("a") == {name: len(contents[name]) for name in sorted(contents)}
