"""Ends the processes that a run started when the run itself is killed; a process of its own, of the standard library.

Its standard input is a pipe from the run, and says which process groups there are: "+PID" for a new one, "-PID" for one
that was stopped. A killed run can say nothing; the kernel closes the pipe for it. That holds for any kind of child, for
children of children, and on every system with process groups, at the price of one small process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterable

_GRACE_S = 5.0
"""From asking to killing: enough for a Celery child to take its note along, less than a new start of the run takes."""


def main(lines: Iterable[str], grace_s: float = _GRACE_S) -> None:
    """Reads `lines` to their end, then ends every process group that is left."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups: set[int] = set()
    for line in lines:
        sign, group = line[0], int(line[1:])
        groups.add(group) if sign == "+" else groups.discard(group)
    _signal(groups, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while _alive(groups) and time.monotonic() < deadline:
        time.sleep(0.1)
    _signal(groups, signal.SIGKILL)


def _signal(groups: Iterable[int], number: signal.Signals) -> None:
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number)


def _alive(groups: Iterable[int]) -> bool:
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, 0)
            return True
    return False


if __name__ == "__main__":
    main(sys.stdin)
