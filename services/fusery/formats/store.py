"""The store: write-once artefacts under content names, on any fsspec file system.

A name says what an artefact is made from; the entry beside it (`NAME.entry.json`) says that it is complete
and what its bytes hash to. Publishing is: bytes under a temporary name, fsync, rename; then the entry the same
way. A reader checks the hash at every open. Two writers of one name: equal bytes are success, other bytes are
quarantined and reported, for then something that decides the bytes is missing from the name.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from fusery.errors import ConfigError, Corrupt, InvalidInput, Mismatch, Unavailable

_ENTRY = ".entry.json"


@dataclass(frozen=True, slots=True)
class Entry:
    """What the manifest knows of one artefact: name, size in bytes, SHA-256 (hex), facts for people (JSON values)."""

    name: str
    size: int
    sha256: str
    facts: dict[str, Any] = field(default_factory=dict)


class Store:
    """A folder or bucket of artefacts. Names are relative POSIX paths and can't leave the root.

    Raises:
        ConfigError: the URL is not one that fsspec can open here.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            self._fs, root = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError, OSError) as error:
            raise ConfigError(
                f"store {url!r}: {error}; give a folder or an fsspec URL such as s3://bucket/folder"
            ) from error
        self._root = str(root).rstrip("/")

    @property
    def is_local(self) -> bool:
        return isinstance(self._fs, LocalFileSystem)

    def local_path(self, name: str) -> Path:
        """Where `name` lies on this machine.

        Raises:
            ConfigError: the store is not a folder.
        """
        if not self.is_local:
            raise ConfigError(
                f"store {self.url!r} is not a folder; training and registering need services.store as a folder"
            )
        return Path(self._path(name))

    def find(self, name: str) -> Entry | None:
        """The entry of a complete artefact, None if it is not there yet. One small read."""
        try:
            fields = json.loads(self._fs.cat_file(self._path(name) + _ENTRY))
        except FileNotFoundError:
            return None
        return Entry(**fields)

    def names(self, folder: str) -> list[str]:
        """Names of the complete artefacts directly in `folder`, sorted. One listing."""
        try:
            paths = self._fs.ls(self._path(folder), detail=False, refresh=True)
        except FileNotFoundError:
            return []
        return sorted(
            f"{folder}/{PurePosixPath(path).name.removesuffix(_ENTRY)}" for path in paths if path.endswith(_ENTRY)
        )

    def read(self, name: str) -> bytes:
        """The bytes of a complete artefact.

        Raises:
            Unavailable: it is not there (yet, or because it was discarded).
            Corrupt: its bytes are not what its entry says; `discard` it and have it made again.
        """
        entry = self.find(name)
        if entry is None:
            raise Unavailable(f"{name} is not in the store {self.url}; run the hop that makes it")
        try:
            content: bytes = self._fs.cat_file(self._path(name))
        except FileNotFoundError as error:
            raise Corrupt(f"{name}: its entry is there, its bytes are not; it is made again", name) from error
        found = hashlib.sha256(content).hexdigest()
        if found != entry.sha256:
            raise Corrupt(
                f"{name}: SHA-256 is {found[:12]}…, its entry says {entry.sha256[:12]}…; it is made again", name
            )
        return content

    def is_whole(self, name: str) -> bool:
        """Whether `name` is there with the bytes that its entry says; a damaged one is discarded, to be made again."""
        try:
            self.read(name)
        except Unavailable:
            return False
        except Corrupt:
            self.discard(name)
            return False
        return True

    def publish(self, name: str, content: bytes, facts: dict[str, Any] | None = None) -> Entry:
        """Makes `content` available under `name` for good.

        Raises:
            Mismatch: other bytes stand under that name already; the new ones are kept in quarantine/.
        """
        entry = Entry(name, len(content), hashlib.sha256(content).hexdigest(), facts or {})
        present = self.find(name)
        if present is not None and present.sha256 != entry.sha256:
            aside = f"quarantine/{entry.sha256[:16]}-{PurePosixPath(name).name}"
            self._write(aside, content)
            raise Mismatch(
                f"{name}: two writers made different bytes ({present.sha256[:12]}…, {entry.sha256[:12]}…); the second "
                f"is kept as {aside}. Some input that decides the bytes differs between the workers"
            )
        if present is None:
            self._write(name, content)
            self._write(name + _ENTRY, json.dumps(asdict(entry), sort_keys=True).encode())
        return entry

    def discard(self, name: str) -> None:
        """Takes `name` away, entry first, so that it is made again."""
        for path in (self._path(name) + _ENTRY, self._path(name)):
            if self._fs.exists(path):
                self._fs.rm_file(path)

    def write_note(self, name: str, content: dict[str, Any]) -> None:
        """A small JSON file that is no artefact (no entry, may be replaced): run state, attempts."""
        self._write(name, json.dumps(content, indent=1, sort_keys=True).encode())

    def read_note(self, name: str) -> dict[str, Any] | None:
        try:
            note: dict[str, Any] = json.loads(self._fs.cat_file(self._path(name)))
        except FileNotFoundError:
            return None
        return note

    def remove_note(self, name: str) -> None:
        """Takes a note away, if it is there."""
        path = self._path(name)
        if self._fs.exists(path):
            self._fs.rm_file(path)

    def list_notes(self, folder: str) -> list[str]:
        """Names of the notes directly in `folder`, sorted."""
        try:
            paths = self._fs.ls(self._path(folder), detail=False, refresh=True)
        except FileNotFoundError:
            return []
        return sorted(f"{folder}/{PurePosixPath(path).name}" for path in paths if path.endswith(".json"))

    def _path(self, name: str) -> str:
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts:
            raise InvalidInput(f"{name!r} is no name inside the store")
        return f"{self._root}/{PurePosixPath(name)}"

    def _write(self, name: str, content: bytes) -> None:
        path = self._path(name)
        if self.is_local:
            _write_durably(Path(path), content)
        else:
            # Object stores publish a whole object at once.
            self._fs.pipe_file(path, content)


def _write_durably(path: Path, content: bytes) -> None:
    """All of `content` under `path`, or nothing: temporary name, fsync, rename, fsync of the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
