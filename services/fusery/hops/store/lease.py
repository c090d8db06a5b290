"""Notes that beat, and the leases that are made of them: who works on what, and whether it still does.

A note that beats is written again every few seconds with the next number. No clock is compared between machines: a
reader measures with its own how long the number has not changed, and takes the process for gone after a while.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from fusery.hops.store.store import Store, seal, unseal
from fusery.runtime.errors import FuseryError

log = logging.getLogger(__name__)

BEAT_S, SILENT_S = 5.0, 20.0
NAME = "lease.json"
_LOOK_S = 1.0
_PROC = Path("/proc")

Note = dict[str, Any]


class Notes(Protocol):
    """Where a note lies: a store, or a folder of its own."""

    def write_note(self, name: str, content: Note) -> None: ...
    def remove_note(self, name: str) -> None: ...


@dataclass(slots=True)
class Beating:
    """A note that is written again every `beat_s` from a thread, with the next number; removed at the end.

    A store that does not take the note for a while costs nothing but the note: the work goes on. `is_ours` is asked
    before every further beat; when it says no, the note is another process's.
    """

    store: Notes
    name: str
    content: Callable[[], Note]
    beat_s: float = BEAT_S
    is_ours: Callable[[], bool] = lambda: True
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
            worker = f"{socket.gethostname()}:{os.getpid()}"
            try:
                self.store.write_note(self.name, {**self.content(), "worker": worker, "beat": self._beat})
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
            if self.is_ours():
                self.store.remove_note(self.name)
        except (FuseryError, OSError) as error:
            log.warning("%s: not removed: %s", self.name, error)

    def _run(self) -> None:
        while not self._ended.wait(self.beat_s) and self.is_ours():
            self.write()


def watched(
    read: Callable[[], Note | None],
    silent_s: float,
    look_s: float = _LOOK_S,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[tuple[Note, bool]]:
    """Looks at a note, each with whether it has moved, until it is gone or has not changed for `silent_s`."""
    seen: Note | None = None
    has_moved, changed_at = False, clock()
    while (note := read()) is not None:
        if note != seen:
            has_moved, seen, changed_at = seen is not None, note, clock()
        elif clock() - changed_at > silent_s:
            log.warning("%s is gone; taking over", note.get("owner") or note.get("worker"))
            return
        yield note, has_moved
        sleep(look_s)


@contextmanager
def followed_lease(
    store: Store,
    name: str,
    content: Note,
    silent_s: float,
    follow: Callable[[str], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[None]:
    """The block runs when no other process beats under `name`; until then `follow` is told its host:pid, each second.

    Two that start at the same moment both run. Five beats fit in `silent_s`. The beat ends with the block, and one that
    follows takes over at once.
    """

    def read() -> Note | None:
        try:
            return store.read_note(name)
        except (FuseryError, OSError) as error:
            log.warning("%s: %s", name, error)
            return None

    for note, _ in watched(read, silent_s, _LOOK_S, clock, sleep):
        follow(str(note.get("worker")))
    beating = Beating(store, name, lambda: content, silent_s / 5)
    beating.start()
    try:
        yield
    finally:
        beating.remove()


class Occupied(FuseryError):
    """Another trainer works in the output folder."""


class _File:
    """A sealed file in a folder that has no temporaries of its own."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME

    def create(self, content: Note) -> bool:
        """Whether there was none."""
        draft = self._draft(content)
        try:
            os.link(draft, self.path)
        except FileExistsError:
            return False
        finally:
            draft.unlink()
        return True

    def write_note(self, _: str, content: Note) -> None:
        self._draft(content).replace(self.path)

    def remove_note(self, _: str) -> None:
        self.path.unlink(missing_ok=True)

    def read(self) -> Note | None:
        """None: there is none. One that is torn or damaged has an owner that is no process."""
        try:
            found = unseal(self.path.read_bytes())
            return {**found, "owner": str(found["owner"]), "beat": int(found["beat"])}
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            return {"owner": "an unreadable lease", "beat": -1}

    def _draft(self, content: Note) -> Path:
        draft = self.path.with_name(f"{NAME}.{uuid.uuid4().hex[:8]}.tmp")
        draft.write_bytes(seal(content))
        return draft


class FolderLease:
    """One process at a time in one folder: the file lease.json there beats while the block runs.

    A process that finds a lease of its own machine asks the kernel whether the owner lives. One that finds a foreign
    lease watches it: if the beat moves within `silent_s`, another works here; if not, the owner is gone and the lease
    is taken over. One whose lease was taken (it was stopped for long) hears of it from `check`.

    Raises:
        Occupied: on entry, another process holds it.
    """

    def __init__(self, folder: Path, beat_s: float = BEAT_S, silent_s: float = SILENT_S) -> None:
        self._file, self._silent_s = _File(folder), silent_s
        self._owner = f"{owner_here()}/{uuid.uuid4().hex[:8]}"
        self._lost: str | None = None
        self._beating = Beating(self._file, NAME, lambda: {"owner": self._owner}, beat_s, self._is_ours)

    def __enter__(self) -> FolderLease:
        while not self._file.create({"owner": self._owner, "beat": 0}):
            self._wait_for_the_owner_to_go()
        self._beating.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._beating.remove()

    def check(self) -> None:
        """Returns if the lease is still ours.

        Raises:
            Occupied: it was taken over.
        """
        if self._lost is not None:
            raise Occupied(
                f"{self._file.path}: taken over by {self._lost} while this trainer stood still for over "
                f"{self._silent_s:g} s; the other one goes on from the newest checkpoint"
            )

    def _is_ours(self) -> bool:
        found = self._file.read()
        if found is not None and found["owner"] != self._owner:
            self._lost = found["owner"]
        return self._lost is None

    def _wait_for_the_owner_to_go(self) -> None:
        """Removes a lease whose owner is gone."""
        last: Note | None = None
        for note, has_moved in watched(self._file.read, self._silent_s, min(0.25, self._silent_s / 10)):
            if has_moved:
                raise Occupied(
                    f"{self._file.path.parent}: {note['owner']} trains here (host/process); wait for it, stop it, or "
                    "use another output folder"
                )
            if lives(note["owner"]) is False:
                last = note
                break
            if last is None:
                log.warning("%s is held by %s; watching it for %g s", self._file.path, note["owner"], self._silent_s)
            last = note
        if self._file.read() == last:
            self._file.remove_note(NAME)


def owner_here() -> str:
    """This process, for `lives`: host, machine, number and start."""
    return f"{socket.gethostname()}/{_machine()}/{os.getpid()}/{_start_of(os.getpid())}"


def lives(owner: str) -> bool | None:
    """Whether the process lives; None if it is of another machine or container, so that only its beat can tell."""
    parts = owner.split("/")
    if len(parts) != 5 or not _machine() or parts[1] != _machine():
        return None
    return _start_of(int(parts[2])) == parts[3]


def _machine() -> str:
    """This boot of this machine, and the process numbers of this container; '' where the system does not say."""
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}-{os.stat(_PROC / 'self/ns/pid').st_ino}"  # noqa: PTH116
    except OSError:
        return ""


def _start_of(pid: int) -> str:
    """When the process began, in the kernel's ticks: a number that is used again is another process; '' if gone."""
    with suppress(OSError, IndexError):
        state, *values = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        # A killed process stands there until its parent asks for it, which a container's first process may never do.
        return "" if state in "ZX" else values[18]
    return ""
