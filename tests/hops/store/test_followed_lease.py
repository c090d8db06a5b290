from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fusery.hops.names import coordinator_name
from fusery.hops.store.lease import followed_lease
from fusery.hops.store.store import Store

NAME = coordinator_name("r")


class Waiting:
    """A clock that moves when somebody sleeps; `during` happens then."""

    def __init__(self, during: Callable[[float], None] = lambda _: None) -> None:
        self.now, self._during = 1000.0, during

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self._during(self.now)


def waited(store: Store, waiting: Waiting) -> tuple[float, list[str]]:
    """Seconds until the lease was ours, and who was followed."""
    followed: list[str] = []
    with followed_lease(store, NAME, {"launch": "mine"}, 15.0, followed.append, waiting.clock, waiting.sleep):
        note = store.read_note(NAME)
        assert note is not None
        assert note["launch"] == "mine"
    assert store.read_note(NAME) is None
    return waiting.now - 1000.0, followed


def note(store: Store, beat: int) -> None:
    store.write_note(NAME, {"launch": "other", "worker": "host:7", "beat": beat})


def test_nobody_is_waited_for_where_nobody_works(tmp_path: Path) -> None:
    assert waited(Store(str(tmp_path)), Waiting()) == (0.0, [])


def test_a_beat_that_moves_is_followed_and_one_that_stands_is_taken_over(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    note(store, 1)
    seconds, followed = waited(store, Waiting(lambda now: note(store, int(now)) if now <= 1060 else None))
    assert 60 + 15 < seconds <= 60 + 15 + 2
    assert set(followed) == {"host:7"}


def test_a_coordinator_that_ends_in_order_is_followed_at_once(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    note(store, 1)
    seconds, _ = waited(store, Waiting(lambda now: store.remove_note(NAME) if now >= 1003 else None))
    assert seconds == 3


def test_a_damaged_note_is_nobodys(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    note(store, 1)
    (tmp_path / NAME).write_bytes(b"{")
    assert waited(store, Waiting())[0] == 0.0
