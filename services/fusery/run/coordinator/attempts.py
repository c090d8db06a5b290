"""Attempts at tasks, read from the notes that workers write: failed ones, those under way, and those that went silent.

A started note beats. One whose number did not change for `silent_s` on this process's clock stands for a process that
was killed, stopped, or lost with its machine: it becomes a failed attempt under the same name, so that every
later reader of the notes, another coordinator too, counts it once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from fusery.hops.names import attempts_folder, started_folder
from fusery.hops.plan import Hop, ShardTask
from fusery.hops.store.store import Store
from fusery.run.coordinator.progress import FailedAttempts
from fusery.runtime.errors import Corrupt, FuseryError, StoreFull

log = logging.getLogger(__name__)
Read = TypeVar("Read", bound="_Note")

KILLED = "Killed"
"""The error of an attempt whose process is gone."""

READ_S = 2.5
"""Between two reads of a started note: half of a beat."""
_REASONS, _REASON_CHARACTERS = 3, 200
_LATE_S = 7.5
"""A beat that is so old when it is looked at is late: another process may have done the task meanwhile."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One attempt that came to nothing. `documents`: ids of what it worked on, as exactly as it is known."""

    task: ShardTask
    reason: str
    error: str
    retryable: bool
    documents: tuple[str, ...] = ()
    is_earlier: bool = False
    """Whether it is of another launch than the coordinator's own."""
    note: str = ""
    """Its note's name in the store."""


class _Note(BaseModel):
    """What is read of a note. Every process that may write to the store can write one."""

    model_config = ConfigDict(strict=True)

    documents: list[str] = []


class _StartedNote(_Note):
    beat: int
    worker: str


class _FailedNote(_Note):
    reason: str
    error: str
    retryable: bool


@dataclass(slots=True)
class Reasons:
    """Why attempts failed, by hop and source: the reasons with their numbers, the latest first."""

    _counts: dict[tuple[Hop, str], dict[str, int]] = field(default_factory=dict)

    def add(self, failure: Failure) -> None:
        counts = self._counts.setdefault((failure.task.hop, failure.task.source), {})
        reason = " ".join(failure.reason.split())[:_REASON_CHARACTERS]
        counts[reason] = counts.pop(reason, 0) + 1

    def of(self, hop: Hop, source: str) -> tuple[FailedAttempts, ...]:
        latest = list(reversed(self._counts.get((hop, source), {}).items()))[:_REASONS]
        return tuple(FailedAttempts(attempts, reason) for reason, attempts in latest)


@dataclass(slots=True)
class _Started:
    task: ShardTask
    beat: int
    changed_at: float
    read_at: float
    worker: str = "?"
    documents: tuple[str, ...] = ()


@dataclass(slots=True)
class Attempts:
    """The attempts of some launches of a run. `launches`: the coordinator's own first, then those that never ended."""

    store: Store
    run_id: str
    launches: tuple[str, ...]
    clock: Callable[[], float]
    silent_s: float
    _counted: set[str] = field(default_factory=set)
    _started: dict[str, _Started] = field(default_factory=dict)
    _failures: list[Failure] = field(default_factory=list)
    _ended: set[ShardTask] = field(default_factory=set)

    def look(self) -> tuple[list[Failure], set[ShardTask]]:
        """The failures since the last look, and the tasks that lost a started note since then:
        done, at another process, or to be done again.

        Raises:
            FuseryError, OSError: the store can't be read now; nothing is lost by looking again.
        """
        for launch in self.launches:
            self._look_at_started(launch)
            self._look_at_failed(launch)
        # Kept until a look came to its end: what was read before an error is not lost.
        failures, self._failures = self._failures, []
        ended, self._ended = self._ended, set()
        return failures, ended

    @property
    def running(self) -> set[ShardTask]:
        return {started.task for started in self._started.values()}

    @property
    def late(self) -> set[ShardTask]:
        """Tasks with a started note whose beat is overdue, though not yet for so long that its process is gone."""
        now = self.clock()
        return {started.task for started in self._started.values() if now - started.changed_at > _LATE_S}

    def _look_at_started(self, launch: str) -> None:
        folder = started_folder(self.run_id, launch)
        names = self.store.list_notes(folder)
        gone = [name for name in self._started if name.startswith(f"{folder}/") and name not in names]
        for name in gone:
            self._ended.add(self._started.pop(name).task)
        for name in names:
            # A process that was counted as killed and lives on finishes its work, and is not counted again.
            if _id(name) not in self._counted and self._is_silent(name):
                self._failures.append(self._killed(launch, name))

    def _is_silent(self, name: str) -> bool:
        now = self.clock()
        started = self._started.get(name)
        if started is None:
            task = _task(name)
            if task is None:
                return False
            started = self._started[name] = _Started(task, -1, now, -READ_S + now)
        if now - started.read_at >= READ_S:
            started.read_at = now
            note = _read(self.store, name, _StartedNote)
            if note is not None and note.beat != started.beat:
                started.beat, started.changed_at = note.beat, now
                started.worker, started.documents = note.worker, tuple(note.documents)
        return now - started.changed_at > self.silent_s

    def _killed(self, launch: str, name: str) -> Failure:
        started = self._started.pop(name)
        self._counted.add(_id(name))
        self._ended.add(started.task)
        reason = (
            f"the process {started.worker} that worked on it was killed, stopped or lost; out of memory? its worker's "
            "log says more"
        )
        failure = Failure(started.task, reason, KILLED, True, started.documents, launch != self.launches[0])
        note: dict[str, Any] = {"task": started.task.key, "documents": list(started.documents)}
        note |= {"reason": reason, "error": KILLED, "retryable": True}
        try:
            self.store.write_note(f"{attempts_folder(self.run_id, launch)}/{_id(name)}.json", note)
            self.store.remove_note(name)
        except StoreFull:
            raise
        except (FuseryError, OSError) as error:
            log.warning("%s: can't be counted in the store, only here: %s", name, error)
        return failure

    def _look_at_failed(self, launch: str) -> None:
        for name in self.store.list_notes(attempts_folder(self.run_id, launch)):
            if _id(name) not in self._counted and (failure := self._failure(launch, name)) is not None:
                self._counted.add(_id(name))
                # That there was no room when an earlier launch worked says nothing of now.
                if launch == self.launches[0] or failure.error != StoreFull.__name__:
                    self._failures.append(failure)

    def _failure(self, launch: str, name: str) -> Failure | None:
        task = _task(name)
        if task is None:
            return None
        note = _read(self.store, name, _FailedNote)
        is_earlier = launch != self.launches[0]
        if note is None:
            return Failure(task, f"its note {name} is damaged", "Corrupt", True, is_earlier=is_earlier, note=name)
        return Failure(task, note.reason, note.error, note.retryable, tuple(note.documents), is_earlier, name)


def _read(store: Store, name: str, kind: type[Read]) -> Read | None:
    """The note; None: it is gone, damaged, or not of this kind."""
    try:
        note = store.read_note(name)
        return None if note is None else kind.model_validate(note)
    except Corrupt as error:
        log.warning("%s", error)
    except ValidationError as error:
        log.warning("%s: not a note of an attempt: %d wrong fields", name, error.error_count())
    return None


def _id(name: str) -> str:
    """What a started note and the note of its failure have in common."""
    return name.rpartition("/")[2].removesuffix(".json")


def _task(name: str) -> ShardTask | None:
    try:
        return ShardTask.from_key(_id(name).partition(".")[0])
    except ValueError:
        return None
