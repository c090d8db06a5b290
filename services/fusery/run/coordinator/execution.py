"""Carries the hops of a plan out on workers: what `fusery run` does once sources, broker and workers answer.

Imports no model library: a coordinator is a small process.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass

from fusery.hops.launches import Launch, launch_ids, read_launch
from fusery.hops.names import plan_name, progress_name
from fusery.hops.plan import Hop, Plan
from fusery.hops.store.store import Store
from fusery.run.coordinator.attempts import Attempts
from fusery.run.coordinator.coordinator import MOST_IN_FLIGHT, PACE, Coordinator, Pace
from fusery.run.coordinator.progress import Progress
from fusery.run.coordinator.publisher import Publisher
from fusery.run.coordinator.shard_table import ShardTable
from fusery.runtime.errors import FuseryError, StoreFull

log = logging.getLogger(__name__)

_STORE_AWAY_S = 600.0
_PROGRESS_S = 5.0
_LAUNCH_S = 30.0


def _nothing(*_: object) -> None:
    pass


@dataclass(frozen=True, slots=True)
class HopsJob:
    """What is carried out, and where. `until`: the last hop of it.

    `make_inputs` publishes corpus and tokenizers again, where a worker found them damaged; `check` is called at every
    look.
    """

    store: Store
    plan: Plan
    broker_url: str
    addresses: Mapping[str, str]
    until: Hop = Hop.FUSE
    make_inputs: Callable[[], None] = _nothing
    check: Callable[[], None] = _nothing
    pace: Pace = PACE


def new_launch() -> str:
    """A name for one start of a coordinator."""
    return uuid.uuid4().hex[:12]


def coordinate(job: HopsJob, launch: str, report: Callable[[Progress], None] = _nothing) -> Progress:
    """Runs the hops; what can't be done is left as dead letters in the progress returned.

    Raises:
        StoreFull: the store has no room; nothing is given up, the same run goes on when there is.
    """
    store, run_id = job.store, job.plan.run_id
    store.write_note(plan_name(run_id), job.plan.model_dump(mode="json"))
    before = _unended(store, run_id)
    _sweep(store)
    ours = Launch(launch, job.plan, job.addresses)
    ours.write(store)
    how = "interrupted"
    try:
        with (
            Publisher(job.broker_url, run_id, launch) as publisher,
            closing(_coordinator(job, publisher, (launch, *before))) as coordinator,
        ):
            progress = _loop(coordinator, _Reports(store, ours, report), job.check)
        how = "degraded" if progress.dead_letters else "done"
        return progress
    except StoreFull:
        how = "store full"
        raise
    finally:
        _end(store, run_id, ours, before, how)


def _coordinator(job: HopsJob, publisher: Publisher, launches: tuple[str, ...]) -> Coordinator:
    return Coordinator(
        job.store,
        ShardTable(job.plan, job.until),
        Attempts(job.store, job.plan.run_id, launches, time.monotonic, job.pace.silent_s),
        publisher.publish,
        publisher.queue_is_empty,
        MOST_IN_FLIGHT,
        job.pace,
        job.make_inputs,
    )


def read_progress(store: Store, run_id: str) -> Progress | None:
    """What the coordinator of a run last wrote; None: nothing that can be read."""
    try:
        note = store.read_note(progress_name(run_id))
        return None if note is None else Progress.from_json(note)
    except (FuseryError, OSError, KeyError, TypeError, ValueError) as error:
        log.debug("no progress of run %s: %s", run_id, error)
        return None


def _loop(coordinator: Coordinator, reports: _Reports, check: Callable[[], None]) -> Progress:
    away_since: float | None = None
    while True:
        began = time.monotonic()
        check()
        try:
            progress = coordinator.look()
            reports.send(progress, is_last=coordinator.is_finished)
            away_since = None
            if coordinator.is_finished:
                return progress
        except StoreFull:
            raise
        except (FuseryError, OSError) as error:
            away_since = away_since or began
            log.warning("the store does not answer: %s; trying again", error)
            if began - away_since > _STORE_AWAY_S:
                raise
        time.sleep(_pause_s(coordinator.pace, time.monotonic() - began))


def _pause_s(pace: Pace, look_s: float) -> float:
    """The pause after a look that took `look_s`: a slow store is not asked without one; one stall is no two."""
    return max(pace.look_s, min(look_s, pace.longest_pause_s))


class _Reports:
    """Hands progress to `report`, and now and then to the store, for `fusery status` and coordinators that wait."""

    def __init__(self, store: Store, launch: Launch, report: Callable[[Progress], None]) -> None:
        self._store, self._launch, self._report = store, launch, report
        self._progress_at = self._launch_at = float("-inf")

    def send(self, progress: Progress, is_last: bool) -> None:
        self._report(progress)
        now = time.monotonic()
        if is_last or now - self._progress_at >= _PROGRESS_S:
            self._progress_at = now
            self._store.write_note(progress_name(self._launch.plan.run_id), progress.to_json())
        if now - self._launch_at >= _LAUNCH_S:
            # A coordinator that took this one for dead may have ended its launch; a disk may have damaged the note.
            self._launch_at = now
            self._launch.write(self._store)


def _sweep(store: Store) -> None:
    """Takes away what killed writers left; nothing that is written now takes an hour."""
    try:
        store.sweep(3600)
    except FuseryError as error:
        log.warning("temporaries of killed writers stay: %s", error)


def _unended(store: Store, run_id: str) -> tuple[str, ...]:
    """Launches whose coordinator was killed, or works still: their attempts count, their processes are waited for."""
    unended = []
    for launch in launch_ids(store, run_id):
        try:
            found = read_launch(store, run_id, launch)
        except FuseryError as error:
            log.warning("%s", error)
            unended.append(launch)
        else:
            unended += [launch] * (found is not None and found.ended is None)
    return tuple(unended)


def _end(store: Store, run_id: str, ours: Launch, before: tuple[str, ...], how: str) -> None:
    """Ends this launch and, at the end of all work, those before it: the next start of the run counts anew."""
    try:
        ours.end(store, how)
        # Stopped by a person or by a full store, it leaves them as they were: their coordinator may be at work yet.
        for launch in before if how in ("done", "degraded") else ():
            found = read_launch(store, run_id, launch)
            if found is not None:
                found.end(store, f"taken over by {ours.id}")
    except (FuseryError, OSError) as error:
        log.warning("launch %s of run %s can't be ended in the store: %s", ours.id, run_id, error)
