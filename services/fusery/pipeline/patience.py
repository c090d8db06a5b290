"""Waiting for a source whose server went away while a run asks it itself, as workers' tasks wait for theirs."""

from __future__ import annotations

from collections.abc import Callable

from fusery.errors import FuseryError, Overloaded, Unavailable
from fusery.retry import RetryPolicy, retry
from fusery.source.call import Outlast, without_address
from fusery.source.client import SourceClient, client_from_settings

_RETRY_FOR_S = 30.0
_KNOCK_S, _KNOCK_AGAIN_S = 5.0, 1.0
_POLICY = RetryPolicy(first_s=1.0, longest_s=10.0)

Tell = Callable[[str], None]
"""Hears what is wrong with a source that is waited for, and '' when it answers again."""


def patient_client(address: str, source: str, tell: Tell) -> SourceClient:
    """A client whose calls go on when the source is back, however long that takes."""
    return client_from_settings(address, retry_for_s=_RETRY_FOR_S, outlast=_outlast(address, source, tell))


def _outlast(address: str, source: str, tell: Tell) -> Outlast:
    def outlast(error: Unavailable) -> bool:
        is_away = isinstance(error, Overloaded)

        def waits(trouble: FuseryError, _: float) -> None:
            nonlocal is_away
            is_away = True
            tell(f"source {source}: {without_address(trouble)}")

        retry(lambda: _knock(address), _POLICY, lambda trouble: isinstance(trouble, Unavailable), waits)
        tell("")
        return is_away

    return outlast


def _knock(address: str) -> None:
    with client_from_settings(address, timeout_s=_KNOCK_S, retry_for_s=_KNOCK_AGAIN_S) as client:
        client.knock()
