"""Signals that ask a process to stop: Ctrl-C, SIGTERM, a closed terminal.

One that is ignored when a command starts stays ignored: with nohup a run outlives its terminal, and what a script
starts with `&` outlives the script's Ctrl-C. SIGTERM stops both.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Handler = Callable[[int, FrameType | None], object] | signal.Handlers


def end_as_any_process() -> None:
    """SIGTERM ends a container's first process too, with 128 + 15, until a command takes the signal.

    The kernel gives that process no signal that it does not take: stopped while it imports, it would go on, and be
    killed when its grace is over.
    """
    if os.getpid() == 1 and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, lambda number, _frame: os._exit(128 + number))


def start_as_usual() -> None:
    """A process inherits what its parent ignores and blocks; of that, what no command can work with is undone.

    SIGCHLD ignored: every child seems to have ended with 0. SIGTERM ignored, or a stop signal blocked: a run could not
    stop its servers. That SIGINT and SIGHUP are ignored stays: that is how nohup and a shell's & are meant.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGCHLD, signal.SIGTERM):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {*STOP_SIGNALS, signal.SIGCHLD})


@contextmanager
def taken(handler: Handler) -> Iterator[None]:
    """Has `handler` meanwhile for every stop signal that is not ignored.

    Outside the main thread this does nothing: only that one may, and whoever owns the process decides.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    # None: of C code, which could not be put back.
    ours = {number: old for number, old in before.items() if old not in (signal.SIG_IGN, None)}
    try:
        for number in ours:
            signal.signal(number, handler)
        yield
    finally:
        for number, old in ours.items():
            signal.signal(number, old)


@contextmanager
def stops_in_order(command: str) -> Iterator[None]:
    """The first stop signal is a KeyboardInterrupt, and is answered in one line; the others change nothing."""
    is_stopping = False

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        nonlocal is_stopping
        if is_stopping:
            return
        is_stopping = True
        print(
            f"fusery {command}: stopping; what is under way is finished or put back, within half a minute"
            + (". Ctrl-C again changes nothing" if sys.stderr.isatty() else ""),
            file=sys.stderr,
            flush=True,
        )
        raise KeyboardInterrupt

    with taken(interrupt):
        yield
