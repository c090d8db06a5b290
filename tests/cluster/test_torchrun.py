"""Several processes end with the exit code of the one that failed first: a Job decides by it whether a retry helps."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fusery.cluster.torchrun import main

WORKER = """
import os, signal, sys, time
from pathlib import Path

def stopped(*_):
    sys.exit(143)

rank, folder = int(os.environ["RANK"]), Path(sys.argv[2])
if sys.argv[1] == "wait":
    signal.signal(signal.SIGTERM, stopped)
    (folder / f"ready-{rank}").touch()
    time.sleep(60)
if sys.argv[1] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
sys.exit(int(sys.argv[1]) if rank == 1 else 0)
"""


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A script that ends as it is told; what torchrun leaves behind in its process is taken back."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    before = {number: signal.getsignal(number) for number in numbers}
    path = tmp_path / "worker.py"
    path.write_text(WORKER)
    yield path
    for number, handler in before.items():
        signal.signal(number, handler)


def options(worker: Path, what: str) -> list[str]:
    return ["--standalone", "--nproc-per-node=2", "--shutdown-timeout=30", str(worker), what, str(worker.parent)]


@pytest.mark.parametrize(("what", "code"), [("0", 0), ("2", 2), ("killed", 137)])
def test_the_exit_code_is_that_of_the_process_that_failed(worker: Path, what: str, code: int) -> None:
    assert main(options(worker, what)) == code


def test_a_stopped_training_says_so(worker: Path) -> None:
    process = subprocess.Popen([sys.executable, "-m", "fusery.cluster.torchrun", *options(worker, "wait")])
    try:
        while not all((worker.parent / f"ready-{rank}").exists() for rank in range(2)):
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=120) == 143
    finally:
        process.kill()
        process.wait()
