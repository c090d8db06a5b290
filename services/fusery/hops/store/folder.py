"""A store in a folder, on a local disk or a network file system that several machines see.

Files are written under a temporary name in `tmp/`, synced, and renamed; a file that must be the first of its name is
linked instead, which fails if there is one. Folders are synced after that, new ones in their parents too, so that what
was published is there after a power cut.
"""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from fusery.hops.store.place import TEMPORARY, checked
from fusery.runtime.errors import ConfigError, FuseryError, InvalidInput, StoreFull, Unavailable

_Result = TypeVar("_Result")
_FULL = {errno.ENOSPC, errno.EDQUOT}
_WRONG = {
    errno.EACCES: "this user may not do that there",
    errno.EPERM: "this user may not do that there",
    errno.EROFS: "the file system can only be read",
    errno.ENOTDIR: "a part of the path is a file and no folder",
    errno.EISDIR: "it is a folder, expected a file",
    errno.EEXIST: "a part of the path is a file and no folder",
    errno.ENAMETOOLONG: "the path is too long for the file system",
    errno.ELOOP: "symbolic links go round in a circle",
    errno.EXDEV: f"it is on another file system than the store's {TEMPORARY}/; a store lies on one",
    errno.EINVAL: "the file system does not take this name",
}
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


class Folder:
    """The files below `root`, which need not exist before the first write. Links that leave it are refused."""

    def __init__(self, root: str) -> None:
        self.root = Path(root)

    def path(self, name: str) -> Path:
        """Where `name` lies.

        Raises:
            InvalidInput: it is no name inside the store, or a symbolic link on its way leaves the store.
        """
        path = self.root / checked(name)
        inside, outside = os.path.realpath(self.root), os.path.realpath(path)
        if os.path.commonpath([inside, outside]) != inside:
            raise InvalidInput(f"{path}: a symbolic link leads to {outside}, outside the store; remove the link")
        return path

    def read(self, name: str) -> bytes | None:
        return self._look(name, Path.read_bytes)

    def size(self, name: str) -> int | None:
        return self._look(name, lambda path: path.stat().st_size)

    def write(self, name: str, content: bytes) -> None:
        path = self.path(name)
        with self._temporary(path, content) as temporary:
            temporary.replace(path)
            _sync(path.parent)

    def create(self, name: str, content: bytes) -> bool:
        path = self.path(name)
        with self._temporary(path, content) as temporary:
            try:
                os.link(temporary, path)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                return _create_without_links(path, content)
            _sync(path.parent)
        return True

    def remove(self, name: str) -> None:
        path = self.path(name)
        with _explained(path):
            path.unlink(missing_ok=True)

    def files(self, folder: str, unsized: str = "") -> dict[str, int]:
        found = {}
        for entry in self._scan(folder):
            # Names with a dot are none of the store's.
            if entry.name.startswith(".") or not entry.is_file(follow_symlinks=False):
                continue
            is_unsized = unsized and entry.name.endswith(unsized)
            with contextlib.suppress(FileNotFoundError):  # removed since
                found[entry.name] = 0 if is_unsized else entry.stat(follow_symlinks=False).st_size
        return found

    def folders(self, folder: str) -> list[str]:
        entries = self._scan(folder)
        return sorted(e.name for e in entries if e.is_dir(follow_symlinks=False) and not e.name.startswith("."))

    def remove_folder(self, folder: str) -> None:
        with contextlib.suppress(OSError):
            self.path(folder).rmdir()

    def changed_at(self, name: str) -> float | None:
        return self._look(name, lambda path: path.stat().st_mtime)

    def _look(self, name: str, ask: Callable[[Path], _Result]) -> _Result | None:
        """What `ask` says of the file, None if it is not there."""
        path = self.path(name)
        with _explained(path):
            try:
                return ask(path)
            except FileNotFoundError:
                return None

    def sweep(self, older_than_s: float) -> int:
        folder = self.root / TEMPORARY
        removed = 0
        with _explained(folder):
            if not folder.is_dir():
                return 0
            # Ages by the file system's own clock, which need not be this machine's.
            with _new_temporary(folder) as (_, mark):
                now = mark.stat().st_mtime
                for path in folder.iterdir():
                    with contextlib.suppress(FileNotFoundError):
                        if path != mark and now - path.stat().st_mtime > older_than_s:
                            path.unlink()
                            removed += 1
        return removed

    def _scan(self, folder: str) -> Iterator[os.DirEntry[str]]:
        path = self.path(folder)
        with _explained(path):
            try:
                with os.scandir(path) as entries:
                    yield from entries
            except FileNotFoundError:
                return

    @contextmanager
    def _temporary(self, path: Path, content: bytes) -> Iterator[Path]:
        """A synced file with `content`, to be renamed or linked to `path`; it is gone at the end."""
        with _explained(path, len(content)):
            _make_folders(path.parent)
            _make_folders(self.root / TEMPORARY)
            with _new_temporary(self.root / TEMPORARY) as (number, temporary):
                _write_all(number, content)
                yield temporary


def _create_without_links(path: Path, content: bytes) -> bool:
    """As `Folder.create`, on a file system without hard links; a killed writer leaves a part that no seal fits."""
    try:
        number = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        return False
    try:
        _write_all(number, content)
    finally:
        os.close(number)
    _sync(path.parent)
    return True


@contextmanager
def _new_temporary(folder: Path) -> Iterator[tuple[int, Path]]:
    path = folder / f"{os.getpid()}-{uuid.uuid4().hex}"
    number = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        yield number, path
    finally:
        os.close(number)
        path.unlink(missing_ok=True)


def _write_all(number: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(number, rest) :]
    os.fsync(number)


def _make_folders(path: Path) -> None:
    if path.is_dir():
        return
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        _sync(folder.parent)


def _sync(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


@contextmanager
def _explained(path: Path, needed_bytes: int = 0) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _explanation(error, path, needed_bytes) from error


def _explanation(error: OSError, path: Path, needed_bytes: int) -> FuseryError:
    if error.errno in _FULL:
        return StoreFull.at(str(path), needed_bytes, _free_bytes(path))
    if error.errno in _WRONG:
        hint = "check services.store, FUSERY_STORE and who owns the folder"
        return ConfigError(f"store: {path}: {error.strerror}: {_WRONG[error.errno]}; {hint}")
    return Unavailable(f"store: {path}: {error.strerror or error}; try again when the file system is well")


def _free_bytes(path: Path) -> int | None:
    """What this user may still write near `path`."""
    for folder in (path, *path.parents):
        with contextlib.suppress(OSError):
            found = os.statvfs(folder)
            return found.f_bavail * found.f_frsize
    return None
