"""One call of a client: begun, waited for, repeated whole at the next server where that can help.

Every attempt has a deadline and so has the whole call; attempts go on for a while after the first failure, with pauses
that grow and differ from client to client, so that many clients do not come back at the same moment.
"""

from __future__ import annotations

import logging
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, TypeVar

import grpc

from fusery.runtime import tracing
from fusery.runtime.errors import (
    AddressError,
    ConfigError,
    Corrupt,
    FuseryError,
    InvalidInput,
    Overloaded,
    TooLarge,
    Unavailable,
)
from fusery.runtime.retry import RetryPolicy
from fusery.source import wire
from fusery.source.address import RoundRobin
from fusery.source.api import ERROR_KEY

log = logging.getLogger(__name__)

R = TypeVar("R")
T = TypeVar("T")

Begin = Callable[[str, float, tuple[tuple[str, str], ...]], Any]
"""Sends the request to a target with a deadline in seconds and metadata; gRPC's object of the call."""

_POLICY = RetryPolicy(first_s=0.1, longest_s=5.0)
_OUTLASTED_OFTEN = 10
_WORD_S = 60.0
"""Between two times that one trouble is logged."""

_WITHOUT_CLASS: dict[grpc.StatusCode, type[FuseryError]] = {
    grpc.StatusCode.UNAUTHENTICATED: ConfigError,
    grpc.StatusCode.PERMISSION_DENIED: ConfigError,
    grpc.StatusCode.UNIMPLEMENTED: AddressError,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidInput,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
}
"""Statuses that gRPC makes itself, or that carry no class; every other one is a broken connection: Unavailable."""

_PLAIN_WORDS = (
    (
        re.compile("domain name not found|name or service not known|no address associated|nxdomain", re.IGNORECASE),
        "there is no such name: the release may not serve this source, or no server of it is up yet",
    ),
    (re.compile("connection refused", re.IGNORECASE), "nothing listens there: its server is not up, or starts again"),
)
"""gRPC's details of a broken connection, and what they say. A server that listens says itself that it is loading."""


Outlast = Callable[[Unavailable], bool]
"""Waits until a source that was given up is back; whether it was away, so that another try makes sense."""


@dataclass(frozen=True, slots=True)
class Peers:
    """The servers that any call may go to, and how long it lasts: an attempt, retries after a failure, all of it.

    `outlast` None: what does not come in time is an error.
    """

    targets: tuple[str, ...]
    turns: RoundRobin
    timeout_s: float
    retry_for_s: float
    deadline_s: float
    outlast: Outlast | None = None


class Call(Generic[T]):
    """A call that has begun. `server`: the one to ask; None: whose turn it is."""

    def __init__(
        self, method: str, begin: Begin, read: Callable[[Any], T], peers: Peers, server: int | None = None
    ) -> None:
        self._method, self._begin, self._read, self._peers, self._fixed = method, begin, read, peers, server
        self._pauses = 0
        self._outlasted = 0
        self._attempt(peers.deadline_s)

    def result(self) -> T:
        """The answer. The deadline of the whole call runs from here: before, the caller did not wait for it.

        Raises:
            FuseryError: as SourceClient.compute.
        """
        end = time.monotonic() + self._peers.deadline_s
        give_up: float | None = None
        while True:
            try:
                answer = self._read(self._rpc)
            except grpc.RpcError as broken:
                error, cause = error_of(broken, self._target), broken
            except Corrupt as corrupt:
                error, cause = corrupt, corrupt.__cause__
                # What it goes on to send is not waited for.
                self._rpc.cancel()
            except BaseException as unexpected:
                # Above all Ctrl-C: the source must not go on with an answer that is not read.
                self._span.fail(unexpected)
                self.cancel()
                raise
            else:
                self._peers.turns.answered(self._server)
                self._span.end()
                return answer
            self._span.fail(error)
            self._span.end()
            give_up = give_up or min(time.monotonic() + self._peers.retry_for_s, end)
            try:
                self._wait_or_raise(error, cause, give_up)
            except Unavailable as away:
                if not self._outlasts(away):
                    raise
                give_up, end = None, time.monotonic() + self._peers.deadline_s
            self._attempt(end - time.monotonic())

    def _outlasts(self, away: Unavailable) -> bool:
        """Whether the source was away and is back. A request in whose middle it always goes may be what ends it."""
        self._outlasted += 1
        return self._peers.outlast is not None and self._outlasted <= _OUTLASTED_OFTEN and self._peers.outlast(away)

    def cancel(self) -> None:
        self._rpc.cancel()
        self._span.end()

    def _attempt(self, left_s: float) -> None:
        self._server = self._peers.turns.take() if self._fixed is None else self._fixed
        self._target = self._peers.targets[self._server]
        self._span = tracing.begin(f"source {self._method}", server=self._target)
        timeout_s = min(self._peers.timeout_s, max(left_s, 0.0))
        self._rpc = self._begin(self._target, timeout_s, ((tracing.HEADER, self._span.context.traceparent),))

    def _wait_or_raise(self, error: FuseryError, cause: BaseException | None, give_up: float) -> None:
        """Returns when it is time for another attempt: at once if another server is there to ask."""
        another = isinstance(error, Unavailable) and self._peers.turns.failed(self._server) and self._fixed is None
        wait_s = 0.0 if another else _POLICY.pause_s(self._pauses)
        if not error.retryable or time.monotonic() + wait_s >= give_up:
            raise error from cause
        level = logging.INFO if _is_news(str(error)) else logging.DEBUG
        log.log(level, "%s; trying again in %.1f s, and so on", error, wait_s)
        time.sleep(wait_s)
        if not another:
            self._pauses += 1


_said_at: dict[str, float] = {}


def _is_news(trouble: str) -> bool:
    """Whether `trouble` was not said for a while; for a server that is away fails every call of every task alike."""
    now = time.monotonic()
    for known in [known for known, at in _said_at.items() if now - at >= _WORD_S]:
        del _said_at[known]
    is_news = trouble not in _said_at
    _said_at.setdefault(trouble, now)
    return is_news


def without_address(error: FuseryError) -> str:
    """What is wrong, for a sentence that names the source and its address already."""
    return re.sub(r"^source \S+: ", "", str(error))


def error_of(broken: Any, target: str) -> FuseryError:
    """The error of our tree that a failed call stands for."""
    code, details = broken.code(), broken.details()
    name = next((value for key, value in broken.trailing_metadata() or () if key == ERROR_KEY), None)
    kind = wire.error_classes().get(str(name)) or _WITHOUT_CLASS.get(code, Unavailable)
    if kind is Overloaded and name is None and "larger than max" in str(details):
        # gRPC's own limit of a message; the same status also says that too many calls are open.
        kind = TooLarge
    hint = "; is this a fusery source server?" if code is grpc.StatusCode.UNIMPLEMENTED else ""
    if name is None:
        plain = next((words for pattern, words in _PLAIN_WORDS if pattern.search(str(details))), details)
        details = f"{code.name}: {plain}"
    return kind(f"source {target}: {details}{hint}")


def in_order(start: Callable[[R], Call[T]], requests: Iterable[R], limit: int) -> Iterator[T]:
    """The answers in the order of the requests, at most `limit` of which are under way at any time.

    The next request is started before an answer is handed over, so that `limit` are under way while the caller works
    on it. An error, and a caller that stops asking, cancel what is under way.

    Raises:
        InvalidInput: the limit is less than 1.
    """
    if limit < 1:
        raise InvalidInput(f"requests in flight: got {limit}, expected at least 1")
    return _in_order(start, iter(requests), limit)


def _in_order(start: Callable[[R], Call[T]], requests: Iterator[R], limit: int) -> Iterator[T]:
    under_way: deque[Call[T]] = deque()
    try:
        for request in islice(requests, limit):
            under_way.append(start(request))
        while under_way:
            answer = under_way[0].result()
            under_way.popleft()
            for request in islice(requests, 1):
                under_way.append(start(request))
            yield answer
            # Not kept while the next one is received.
            del answer
    finally:
        for request_under_way in under_way:
            request_under_way.cancel()
