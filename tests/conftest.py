"""What every test gets: one thread, no network, no settings of the machine's, and a process that heeds Ctrl-C."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator

# Before any library reads them.
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
for name in [name for name in os.environ if name.startswith("FUSERY_")]:
    del os.environ[name]

# What starts the tests may ignore these (a shell's &, a trap, a supervisor), and their processes would inherit that.
# SIGHUP stays: nohup is meant. A test that needs it takes the fixture `usual_signals`.
signal.signal(signal.SIGINT, signal.default_int_handler)
for number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGCHLD):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_SETMASK, [])

import pytest
from hypothesis import settings

from fusery.stop_signals import STOP_SIGNALS

settings.register_profile("fusery", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("fusery")


_LONG = ("e2e", "faults")


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """A command sets its process's logging up; here the process goes on."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


@pytest.fixture(autouse=True)
def _signals_as_before() -> Iterator[None]:
    """Processes of later tests would inherit a signal that is ignored or blocked, and not be stopped by it."""
    before = _signals()
    yield
    assert _signals() == before


@pytest.fixture
def usual_signals(_signals_as_before: None) -> Iterator[None]:
    """No stop signal is ignored, also where nohup started the tests."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    for number, handler in before.items():
        if handler is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def _signals() -> list[object]:
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    return [(number, signal.getsignal(number), number in blocked) for number in STOP_SIGNALS]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Few tests that take minutes come first, so that no process ends with them alone.
    items.sort(key=lambda item: item.path.parent.name not in _LONG)
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
