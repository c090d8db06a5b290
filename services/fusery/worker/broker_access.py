"""How a client of the broker proves itself, and whom it trusts.

The password's file is read at every connection, so a password that was changed is used at the next one: no process has
to be started again, and no environment variable holds it. An address with a password of its own needs no file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import redis
from redis.credentials import CredentialProvider

from fusery.settings import settings


class PasswordUnreadable(redis.AuthenticationError):
    """The file is missing, empty or no text. To Celery it is a lost connection: it comes back when the file does."""


class PasswordFile(CredentialProvider):
    """User and password of a connection that is being made."""

    def __init__(self, file: Path, user: str | None) -> None:
        self.file = file
        self._user = user

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """(password,), or (user, password).

        Raises:
            PasswordUnreadable: the file can't be read, or is empty.
        """
        try:
            # Editors and `echo` end a line, and a password has no line's end.
            password = self.file.read_text(encoding="utf-8").rstrip("\r\n")
        except OSError as error:
            raise PasswordUnreadable(f"{self.file} can't be read: {error.strerror}") from error
        except UnicodeDecodeError:
            # Not `from error`: it holds the bytes.
            raise PasswordUnreadable(f"{self.file} is no UTF-8 text") from None
        if not password:
            raise PasswordUnreadable(f"{self.file} is empty")
        return (self._user, password) if self._user else (password,)


def access(url: str) -> tuple[str, dict[str, Any]]:
    """The address without what stands in files, and the keywords of a redis client for it.

    Raises:
        ValueError: `url` is no URL; its text is in the message.
    """
    parts = urlsplit(url)
    keywords: dict[str, Any] = tls(url) or {}
    file = settings().broker_password_file
    if file is None or parts.password is not None:
        return url, keywords
    # The client refuses a user beside credentials.
    address = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    return address, {**keywords, "credential_provider": PasswordFile(file, parts.username)}


def tls(url: str) -> dict[str, Any] | None:
    """What a rediss:// connection checks, as keywords of a redis client; None: `url` is none.

    Kombu's own choice for rediss:// is to check nothing, and then anybody in between is given the password.
    """
    if not url.startswith("rediss://"):
        return None
    authorities = settings().broker_tls_ca
    trusted = {} if authorities is None else {"ssl_ca_data": authorities}
    return {"ssl_cert_reqs": "required", "ssl_check_hostname": True, **trusted}
