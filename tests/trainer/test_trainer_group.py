"""Several processes train as one group, on any machine and under any launcher; one that is left alone refuses."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.utils import DistributedType

from fusery.runtime.errors import InvalidInput
from fusery.trainer import group
from support.runs.launchers import ROOT, by_ranks, fused_run, launched

pytestmark = pytest.mark.timeout(600)

_VARIABLES = ("ACCELERATE_USE_CPU", "ACCELERATE_TORCH_DEVICE", "ACCELERATE_MIXED_PRECISION", "MASTER_ADDR", "RANK")
_MEETING = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "{port}"}
_FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
_BY_VARIABLES: dict[str, dict[str, str]] = {
    "as an operator of Kubernetes": {"WORLD_SIZE": "{size}", "RANK": "{rank}", **_MEETING},
    "as torchrun, split": {
        **{"WORLD_SIZE": "{size}", "RANK": "{rank}", "LOCAL_RANK": "{rank}", "LOCAL_WORLD_SIZE": "{size}"},
        **_MEETING,
        **_FSDP,
    },
    "as MPI": {
        "OMPI_COMM_WORLD_SIZE": "{size}",
        "OMPI_COMM_WORLD_RANK": "{rank}",
        "OMPI_COMM_WORLD_LOCAL_RANK": "{rank}",
        "OMPI_COMM_WORLD_LOCAL_SIZE": "{size}",
        **_MEETING,
    },
}


@pytest.fixture(scope="module")
def fused(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose fused shards are there; one training of it takes a second."""
    return fused_run(tmp_path_factory.mktemp("group"))


@pytest.fixture
def home(fused: Path) -> Path:
    """Where the run lies, without a training."""
    for folder in fused.parent.glob("store/runs/*/fused-*"):
        shutil.rmtree(folder)
    return fused.parent


def steps_of(home: Path) -> int:
    (result,) = home.glob("store/runs/*/fused-*/result.json")
    return int(json.loads(result.read_text())["steps"])


def documented(page: str) -> list[str]:
    """The command with which the page starts several processes, with two of them and our file."""
    (found,) = set(re.findall(r"`(torchrun [^`]*)`", (ROOT / "docs" / page).read_text()))
    command = found.replace("--nproc-per-node 8", "--nproc-per-node 2").replace("FILE.yaml", "run.yaml")
    assert command == "torchrun --nproc-per-node 2 -m fusery train run.yaml"
    return command.split()


@pytest.mark.parametrize("page", ["training.md", "operations.md"])
def test_torchrun_as_the_docs_say_forms_a_group_without_a_gpu(page: str, home: Path) -> None:
    done = launched(documented(page), home)
    assert done.returncode == 0, done.stderr
    assert all(f"process {rank} of 2, on cpu" in done.stderr for rank in (1, 2))
    assert steps_of(home) > 0


@pytest.mark.parametrize("names", _BY_VARIABLES.values(), ids=list(_BY_VARIABLES))
def test_whoever_says_the_ranks_starts_a_group(names: dict[str, str], home: Path) -> None:
    codes = by_ranks(["fusery", "train", "run.yaml"], home, names)
    logs = [(home / f"rank-{rank}.log").read_text() for rank in range(2)]
    assert codes == [0, 0], "\n".join(logs)
    assert [f"process {rank + 1} of 2" in log for rank, log in enumerate(logs)] == [True, True]
    assert steps_of(home) > 0


def test_accelerate_launch_that_starts_one_process_of_two_is_refused(home: Path) -> None:
    done = launched(
        ["accelerate", "launch", "--cpu", "--num_processes", "2", "-m", "fusery", "train", "run.yaml"], home
    )
    assert done.returncode != 0
    assert "asked for several processes and started this one alone" in done.stderr
    assert "torchrun --nproc-per-node NUMBER" in done.stderr
    assert not list(home.glob("store/runs/*/fused-*/result.json"))


def test_accelerate_launch_of_one_process_trains(home: Path) -> None:
    done = launched(["accelerate", "launch", "--num_processes", "1", "-m", "fusery", "train", "run.yaml"], home)
    assert done.returncode == 0, done.stderr
    assert steps_of(home) > 0


@pytest.fixture
def formed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Forms a group in a made-up environment, on a machine with the device; what accelerate was told, or the error."""
    for name in (*_VARIABLES, *group._SIZES, "LOCAL_WORLD_SIZE", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)

    def form(device: str | None, found: int, **given: str) -> bool:
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        made = None if device is None else torch.device(device)
        told: list[bool] = []

        def accelerator(mixed_precision: str, cpu: bool) -> SimpleNamespace:
            told.append(cpu)
            kind = DistributedType.NO if found == 1 else DistributedType.MULTI_CPU
            return SimpleNamespace(num_processes=found, process_index=0, distributed_type=kind, device="cpu")

        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: made)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: device == "cuda")
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(group, "Accelerator", accelerator)
        group.form()
        return told[0]

    return form


@pytest.mark.parametrize(
    ("device", "processes", "given", "on_cpu"),
    [
        (None, 1, {}, False),
        (None, 2, {}, True),
        ("mps", 1, {}, False),
        ("mps", 2, {}, True),
        ("cuda", 1, {}, False),
        ("cuda", 2, {}, False),
        ("cuda", 2, {"ACCELERATE_USE_CPU": "true"}, True),
        ("cuda", 2, {"ACCELERATE_USE_CPU": "1"}, True),
        ("cuda", 2, {"ACCELERATE_TORCH_DEVICE": "cpu"}, True),
        ("xpu", 2, {}, False),
    ],
)
def test_the_device_is_what_is_said_else_what_can_form_a_group(
    device: str | None, processes: int, given: dict[str, str], on_cpu: bool, formed: Any
) -> None:
    assert formed(device, processes, WORLD_SIZE=str(processes), **given) is on_cpu


@pytest.mark.parametrize("name", group._SIZES)
def test_a_process_that_is_told_of_others_and_is_alone_refuses(name: str, formed: Any) -> None:
    with pytest.raises(InvalidInput, match=rf"says 2 processes \({name}=2\), this one is in a group of 1.*torchrun"):
        formed(None, 1, **{name: "2"})


def test_more_processes_than_gpus_are_refused(formed: Any) -> None:
    given = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    with pytest.raises(InvalidInput, match=r"2 processes on this machine .*1 GPUs.*ACCELERATE_USE_CPU"):
        formed("cuda", 2, **given)
    assert formed("cuda", 2, ACCELERATE_USE_CPU="true", **given)


def test_variables_without_a_place_to_meet_are_named(home: Path) -> None:
    done = launched(["fusery", "train", "run.yaml"], home, WORLD_SIZE="2", RANK="0")
    assert done.returncode == 2
    assert "makes no group of 2 processes" in done.stderr
    assert "MASTER_ADDR" in done.stderr
