"""Whether a broker answers, asked before anything hangs on it. Messages never hold a password."""

from __future__ import annotations

import logging
from urllib.parse import urlsplit

from fusery.errors import AddressError, NoAnswer
from fusery.retry import RetryPolicy, retry
from fusery.settings import is_in_cluster

log = logging.getLogger(__name__)


def check_broker(url: str) -> None:
    """Nothing, if a Redis-protocol server answers at `url` within 5 s.

    Raises:
        AddressError: it does not; the message has no password in it.
    """
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    from fusery.worker.broker_access import PasswordUnreadable, access

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
