"""A node of a training: exit codes by which a Job decides whether a retry helps, and a meeting that ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from fusery.cli.steps.training_node import _code_of, main
from support.runs.launchers import clean, free_port, fused_run, launched

pytestmark = pytest.mark.timeout(600)

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


@pytest.mark.parametrize(
    ("first", "others", "code"),
    [(1, [1, 143], 143), (1, [1, -15], 143), (-9, [1], 137), (1, [1, 2], 1), (2, [], 2), (1, [1, 130], 130)],
)
def test_processes_that_lose_one_that_was_stopped_end_as_it_did(first: int, others: list[int], code: int) -> None:
    assert _code_of(first, others) == code


def test_a_stopped_training_says_so(worker: Path) -> None:
    process = subprocess.Popen([sys.executable, "-m", "fusery.cli.steps.training_node", *options(worker, "wait")])
    try:
        while not all((worker.parent / f"ready-{rank}").exists() for rank in range(2)):
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=120) == 143
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def fused(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fused_run(tmp_path_factory.mktemp("node"))


@pytest.fixture
def home(fused: Path) -> Path:
    """Where the run lies, without a training."""
    for folder in fused.parent.glob("store/runs/*/fused-*"):
        shutil.rmtree(folder)
    return fused.parent


def train_alone(home: Path) -> None:
    done = launched(["fusery", "train", "run.yaml"], home)
    assert done.returncode == 0, done.stderr


@contextmanager
def node(rank: int, home: Path) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[str], bool]]]:
    """One of two nodes, whose other one never comes; and whether its log has said a text."""
    options = ["--nnodes=2", f"--node-rank={rank}", "--master-addr=127.0.0.1", f"--master-port={free_port()}"]
    options += ["--rdzv-conf=timeout=3600", "--nproc-per-node=1", "-m", "fusery", "train", "run.yaml"]
    log = home / f"node-{rank}.log"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "fusery.cli.steps.training_node", *options]
        process = subprocess.Popen(command, env=clean(home), cwd=home, stdout=output, stderr=output)
    try:
        yield process, lambda text: text in log.read_text()
    finally:
        process.kill()
        process.wait()


def wait_until(done: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    while not done():
        assert process.poll() is None
        time.sleep(0.1)


_WAITS = {0: "node 0 waits until all 2 nodes", 1: "node 1 of 2 waits for node 0 at 127.0.0.1:"}


@pytest.mark.parametrize("rank", [0, 1])
def test_a_node_that_is_replaced_when_the_others_have_finished_waits_for_nobody(rank: int, home: Path) -> None:
    train_alone(home)
    with node(rank, home) as (process, said):
        assert process.wait(timeout=200) == 0
        assert said("this training is done already, nobody is waited for")


@pytest.mark.parametrize("rank", [0, 1])
def test_a_node_says_for_whom_it_waits_and_ends_when_the_others_have_finished(rank: int, home: Path) -> None:
    with node(rank, home) as (process, said):
        wait_until(lambda: said(_WAITS[rank]), process)
        train_alone(home)
        assert process.wait(timeout=200) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_node_that_is_stopped_while_it_waits_ends_as_one_that_was_stopped(
    rank: int, number: signal.Signals, home: Path
) -> None:
    with node(rank, home) as (process, said):
        wait_until(lambda: said(_WAITS[rank]), process)
        process.send_signal(number)
        assert process.wait(timeout=60) == 128 + number


def test_a_run_that_cannot_be_read_ends_before_any_meeting(home: Path) -> None:
    (home / "broken").mkdir(exist_ok=True)
    (home / "broken" / "run.yaml").write_text("name: [\n")
    with node(1, home / "broken") as (process, said):
        assert process.wait(timeout=100) == 2
        assert said("run.yaml")


_FIRST_PROCESS = """
import os, signal, sys, time
pid, os.getpid = os.getpid(), lambda: 1
from fusery import cli
from fusery.cli import schema
def stopped(_):
    os.kill(pid, signal.SIGTERM)
    time.sleep(60)
schema.call = stopped
cli.main(["schema"])
"""


def test_the_first_process_of_a_container_ends_while_it_still_imports(tmp_path: Path) -> None:
    """The kernel gives it no signal that it does not take; elsewhere the signal itself ends it."""
    assert launched([sys.executable, "-c", _FIRST_PROCESS], tmp_path).returncode == 143
    other = _FIRST_PROCESS.replace("lambda: 1", "lambda: pid")
    assert launched([sys.executable, "-c", other], tmp_path).returncode == -signal.SIGTERM


def test_a_container_stopped_while_its_training_starts_ends_as_one_that_was_stopped(home: Path) -> None:
    command = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]
    if shutil.which("unshare") is None or subprocess.run([*command, "true"], check=False).returncode:
        pytest.skip("no process namespaces for users here")
    command += [sys.executable, "-m", "fusery", "train", "run.yaml"]
    process = subprocess.Popen(command, env=clean(home), cwd=home, stderr=subprocess.DEVNULL)
    try:
        first = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        wait_until(lambda: bool(first.read_text().split()), process)
        while process.poll() is None:
            with suppress(OSError, IndexError):
                os.kill(int(first.read_text().split()[0]), signal.SIGTERM)
            time.sleep(0.2)
        assert process.returncode == 143
        assert not list(home.glob("store/runs/*/fused-*")), "it had begun"
    finally:
        process.kill()
        process.wait()
