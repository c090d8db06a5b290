"""A store in a bucket, on any file system that fsspec opens; made for S3, and tested against a server that speaks it.

A bucket publishes whole objects, so there are no temporaries. The first of several writers is found by a conditional
write (If-None-Match: *). A server that refuses conditions is asked first, written to, and read back: of two writers at
the same moment both may then think they were first, which ends in a checksum that does not fit, and a shard made again.
Address and credentials come from the standard AWS_… variables (AWS_ENDPOINT_URL), never from the store's URL.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from fusery.errors import ConfigError, FuseryError, StoreFull, Unavailable
from fusery.formats.place import checked

log = logging.getLogger(__name__)
_Result = TypeVar("_Result")

_CONFLICT = "ConditionalRequestConflict"
_NO_CONDITIONS = {"NotImplemented", "501"}
_FULL = {"QuotaExceeded", "XMinioStorageFull", "InsufficientStorage", "507"}
_WRONG_ERRORS = {
    "NoCredentialsError": "there are no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "PartialCredentialsError": "part of the credentials is missing; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "ProfileNotFound": "AWS_PROFILE names a profile that is not there",
    "ParamValidationError": "it is no name of a bucket; expected s3://BUCKET/FOLDER",
}
_WRONG_CODES = {
    "NoSuchBucket": "there is no such bucket; make it, or correct services.store or FUSERY_STORE",
    "InvalidBucketName": "it is no name of a bucket; expected s3://BUCKET/FOLDER",
    "InvalidAccessKeyId": "the server does not know the access key; check AWS_ACCESS_KEY_ID and AWS_ENDPOINT_URL",
    "SignatureDoesNotMatch": "the server refuses the secret key; check AWS_SECRET_ACCESS_KEY",
    "ExpiredToken": "the session's token has run out; get a new AWS_SESSION_TOKEN",
    "RequestTimeTooSkewed": "this machine's clock and the server's differ too much; set the clock",
}


class Bucket:
    """The objects below `root`, a path as `file_system` takes it. `url`: for messages."""

    def __init__(self, file_system: Any, root: str, url: str) -> None:
        self._fs, self._root, self._url = file_system, root.rstrip("/"), url
        self._takes_conditions = True

    def read(self, name: str) -> bytes | None:
        content: bytes | None = self._look(lambda: self._fs.cat_file(self._path(name)), name)
        return content

    def size(self, name: str) -> int | None:
        info = self._look(lambda: self._fs.info(self._path(name)), name)
        return None if info is None or info["type"] != "file" else int(info["size"])

    def write(self, name: str, content: bytes) -> None:
        with self._explained(name, len(content)):
            self._fs.pipe_file(self._path(name), content)

    def create(self, name: str, content: bytes) -> bool:
        if not self._takes_conditions:
            return self._create_without_conditions(name, content)
        with self._explained(name, len(content)):
            for attempt in range(5):
                try:
                    self._fs.pipe_file(self._path(name), content, mode="create")
                    return True
                except FileExistsError:
                    return False
                except OSError as error:
                    # Another writer is at it at this moment: who was first is known a moment later.
                    if _code(error) == _CONFLICT and attempt < 4:
                        time.sleep(0.1 * 2**attempt)
                        continue
                    if _code(error) not in _NO_CONDITIONS and error.errno != errno.ENOSYS:
                        raise
                    break
        log.warning("store %s: the server refuses conditional writes; entries are written and read back", self._url)
        self._takes_conditions = False
        return self._create_without_conditions(name, content)

    def _create_without_conditions(self, name: str, content: bytes) -> bool:
        if self.size(name) is not None:
            return False
        self.write(name, content)
        return self.read(name) == content

    def remove(self, name: str) -> None:
        self._look(lambda: self._fs.rm_file(self._path(name)), name)

    def files(self, folder: str, unsized: str = "") -> dict[str, int]:
        found = ((name, info) for name, info in self._listing(folder) if info["type"] == "file")
        return {name: 0 if unsized and name.endswith(unsized) else int(info["size"]) for name, info in found}

    def folders(self, folder: str) -> list[str]:
        return sorted(name for name, info in self._listing(folder) if info["type"] == "directory")

    def remove_folder(self, folder: str) -> None:
        """Nothing to do: a bucket has no folders, only names with slashes."""
        checked(folder)

    def changed_at(self, name: str) -> float | None:
        found = self._look(lambda: self._fs.modified(self._path(name)), name)
        return None if found is None else float(found.timestamp())

    def sweep(self, older_than_s: float) -> int:
        """0: an object is there whole or not at all, so that killed writers leave nothing."""
        del older_than_s
        return 0

    def _listing(self, folder: str) -> Iterator[tuple[str, dict[str, Any]]]:
        path = self._path(folder)
        infos = self._look(lambda: self._fs.ls(path, detail=True, refresh=True), folder) or []
        for info in infos:
            whole, name = info["name"].rstrip("/"), info["name"].rstrip("/").rpartition("/")[2]
            # A bucket's web page makes an empty object that stands for the folder.
            if whole.strip("/") != path.strip("/") and not name.startswith("."):
                yield name, info

    def _look(self, ask: Callable[[], _Result], name: str) -> _Result | None:
        """What `ask` says, None if nothing is there."""
        with self._explained(name):
            try:
                return ask()
            except FileNotFoundError as error:
                if _code(error) in _WRONG_CODES:
                    raise
                return None

    def _path(self, name: str) -> str:
        return f"{self._root}/{checked(name)}"

    @contextmanager
    def _explained(self, name: str, needed_bytes: int = 0) -> Iterator[None]:
        try:
            yield
        except FuseryError:
            raise
        except Exception as error:  # botocore's errors are of no common class with those of other file systems
            raise self._explanation(error, name, needed_bytes) from error

    def _explanation(self, error: Exception, name: str, needed_bytes: int) -> FuseryError:
        code, kind = _code(error), type(error).__name__
        where = f"store {self._url}: {name}"
        if code in _FULL:
            return StoreFull.at(f"{self._url}/{name}", needed_bytes, None)
        wrong = _WRONG_CODES.get(code) or _WRONG_ERRORS.get(kind)
        if wrong is not None:
            return ConfigError(f"{where}: {wrong}")
        if isinstance(error, PermissionError):
            return ConfigError(f"{where}: access is denied; the key must list, read, write and delete objects there")
        return Unavailable(f"{where}: {kind}: {error}; check AWS_ENDPOINT_URL and whether the server is up")


def _code(error: BaseException | None) -> str:
    """The code that an S3 server gave, '' if it gave none."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
        error = error.__cause__
    return ""
