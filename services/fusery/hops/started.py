"""Attempts under way: a note that beats, and the note of a failure that the coordinator counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fusery.hops.names import attempts_folder, started_folder
from fusery.hops.plan import ShardTask
from fusery.hops.store.lease import BEAT_S, Beating
from fusery.hops.store.store import Store

MAX_ATTEMPTS = 3
"""A task that failed or lost its process so often is given up."""


@dataclass(slots=True)
class Attempt:
    """One process at work on one task. `id` names its started note and, if it fails or is killed, the note of that.

    `notes_each`: every change of `documents` is written before the work on them begins, so that a killed attempt
    names them exactly. That costs a write each, and is for tasks that failed before; others are written with the beat.
    """

    store: Store
    run_id: str
    launch: str
    task: ShardTask
    id: str
    notes_each: bool = False
    beat_s: float = BEAT_S
    documents: tuple[str, ...] = ()
    """Ids of the documents that it works on now."""
    _beating: Beating = field(init=False)

    def __post_init__(self) -> None:
        name = f"{started_folder(self.run_id, self.launch)}/{self.task.key}.{self.id}.json"
        self._beating = Beating(self.store, name, self._content, self.beat_s)

    def start(self) -> None:
        self._beating.start()

    def at(self, documents: Sequence[str]) -> None:
        """Says which documents come next."""
        is_first = not self.documents
        self.documents = tuple(documents)
        if is_first or self.notes_each:
            self._beating.write()

    def failed(self, reason: str, error: str, retryable: bool) -> None:
        """Writes the note that the coordinator counts."""
        note = {"reason": reason, "error": error, "retryable": retryable, **self._content()}
        self.store.write_note(f"{attempts_folder(self.run_id, self.launch)}/{self.task.key}.{self.id}.json", note)

    def end(self) -> None:
        self._beating.remove()

    def _content(self) -> dict[str, Any]:
        return {"task": self.task.key, "documents": list(self.documents)}
