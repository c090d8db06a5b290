"""One trainer at a time in one output folder: a lease that beats, and no clock compared between machines.

    output/lease.json   owner, beat, and a checksum over both

A trainer that finds a lease of its own machine asks the kernel whether the owner lives. One that finds a foreign lease
watches it: if the beat moves within SILENT_S of its own clock, somebody trains here and it ends; if not, the owner is
gone and the lease is taken over. A trainer whose lease was taken (it was stopped for long) ends at its next step.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from fusery.errors import FuseryError
from fusery.formats.sealed import seal, unseal

log = logging.getLogger(__name__)

BEAT_S, SILENT_S = 5.0, 20.0
NAME = "lease.json"
_PROC = Path("/proc")


class Occupied(FuseryError):
    """Another trainer works in the output folder."""


class Lease:
    """Held while the block runs.

    Raises:
        Occupied: on entry, another trainer holds it.
    """

    def __init__(self, folder: Path, beat_s: float = BEAT_S, silent_s: float = SILENT_S) -> None:
        self._path = folder / NAME
        self._beat_s, self._silent_s = beat_s, silent_s
        self._owner = f"{_this_process()}/{uuid.uuid4().hex[:8]}"
        self._beat = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="lease", daemon=True)
        self._lost: str | None = None

    def __enter__(self) -> Lease:
        while not self._created():
            self._wait_for_the_owner_to_go()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        if self._read() == (self._owner, self._beat):
            self._path.unlink(missing_ok=True)

    def check(self) -> None:
        """Returns if the lease is still ours.

        Raises:
            Occupied: it was taken over.
        """
        if self._lost is not None:
            raise Occupied(
                f"{self._path}: taken over by {self._lost} while this trainer stood still for over {self._silent_s:g} "
                "s; the other one goes on from the newest checkpoint"
            )

    def _created(self) -> bool:
        """Whether the lease was free and is now ours."""
        draft = self._written_aside()
        try:
            os.link(draft, self._path)
        except FileExistsError:
            return False
        finally:
            draft.unlink()
        return True

    def _wait_for_the_owner_to_go(self) -> None:
        """Removes a lease whose owner is gone."""
        seen = self._read()
        if seen is not None and _lives(seen[0]) is not False:
            log.warning("%s is held by %s; watching it for %g s", self._path, seen[0], self._silent_s)
            deadline = time.monotonic() + self._silent_s
            while time.monotonic() < deadline and _lives(seen[0]) is not False:
                self._ended.wait(min(0.25, self._silent_s / 10))
                now = self._read()
                if now is None:
                    return
                if now != seen:
                    raise Occupied(
                        f"{self._path.parent}: {now[0]} trains here (host/process); wait for it, stop it, or use "
                        "another output folder"
                    )
        if self._read() == seen:
            self._path.unlink(missing_ok=True)

    def _go_on(self) -> None:
        while not self._ended.wait(self._beat_s):
            found = self._read()
            if found is not None and found[0] != self._owner:
                self._lost = found[0]
                return
            self._beat += 1
            # A disk that is full or away for a moment: the next beat may work, and the training goes on meanwhile.
            with suppress(OSError):
                self._written_aside().replace(self._path)

    def _written_aside(self) -> Path:
        draft = self._path.with_name(f"{NAME}.{self._owner.rpartition('/')[2]}.tmp")
        content = {"owner": self._owner, "beat": self._beat}
        draft.write_bytes(seal(content))
        return draft

    def _read(self) -> tuple[str, int] | None:
        """Owner and beat; None where there is no lease. One that is torn or damaged is nobody's, with beat −1."""
        try:
            content = unseal(self._path.read_bytes())
            return str(content["owner"]), int(content["beat"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return "an unreadable lease", -1


def _this_process() -> str:
    return f"{socket.gethostname()}/{_machine()}/{os.getpid()}/{_start_of(os.getpid())}"


def _lives(owner: str) -> bool | None:
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
    try:
        state, *values = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        # A killed process stands there until its parent asks for it, which a container's first process may never do.
        return "" if state in "ZX" else values[18]
    except (OSError, IndexError):
        return ""
