"""The store: write-once artefacts under content names, in a folder or a bucket.

A name says what an artefact is made from; the entry beside it (`NAME.entry.json`) says that it is complete
and what its bytes hash to. Publishing is: the bytes under their name, then the entry, which only one writer can be the
first to make. A reader checks size and hash at every open, and an entry checks itself; a damaged entry is none. Two
writers of one name: equal bytes are success, other bytes are quarantined and reported, for then something that decides
the bytes is missing from the name.

Entries and notes are small JSON files with a seal, the SHA-256 of the rest: a file must be, letter for letter, what
`seal` writes. 64 letters a file are its price.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import fsspec
from fsspec.implementations.local import LocalFileSystem

from fusery.hops.store.bucket import Bucket, options
from fusery.hops.store.folder import Folder
from fusery.hops.store.place import TEMPORARY, Place, checked
from fusery.runtime.errors import ConfigError, Corrupt, InvalidInput, Mismatch, Unavailable, how_to_install
from fusery.runtime.text.json import parse_json

log = logging.getLogger(__name__)

_ENTRY = ".entry.json"
_TRIES = 5
_SEAL = "seal"


@dataclass(frozen=True, slots=True)
class Entry:
    """What the manifest knows of one artefact: name, size in bytes, SHA-256 (hex), facts for people (JSON values)."""

    name: str
    size: int
    sha256: str
    facts: dict[str, Any] = field(default_factory=dict)


class Store:
    """A folder or bucket of artefacts. Names are relative POSIX paths and can't leave the root.

    Errors of the place itself are ConfigError, Unavailable and StoreFull.

    Raises:
        ConfigError: the URL is not one that fsspec can open here, or it has a password in it.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._place = _open(url)

    @property
    def is_local(self) -> bool:
        return isinstance(self._place, Folder)

    def local_path(self, name: str) -> Path:
        """Where `name` lies on this machine.

        Raises:
            ConfigError: the store is not a folder.
        """
        if not isinstance(self._place, Folder):
            raise ConfigError(
                f"store {self.url!r} is not a folder; what needs one lies in services.work, or FUSERY_WORK"
            )
        return self._place.path(name)

    def find(self, name: str) -> Entry | None:
        """The entry of a complete artefact, None if it is not there yet. One small read and a look at its size."""
        entry = self._entry(name)
        if entry is None:
            return None
        size = self._place.size(name)
        if size != entry.size:
            log.warning("%s: %s bytes, its entry says %d; it does not count", name, size, entry.size)
            return None
        return entry

    def listed(self, folder: str) -> dict[str, int]:
        """Name → size of the data, of the artefacts directly in `folder` with data and entry, in the order of names.

        One listing, and no entry is read: whether an artefact is whole shows when it is opened.
        """
        files = self._place.files(folder, unsized=_ENTRY)
        return {f"{folder}/{name}": files[name] for name in sorted(files) if name + _ENTRY in files}

    def folders(self, folder: str) -> list[str]:
        """Names of the folders directly in `folder`, sorted."""
        return [f"{folder}/{name}" for name in self._place.folders(folder)]

    def read(self, name: str) -> bytes:
        """The bytes of a complete artefact.

        Raises:
            Unavailable: it is not there (yet, or because it was discarded).
            Corrupt: its entry is damaged or its bytes are not what it says; `discard` it and have it made again.
        """
        try:
            entry = self._sealed_entry(name)
        except ValueError as error:
            raise Corrupt(f"{name}: its entry is damaged: {error}; it is made again", name) from error
        if entry is None:
            raise Unavailable(f"{name} is not in the store {self.url}; run the hop that makes it")
        content = self._place.read(name)
        if content is None:
            raise Corrupt(f"{name}: its entry is there, its bytes are not; it is made again", name)
        if len(content) != entry.size:
            raise Corrupt(f"{name}: {len(content)} bytes, its entry says {entry.size}; it is made again", name)
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
        """Makes `content` available under `name` for good; the entry that says so, which may be another writer's.

        Raises:
            Mismatch: other bytes stand under that name already; the new ones are kept in quarantine/.
            StoreFull: there is no room; nothing is under that name that was not there before.
        """
        entry = Entry(_artefact(name), len(content), hashlib.sha256(content).hexdigest(), facts or {})
        for _ in range(_TRIES):
            standing = self._entry(name)
            if standing is not None and self._place.size(name) == standing.size:
                return self._same(standing, entry, content)
            if standing is not None and standing.sha256 != entry.sha256:
                # It vouches for bytes that are gone.
                self.discard(name)
            # Bytes without an entry count as none.
            self._place.write(name, content)
            if self._place.create(name + _ENTRY, seal(asdict(entry))):
                return entry
            winner = self._entry(name)
            if winner is None:
                self._place.remove(name + _ENTRY)
                continue
            if winner.sha256 != entry.sha256:
                # The bytes there now may be of either writer.
                self.discard(name)
            return self._same(winner, entry, content)
        raise Unavailable(f"{name}: others took it away {_TRIES} times while it was written; try again")

    def _same(self, standing: Entry, entry: Entry, content: bytes) -> Entry:
        """`standing`, if it is of the same bytes as `entry`; else these are put aside."""
        if standing.sha256 == entry.sha256:
            return standing
        aside = f"quarantine/{entry.sha256[:16]}-{PurePosixPath(entry.name).name}"
        self._place.write(aside, content)
        raise Mismatch(
            f"{entry.name}: two writers made different bytes ({standing.sha256[:12]}…, {entry.sha256[:12]}…); the "
            f"second is kept as {aside}. Some input that decides the bytes differs between the workers"
        )

    def discard(self, name: str) -> None:
        """Takes `name` away, entry first, so that it is made again."""
        self._place.remove(name + _ENTRY)
        self._place.remove(name)

    def remove_folder(self, folder: str) -> None:
        """Takes an empty folder away; any other stays."""
        self._place.remove_folder(folder)

    def made_at(self, name: str) -> float | None:
        """When `name` was completed, seconds since 1970 by the store's own clock; for people, decides nothing."""
        return self._place.changed_at(name + _ENTRY)

    def leftovers(self, folder: str) -> dict[str, int]:
        """Name → size of what lies directly in `folder` and is half an artefact: data without an entry, or the reverse.

        What is being published at this moment is among them.
        """
        files = self._place.files(folder)
        whole = {name for name in files if name + _ENTRY in files}
        whole |= {name + _ENTRY for name in whole}
        return {f"{folder}/{name}": files[name] for name in sorted(files) if name not in whole}

    def remove_leftover(self, name: str) -> None:
        """Takes one of `leftovers` away."""
        self._place.remove(name)

    def write_note(self, name: str, content: dict[str, Any]) -> None:
        """A small sealed JSON file that is no artefact (no entry, may be replaced): run state, attempts."""
        self._place.write(name, seal(content))

    def read_note(self, name: str) -> dict[str, Any] | None:
        """What a note says, None if it is not there.

        Raises:
            Corrupt: it is damaged; its writer can write it again.
        """
        content = self._place.read(name)
        try:
            return None if content is None else unseal(content)
        except ValueError as error:
            raise Corrupt(
                f"note {name} in the store {self.url} is damaged: {error}; run the same command again, and remove the "
                "file if that does not help"
            ) from error

    def remove_note(self, name: str) -> None:
        """Takes a note away, if it is there."""
        self._place.remove(name)

    def list_notes(self, folder: str) -> list[str]:
        """Names of the notes directly in `folder`, sorted."""
        files = self._place.files(folder, unsized=".json")
        return sorted(f"{folder}/{name}" for name in files if name.endswith(".json") and not name.endswith(_ENTRY))

    def sweep(self, older_than_s: float) -> int:
        """Removes what killed writers left half-written longer ago than that; how many files."""
        return self._place.sweep(older_than_s)

    def _entry(self, name: str) -> Entry | None:
        """The entry of `name`; a damaged one is none."""
        try:
            return self._sealed_entry(name)
        except ValueError as error:
            log.warning("%s: its entry is damaged (%s) and does not count", name, error)
            return None

    def _sealed_entry(self, name: str) -> Entry | None:
        content = self._place.read(name + _ENTRY)
        if content is None:
            return None
        fields = unseal(content)
        if fields.keys() != {"name", "size", "sha256", "facts"} or fields["name"] != name:
            raise ValueError("it is of another artefact")
        # A seal says that a file is whole, not who wrote it.
        kinds = (type(fields["size"]), type(fields["sha256"]), type(fields["facts"]))
        if kinds != (int, str, dict):
            raise ValueError("its fields are not of their kinds")
        return Entry(**fields)


def seal(fields: dict[str, Any]) -> bytes:
    """`fields` (JSON values) as readable JSON with a seal.

    Raises:
        ValueError: one of the fields is called "seal".
    """
    if _SEAL in fields:
        raise ValueError(f"{_SEAL!r} is no name of a field here")
    digest = hashlib.sha256(_text(fields)).hexdigest()
    return _text(fields | {_SEAL: digest})


def unseal(content: bytes) -> dict[str, Any]:
    """The fields that `seal` was given.

    Raises:
        ValueError: `content` is not what `seal` writes, to the last byte.
    """
    fields = parse_json(content)
    if not isinstance(fields, dict) or fields.pop(_SEAL, None) is None:
        raise ValueError("it has no seal")
    if seal(fields) != content:
        raise ValueError("its seal does not fit")
    return fields


def _text(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, indent=1, sort_keys=True).encode() + b"\n"


def _artefact(name: str) -> str:
    if checked(name).endswith(_ENTRY) or name.split("/")[0] == TEMPORARY:
        raise InvalidInput(f"{name!r}: names that end in {_ENTRY} or begin with {TEMPORARY}/ are the store's own")
    return name


def _open(url: str) -> Place:
    if "@" in urlsplit(url).netloc:
        raise ConfigError(
            "store: the URL has a user or a password in it; give s3://BUCKET/FOLDER, and credentials as "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment"
        )
    try:
        # Another process writes there too: what was listed before says nothing.
        file_system, root = fsspec.core.url_to_fs(url, use_listings_cache=False, **options(url))
    except (ValueError, ImportError, OSError) as error:
        hint = f"; it needs fusery's extra s3: {how_to_install('s3')}" if isinstance(error, ImportError) else ""
        raise ConfigError(
            f"store {url!r}: {error}; give a folder or an fsspec URL such as s3://bucket/folder{hint}"
        ) from error
    return Folder(str(root)) if isinstance(file_system, LocalFileSystem) else Bucket(file_system, str(root), url)
