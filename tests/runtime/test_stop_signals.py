"""Ctrl-C, SIGTERM and a closed terminal: who takes them, and what stays as whoever started the process wants it."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fusery.runtime.stop_signals import STOP_SIGNALS, start_as_usual, stops_in_order, taken
from fusery.source.server.serve import _stop_event

pytestmark = pytest.mark.usefixtures("usual_signals")


@pytest.fixture(params=STOP_SIGNALS)
def ignored(request: pytest.FixtureRequest) -> Iterator[signal.Signals]:
    """A signal that is ignored from the start, as nohup and a shell's & do."""
    before = signal.signal(request.param, signal.SIG_IGN)
    yield request.param
    signal.signal(request.param, before)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_stop_signal_is_taken_and_given_back(number: signal.Signals) -> None:
    received: list[int] = []
    before = signal.getsignal(number)
    with taken(lambda number, _: received.append(number)):
        signal.raise_signal(number)
    assert received == [number]
    assert signal.getsignal(number) is before


def test_an_ignored_signal_stays_ignored(ignored: signal.Signals) -> None:
    with stops_in_order("run"):
        assert signal.getsignal(ignored) is signal.SIG_IGN
        signal.raise_signal(ignored)
    assert signal.getsignal(ignored) is signal.SIG_IGN


def test_handlers_are_given_back_after_an_error() -> None:
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    with pytest.raises(ValueError, match="inside"), taken(signal.SIG_IGN):
        raise ValueError("inside")
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before


def test_another_thread_takes_nothing() -> None:
    before = signal.getsignal(signal.SIGTERM)
    found: list[object] = []

    def look() -> None:
        with taken(signal.SIG_IGN):
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [before]


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_the_first_one_stops_and_the_second_changes_nothing(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    with stops_in_order("ablate"):
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
        signal.raise_signal(number)
    assert capsys.readouterr().err.startswith("fusery ablate: stopping; what is under way is finished or put back")


IGNORING = """
import os, signal, sys
number, *command = sys.argv[1:]
signal.signal(int(number), signal.SIG_IGN)
os.execv(command[0], command)
"""
BLOCKING = IGNORING.replace("signal.signal(int(number), signal.SIG_IGN)", "signal.pthread_sigmask(0, [int(number)])")
SAYING = """
import signal, subprocess, sys
from fusery.runtime.stop_signals import start_as_usual
start_as_usual()
number = int(sys.argv[1])
blocked = number in signal.pthread_sigmask(signal.SIG_BLOCK, [])
ended = subprocess.run([sys.executable, "-c", "raise SystemExit(3)"]).returncode
print(signal.getsignal(number) is signal.SIG_IGN, blocked, ended)
"""


def _started(how: str, number: signal.Signals, *command: str) -> subprocess.CompletedProcess[str]:
    inherited = [sys.executable, "-c", how, str(int(number)), sys.executable, *command]
    return subprocess.run(inherited, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("how", [IGNORING, BLOCKING], ids=["ignored", "blocked"])
@pytest.mark.parametrize("number", [*STOP_SIGNALS, signal.SIGQUIT, signal.SIGCHLD])
def test_what_a_parent_ignores_or_blocks_lets_a_command_work_and_nohup_and_background_hold(
    how: str, number: signal.Signals
) -> None:
    done = _started(how, number, "-c", SAYING, str(int(number)))
    stays = how is IGNORING and number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    is_blocked = how is BLOCKING and number is signal.SIGQUIT
    assert done.stdout.split() == [str(stays), str(is_blocked), "3"], done.stderr


@pytest.mark.parametrize("number", [*STOP_SIGNALS, signal.SIGQUIT, signal.SIGCHLD])
def test_these_tests_pass_whatever_their_parent_ignores(number: signal.Signals) -> None:
    options = ["-n0", "-q", "-p", "no:cacheprovider", "-k", "not these_tests_pass and not lets_a_command"]
    done = _started(IGNORING, number, "-m", "pytest", *options, str(Path(__file__)))
    assert done.returncode == 0, done.stdout


def test_another_thread_changes_no_signal() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    thread = threading.Thread(target=start_as_usual)
    thread.start()
    thread.join()
    assert signal.signal(signal.SIGTERM, before) is signal.SIG_IGN


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("is_ignored", [False, True])
def test_a_source_server_heeds_ctrl_c_unless_it_was_started_with_an_ampersand(
    number: signal.Signals, is_ignored: bool
) -> None:
    async def is_stopped() -> bool:
        stop = _stop_event()
        signal.raise_signal(number)
        await asyncio.sleep(0.1)
        return stop.is_set()

    before = {one: signal.getsignal(one) for one in STOP_SIGNALS}
    try:
        if is_ignored:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        assert asyncio.run(is_stopped()) is (not is_ignored or number == signal.SIGTERM)
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
