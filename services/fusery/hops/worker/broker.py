"""The broker from a client's side: whether it answers, how the client proves itself, and whom it trusts.

Messages never hold a password. The password's file is read at every connection, so a password that was changed is used
at the next one: no process has to be started again, and no environment variable holds it. An address with a password of
its own needs no file.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import redis
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.retry import Retry

from fusery.runtime.errors import AddressError, NoAnswer
from fusery.runtime.retry import RetryPolicy, retry
from fusery.runtime.settings import is_in_cluster, settings

log = logging.getLogger(__name__)


def check_broker(url: str) -> None:
    """Returns if a Redis-protocol server answers at `url` within 5 s.

    Raises:
        AddressError: it does not; the message has no password in it.
    """
    shown = without_secrets(url)
    try:
        address, keywords = access(url)
        # By default it tries four times, with seconds in between.
        with redis.Redis.from_url(
            address, socket_connect_timeout=5, socket_timeout=5, retry=Retry(NoBackoff(), 0), **keywords
        ) as asked:
            asked.ping()
    except ValueError:
        # Not `from error`: its text may have the password.
        raise AddressError(f"broker {shown}: not an address of a Redis server; expected redis://host:port/0") from None
    except PasswordUnreadable as error:
        raise AddressError(
            f"broker {shown}: its password is missing: {error}; see FUSERY_BROKER_PASSWORD_FILE"
        ) from error
    except redis.AuthenticationError as error:
        raise AddressError(
            f"broker {shown} refuses user name or password; set FUSERY_BROKER_PASSWORD_FILE to a file with the "
            "password, or FUSERY_BROKER_URL to redis://user:password@host:port/0"
        ) from error
    except redis.RedisError as error:
        hint = "start it, or leave it out for an embedded one"
        if is_in_cluster():
            hint = "see to its pod: kubectl get pods --selector app.kubernetes.io/component=broker"
        raise NoAnswer(f"broker {shown} does not answer: {error}; {hint}") from error


def wait_for_broker(url: str, timeout_s: float) -> None:
    """Returns as soon as the broker answers; a broker may start after its workers.

    Raises:
        AddressError: it does not within `timeout_s`, or refuses.
    """
    policy = RetryPolicy(1, 1, for_s=timeout_s)
    try:
        retry(
            lambda: check_broker(url),
            policy,
            lambda error: isinstance(error, NoAnswer),
            lambda error, _: log.warning("%s; trying again", error),
        )
    except NoAnswer as error:
        raise AddressError(f"{error} (waited {timeout_s:.0f} s)") from error


def without_secrets(url: str) -> str:
    """Scheme, host and port, as far as there are any: passwords stand in every other part, and in odd places."""
    scheme, _, rest = url.partition("://")
    try:
        parts = urlsplit(f"{scheme}://{rest.rpartition('@')[2]}" if rest else url)
        port = "" if parts.port is None else f":{parts.port}"
    except ValueError:
        return "(unreadable address)"
    return f"{parts.scheme}://{parts.hostname or ''}{port}"


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

    Kombu's own choice for rediss:// is to check nothing, and then any machine in between is given the password.
    """
    if not url.startswith("rediss://"):
        return None
    authorities = settings().broker_tls_ca
    trusted = {} if authorities is None else {"ssl_ca_data": authorities}
    return {"ssl_cert_reqs": "required", "ssl_check_hostname": True, **trusted}
