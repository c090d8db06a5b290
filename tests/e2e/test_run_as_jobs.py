"""A run whose steps are the commands of its jobs: the YAML mounted apart, each command alone, two nodes that meet."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fusery.cluster.manifests.manifests import step_objects
from fusery.cluster.manifests.names import Step
from fusery.cluster.manifests.pods import RUN_FILE
from support.cluster.cluster_runs import configured
from support.runs.launchers import clean, free_port
from support.runs.pico_run import write_run

pytestmark = [pytest.mark.timeout(1200), pytest.mark.usefixtures("warm")]


@pytest.fixture
def mounted(tmp_path: Path) -> Path:
    """The YAML in a folder of its own, as a ConfigMap is mounted; everything else lies in `store`."""
    file = write_run(tmp_path / "store", training={"epochs": 1}, evaluation={"clm_baseline": False})
    (tmp_path / "config").mkdir()
    return Path(shutil.copy(file, tmp_path / "config" / "run.yaml"))


def fusery(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fusery", *arguments], capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def log_of(home: Path, rank: int) -> Path:
    return home / f"node-{rank}.log"


def nodes_of(job: dict[str, Any], mounted: Path, home: Path) -> list[subprocess.Popen[bytes]]:
    """The pods of a job as processes of this machine; they meet at a free port."""
    (box,) = job["spec"]["template"]["spec"]["containers"]
    port = f"--master-port={free_port()}"
    places = {RUN_FILE: str(mounted), "/store": str(home), "--master-port=29500": port, "$(CPUS)": "1"}
    started = []
    for rank in range(job["spec"]["completions"]):
        given = {"$(NODE_RANK)": str(rank), "$(MASTER_ADDR)": "127.0.0.1"}
        args = [places.get(argument, argument) for argument in box["args"]]
        for name, value in given.items():
            args = [argument.replace(name, value) for argument in args]
        command = [sys.executable, *box["command"][1:], *args]
        said = {entry["name"]: entry["value"] for entry in box["env"] if entry["name"].startswith("ACCELERATE_")}
        environment = clean(home, **said)
        with log_of(home, rank).open("w") as log:
            started.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
    return started


def test_the_nodes_of_a_rendered_job_train_what_the_run_then_takes_up(mounted: Path) -> None:
    home = mounted.parents[1] / "store"
    fusery("run", str(mounted), "--relative-to", str(home), "--until", "fuse")

    job = step_objects(configured({"trainer": {"kind": "job", "nodes": 2}}), Step.TRAIN)[-1]
    nodes = nodes_of(job, mounted, home)
    try:
        codes = [node.wait(timeout=900) for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    assert codes == [0, 0], "\n".join(log_of(home, rank).read_text() for rank in range(2))

    (result,) = home.glob("store/runs/*/fused-*/result.json")
    trained = json.loads(result.read_text())
    fusery("run", str(mounted), "--relative-to", str(home), "--until", "train")
    assert json.loads(result.read_text()) == trained
