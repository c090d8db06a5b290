"""What a run starts ends with it, also when it is killed and can say nothing any more."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from fusery.runtime.errors import FuseryError
from fusery.runtime.processes import Child, Supervisor
from fusery.runtime.settings import child_environment

# A child with a child of its own, which both say who they are and then wait; one of them ignores a polite request.
_FAMILY = """
import os, signal, subprocess, sys, time
stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"
inner = subprocess.Popen([sys.executable, "-c", stubborn])
open(sys.argv[1] + ".new", "w").write(f"{os.getpid()} {inner.pid}")
os.rename(sys.argv[1] + ".new", sys.argv[1])
time.sleep(600)
"""
_RUN = """
import sys, time
from pathlib import Path
from fusery.runtime.processes import Child
from fusery.runtime.processes import Supervisor
from fusery.runtime.settings import child_environment
with Supervisor() as supervisor:
    folder = Path(sys.argv[1])
    command = [sys.executable, "-c", sys.argv[2], str(folder / "pids")]
    supervisor.start(Child("family", command, child_environment(), folder / "log"))
    time.sleep(600)
"""


def wait_until(done: object, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_the_children_of_a_killed_run_end_and_theirs_too(tmp_path: Path) -> None:
    run = subprocess.Popen([sys.executable, "-c", _RUN, str(tmp_path), _FAMILY])
    try:
        wait_until((tmp_path / "pids").exists)
        pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
        assert all(alive(pid) for pid in pids)
        [reaper] = [
            child
            for child in psutil.Process(run.pid).children()
            if "fusery.runtime.reaper" in " ".join(child.cmdline())
        ]
    finally:
        run.send_signal(signal.SIGKILL)
        run.wait()
    wait_until(lambda: not any(alive(pid) for pid in [*pids, reaper.pid]))


def test_a_supervisor_that_ends_in_order_leaves_nothing_and_no_reaper(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _FAMILY, str(tmp_path / "pids")]
    before = set(psutil.Process().children())
    with Supervisor() as supervisor:
        supervisor.start(Child("family", command, child_environment(), tmp_path / "log"))
        wait_until((tmp_path / "pids").exists)
        pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    wait_until(lambda: not any(alive(pid) for pid in pids))
    assert set(psutil.Process().children()) == before


def test_a_child_that_dies_is_started_again_without_what_is_left_of_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _FAMILY, str(tmp_path / "pids")]
    with Supervisor() as supervisor:
        child = supervisor.start(Child("family", command, child_environment(), tmp_path / "log"))
        wait_until((tmp_path / "pids").exists)
        leader, inner = (int(pid) for pid in (tmp_path / "pids").read_text().split())
        (tmp_path / "pids").unlink()
        psutil.Process(leader).kill()
        wait_until(lambda: not child.is_running())
        supervisor.check()
        wait_until((tmp_path / "pids").exists)
        wait_until(lambda: not alive(inner))
        assert child.pid != leader
        assert child.restarts == 1


def test_a_child_that_always_dies_ends_the_run_with_its_last_words(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('no such model')"]
    with Supervisor() as supervisor:
        child = supervisor.start(Child("source", command, child_environment(), tmp_path / "log", max_restarts=1))
        wait_until(lambda: not child.is_running())
        supervisor.check()
        wait_until(lambda: not child.is_running())
        with pytest.raises(FuseryError, match=r"(?s)source ended 2 times.*no such model"):
            supervisor.check()
