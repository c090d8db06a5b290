"""Secrets in a text that others read: passwords and tokens of URLs, and tokens known by their form.

A URL is looked at as people write it and not as its standard has it: a password holds `/`, `@` or `?` unescaped. So of
a broker's address everything before the last `@` is hidden, and of others what can't be a host and its port.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

HIDDEN = "***"
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,30})://((?:(?![A-Za-z][A-Za-z0-9+.-]{0,30}://)\S)*)")
_PAIR = re.compile(r"([?&#;])([^=&#;?\s]{1,80})=([^&#\s]*)")
_CLOSING = re.compile(r"[\])},;:.\"']*$")
_KEY_ENDS = ("password", "passwd", "passphrase", "secret", "token", "key", "signature", "credential", "credentials")
_KEY_WORDS = {"access", "apikey", "auth", "authorization", "bearer", "code", "jwt", "key", "pass", "pw", "pwd", "sas"}
_KEY_WORDS |= {"secret", "session", "sessionid", "sid", "sig", "token"}
_WITHOUT_PATH = ("redis", "rediss", "sentinel", "amqp", "amqps", "valkey", "valkeys")
"""Brokers: what stands behind their `/` is a number or a name, never with an `@`."""
_TOKEN = re.compile(
    r"\b(hf_[A-Za-z0-9]{16,}|api_org_[A-Za-z0-9]{16,}|gh[pousr]_\w{16,}|github_pat_\w{16,}|glpat-[\w-]{16,}"
    r"|sk-[\w-]{20,}|xox[abeprs]-[\w-]{8,}|(?:AKIA|ASIA)[0-9A-Z]{16}|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*)"
)
_BEARER = re.compile(r"\b(bearer\s+)[\w.~+/=-]{8,}", re.IGNORECASE)
_ASSIGNED = re.compile(
    r"(\b[\w.-]*(?:password|passwd|passphrase|pwd|secret|token|api[_-]?key|access[_-]?key)[\"']?\s*[=:]\s*)(?!\*\*\*)\S+"
    r"|\bhf_[A-Za-z0-9]{4,}",
    re.IGNORECASE,
)


def without_secrets(text: str) -> str:
    """`text` with `***` for users and passwords of URLs, for secrets in their queries and fragments, and for tokens.

    `redis://user:pa/ss@h/0?auth=x` gives `redis://***@h/0?auth=***`.
    """
    shown = _URL.sub(lambda url: f"{url[1]}://{_rest(url[1].lower(), url[2])}", text)
    return _BEARER.sub(rf"\1{HIDDEN}", _TOKEN.sub(HIDDEN, shown))


def without_secrets_in_comment(text: str) -> str:
    """As `without_secrets`, of words of a person, who may write `token: abc`."""
    return _ASSIGNED.sub(lambda found: f"{found[1] or ''}{HIDDEN}", without_secrets(text))


def has_secret(text: str) -> bool:
    """Whether `text` holds a secret.

    >>> has_secret("redis://user:pw@host/0"), has_secret("redis://host/0")
    (True, False)
    """
    return without_secrets(text) != text


def _rest(scheme: str, rest: str) -> str:
    """What follows `://`."""
    end = _end_of_user(scheme, rest)
    shown = f"{HIDDEN}@{rest[end + 1 :]}" if end >= 0 else rest
    return _PAIR.sub(_pair, shown)


def _end_of_user(scheme: str, rest: str) -> int:
    """The place of the `@` behind user and password; −1: there is no secret one."""
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    last = rest.rfind("@")
    if scheme in _WITHOUT_PATH:
        # A broker's user without a password is no secret.
        return last if authority and ":" in rest[: max(last, 0)] and not rest.startswith("/") else -1
    if "@" in authority:
        # An `@` in the path may be of the password too, where what looks like the host is none.
        whole = authority.rfind("@")
        return whole if re.fullmatch(r"[\w.-]*(:\d*)?|\[[\w:.%]*\](:\d*)?", authority[whole + 1 :]) else last
    host, colon, port = authority.partition(":")
    is_host = not colon or port.isdigit() or not port or authority.startswith("[") or not (host or port)
    return -1 if is_host or last < len(authority) else last


def _pair(found: re.Match[str]) -> str:
    mark, key, value = found.groups()
    if not _is_secret(unquote(key)) or not value:
        return found[0]
    # What ends a sentence, or a flow mapping of YAML, is no part of it.
    closing = _CLOSING.search(value)
    return f"{mark}{key}={HIDDEN}{closing[0] if closing else ''}"


def _is_secret(key: str) -> bool:
    words = re.findall(r"[A-Z]*[a-z]+|[A-Z]+", key)
    return key.lower().endswith(_KEY_ENDS) or any(word.lower() in _KEY_WORDS for word in words)
