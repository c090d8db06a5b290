"""Ctrl-C, SIGTERM and a closed terminal: who takes them, and what stays as whoever started the process wants it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from fusery.stop_signals import STOP_SIGNALS, stops_in_order, taken


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
