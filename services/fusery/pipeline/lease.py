"""Who carries a run out: a note that beats. A second coordinator waits while it beats, and takes over when it stands.

Nobody is kept out: two that start at the same moment both work, and publish the same tasks for the same bytes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fusery.errors import FuseryError
from fusery.formats.store import Store
from fusery.worker.plan import coordinator_name
from fusery.worker.started import Beating

log = logging.getLogger(__name__)

BEAT_S = 3.0
_LOOK_S = 1.0


@contextmanager
def lease(
    store: Store,
    run_id: str,
    launch: str,
    silent_s: float,
    follow: Callable[[str], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[None]:
    """The block runs when no other coordinator of the run beats; until then `follow` is told its host:pid, each second.

    The beat ends with the block, and a coordinator that follows takes over at once.
    """
    _wait(store, coordinator_name(run_id), silent_s, follow, clock, sleep)
    beating = Beating(store, coordinator_name(run_id), lambda: {"launch": launch}, BEAT_S)
    beating.start()
    try:
        yield
    finally:
        beating.remove()


def _wait(
    store: Store,
    name: str,
    silent_s: float,
    follow: Callable[[str], None],
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> None:
    seen: object = None
    changed_at = clock()
    while (note := _read(store, name)) is not None:
        if note != seen:
            seen, changed_at = note, clock()
        elif clock() - changed_at > silent_s:
            log.warning("the coordinator %s of this run is gone; taking over", note.get("worker"))
            return
        follow(str(note.get("worker")))
        sleep(_LOOK_S)


def _read(store: Store, name: str) -> dict[str, object] | None:
    """The note; None: there is none, or it is damaged, which is no coordinator's."""
    try:
        return store.read_note(name)
    except (FuseryError, OSError) as error:
        log.warning("%s: %s", name, error)
        return None
