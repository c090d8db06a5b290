"""What every test gets: one thread, no network, no settings of the machine's, and a process that heeds Ctrl-C."""

from __future__ import annotations

import logging
import os
import re
import signal
from collections.abc import Iterator

NO_SKIPS = os.environ.get("FUSERY_TESTS_NO_SKIPS")
"""Set by CI: a test that is skipped for want of something that CI can fetch or install fails the run."""

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

from fusery.runtime.stop_signals import STOP_SIGNALS

settings.register_profile("fusery", deadline=None, max_examples=60, derandomize=True)
# New examples with every run: make test-random.
settings.register_profile("random", deadline=None, max_examples=600, derandomize=False, print_blob=True)
settings.load_profile("fusery")


_LONG = ("e2e", "faults")

_ALLOWED_SKIPS = (
    "no CUDA device",
    "make engine-test starts",
    # Real models, data sets and tokenizers: hundreds of megabytes each.
    r"needs .*(\(make small-llms\)|/tasks/)",
    r"run python bench/real_tokenizers\.py",
    "no records of the paper's implementation",
    # The machine and the account of the tests: root, IPv6, namespaces, Landlock, interpreters.
    r"needs root|root reads every file|root alone goes on|that takes root",
    r"no process namespaces for users here|source/test_metrics_port\.py|evaluation/tasks/test_code_sandbox\.py",
)
"""Where and why CI may skip a test: patterns of FILE: REASON."""


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


@pytest.fixture(scope="module")
def warm() -> Iterator[None]:
    """Commands that the module's tests, and what these start, have as children are forks: they import nothing anew."""
    from support.runs.warm_children import warm_children

    with warm_children():
        yield


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


def pytest_sessionfinish(session: pytest.Session) -> None:
    found = [] if NO_SKIPS is None else _avoidable_skips(session)
    if found:
        shown = "\n  ".join(found)
        print(
            f"\nFUSERY_TESTS_NO_SKIPS: CI can have what these skips miss (tests/conftest.py allows others):\n  {shown}"
        )
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _avoidable_skips(session: pytest.Session) -> list[str]:
    # With xdist, the reports of all processes are in the first one; the others have no reporter.
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    reports = [] if reporter is None else reporter.stats.get("skipped", [])
    # The long form of a skip: its file, its line and "Skipped: REASON".
    reasons = {f"{report.nodeid.partition('::')[0]}: {report.longrepr[2]}" for report in reports}
    return sorted(reason for reason in reasons if not re.search("|".join(_ALLOWED_SKIPS), reason))
