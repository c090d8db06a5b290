from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from fusery.runtime.errors import FuseryError, InvalidInput, NoAnswer, Unavailable
from fusery.runtime.retry import RetryPolicy, retry

POLICY = RetryPolicy(0.25, 4.0, attempts=5)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses, in which a clock goes on and no time passes."""
    found: list[float] = []
    monkeypatch.setattr(time, "sleep", found.append)
    monkeypatch.setattr(time, "monotonic", lambda: sum(found))
    return found


def failing(*errors: FuseryError) -> Callable[[], str]:
    left = list(errors)

    def action() -> str:
        if left:
            raise left.pop(0)
        return "done"

    return action


def test_an_error_that_may_pass_is_tried_again(pauses: list[float]) -> None:
    told: list[tuple[str, float]] = []
    action = failing(Unavailable("a"), Unavailable("b"))
    assert retry(action, POLICY, failed=lambda error, pause_s: told.append((str(error), pause_s))) == "done"
    assert told == list(zip("ab", pauses, strict=True))


def test_an_error_that_no_retry_helps_is_raised_at_once(pauses: list[float]) -> None:
    with pytest.raises(InvalidInput):
        retry(failing(InvalidInput("no")), POLICY)
    assert pauses == []


def test_the_last_of_the_attempts_raises_its_error(pauses: list[float]) -> None:
    with pytest.raises(Unavailable, match="4"):
        retry(failing(*(Unavailable(str(number)) for number in range(9))), POLICY)
    assert len(pauses) == 4
    assert all(longest / 2 <= pause <= longest for pause, longest in zip(pauses, (0.25, 0.5, 1, 2), strict=True))


def test_no_pause_goes_past_the_time_that_is_given(pauses: list[float]) -> None:
    policy = RetryPolicy(1, 4, for_s=12, spreads=False)
    with pytest.raises(Unavailable):
        retry(failing(*[Unavailable("gone")] * 99), policy)
    assert pauses == [1, 2, 4, 4]


def test_what_passes_and_how_to_pause_are_the_callers(pauses: list[float]) -> None:
    waited: list[float] = []
    policy = RetryPolicy(1, 1, spreads=False)
    assert retry(failing(NoAnswer("not yet")), policy, lambda e: isinstance(e, NoAnswer), sleep=waited.append) == "done"
    assert (waited, pauses) == ([1], [])
