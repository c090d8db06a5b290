"""Waiting for a source whose server went away while a run asks it itself, as workers' tasks wait for theirs."""

from __future__ import annotations

import time
from collections.abc import Callable

from fusery.errors import Overloaded, Unavailable
from fusery.source.call import Outlast, without_address
from fusery.source.client import SourceClient, client_from_settings

_RETRY_FOR_S = 30.0
_KNOCK_S, _KNOCK_AGAIN_S = 5.0, 1.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 10.0

Tell = Callable[[str], None]
"""Hears what is wrong with a source that is waited for, and '' when it answers again."""


def patient_client(address: str, source: str, tell: Tell) -> SourceClient:
    """A client whose calls go on when the source is back, however long that takes."""
    return client_from_settings(address, retry_for_s=_RETRY_FOR_S, outlast=_outlast(address, source, tell))


def _outlast(address: str, source: str, tell: Tell) -> Outlast:
    def outlast(error: Unavailable) -> bool:
        pause_s, away = _FIRST_PAUSE_S, isinstance(error, Overloaded)
        while (why := _trouble(address, source)) is not None:
            away = True
            tell(why)
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        tell("")
        return away

    return outlast


def _trouble(address: str, source: str) -> str | None:
    """What is wrong with the source now; None: it answers."""
    try:
        with client_from_settings(address, timeout_s=_KNOCK_S, retry_for_s=_KNOCK_AGAIN_S) as client:
            client.knock()
    except Unavailable as error:
        return f"source {source}: {without_address(error)}"
    return None
