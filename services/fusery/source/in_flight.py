"""Several requests under way at a time, answers in order, nothing waits for what it does not need.

No threads: a request is sent when it is started, and gRPC receives in the background. Requests are sent in their
order, and what is not asked for yet is held back by gRPC's flow control and not in this process.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Protocol, TypeVar

from fusery.errors import InvalidInput

A = TypeVar("A", covariant=True)
R = TypeVar("R")


class UnderWay(Protocol[A]):
    """A request that was sent."""

    def result(self) -> A:
        """Its answer, when it is there; repeats the request by itself where that can help."""
        ...

    def cancel(self) -> None:
        """Nobody wants the answer any more."""
        ...


def in_order(start: Callable[[R], UnderWay[A]], requests: Iterable[R], limit: int) -> Iterator[A]:
    """The answers in the order of the requests, at most `limit` of which are under way at any time.

    The next request is started before an answer is handed over, so that `limit` are under way while the caller works
    on it. An error, and a caller that stops asking, cancel what is under way.

    Raises:
        InvalidInput: the limit is less than 1.
    """
    if limit < 1:
        raise InvalidInput(f"requests in flight: got {limit}, expected at least 1")
    return _in_order(start, iter(requests), limit)


def _in_order(start: Callable[[R], UnderWay[A]], requests: Iterator[R], limit: int) -> Iterator[A]:
    under_way: deque[UnderWay[A]] = deque()
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
