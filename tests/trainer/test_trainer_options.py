"""What a training may be told besides: adapters, recomputed activations, held-out text, split weights, little room."""

from __future__ import annotations

import errno
import json
import logging
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from fusery.config.sections import TrainingSpec
from fusery.hops.store.lease import FolderLease, Occupied
from fusery.runtime.errors import InvalidInput, StoreFull
from fusery.trainer import checkpoint, weights
from fusery.trainer.job import TrainJob, train
from fusery.trainer.metrics import Alarms, StepMetrics
from support.models.training_data import pico_documents, pico_job
from support.runs.launchers import free_port, launched

SRC = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def metrics_of(job: TrainJob) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (job.output / "metrics.jsonl").read_text().splitlines()]


class Killed(Exception):
    pass


def killed_after(step: int) -> Any:
    def kill(metrics: StepMetrics) -> None:
        if metrics.step == step:
            raise Killed

    return kill


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_recomputed_activations_give_the_same_bytes(architecture: str, tmp_path: Path) -> None:
    plain = train(pico_job(tmp_path / "plain", architecture))
    again = train(pico_job(tmp_path / "again", architecture, gradient_checkpointing=True))
    assert again.weights_digest == plain.weights_digest


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_adapters_are_trained_resumed_and_added_to_the_weights(architecture: str, tmp_path: Path) -> None:
    job = pico_job(tmp_path / "out", architecture, lora_rank=4, epochs=3, learning_rate=1e-2)
    undisturbed = train(job)
    lines = metrics_of(job)
    assert sum(line["loss"] for line in lines[-3:]) < sum(line["loss"] for line in lines[:3])
    disturbed = replace(job, output=tmp_path / "disturbed")
    with pytest.raises(Killed):
        train(replace(disturbed, on_step=killed_after(5)))
    tensors = load_file(next(disturbed.output.glob("checkpoints/step-*")) / "tensors.safetensors")
    assert all("lora_" in name for name in tensors)
    assert train(disturbed).weights_digest == undisturbed.weights_digest
    model = AutoModelForCausalLM.from_pretrained(undisturbed.model, local_files_only=True)
    before = AutoModelForCausalLM.from_pretrained(job.target, local_files_only=True).state_dict()
    assert model.state_dict().keys() == before.keys()
    assert any(not torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_held_out_text_is_measured_and_changes_nothing(tmp_path: Path) -> None:
    held_out = [document.token_ids_N for document in pico_documents("byte_level", 6, seed=9)]
    changes: dict[str, Any] = {"held_out": held_out, "evaluate_every_steps": 3, "keep_checkpoints": 1, "epochs": 3}
    job = pico_job(tmp_path / "measured", "gpt2", **changes)
    result = train(job)
    assert train(pico_job(tmp_path / "plain", "gpt2", epochs=3)).weights_digest == result.weights_digest
    measured = {line["step"]: line["held_out_nats"] for line in metrics_of(job) if line["held_out_nats"] is not None}
    assert list(measured) == sorted({*range(3, result.steps + 1, 3), result.steps})
    kept = {int(path.name[5:]) for path in (job.output / "checkpoints").iterdir()}
    saved = [step for step in measured if step % 3 == 0]
    assert kept == {max(saved), min(saved, key=lambda step: measured[step])}


def test_the_best_checkpoint_stays(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        cursor = checkpoint.Cursor(step=step, best_step=2 if step > 1 else None)
        checkpoint.save(tmp_path, cursor, {"parameter.w": torch.zeros(2)}, {}, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000004"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EDQUOT, "quota")])
def test_no_room_for_a_checkpoint_is_said_and_the_one_before_is_kept(
    error: OSError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = pico_job(tmp_path / "out", epochs=2)
    original = checkpoint.save_file
    written: list[Path] = []

    def save_file(tensors: dict[str, torch.Tensor], path: Path) -> None:
        written.append(path)
        if len(written) == 2:
            raise error
        original(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", save_file)
    with pytest.raises(StoreFull, match=r"step-00000006.*bytes needed"):
        train(job)
    assert [path.name for path in (job.output / "checkpoints").iterdir()] == ["step-00000003"]
    assert train(job).weights_digest == train(replace(job, output=tmp_path / "undisturbed")).weights_digest


def test_a_second_training_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    job = pico_job(tmp_path / "out")
    job.output.mkdir()
    with FolderLease(job.output, beat_s=0.05), pytest.raises(Occupied, match="trains here"):
        train(job)


def test_a_mass_that_leaves_its_bounds_is_an_alarm_once(caplog: pytest.LogCaptureFixture) -> None:
    alarms = Alarms()
    with caplog.at_level(logging.WARNING):
        for step, mass in enumerate([0.9, 0.01, 0.02, 0.9, None, 1.2], start=1):
            alarms.look(StepMetrics(step, 0, 1.0, 1.0, None, mass, 0.5, 0.1, 1.0, 10, 1.0, 1.0))
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["step 2", "step 4", "step 6"]


_FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
_REFUSED: list[tuple[dict[str, str], dict[str, Any], str]] = [
    ({**_FSDP, "FSDP_VERSION": "1"}, {}, "fsdp_version 1"),
    ({**_FSDP, "FSDP_OFFLOAD_PARAMS": "true"}, {}, "without offload"),
    (_FSDP, {"lora_rank": 4}, r"training\.lora_rank: not together with FSDP"),
]


@pytest.mark.parametrize(("settings", "spec", "message"), _REFUSED)
def test_what_split_weights_do_not_go_with_is_refused(
    settings: dict[str, str], spec: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    one, two = (cast(Accelerator, SimpleNamespace(num_processes=number)) for number in (1, 2))
    weights.check_sharding(one, TrainingSpec(**spec))
    with pytest.raises(InvalidInput, match=message):
        weights.check_sharding(two, TrainingSpec(**spec))


def test_deepspeed_is_refused_before_a_model_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(InvalidInput, match=r"asks for DeepSpeed.*set ACCELERATE_USE_FSDP=true and FSDP_VERSION=2"):
        train(pico_job(tmp_path / "out", target=str(tmp_path / "nowhere")))


_SHARDED_SCRIPT = """
import sys
sys.path[:0] = [{services!r}, {tests!r}]
from pathlib import Path
from dataclasses import replace
import torch
from support.runs.launchers import free_port, launched
from support.models.training_data import pico_job
from fusery.trainer.job import train
changes = dict(batch_sequences=3, checkpoint_every_steps=2, keep_checkpoints=9)
train(replace(pico_job(Path({output!r}), {architecture!r}, **changes), target={target!r}))
torch.distributed.destroy_process_group()
"""


def train_on_two_processes(job: TrainJob, architecture: str, folder: Path) -> None:
    """Goes on with `job` on two processes that split the weights."""
    script = folder / "sharded.py"
    places = {"services": str(SRC / "services"), "tests": str(SRC / "tests"), "output": str(job.output)}
    script.write_text(_SHARDED_SCRIPT.format(**places, architecture=architecture, target=job.target))
    port = f"--master-port={free_port()}"
    done = launched(["torchrun", "--nproc-per-node=2", port, str(script)], folder, **_FSDP)
    assert done.returncode == 0, done.stderr[-3000:]


def assert_alike(one: TrainJob, other: TrainJob) -> None:
    for a, b in zip(metrics_of(one), metrics_of(other), strict=True):
        assert (a["step"], a["tokens"]) == (b["step"], b["tokens"])
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-3)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-2)


def test_split_weights_train_as_whole_ones_and_go_on_from_one_process_to_two_and_back(tmp_path: Path) -> None:
    architecture = "qwen2"  # its embedding and its head are one tensor
    changes: dict[str, Any] = {"batch_sequences": 3, "checkpoint_every_steps": 2, "keep_checkpoints": 9}
    one = pico_job(tmp_path / "one", architecture, **changes)
    train(one)
    two = replace(one, output=tmp_path / "two")
    with pytest.raises(Killed):
        train(replace(two, on_step=killed_after(3)))
    train_on_two_processes(two, architecture, tmp_path)
    assert_alike(one, two)
    weights, split = (load_file(job.output / "model" / "model.safetensors") for job in (one, two))
    assert weights.keys() == split.keys()
    # What two processes wrote at step 4 is resumed by one.
    (two.output / "result.json").unlink()
    for path in two.output.glob("checkpoints/step-*"):
        if path.name > "step-00000004":
            shutil.rmtree(path)
    train(two)
    assert_alike(one, two)
