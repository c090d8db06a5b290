"""Trainings of pico models from end to end, through the true entry point."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from fusery.config.sections import TrainingSpec
from fusery.hops.store.lease import Occupied
from fusery.registry.model_card import Lineage
from fusery.registry.record import ModelLicence, Origin
from fusery.runtime.errors import Interrupted, Mismatch, TooLarge
from fusery.trainer import loop
from fusery.trainer.batches import Packing
from fusery.trainer.job import TERMINATED_EXIT_CODE, Terminated, TrainJob, train
from fusery.trainer.loop import Diverged
from fusery.trainer.metrics import StepMetrics
from support.models import pico_models
from support.models.training_data import Document, InMemory, no_evidence, pico_job
from support.runs.launchers import free_port, launched

SRC = Path(__file__).parents[2]


class Killed(Exception):
    """Stands for the death of the process: nothing after it runs."""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def metrics_of(job: TrainJob) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (job.output / "metrics.jsonl").read_text().splitlines()]


def weights_of(job: TrainJob) -> dict[str, torch.Tensor]:
    return load_file(job.output / "model" / "model.safetensors")


def without_evidence(job: TrainJob) -> InMemory:
    documents = (job.documents[i] for i in range(len(job.documents.layout.lengths_D)))
    return InMemory([Document(d.doc_id, d.token_ids_N, no_evidence()) for d in documents])


def killed_at(job: TrainJob, step: int) -> TrainJob:
    def kill(metrics: StepMetrics) -> None:
        if metrics.step == step:
            raise Killed

    return replace(job, on_step=kill)


def without_times(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {key: line[key] for key in line if key not in ("elapsed_s", "tokens_per_s", "time_s", "peak_memory_mb")}
        for line in lines
    ]


TARGETS: list[tuple[str, str, dict[str, Any], bool]] = [
    ("llama", "LlamaForCausalLM", {}, False),
    ("llama", "LlamaForCausalLM", {"tie_word_embeddings": True}, True),
    ("mpt", "MptForCausalLM", {}, True),
    ("gpt_neox", "GPTNeoXForCausalLM", {}, False),
    ("gpt2", "GPT2LMHeadModel", {}, True),
    ("gemma3", "Gemma3ForCausalLM", {}, True),
    ("gemma3", "Gemma3ForCausalLM", {"tie_word_embeddings": False, "final_logit_softcapping": 2.0}, False),
    ("qwen2", "Qwen2ForCausalLM", {}, True),
    ("qwen2", "Qwen2ForCausalLM", {"tie_word_embeddings": False}, False),
]


def mean_nats(model: Any, job: TrainJob) -> float:
    """The model's own loss on the training documents, one by one, as transformers computes it."""
    documents = (job.documents[i].token_ids_N for i in range(12))
    ids = [torch.from_numpy(ids)[None] for ids in documents]
    with torch.no_grad():
        return float(np.mean([float(model(input_ids=one, labels=one).loss) for one in ids]))


@pytest.mark.parametrize(("architecture", "name", "changes", "is_tied"), TARGETS)
def test_every_architecture_trains_and_what_comes_out_loads_as_it_went_in(
    architecture: str, name: str, changes: dict[str, Any], is_tied: bool, tmp_path: Path
) -> None:
    target = pico_models.build_model(tmp_path / "target", architecture, **changes)
    job = pico_job(tmp_path / "out", architecture, epochs=4, target=str(target))
    result = train(job)
    lines = metrics_of(job)
    assert [line["step"] for line in lines] == list(range(1, result.steps + 1))
    assert np.mean([line["loss"] for line in lines[-3:]]) < np.mean([line["loss"] for line in lines[:3]]) - 0.05
    assert all(line["grad_norm"] > 0 and 0 < line["kept_mass"] < 1 for line in lines)
    assert result.skipped_steps == 0
    before, after = (AutoModelForCausalLM.from_pretrained(f, local_files_only=True) for f in (target, result.model))
    assert (type(before).__name__, type(after).__name__) == (name, name)
    assert (after.get_input_embeddings().weight is after.get_output_embeddings().weight) == is_tied
    assert after.state_dict().keys() == before.state_dict().keys()
    cap = "final_logit_softcapping"
    assert getattr(after.config, cap, None) == getattr(before.config, cap, None)
    assert mean_nats(after, job) < mean_nats(before, job) - 0.05


def test_the_output_is_a_plain_model_folder(tmp_path: Path) -> None:
    job = pico_job(tmp_path / "out", "llama")
    result = train(job)
    model = AutoModelForCausalLM.from_pretrained(result.model, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(result.model, local_files_only=True)
    target = Path(job.target)
    assert tokenizer("fuse").input_ids == AutoTokenizer.from_pretrained(target, local_files_only=True)("fuse").input_ids
    assert (result.model / "tokenizer.json").read_bytes() == (target / "tokenizer.json").read_bytes()
    names = {path.name for path in result.model.iterdir()}
    assert {"config.json", "model.safetensors", "generation_config.json", "README.md"} <= names
    assert model.config.architectures == json.loads((target / "config.json").read_text())["architectures"]
    before = AutoModelForCausalLM.from_pretrained(target, local_files_only=True)
    assert any(not torch.equal(a, b) for a, b in zip(model.parameters(), before.parameters(), strict=True))
    card = (result.model / "README.md").read_text()
    assert "0.5 · CLM + 0.5 · fusion" in card
    assert str(tmp_path) not in card + (result.model / "config.json").read_text()


def lineage_of_two() -> Lineage:
    rows = tuple(
        ModelLicence(role, name, licence, "README.md", "", None)
        for role, name, licence in (("target", "t", "apache-2.0"), ("source a", "org/a", "gemma"))
    )
    origin = Origin(("t", "org/a"), ("org/text",), "gemma", None, rows)
    return Lineage(origin, {"source.a": "org/a@main 1f2e", "corpus": "c" * 64, "manifest": "m" * 32, "top_k": "10"})


def test_the_card_of_the_model_carries_its_lineage_and_licences(tmp_path: Path) -> None:
    job = pico_job(tmp_path / "out", lineage=lineage_of_two())
    card = ModelCard.load(train(job).model / "README.md")
    assert (card.data.license, card.data.base_model, card.data.datasets) == ("gemma", ["t", "org/a"], ["org/text"])
    assert card.data.tags == ["fusery", "knowledge-fusion"]
    for said in ("| source.a | org/a@main 1f2e |", f"| manifest | {'m' * 32} |", "source a, `org/a`: gemma"):
        assert said in card.text
    assert "0.5 · CLM + 0.5 · fusion" in card.text


@pytest.mark.parametrize("architecture", ["gpt2", "qwen2"])  # with dropout; with tied weights
def test_a_killed_and_resumed_training_ends_with_the_same_bytes(architecture: str, tmp_path: Path) -> None:
    undisturbed = pico_job(tmp_path / "undisturbed", architecture, epochs=2, micro_batch_sequences=2)
    result = train(undisturbed)
    disturbed = replace(undisturbed, output=tmp_path / "disturbed")
    for step in sorted(np.random.default_rng(0).permutation(result.steps)[:4].tolist()):
        with pytest.raises(Killed):
            train(killed_at(disturbed, step + 1))
    again = train(disturbed)
    assert again.weights_digest == result.weights_digest
    assert (again.steps, again.tokens) == (result.steps, result.tokens)
    assert without_times(metrics_of(disturbed)) == without_times(metrics_of(undisturbed))


@pytest.mark.parametrize(
    ("number", "kind", "code"),
    [(signal.SIGTERM, Terminated, TERMINATED_EXIT_CODE), (signal.SIGINT, Interrupted, 130)],
)
def test_a_signal_finishes_the_step_and_writes_a_checkpoint(
    number: int, kind: type[Interrupted], code: int, tmp_path: Path
) -> None:
    job = pico_job(tmp_path / "out", checkpoint_every_steps=1000)
    handler = signal.getsignal(number)

    def send(metrics: StepMetrics) -> None:
        if metrics.step == 1:
            os.kill(os.getpid(), number)

    with pytest.raises(kind, match="start the same job again") as caught:
        train(replace(job, on_step=send))
    assert caught.value.exit_code == code
    assert [path.name for path in (job.output / "checkpoints").iterdir()] == ["step-00000002"]
    assert signal.getsignal(number) is handler
    undisturbed = train(replace(job, output=tmp_path / "undisturbed"))
    assert train(job).weights_digest == undisturbed.weights_digest


@pytest.mark.parametrize(
    "error",
    [RuntimeError("Connection closed by peer"), OSError("the volume is gone"), Occupied("node-1 trains here")],
    ids=["a lost group", "a lost volume", "a lost lease"],
)
@pytest.mark.parametrize("number", [None, signal.SIGTERM, signal.SIGINT])
def test_what_breaks_after_a_stop_signal_is_no_failure_and_before_it_is(
    number: int | None, error: Exception, tmp_path: Path
) -> None:
    def stop(_: StepMetrics) -> None:
        if number is not None:
            os.kill(os.getpid(), number)
        raise error

    expected = {None: type(error), signal.SIGTERM: Terminated, signal.SIGINT: Interrupted}[number]
    with pytest.raises(expected, match=str(error)):
        train(pico_job(tmp_path / "out", on_step=stop))


def test_wrong_input_stays_wrong_after_a_stop_signal(tmp_path: Path) -> None:
    def stop(_: StepMetrics) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        raise Diverged("losses are not finite")

    with pytest.raises(Diverged):
        train(pico_job(tmp_path / "out", on_step=stop))


def test_a_training_outside_the_main_thread_leaves_signals_alone(tmp_path: Path) -> None:
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(train(pico_job(tmp_path / "out"))))
    thread.start()
    thread.join()
    assert len(found) == 1


def test_a_finished_job_returns_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = pico_job(tmp_path / "out")
    result = train(job)
    monkeypatch.setattr("fusery.trainer.job.load_model", lambda *_: pytest.fail("trained again"))
    assert train(job) == result


def test_the_result_of_another_configuration_is_refused(tmp_path: Path) -> None:
    job = pico_job(tmp_path / "out")
    train(job)
    with pytest.raises(Mismatch, match="is the result of configuration 000000000000"):
        train(replace(job, config_digest="1" * 64))


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path: Path) -> None:
    job = pico_job(tmp_path / "out")
    with pytest.raises(Killed):
        train(killed_at(job, 4))
    other = replace(job, training=job.training.model_copy(update={"clm_weight": 0.25}))
    with pytest.raises(Mismatch, match=r"training\.clm_weight \(0\.5 there, 0\.25 now\); use another output folder"):
        train(other)


def test_clm_only_ignores_evidence_but_reads_the_same_tokens(tmp_path: Path) -> None:
    job = pico_job(tmp_path / "with", clm_only=True)
    bare = without_evidence(job)
    with_evidence, without = train(job), train(replace(job, output=tmp_path / "without", documents=bare))
    assert with_evidence.weights_digest == without.weights_digest
    lines = metrics_of(job)
    assert all(line["fusion_nats"] is None and line["loss"] == pytest.approx(line["clm_nats"]) for line in lines)
    fused = replace(job, output=tmp_path / "fused", clm_only=False)
    assert train(fused).weights_digest != without.weights_digest
    assert [line["tokens"] for line in metrics_of(fused)] == [line["tokens"] for line in lines]


def test_fusion_without_any_evidence_is_clm(tmp_path: Path) -> None:
    job = pico_job(tmp_path / "fused")
    bare = replace(job, documents=without_evidence(job))
    clm = replace(bare, output=tmp_path / "clm", clm_only=True)
    assert train(bare).weights_digest == train(clm).weights_digest


def test_the_clm_baseline_uses_its_own_learning_rate(tmp_path: Path) -> None:
    job = pico_job(tmp_path / "out", clm_only=True, clm_learning_rate=1e-4)
    train(job)
    assert max(line["learning_rate"] for line in metrics_of(job)) == pytest.approx(1e-4)


@pytest.mark.parametrize("clm_only", [False, True])
def test_micro_batches_add_up_to_the_whole_batch(clm_only: bool, tmp_path: Path) -> None:
    whole = pico_job(tmp_path / "whole", "gpt_neox", clm_only=clm_only)
    parts = pico_job(tmp_path / "parts", "gpt_neox", clm_only=clm_only, micro_batch_sequences=1)
    train(whole)
    train(parts)
    for a, b in zip(metrics_of(whole), metrics_of(parts), strict=True):
        assert (a["step"], a["tokens"]) == (b["step"], b["tokens"])
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-3)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-2)
        assert a["kept_mass"] == (pytest.approx(b["kept_mass"]) if not clm_only else None)


def test_a_model_that_can_not_pack_trains_to_the_same_weights_within_rounding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = pico_job(tmp_path / "packed", "mpt")
    train(packed)
    monkeypatch.setattr("fusery.trainer.job.prove_packing", lambda *_: Packing.SINGLE)
    single = replace(packed, output=tmp_path / "single")
    train(single)
    for a, b in zip(metrics_of(packed), metrics_of(single), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-3)
    assert json.loads((single.output / "result.json").read_text())["packing"] == "single"


def test_bfloat16_trains_on_float32_weights(tmp_path: Path) -> None:
    job = pico_job(tmp_path / "out", dtype="bfloat16", epochs=2)
    train(job)
    lines = metrics_of(job)
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert all(tensor.dtype == torch.float32 for tensor in weights_of(job).values())


def spoil(monkeypatch: pytest.MonkeyPatch, steps: set[int]) -> None:
    """Makes the loss of these steps (from 1) NaN, as an overflow would."""
    original = loop._Run._backward

    def spoiled(self: Any, *arguments: Any) -> torch.Tensor:
        sums = original(self, *arguments)
        if self._cursor.step + 1 in steps:
            sums[0] = float("nan")
            next(self._module.parameters()).grad.fill_(float("nan"))
        return sums

    monkeypatch.setattr(loop._Run, "_backward", spoiled)


def test_a_step_that_is_not_finite_is_skipped_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = pico_job(tmp_path / "out")
    spoil(monkeypatch, {2})
    result = train(job)
    assert result.skipped_steps == 1
    lines = metrics_of(job)
    assert [line["step"] for line in lines if line["skipped"]] == [2]
    assert (lines[1]["loss"], lines[1]["grad_norm"]) == (None, None)
    assert all(tensor.isfinite().all() for tensor in weights_of(job).values())


def test_three_steps_in_a_row_that_are_not_finite_stop_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = pico_job(tmp_path / "out", epochs=2, checkpoint_every_steps=2)
    spoil(monkeypatch, {3, 4, 5, 6, 7})
    with pytest.raises(Diverged, match=r"3 steps in a row, up to step 5; lower training\.learning_rate"):
        train(job)
    assert (job.output / "checkpoints" / "step-00000002").is_dir()
    assert not (job.output / "result.json").exists()


def test_a_document_longer_than_a_sequence_is_named_before_training(tmp_path: Path) -> None:
    job = pico_job(tmp_path / "out", sequence_length=16)
    with pytest.raises(TooLarge, match=r"document doc-\d+: \d+ tokens, a sequence holds 16"):
        train(job)
    assert not (job.output / "metrics.jsonl").exists()


def test_the_targets_context_bounds_a_longer_sequence_length(tmp_path: Path) -> None:
    long = Document("long", np.arange(pico_models.CONTEXT_LENGTH + 1) % 300, no_evidence())
    job = replace(pico_job(tmp_path / "out", sequence_length=4096), documents=InMemory([long]))
    with pytest.raises(
        TooLarge, match=r"document long: 257 tokens, a sequence holds 256; .*up to the target's context"
    ):
        train(job)


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan")])
def test_a_weight_of_the_clm_loss_that_is_no_share_is_refused(weight: float) -> None:
    with pytest.raises(ValidationError, match="clm_weight"):
        TrainingSpec(clm_weight=weight)


def test_a_partition_of_a_larger_vocabulary_is_refused(tmp_path: Path) -> None:
    job = pico_job(tmp_path / "out")
    with pytest.raises(Mismatch, match="build the vocabulary maps again"):
        train(replace(job, partitions=[np.zeros(5000, np.int64)] * 2))


_PARALLEL_SCRIPT = """
import sys
sys.path[:0] = [{services!r}, {tests!r}]
from pathlib import Path
from dataclasses import replace
import torch
from support.runs.launchers import free_port, launched
from support.models.training_data import pico_job
from fusery.trainer.job import train
train(replace(pico_job(Path({output!r}), "llama", batch_sequences=3), target={target!r}))
torch.distributed.destroy_process_group()
"""


def test_two_processes_train_as_one_within_rounding(tmp_path: Path) -> None:
    """Three sequences a step over two processes; the last step leaves one process without any."""
    one = pico_job(tmp_path / "one", "llama", batch_sequences=3)
    output = tmp_path / "two"
    script = tmp_path / "parallel.py"
    script.write_text(
        _PARALLEL_SCRIPT.format(
            services=str(SRC / "services"), tests=str(SRC / "tests"), output=str(output), target=one.target
        )
    )
    port = f"--master-port={free_port()}"
    done = launched(["torchrun", "--nproc-per-node=2", port, str(script)], tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    train(one)
    two = replace(one, output=output)
    for a, b in zip(metrics_of(one), metrics_of(two), strict=True):
        assert (a["step"], a["tokens"]) == (b["step"], b["tokens"])
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-3)
        assert a["kept_mass"] == pytest.approx(b["kept_mass"])
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-2)
