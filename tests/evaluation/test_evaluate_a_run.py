"""A run's evaluation with all its baselines and a task, on pico models, with engines in place of servers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from fusery.core.rules import Fallback
from fusery.core.tokens import ByteTokenizer
from fusery.evaluation.report import report as reports
from fusery.evaluation.report.report import Report
from fusery.hops.capture import capture
from fusery.hops.names import plan_name, tokenizer_name
from fusery.hops.plan import Hop, Plan, PlannedSource, ShardTask
from fusery.run.open_run import Run, open_run, publish_input
from fusery.run.steps import baselines, steps
from fusery.run.steps.trainings import train_step
from fusery.runtime.errors import ConfigError
from fusery.source.api import Distributions, Document, ModelDescription
from fusery.source.engines.transformers import TransformersEngine, load_engine
from support.runs.pico_run import write_run

torch.set_num_threads(1)
SOURCES = {"prose": ("llama", "sentencepiece"), "code": ("gpt_neox", "byte_level")}


MARKS: list[tuple[str, int, int, str]] = []
"""What was said of how far measuring and capturing the held-out text are."""


class EngineClient:
    """A source in this process, where a client is expected."""

    def __init__(self, engine: TransformersEngine) -> None:
        self.engine = engine

    def model(self) -> ModelDescription:
        return self.engine.model

    def tokenizer(self) -> ByteTokenizer:
        return self.engine.tokenizer

    def compute_many(
        self, requests: Iterable[Sequence[Document]], top_k: int, *_: Any
    ) -> Iterator[list[Distributions]]:
        return (self.engine.compute(list(request), top_k) for request in requests)


def carry_hops_out(file: Path) -> tuple[Run, Plan]:
    """Captures, aligns and fuses, and measures the sources, all in this process."""
    run = open_run(file)
    publish_input(run)
    engines = {source.name: load_engine(run.file.model(source.model)) for source in run.config.sources}
    target = load_engine(run.file.model(run.config.target.model)).tokenizer
    for tokenizer in (target, *(engine.tokenizer for engine in engines.values())):
        if run.store.find(tokenizer_name(tokenizer.fingerprint)) is None:
            run.store.publish(tokenizer_name(tokenizer.fingerprint), tokenizer.definition().encode())
    planned = [
        PlannedSource(
            name=name,
            model_fingerprint=engine.model.fingerprint,
            tokenizer_fingerprint=engine.tokenizer.fingerprint,
            vocabulary_size=engine.model.vocabulary_size,
        )
        for name, engine in engines.items()
    ]
    plan = Plan(
        run_id=run.run_id,
        corpus_digest=run.corpora.train.digest,
        corpus_shards=run.corpora.train.shards,
        target_tokenizer_fingerprint=target.fingerprint,
        sources=tuple(planned),
        capture=run.config.capture,
        alignment=run.config.alignment,
        fusion=run.config.fusion,
    )
    run.store.write_note(plan_name(run.run_id), plan.model_dump(mode="json"))
    for name, engine in engines.items():
        client: Any = EngineClient(engine)
        for shard in range(plan.corpus_shards):
            capture(run.store, plan, ShardTask(Hop.CAPTURE, name, shard), client)
        steps.measure_source(run, plan, name, client, lambda *mark: MARKS.append(mark))
    baselines.make_missing(run, plan)
    return run, plan


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Plan, Report]:
    """A run with every baseline, trained, and given a task of its own."""
    folder = tmp_path_factory.mktemp("run")
    rows = [{"query": "The quick brown", "choices": ["fox", "café owner"], "gold": place % 2} for place in range(6)]
    (folder / "tasks").mkdir()
    (folder / "tasks" / "foxes.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settings = {"single_source": True, "tasks": ["foxes"], "task_data": "tasks", "task_limit": 4}
    file = write_run(folder, sources=SOURCES, evaluation=settings)
    run, plan = carry_hops_out(file)
    train_step(file, clm_only=False, threads=1)
    train_step(file, clm_only=True, threads=1)
    for source in SOURCES:
        train_step(file, clm_only=False, threads=1, only_source=source)
    steps.evaluate_step(file, threads=1)
    return run, plan, reports.read(steps.evaluation_path(run))


ROWS = ["target before", "source prose", "source code", "ensemble", "single source prose", "single source code"]


def test_every_baseline_stands_in_the_report(finished: tuple[Run, Plan, Report]) -> None:
    _, _, report = finished
    assert list(report.models) == [*ROWS, "weight merging", "CLM", "fused"]
    assert all(set(scores.domains) == {"prose", "code"} for scores in report.models.values())
    assert set(report.gains()) == {*ROWS, "weight merging", "CLM"}
    assert set(report.domain_gains()["ensemble"]) == {"prose", "code"}


@pytest.mark.usefixtures("finished")
def test_the_capture_of_held_out_text_shows_how_far_it_is() -> None:
    for source in SOURCES:
        marks = [(done, total) for title, done, total, _ in MARKS if title == f"capture held-out {source}"]
        total = marks[-1][1]
        assert marks == [(done, total) for done in range(total + 1)]
        assert (f"measure {source}", "documents") in {(title, unit) for title, _, _, unit in MARKS}


def test_what_can_not_be_merged_is_said_with_its_reason(finished: tuple[Run, Plan, Report]) -> None:
    _, _, report = finished
    only = "of the target and source prose only: source code is 'gpt_neox', the target is 'llama'"
    assert report.remarks == {"weight merging": only}
    # That source is a copy of the target, and so is their mean.
    assert report.baselines["weight merging"].bits == report.target_before.bits


def test_the_ensemble_is_measured_on_the_bytes_of_the_target(finished: tuple[Run, Plan, Report]) -> None:
    _, _, report = finished
    assert report.baselines["ensemble"].predicted_bytes == report.target_before.predicted_bytes
    # The target is one of the sources, and never worse by more than the choice of another one costs.
    assert report.baselines["ensemble"].mean_bits_per_byte < 1.5 * report.target_before.mean_bits_per_byte


def test_a_fusion_of_one_source_is_a_training_of_its_own(finished: tuple[Run, Plan, Report]) -> None:
    run, plan, _ = finished
    folders = {
        name: steps.training_folder(run, alone, False) for name, alone in steps.single_sources(run, plan).items()
    }
    assert len({*folders.values(), steps.training_folder(run, plan, False)}) == 3
    assert all((folder / "model" / "model.safetensors").exists() for folder in folders.values())


def test_tasks_are_given_to_all_checkpoints_and_kept_item_by_item(finished: tuple[Run, Plan, Report]) -> None:
    run, _, report = finished
    assert set(report.tasks) == set(report.models) - {"ensemble"}
    for found in report.tasks.values():
        assert (found["foxes"].metric, found["foxes"].few_shot, len(found["foxes"].scores)) == ("acc_norm", 0, 4)
    assert report.tasks["target before"]["foxes"].scores == report.tasks["source prose"]["foxes"].scores
    assert json.loads(steps.evaluation_path(run).read_text())["tasks"]["CLM"]["fused_minus"]["tasks"] == 1


def test_a_second_evaluation_measures_nothing_again(
    finished: tuple[Run, Plan, Report], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _, report = finished

    def never(*_: object, **__: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(steps, "measure", never)
    monkeypatch.setattr("fusery.evaluation.ensemble.ensemble_bits", never)
    monkeypatch.setattr("fusery.evaluation.tasks.library.TaskRunner.__init__", never)
    steps.evaluate_step(run.file.path, threads=1)
    assert reports.read(steps.evaluation_path(run)) == report


def test_a_store_of_before_a_change_of_the_measures_says_what_to_do_and_that_helps(
    finished: tuple[Run, Plan, Report], tmp_path: Path
) -> None:
    """What another version measured is not found; the run's note says that it is complete all the same."""
    before, _, report = finished
    shutil.copytree(before.file.folder, tmp_path, dirs_exist_ok=True)
    run = open_run(tmp_path / before.file.path.name)
    plan = steps.load_plan(run)
    run.store.write_note(f"{run.name}/complete.json", {"promised": "everything"})
    shutil.rmtree(run.store.local_path(f"{run.name}/scores"))
    for folder in run.store.local_path("captures").glob(f"*/{run.corpora.held_out.digest[:8]}*"):
        shutil.rmtree(folder)
    shutil.rmtree(run.store.local_path("aligned"))
    shutil.rmtree(run.store.local_path("fused"))
    with pytest.raises(ConfigError, match=r"what sources prose, code said of the held-out text .* fusery run "):
        steps.evaluate_step(run.file.path, threads=1)
    assert run.store.read_note(f"{run.name}/complete.json") is None

    carry_hops_out(run.file.path)
    steps.evaluate_step(run.file.path, threads=1)
    again = reports.read(steps.evaluation_path(run))
    assert again.models == report.models
    assert steps.load_plan(run) == plan


def test_an_unknown_source_or_task_is_refused_with_what_there_is(finished: tuple[Run, Plan, Report]) -> None:
    run, _, _ = finished
    with pytest.raises(ConfigError, match=r"no source 'prosa'.*it has prose, code"):
        train_step(run.file.path, clm_only=False, threads=1, only_source="prosa")


def test_the_held_out_plan_never_looks_at_the_text(finished: tuple[Run, Plan, Report]) -> None:
    run, plan, _ = finished
    changed = plan.model_copy(
        update={"alignment": plan.alignment.model_copy(update={"fallback": Fallback.CURRENT_TOKEN})}
    )
    held_out = baselines.held_out_plan(run, changed)
    assert held_out.alignment.fallback is Fallback.NONE
    assert held_out.corpus_digest == run.corpora.held_out.digest
    assert {task.shard for task in held_out.tasks} == set(range(run.corpora.held_out.shards))


def test_the_paper_s_own_rules_have_no_ensemble_and_say_why(tmp_path: Path) -> None:
    run = open_run(write_run(tmp_path, alignment={"positions": "reference"}))
    assert not baselines.wants_ensemble(run)
    assert "current token" in str(baselines.why_no_ensemble(run))


def test_seeds_of_one_model_are_merged_into_a_model_that_loads(tmp_path: Path) -> None:
    from support.models.pico_models import build_model

    file = write_run(tmp_path, sources={"prose": ("llama", "sentencepiece")})
    build_model(tmp_path / "models" / "prose", "llama", seed=7)
    run, plan = carry_hops_out(file)
    found = baselines.merging(run, plan)
    assert found.names == ("the target", "source prose")
    baselines.merge_weights(run, found)
    assert load_engine(str(baselines.merged_folder(run, found))).model.vocabulary_size == 567
    assert "weight merging" in steps.own_models(run, plan)
