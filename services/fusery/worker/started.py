"""Notes of attempts under way. A started note beats; whoever sees its number stand still knows: the process is gone.

No clock is compared between machines: a reader measures with its own how long the number has not changed.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fusery.errors import FuseryError
from fusery.formats.store import Store
from fusery.worker.plan import ShardTask, attempts_folder, started_folder

log = logging.getLogger(__name__)

BEAT_S = 5.0
MAX_ATTEMPTS = 3
"""A task that failed or lost its process so often is given up."""


@dataclass(slots=True)
class Beating:
    """A note that is written again every `beat_s` from a thread, with the next number; removed at the end.

    A store that does not take the note for a while costs nothing but the note: the work goes on.
    """

    store: Store
    name: str
    content: Callable[[], dict[str, Any]]
    beat_s: float = BEAT_S
    _beat: int = 0
    _ended: threading.Event = field(default_factory=threading.Event)
    _writes: threading.Lock = field(default_factory=threading.Lock)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        self.write()
        self._thread = threading.Thread(target=self._run, name=f"beat of {self.name}", daemon=True)
        self._thread.start()

    def write(self) -> None:
        """Writes the note now; a failure is logged."""
        with self._writes:
            self._beat += 1
            try:
                self.store.write_note(self.name, {**self.content(), "worker": this_process(), "beat": self._beat})
            except (FuseryError, OSError) as error:
                log.warning("%s: not written: %s", self.name, error)

    def stop(self) -> None:
        """No further beat; the note stays."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def remove(self) -> None:
        """No further beat, and no note; a failure is logged, and the note is taken for one of a killed process."""
        self.stop()
        try:
            self.store.remove_note(self.name)
        except (FuseryError, OSError) as error:
            log.warning("%s: not removed: %s", self.name, error)

    def _run(self) -> None:
        while not self._ended.wait(self.beat_s):
            self.write()


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


def this_process() -> str:
    """host:pid"""
    return f"{socket.gethostname()}:{os.getpid()}"
