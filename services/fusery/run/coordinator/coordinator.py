"""The coordinator: compares the plan with the store and publishes what is missing, until nothing is.

It keeps no truth of its own. Kill it and start another: the store says what is done, what was tried, and what is under
way. It lists whole folders at its start and then now and then, for a listing of a million artefacts takes seconds; in
between it looks at the tasks that it published. What it finds out about them:

- the artefact is there: done;
- a started note beats: under way; the note stands still: an attempt that was killed;
- a note of a failure: an attempt; three make a dead letter, and everything that does not need it is still done. No more
  count than the task was published, for any client of the broker can copy a message. Shards that fail in a row with
  an error that no retry helps stop their hop for their source (`absences`);
- a note that the source was away: no attempt; its tasks wait, and one of them now and then looks for it (`absences`);
- none of these, while the broker's queue of its hop is empty: the message was lost, and is published again.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from fusery.hops.names import tokenizer_name
from fusery.hops.plan import Hop, ShardTask
from fusery.hops.started import MAX_ATTEMPTS
from fusery.hops.store.store import Store
from fusery.run.coordinator.absences import Absences, Streaks
from fusery.run.coordinator.attempts import KILLED, Attempts, Failure, Reasons
from fusery.run.coordinator.progress import DeadLetter, HopProgress, Progress
from fusery.run.coordinator.shard_table import ShardTable, ranges
from fusery.runtime.errors import FuseryError, SourceAway, StoreFull

log = logging.getLogger(__name__)

_VANISHED_OFTEN = 3
MOST_IN_FLIGHT = 512
"""Tasks of one hop that are at the broker and not done: 0.6 MB of messages, and two tasks for each of 256 processes."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How often the coordinator looks at what, in seconds. A slow store stretches all of it."""

    look_s: float = 0.5
    longest_pause_s: float = 10.0
    """After a look that took long, at most: the machine may have stood still meanwhile."""
    listing_s: float = 30.0
    """Between two listings of all folders, at least; and at least twenty times what one takes."""
    longest_listing_pause_s: float = 600.0
    """And at most so long, for the same reason."""
    silent_s: float = 20.0
    """A started note whose beat (5 s) stands still so long is of a process that is gone."""
    lost_s: float = 5.0
    """Between two looks at a queue. A message counts as lost after two that found the queue empty."""
    retry_s: float = 1.0
    """After the first failure of a task; doubled after each further one. A server may be about to come back."""
    lease_s: float = 15.0
    """A coordinator whose beat stands still so long is gone; another one takes over."""


PACE = Pace()


@dataclass(slots=True)
class _Published:
    """A task that was given to the broker and is not known to be done. Times are of the coordinator's clock."""

    asked_at: float
    found_empty: int = 0
    times: int = 1


@dataclass(slots=True)
class Coordinator:
    """Carries a plan out. `publish` gives a task and its failures so far to the broker (False: not now).

    `queue_is_empty`: whether the broker's queue of a hop is (None: it does not say). `make_inputs` publishes corpus and
    tokenizers again. `max_in_flight`: tasks per hop that are published and not done.
    """

    store: Store
    table: ShardTable
    attempts: Attempts
    publish: Callable[[ShardTask, int], bool]
    queue_is_empty: Callable[[Hop], bool | None]
    max_in_flight: int
    pace: Pace = PACE
    make_inputs: Callable[[], None] = lambda: None
    clock: Callable[[], float] = time.monotonic
    _published: dict[ShardTask, _Published] = field(default_factory=dict)
    _owed: Counter[ShardTask] = field(default_factory=Counter)
    """How many of the published messages of each task have not failed."""
    _failed: Counter[ShardTask] = field(default_factory=Counter)
    _waiting: dict[ShardTask, float] = field(default_factory=dict)
    _dead: dict[ShardTask, Failure] = field(default_factory=dict)
    _absences: Absences = field(init=False)
    _streaks: Streaks = field(default_factory=Streaks)
    _reasons: Reasons = field(default_factory=Reasons)
    _failures: list[Failure] = field(default_factory=list)
    _next_listing_at: float | None = None
    _finders: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(16, "find"))

    def __post_init__(self) -> None:
        self._absences = Absences(self.clock)

    def look(self) -> Progress:
        """One comparison of plan and store; publishes what is missing, ready and not under way.

        Raises:
            StoreFull: a task or this process found no room; nothing was given up.
            FuseryError, OSError: the store can't be read now; look again.
        """
        if self._next_listing_at is None or self.clock() >= self._next_listing_at:
            self._list()
        failures, ended = self.attempts.look()
        self._failures += failures
        # One by one, each taken off when it is counted: an error of the store in between loses none.
        while self._failures:
            if self._failures[0].task in self.table:
                self._count_or_leave(self._failures[0])
            self._failures.pop(0)
        self._settle({task for task in ended if task in self.table})
        for (hop, source), row in self.table.rows.items():
            row.is_stopped = self._streaks.stops(hop, source, self.attempts.running)
        self._publish_again()
        self._publish_ready()
        return self.progress()

    @property
    def is_finished(self) -> bool:
        """As `ShardTable.is_finished`."""
        return self.table.is_finished()

    def progress(self) -> Progress:
        running = Counter((task.hop, task.source) for task in self.attempts.running if task in self.table)
        failed = Counter((task.hop, task.source) for task in self._failed.elements())
        # A second writer whose bytes differed failed, but the shard is there.
        letters = [
            DeadLetter(task, failure.reason, failure.documents)
            for task, failure in self._dead.items()
            if not self.table.is_done(task)
        ]
        dead = Counter((letter.task.hop, letter.task.source) for letter in letters)
        hops = [
            HopProgress(
                *key,
                int(row.done_S.sum()),
                len(row.done_S),
                running[key],
                failed[key],
                dead[key],
                int(row.size_S.sum()),
                self._reasons.of(*key),
                self._absences.why(key[1]) if key[0] is Hop.CAPTURE else "",
                ranges(row.untried_S),
            )
            for key, row in self.table.rows.items()
        ]
        return Progress(tuple(hops), tuple(letters))

    def _list(self) -> None:
        """What is complete now, by listing; a discarded artefact is missing again."""
        began = self.clock()
        for row in self.table.rows.values():
            self.table.take_listing(row, self.store.listed(row.folder))
        took = self.clock() - began
        self._next_listing_at = self.clock() + max(
            self.pace.listing_s, min(20 * took, self.pace.longest_listing_pause_s)
        )

    def _count_or_leave(self, failure: Failure) -> None:
        task = failure.task
        # The broker itself gives a message again whose process was killed.
        if failure.is_earlier or failure.error == KILLED:
            self._count(failure)
        elif self._owed[task]:
            self._count(failure)
            self._owed[task] -= 1
        elif task not in self.attempts.running and task not in self._waiting:
            log.info("%s failed in an attempt that this coordinator did not ask for: %s", task.key, failure.reason)
            self._drop(task)

    def _count(self, failure: Failure) -> None:
        """Counts an attempt, and looks whether what it read is still there."""
        if failure.error == StoreFull.__name__:
            raise StoreFull(failure.reason)
        task = failure.task
        is_done = self.store.find(self.table.plan.artefact(task)) is not None
        if self._absences.excuse(failure):
            if failure.error == SourceAway.__name__:
                # A source may be away for days, and every look lists the notes.
                self.store.remove_note(failure.note)
            if not is_done and task not in self.attempts.running:
                self._drop(task)
            return
        missing = [] if is_done else self._missing_needs(task)
        inputs_are_there = is_done or self._inputs_are_there(task)
        self._failed[task] += 1
        self._reasons.add(failure)
        log.info("%s failed (%d): %s", task.key, self._failed[task], failure.reason)
        if is_done:
            return
        # Workers take damaged artefacts away: those of the plan are made again, the others published again.
        for need in missing:
            self.table.set_missing(need)
        self._give_up_or_wait(failure)
        if not inputs_are_there:
            self._try_to_make_inputs()

    def _give_up_or_wait(self, failure: Failure) -> None:
        task = failure.task
        # Another process may be at it still: a message was delivered twice.
        if task not in self.attempts.running:
            self._published.pop(task, None)
        if not failure.retryable or self._failed[task] >= MAX_ATTEMPTS:
            self._dead[task] = failure
            self.table.set_dead(task)
            # The cause may have been mended since an earlier launch.
            if not failure.retryable and not failure.is_earlier:
                self._streaks.failed(task, self.attempts.running)
        else:
            self._waiting[task] = self.clock() + self.pace.retry_s * 2 ** (self._failed[task] - 1)
            self.table.set_busy(task, True)

    def _missing_needs(self, task: ShardTask) -> list[ShardTask]:
        plan = self.table.plan
        return [need for need in plan.needs(task) if self.store.find(plan.artefact(need)) is None]

    def _inputs_are_there(self, task: ShardTask) -> bool:
        plan = self.table.plan
        fingerprints = [plan.target_tokenizer_fingerprint, *(source.tokenizer_fingerprint for source in plan.sources)]
        names = [plan.corpus_shard(task.shard), *map(tokenizer_name, fingerprints)]
        return all(self.store.find(name) is not None for name in names)

    def _try_to_make_inputs(self) -> None:
        try:
            self.make_inputs()
        except StoreFull:
            raise
        except (FuseryError, OSError) as error:
            log.warning("corpus or tokenizers of run %s can't be published again: %s", self.table.plan.run_id, error)

    def _settle(self, ended: set[ShardTask]) -> None:
        """Finds out which published tasks are done; those that a process is at only when one has ended or is late.

        A task has two started notes where one process was killed and another took its place.
        """
        running, late = self.attempts.running, self.attempts.late
        asked = {task for task in self._published if task not in running or task in late} | ended
        # Many at a time: a bucket answers each in milliseconds that add up.
        entries = self._finders.map(lambda task: self.store.find(self.table.plan.artefact(task)), asked)
        for task, entry in zip(asked, entries, strict=True):
            if entry is not None:
                self.table.set_done(task, entry.size)
                self._streaks.succeeded(task)
                if task.hop is Hop.CAPTURE:
                    self._absences.answered(task.source)
                self._published.pop(task, None)
                self._waiting.pop(task, None)
                self.table.set_busy(task, False)

    def _publish_again(self) -> None:
        """What was published, is not under way and stands in no queue was lost with its broker or on the way."""
        now, running = self.clock(), self.attempts.running
        empty: dict[Hop, bool | None] = {}
        for task, published in list(self._published.items()):
            if task in running or self._streaks.holds(task.hop, task.source):
                published.asked_at, published.found_empty = now, 0
            elif now - published.asked_at >= self.pace.lost_s:
                if task.hop not in empty:
                    empty[task.hop] = self.queue_is_empty(task.hop)
                published.asked_at = now
                published.found_empty = published.found_empty + 1 if empty[task.hop] else 0
                # A task that vanishes again and again is asked for less and less often.
                if published.found_empty >= 2 * published.times:
                    self._lost(task, published)

    def _lost(self, task: ShardTask, published: _Published) -> None:
        if missing := self._missing_needs(task):
            # Workers drop what can't be done; it is asked for again when its needs are there.
            for need in missing:
                self.table.set_missing(need)
            self._drop(task)
        elif self._publish(task):
            published.times, published.found_empty = published.times + 1, 0
            log.info("%s was lost on its way to a worker; published again", task.key)
            if published.times == _VANISHED_OFTEN:
                log.warning(
                    "%s is taken by workers and never begun; is their FUSERY_STORE the store %s of this run?",
                    *(task.key, self.store.url),
                )

    def _publish_ready(self) -> None:
        now = self.clock()
        for task in [task for task, until in self._waiting.items() if now >= until]:
            del self._waiting[task]
            self.table.set_busy(task, task in self._published)
        # What processes of earlier launches work on is under way too.
        for task in self.attempts.running:
            if task in self.table and task not in self._published and not self.table.is_done(task):
                self._take(task)
        # Later hops first: a shard that can be finished is finished before another one is begun.
        for hop in reversed(Hop):
            for task in self.table.ready(hop, self._slots(hop)):
                if not self._publish(task):
                    return
                self._take(task)

    def _publish(self, task: ShardTask) -> bool:
        is_taken = self.publish(task, self._failed[task])
        self._owed[task] += is_taken
        return is_taken

    def _slots(self, hop: Hop) -> Mapping[str, int]:
        """How many more tasks of each source may be published: a slow source must not take the places of the others."""
        sources = [row.source for row in self.table.rows.values() if row.hop is hop]
        each = -(-self.max_in_flight // max(len(sources), 1))
        taken = Counter(task.source for task in self._published if task.hop is hop)
        most = {source: each if hop is not Hop.CAPTURE else self._absences.most(source, each) for source in sources}
        held = {source for source in sources if self._streaks.holds(hop, source)}
        return {source: 0 if source in held else max(most[source] - taken[source], 0) for source in sources}

    def _drop(self, task: ShardTask) -> None:
        """It is neither at the broker nor under way; published again when its needs are there."""
        self._published.pop(task, None)
        self.table.set_busy(task, False)

    def _take(self, task: ShardTask) -> None:
        self._published[task] = _Published(self.clock())
        self.table.set_busy(task, True)

    def close(self) -> None:
        self._finders.shutdown(wait=False, cancel_futures=True)
