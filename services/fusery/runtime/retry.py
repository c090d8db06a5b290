"""One way to try again: a policy says how long the pauses are and when to give up."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from fusery.runtime.errors import FuseryError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Pauses in seconds, doubled up to the longest. With `spreads` each is cut at random by up to half, so that many
    clients do not come back at the same moment. `attempts` and `for_s` (since the first try began) bound the tries.

    >>> [RetryPolicy(1, 5, spreads=False).pause_s(number) for number in range(4)]
    [1, 2, 4, 5]
    """

    first_s: float
    longest_s: float
    attempts: int | None = None
    for_s: float | None = None
    spreads: bool = True

    def pause_s(self, number: int) -> float:
        """The pause after the failure `number`, from 0."""
        pause_s: float = min(self.first_s * 2.0 ** min(number, 30), self.longest_s)
        return pause_s * random.uniform(0.5, 1.0) if self.spreads else pause_s


def retry(
    action: Callable[[], T],
    policy: RetryPolicy,
    passes: Callable[[FuseryError], bool] = lambda error: error.retryable,
    failed: Callable[[FuseryError, float], object] = lambda *_: None,
    sleep: Callable[[float], object] | None = None,
) -> T:
    """What `action` returns; after an error that `passes` says may pass, there is a pause and another try.

    `failed` is told of each such error and the seconds of the pause, and may raise to end the tries.

    Raises:
        FuseryError: the first error that does not pass, or the last one within the bounds of `policy`.
    """
    began, number = time.monotonic(), 0
    while True:
        try:
            return action()
        except FuseryError as error:
            pause_s = policy.pause_s(number)
            number += 1
            is_late = policy.for_s is not None and time.monotonic() + pause_s > began + policy.for_s
            if is_late or number == policy.attempts or not passes(error):
                raise
            failed(error, pause_s)
        (sleep or time.sleep)(pause_s)
