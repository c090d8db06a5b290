"""The coordinator: compares the plan with the store and publishes what is missing, until nothing is.

It keeps no truth of its own. Kill it and start another: the store says what is done. A message that the broker
lost is published again after a while; a task that fails is tried three times, then it is a dead letter and
everything that does not need it is still done.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from fusery.formats.store import Entry, Store
from fusery.worker.plan import Hop, Plan, ShardTask, attempts_folder, started_folder

MAX_ATTEMPTS = 3
_ORDER = {hop: index for index, hop in enumerate(Hop)}


@dataclass(frozen=True, slots=True)
class DeadLetter:
    task: ShardTask
    reason: str


@dataclass(frozen=True, slots=True)
class HopProgress:
    """Where one hop of one source stands. `tokens`: of the finished shards."""

    hop: Hop
    source: str
    done: int
    total: int
    running: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Progress:
    hops: tuple[HopProgress, ...]
    dead_letters: tuple[DeadLetter, ...]

    @property
    def finished(self) -> bool:
        """Nothing is left that can still be done."""
        return all(hop.done == hop.total for hop in self.hops)


@dataclass(slots=True)
class Coordinator:
    """Carries a plan out. `publish` gives a task to the workers (False: not now); `launch` marks this start's notes."""

    store: Store
    plan: Plan
    publish: Callable[[ShardTask], bool]
    launch: str
    max_in_flight: int = 16
    lost_after_s: float = 900.0
    _entries: dict[ShardTask, Entry] = field(default_factory=dict)
    _in_flight: dict[ShardTask, float] = field(default_factory=dict)
    _noted: set[str] = field(default_factory=set)
    _attempts: Counter[ShardTask] = field(default_factory=Counter)
    _dead: dict[ShardTask, str] = field(default_factory=dict)

    def step(self) -> Progress:
        """One comparison of plan and store; publishes what is missing, ready and not under way."""
        self._read_store()
        self._read_attempts()
        now = time.monotonic()
        for task, since in list(self._in_flight.items()):
            if task in self._entries or now - since > self.lost_after_s:
                del self._in_flight[task]
        for task in self._ready():
            if len(self._in_flight) >= self.max_in_flight:
                break
            if not self.publish(task):
                break
            self._in_flight[task] = now
        return self.progress()

    def forget_in_flight(self) -> None:
        """After a worker or the broker died: what was under way is published again. Doing it twice is harmless."""
        self._in_flight.clear()

    @property
    def entries(self) -> dict[ShardTask, Entry]:
        return dict(self._entries)

    def finished(self) -> bool:
        """Every task is done, dead, or waits for a dead one."""
        return all(task in self._entries or self._is_blocked(task) for task in self.plan.tasks)

    def progress(self) -> Progress:
        total: Counter[tuple[Hop, str]] = Counter((task.hop, task.source) for task in self.plan.tasks)
        done: Counter[tuple[Hop, str]] = Counter((task.hop, task.source) for task in self._entries)
        running = Counter((task.hop, task.source) for task in self._in_flight)
        tokens: Counter[tuple[Hop, str]] = Counter()
        for task, entry in self._entries.items():
            tokens[task.hop, task.source] += int(entry.facts.get("tokens", 0))
        # A second writer whose bytes differed failed, but the shard is there.
        dead = tuple(DeadLetter(task, reason) for task, reason in self._dead.items() if task not in self._entries)
        hops = tuple(HopProgress(*key, done[key], total[key], running[key], tokens[key]) for key in total)
        return Progress(hops, dead)

    def _ready(self) -> Iterable[ShardTask]:
        # Later hops first: a shard that can be finished is finished before another one is begun. Within a hop
        # shard by shard, so that all sources have work at the same time.
        for task in sorted(self.plan.tasks, key=lambda task: (-_ORDER[task.hop], task.shard)):
            is_open = task not in self._entries and task not in self._in_flight and task not in self._dead
            if is_open and all(need in self._entries for need in self.plan.needs(task)):
                yield task

    def _is_blocked(self, task: ShardTask) -> bool:
        return task in self._dead or any(
            need not in self._entries and self._is_blocked(need) for need in self.plan.needs(task)
        )

    def _read_store(self) -> None:
        """What is complete now. A discarded artefact is missing again."""
        hops = {(task.hop, task.source) for task in self.plan.tasks}
        found: dict[str, Entry] = {}
        for hop, source in hops:
            found |= self._new_entries(self.plan.folder(hop, source))
        self._entries = {task: found[name] for task in self.plan.tasks if (name := self.plan.artefact(task)) in found}

    def _new_entries(self, folder: str) -> dict[str, Entry]:
        known = {entry.name: entry for entry in self._entries.values()}
        names = self.store.names(folder)
        loaded = ((name, known.get(name) or self.store.find(name)) for name in names)
        return {name: entry for name, entry in loaded if entry is not None}

    def _read_attempts(self) -> None:
        by_key = {task.key: task for task in self.plan.tasks}
        for name in self.store.list_notes(attempts_folder(self.plan.run_id, self.launch)):
            note = None if name in self._noted else self.store.read_note(name)
            if note is None:
                continue
            self._noted.add(name)
            task = by_key[note["task"]]
            self._attempts[task] += 1
            self._in_flight.pop(task, None)
            if not note["retryable"] or self._attempts[task] >= MAX_ATTEMPTS:
                self._dead[task] = str(note["reason"])
        # Two at a time is a message delivered twice; more were killed before they could say why.
        started = Counter(name.rpartition("/")[2].split(".")[0] for name in self._started())
        for key, count in started.items():
            if count > MAX_ATTEMPTS:
                self._dead[by_key[key]] = f"{count} processes that worked on it were killed; out of memory?"

    def _started(self) -> list[str]:
        return self.store.list_notes(started_folder(self.plan.run_id, self.launch))
