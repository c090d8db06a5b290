"""What is known of a local file without reading it again, by its path, size and times.

A content that was read once is taken for unchanged while path, size, mtime and ctime are the same. What is left to
chance: a file system that keeps all of them over a change, or two machines that see different files under one path
with equal size and times. Setting the mtime back, as `cp -p` and `rsync -t` do, changes the ctime and is noticed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fusery.errors import Corrupt
from fusery.formats.store import Store


def state_of(paths: Iterable[Path]) -> str:
    """64 hex digits for these files as they are now; reads none of them."""
    state = hashlib.sha256()
    for path in paths:
        state.update("\0".join(map(str, _state(path))).encode(errors="surrogateescape") + b"\n")
    return state.hexdigest()


def _state(path: Path) -> tuple[str, int, int, int]:
    stat = path.stat()
    return str(path.absolute()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


@dataclass(slots=True)
class FileDigests:
    """SHA-256 of files, each read once: what was found is kept as notes in the work folder by `remember`."""

    work: Path
    _new: dict[str, dict[str, Any]] = field(default_factory=dict)

    def digest(self, path: Path) -> bytes:
        """The SHA-256 of a file's content, known from before or found now."""
        state = state_of([path])
        known = self._new.get(state) or self._known(state)
        if known is None:
            with path.open("rb") as stream:
                known = {"path": str(path.absolute()), "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}
            self._new[state] = known
        return bytes.fromhex(known["sha256"])

    def remember(self) -> None:
        """Keeps what was found by reading."""
        for state, found in self._new.items():
            Store(str(self.work)).write_note(_name(state), found)
        self._new.clear()

    def _known(self, state: str) -> dict[str, Any] | None:
        try:
            return Store(str(self.work)).read_note(_name(state)) if self.work.is_dir() else None
        except (Corrupt, ValueError):
            # Reading the file again is always right.
            return None


def _name(state: str) -> str:
    return f"digests/{state[:32]}.json"
