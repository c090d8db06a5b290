"""Calls to an inference server over HTTP: JSON in and out, failures as errors of our own tree, short retries.

A batch of documents is hundreds of calls to a server that may answer 429 or 503 at any of them, so each call is
repeated here a few times; a worker that had to repeat the whole request would never come to an end.
"""

from __future__ import annotations

import json
import random
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any, TypeVar
from urllib.parse import urlsplit

from fusery.errors import AddressError, ConfigError, FuseryError, InvalidInput, Unavailable
from fusery.json_text import parse_json

T = TypeVar("T")

_ATTEMPTS = 5
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 4.0
_MAX_EXCERPT_CHARACTERS = 200
_MAX_ERROR_BYTES = 1 << 16
_MAX_ANSWER_BYTES = 16 << 20
"""Of an answer whose size the request does not decide."""

_REFUSED = frozenset({400, 413, 415, 422})
_FORBIDDEN = frozenset({401, 403})
_ABSENT = frozenset({301, 302, 303, 307, 308, 404, 405})


def check_url(name: str, url: str) -> str:
    """`url` without a slash at its end.

    Raises:
        AddressError: not http(s)://host[:port][/path], or with a password or a query in it, which logs would show.
    """
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
        valid = valid and url.isascii() and url.isprintable() and " " not in url
    except ValueError:
        valid = False
    if not valid:
        raise AddressError(f"{name}: not the address of a server; expected http(s)://host:port")
    if parts.username is not None or parts.query or parts.fragment:
        raise AddressError(
            f"{name.partition(':')[0]}:{parts.scheme}://{parts.hostname}…: user names, passwords and queries stand in "
            "no address; put a bearer token into the file that FUSERY_ENGINE_TOKEN_FILE names"
        )
    return url.rstrip("/")


def error_of_status(server: str, status: int, body: str) -> FuseryError:
    """The error that an answer with this status stands for; of its body a short, cleaned excerpt is shown."""
    said = f"{server}: HTTP {status}{excerpt(body)}"
    if status in _REFUSED:
        return InvalidInput(said)
    if status in _FORBIDDEN:
        return ConfigError(f"{said}; set FUSERY_ENGINE_TOKEN_FILE to a file with the server's token")
    if status in _ABSENT:
        return AddressError(f"{said}; is this the server's base address, and a server of that kind?")
    return Unavailable(said)


def excerpt(body: str) -> str:
    """The error text of a body, on one line, printable and short, with ': ' before it; empty if there is none."""
    try:
        found: Any = parse_json(body)
    except ValueError:
        found = body
    for key in ("error", "message"):
        if isinstance(found, dict):
            found = found.get(key, found)
    text = found if isinstance(found, str) else json.dumps(found)
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    if not text:
        return ""
    return f": {text[:_MAX_EXCERPT_CHARACTERS]}{' …' if len(text) > _MAX_EXCERPT_CHARACTERS else ''}"


def retried(call: Callable[[], T], pause_s: float = _FIRST_PAUSE_S) -> T:
    """The call's result; a failure that may pass is tried again, a few times within seconds.

    Raises:
        FuseryError: the last failure, or the first that a retry can't help.
    """
    for attempt in range(_ATTEMPTS):
        try:
            return call()
        except FuseryError as error:
            if not error.retryable or attempt == _ATTEMPTS - 1:
                raise
        time.sleep(min(pause_s * 2**attempt, _LONGEST_PAUSE_S) * random.uniform(0.5, 1.0))
    raise AssertionError("the last attempt returns or raises")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the bearer token to another host."""

    def redirect_request(self, *_: Any) -> None:
        return None


@dataclass(frozen=True, slots=True)
class HttpServer:
    """A server that speaks JSON; `name` is how messages call it. The token is in no message and no repr."""

    name: str
    url: str
    token: str | None = field(default=None, repr=False)
    timeout_s: float = 300.0

    def get(self, path: str) -> Any:
        return retried(lambda: self._call(path, None, _MAX_ANSWER_BYTES))

    def post(self, path: str, body: dict[str, Any], max_bytes: int = _MAX_ANSWER_BYTES) -> Any:
        """The answer's JSON value; not more than `max_bytes` of it are ever read.

        Raises:
            InvalidInput: the server refuses the request.
            Unavailable: it is overloaded, loading or not there, after a few attempts.
            ConfigError, AddressError: it wants another token, or is no such server.
        """
        return retried(lambda: self._call(path, body, max_bytes))

    def _call(self, path: str, body: dict[str, Any] | None, max_bytes: int) -> Any:
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers)
        try:
            with urllib.request.build_opener(_NoRedirect).open(request, timeout=self.timeout_s) as answer:
                content = answer.read(max_bytes + 1)
        except urllib.error.HTTPError as error:
            with error:
                said = error.read(_MAX_ERROR_BYTES).decode(errors="replace")
            raise error_of_status(self.name, error.code, said) from None
        except (OSError, HTTPException) as error:
            raise Unavailable(f"{self.name}: no answer{excerpt(str(error))}") from error
        if len(content) > max_bytes:
            raise AddressError(
                f"{self.name}: its answer to {path} has more than the {max_bytes:,} bytes that one can have; is this a "
                "server of that kind?"
            )
        try:
            return parse_json(content)
        except ValueError as error:
            raise AddressError(f"{self.name}: {path} gives no JSON; is this a server of that kind?") from error
