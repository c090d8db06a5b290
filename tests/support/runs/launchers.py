"""Several processes of one training, started as users start them: nothing in the environment but what a shell has.

done = launched(["torchrun", "--nproc-per-node", "2", "-m", "fusery", "train", "run.yaml"], tmp_path)
"""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from support.runs.pico_run import write_run

ROOT = Path(__file__).parents[3]


def clean(home: Path, **given: str) -> dict[str, str]:
    """The environment of a fresh shell on a machine without a GPU, with this virtual environment, and `given`."""
    path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
    return {"PATH": path, "HOME": str(home), "CUDA_VISIBLE_DEVICES": "", **given}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def launched(command: Sequence[str], home: Path, **given: str) -> subprocess.CompletedProcess[str]:
    """The command in a clean environment, to its end."""
    return subprocess.run(
        command, env=clean(home, **given), cwd=home, capture_output=True, text=True, timeout=280, check=False
    )


def fused_run(home: Path) -> Path:
    """The YAML of a run whose fused shards are there; one training of it takes a second."""
    file = write_run(home, training={"epochs": 1}, evaluation={"clm_baseline": False})
    done = launched(["fusery", "run", str(file), "--until", "fuse"], home)
    assert done.returncode == 0, done.stdout + done.stderr
    return file


def by_ranks(command: Sequence[str], home: Path, names: Mapping[str, str], processes: int = 2) -> list[int]:
    """The command once for every rank, as launchers do that set variables and nothing else; exit codes.

    `names`: of the variables, with {rank}, {size} and {port} in their values.
    """
    port = free_port()
    started = []
    for rank in range(processes):
        given = {name: value.format(rank=rank, size=processes, port=port) for name, value in names.items()}
        with (home / f"rank-{rank}.log").open("w") as log:
            started.append(subprocess.Popen(command, env=clean(home, **given), cwd=home, stdout=log, stderr=log))
    try:
        return [process.wait(timeout=280) for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
