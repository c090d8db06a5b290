"""A store in a bucket, on any file system that fsspec opens; made for S3, and tested against a server that speaks it.

A bucket publishes whole objects, so there are no temporaries. The first of several writers is found by a conditional
write (If-None-Match: *). A server that refuses conditions is asked first, written to, and read back: of two writers at
the same moment both may then think they were first, which ends in a checksum that does not fit, and a shard made again.
Address and credentials come from the standard AWS_… variables (AWS_ENDPOINT_URL), never from the store's URL.

One place tries again, `_asked`: what a busy or broken server answers for a minute, what can't be reached for some
seconds. The layers below (botocore, s3fs) would each try five times, up to six minutes of silence in all.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from fusery.hops.store.place import checked
from fusery.runtime.errors import ConfigError, FuseryError, StoreFull, Unavailable
from fusery.runtime.retry import RetryPolicy, retry

log = logging.getLogger(__name__)
_Result = TypeVar("_Result")

_READ_S, _CONNECT_S = 20.0, 5.0
_NOT_FIRST = {"PreconditionFailed", "412"}
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


_UNREACHED = {"ClientConnectorError", "ConnectTimeoutError", "ProxyConnectionError", "SSLError"}
"""Of aiohttp, where botocore calls a connection that was reset so too."""


@dataclass(frozen=True, slots=True)
class Patience:
    """For how many seconds an operation is tried again, and the longest pause before another try."""

    answered_s: float = 60.0
    """Where a server is there that is busy, fails, hangs, or breaks off in the middle."""
    unreached_s: float = 8.0
    """Where nothing can be reached: a mistyped address shows soon."""
    pause_s: float = 5.0


PATIENCE = Patience()


def options(url: str) -> dict[str, Any]:
    """What fsspec is told of the bucket at `url`, beside its address."""
    if url.partition("://")[0] not in ("s3", "s3a"):
        return {}
    config = {"connect_timeout": _CONNECT_S, "read_timeout": _READ_S, "retries": {"total_max_attempts": 1}}
    # Reading several ranges at a time would ask for the size first, and shards are small.
    return {"config_kwargs": config, "max_concurrency": 1}


class Bucket:
    """The objects below `root`, a path as `file_system` takes it. `url`: for messages."""

    def __init__(self, file_system: Any, root: str, url: str, patience: Patience = PATIENCE) -> None:
        self._fs, self._root, self._url, self._patience = file_system, root.rstrip("/"), url, patience
        # As `_asked` does it; s3fs takes it as no argument.
        self._fs.retries = 1
        self._takes_conditions = True

    def read(self, name: str) -> bytes | None:
        content: bytes | None = self._look(lambda: self._fs.cat_file(self._path(name)), name)
        return content

    def size(self, name: str) -> int | None:
        info = self._look(lambda: self._fs.info(self._path(name)), name)
        return None if info is None or info["type"] != "file" else int(info["size"])

    def write(self, name: str, content: bytes) -> None:
        self._asked(name, lambda: self._fs.pipe_file(self._path(name), content), len(content))

    def create(self, name: str, content: bytes) -> bool:
        if not self._takes_conditions:
            return self._create_without_conditions(name, content)
        is_first = self._asked(name, lambda: self._write_first(self._path(name), content), len(content))
        if is_first is not None:
            return is_first
        log.warning("store %s: the server refuses conditional writes; entries are written and read back", self._url)
        self._takes_conditions = False
        return self._create_without_conditions(name, content)

    def _write_first(self, path: str, content: bytes) -> bool | None:
        """Whether `content` is what stands at `path` first; None: the server knows no conditions.

        A try whose answer was lost may have been the first: its writer finds its own bytes there.
        """
        try:
            self._fs.pipe_file(path, content, mode="create")
        except FileExistsError:
            return False
        except OSError as error:
            if _code(error) in _NOT_FIRST:
                return False
            if _code(error) in _NO_CONDITIONS or error.errno == errno.ENOSYS:
                return None
            raise
        return True

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
        """Does nothing: a bucket has no folders, only names with slashes."""
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

        def look() -> _Result | None:
            try:
                return ask()
            except FileNotFoundError as error:
                if _code(error) in _WRONG_CODES:
                    raise
                return None

        return self._asked(name, look)

    def _path(self, name: str) -> str:
        return f"{self._root}/{checked(name)}"

    def _asked(self, name: str, ask: Callable[[], _Result], needed_bytes: int = 0) -> _Result:
        """What `ask` answers; asked again while another answer may come, a bounded time."""
        began = time.monotonic()

        def explained() -> _Result:
            try:
                return ask()
            except FuseryError:
                raise
            except Exception as error:  # botocore's errors are of no common class with those of other file systems
                raise self._explanation(error, name, needed_bytes) from error

        def passes(error: FuseryError) -> bool:
            return isinstance(error, Unavailable) and time.monotonic() - began <= self._patience_s(error)

        def failed(error: FuseryError, pause_s: float) -> None:
            if pause_s > 0.5:
                log.warning("%s; trying again", error)

        return retry(explained, RetryPolicy(0.2, self._patience.pause_s), passes, failed)

    def _patience_s(self, error: FuseryError) -> float:
        kinds = {kind.__name__ for cause in _causes(error) for kind in type(cause).__mro__}
        return self._patience.unreached_s if kinds & _UNREACHED else self._patience.answered_s

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


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _code(error: BaseException) -> str:
    """The code that an S3 server gave, '' if it gave none."""
    for cause in _causes(error):
        response = getattr(cause, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
    return ""
