"""Calls to an inference server over HTTP: JSON in and out, failures as errors of our own tree, short retries.

A batch of documents is hundreds of calls to a server that may answer 429 or 503 at any of them, so each call is
repeated here a few times; a worker that had to repeat the whole request would never come to an end.
"""

from __future__ import annotations

import json
import logging
import time
from typing import Any

import httpx2

from fusery.runtime.errors import AddressError, ConfigError, FuseryError, InvalidInput, Unavailable
from fusery.runtime.retry import RetryPolicy, retry
from fusery.runtime.text.json import parse_json

_POLICY = RetryPolicy(first_s=0.25, longest_s=4.0, attempts=5)
_MAX_EXCERPT_CHARACTERS = 200
_MAX_ERROR_BYTES = 1 << 16
_MAX_ANSWER_BYTES = 16 << 20
"""Of an answer whose size the request does not decide."""

_REFUSED = frozenset({400, 413, 415, 422})
_FORBIDDEN = frozenset({401, 403})
_ABSENT = frozenset({301, 302, 303, 307, 308, 404, 405})


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


class HttpServer:
    """A server that speaks JSON; `name` is how messages call it. The token is in no message and no repr."""

    def __init__(self, name: str, url: str, token: str | None = None, timeout_s: float = 300.0) -> None:
        self.name, self._url, self._timeout_s = name, url, timeout_s
        # Unpacked, a small answer could become a large one.
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        # A redirect would carry the token to another host; a connection that is kept may be of a server that is gone.
        limits = httpx2.Limits(max_keepalive_connections=0)
        self._client = httpx2.Client(headers=headers, timeout=timeout_s, limits=limits, follow_redirects=False)
        # Else it logs every request, and there are thousands.
        log = logging.getLogger("httpx2")
        log.setLevel(max(log.level, logging.WARNING))

    def get(self, path: str) -> Any:
        return retry(lambda: self._call("GET", path, None, _MAX_ANSWER_BYTES), _POLICY)

    def post(self, path: str, body: dict[str, Any], max_bytes: int = _MAX_ANSWER_BYTES) -> Any:
        """The answer's JSON value; not more than `max_bytes` of it are ever read.

        Raises:
            InvalidInput: the server refuses the request.
            Unavailable: it is overloaded, loading or not there, after a few attempts.
            ConfigError, AddressError: it wants another token, or is no such server.
        """
        return retry(lambda: self._call("POST", path, body, max_bytes), _POLICY)

    def _call(self, method: str, path: str, body: dict[str, Any] | None, max_bytes: int) -> Any:
        try:
            with self._client.stream(method, self._url + path, json=body) as answer:
                content = self._content(answer, max_bytes if answer.is_success else _MAX_ERROR_BYTES)
        except httpx2.HTTPError as error:
            raise Unavailable(f"{self.name}: no answer{excerpt(str(error))}") from error
        if not answer.is_success:
            raise error_of_status(self.name, answer.status_code, content.decode(errors="replace"))
        if len(content) > max_bytes:
            raise AddressError(
                f"{self.name}: its answer to {path or '/'} has more than the {max_bytes:,} bytes that one can have; "
                "is this a server of that kind?"
            )
        try:
            return parse_json(content)
        except ValueError as error:
            raise AddressError(f"{self.name}: {path or '/'} gives no JSON; is this a server of that kind?") from error

    def _content(self, answer: httpx2.Response, max_bytes: int) -> bytes:
        """The body, as it was sent; of a larger one a little more than `max_bytes`."""
        content, end = bytearray(), time.monotonic() + self._timeout_s
        for chunk in answer.iter_raw():
            content += chunk
            if len(content) > max_bytes:
                break
            if time.monotonic() > end:
                # A byte now and then keeps the time limit of a single read from ever passing.
                raise httpx2.ReadTimeout(f"the answer is not whole after {self._timeout_s:g} s")
        return bytes(content)
