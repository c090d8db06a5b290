"""The bearer token that calls must carry: a fixed one, or that of a file, which may change while the server runs."""

from __future__ import annotations

import hmac
import logging
from pathlib import Path

from fusery.runtime.errors import ConfigError

log = logging.getLogger(__name__)


def read_token(path: Path | None, setting: str = "FUSERY_SOURCE_TOKEN_FILE") -> str | None:
    """The bearer token in the file that `setting` names; None without a file.

    Raises:
        ConfigError: the file can't be read, or holds anything but one line of printable ASCII.
    """
    if path is None:
        return None
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"token file {path} can't be read: {error}; check {setting}") from error
    if not token or not token.isascii() or not token.isprintable():
        raise ConfigError(f"token file {path}: expected one line of printable ASCII characters")
    return token


class FixedToken:
    """One token for as long as the process lives; None lets every call in."""

    def __init__(self, token: str | None) -> None:
        self._expected = None if token is None else f"Bearer {token}".encode()

    def allows(self, given: str | bytes) -> bool:
        sent = given.encode() if isinstance(given, str) else given
        # Takes the same time wherever they differ, so that answers' times give no token away.
        return self._expected is None or hmac.compare_digest(sent, self._expected)


class TokenFile:
    """The token in `path`; after a change of the file the former token is refused.

    A file that has gone or holds no token leaves the former one in force: a half-written file must not lock out
    everyone, and a missing one must not let everyone in.

    Raises:
        ConfigError: the file holds no token.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = self._look()
        self._token = FixedToken(read_token(path))

    def allows(self, given: str | bytes) -> bool:
        if (stamp := self._look()) != self._stamp:
            self._stamp = stamp
            self._read_again()
        return self._token.allows(given)

    def _read_again(self) -> None:
        try:
            self._token = FixedToken(read_token(self._path))
        except ConfigError as error:
            log.error("the token file has changed and can't be used; the former token stays valid: %s", error)
        else:
            log.info("the token file has changed; the former token is refused from now on")

    def _look(self) -> tuple[int, int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size
