"""`fusery status` reads a run's state from the store alone, and changes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fusery.errors import ConfigError
from fusery.evaluation import report as reports
from fusery.evaluation.report import Report
from fusery.evaluation.scores import Scores
from fusery.pipeline import steps
from fusery.pipeline.preflight import Run, open_run
from fusery.pipeline.status import show_status, state
from fusery.worker.plan import Hop, Plan, PlannedSource, ShardTask, plan_name
from picorun import write_run

SHARDS = 3


def begun(folder: Path, **sections: Any) -> tuple[Run, Plan]:
    """A run with a plan and nothing done of it."""
    run = open_run(write_run(folder, **sections))
    plan = Plan(
        run_id=run.run_id,
        corpus_digest=run.corpora.train.digest,
        corpus_shards=run.corpora.train.shards,
        target_tokenizer_fingerprint="t" * 64,
        sources=tuple(
            PlannedSource(
                name=spec.name, model_fingerprint=spec.name * 16, tokenizer_fingerprint="f" * 64, vocabulary_size=420
            )
            for spec in run.config.sources
        ),
        capture=run.config.capture,
        alignment=run.config.alignment,
        fusion=run.config.fusion,
    )
    run.store.write_note(plan_name(run.run_id), plan.model_dump(mode="json"))
    return run, plan


def do(run: Run, plan: Plan, hop: Hop, source: str, *shards: int) -> None:
    for shard in shards:
        run.store.publish(plan.artefact(ShardTask(hop, source, shard)), b"", {"tokens": 5})


def train(run: Run, plan: Plan, clm_only: bool) -> Path:
    folder = steps.training_folder(run, plan, clm_only)
    folder.mkdir(parents=True)
    (folder / "result.json").write_text("{}")
    return folder


def evaluate(run: Run) -> None:
    def scores(share: float) -> Scores:
        return Scores(("a", "b"), ("prose", "code"), (share * 80, share * 160), (10, 20))

    sources = {source.name: scores(0.9) for source in run.config.sources}
    reports.write(Report(run.run_id, scores(0.8), scores(0.5), sources, scores(0.6)), steps.evaluation_path(run))


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_that_was_not_started_says_how_to_start_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_run(tmp_path)
    show_status(file, as_json=False)
    run_id = open_run(file).run_id
    assert capsys.readouterr().out == f"run {run_id}: nothing is done yet; start it with: fusery run {file}\n"
    show_status(file, as_json=True)
    nothing: dict[str, Any] = {"run_id": run_id, "steps": {}, "model": None, "evaluation": None, "registered": None}
    assert json.loads(capsys.readouterr().out) == nothing
    assert not (tmp_path / "store").exists()


def test_every_hop_and_step_is_counted(tmp_path: Path) -> None:
    run, plan = begun(tmp_path, registry={"enabled": True})
    do(run, plan, Hop.CAPTURE, "prose", 0, 1, 2)
    do(run, plan, Hop.CAPTURE, "code", 1)
    do(run, plan, Hop.ALIGN, "prose", 2)
    run.store.publish(steps.source_scores_name(run, plan, "code"), b"{}")
    train(run, plan, clm_only=True)
    found = state(run, plan)
    assert found["steps"] == {
        "capture prose": {"done": 3, "total": SHARDS},
        "capture code": {"done": 1, "total": SHARDS},
        "align prose": {"done": 1, "total": SHARDS},
        "align code": {"done": 0, "total": SHARDS},
        "fuse": {"done": 0, "total": SHARDS},
        "measure prose": {"done": 0, "total": 1},
        "measure code": {"done": 1, "total": 1},
        "train fused": {"done": 0, "total": 1},
        "train clm": {"done": 1, "total": 1},
        "evaluate": {"done": 0, "total": 1},
        "register": {"done": 0, "total": 1},
    }
    assert (found["model"], found["evaluation"], found["registered"]) == (None, None, None)


def test_steps_that_the_run_leaves_out_are_not_listed(tmp_path: Path) -> None:
    run, plan = begun(tmp_path, evaluation={"clm_baseline": False})
    assert {"train clm", "register"} & set(state(run, plan)["steps"]) == set()


def test_a_finished_run_names_its_model_report_and_version(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    run, plan = begun(tmp_path, registry={"enabled": True})
    for hop in Hop:
        for source in [""] if hop is Hop.FUSE else ["prose", "code"]:
            do(run, plan, hop, source, *range(SHARDS))
    for name in ("prose", "code"):
        run.store.publish(steps.source_scores_name(run, plan, name), b"{}")
    folder = train(run, plan, clm_only=False)
    train(run, plan, clm_only=True)
    evaluate(run)
    run.store.write_note(f"{run.name}/registered.json", {"model_name": "pico", "version": "3"})
    show_status(run.file.path, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert all(step["done"] == step["total"] for step in found["steps"].values())
    assert found["model"] == str(folder / "model")
    assert found["evaluation"] == str(run.folder / "evaluation.json")
    assert found["registered"] == {"model_name": "pico", "version": "3"}
    show_status(run.file.path, as_json=False)
    shown = capsys.readouterr().out
    assert shown.startswith(f"run {run.run_id}\n")
    assert ["capture", "prose", "3/3"] in [line.split() for line in shown.splitlines()]
    assert "fused against CLM" in shown


def test_looking_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, plan = begun(tmp_path)
    do(run, plan, Hop.CAPTURE, "prose", 0)
    before = files(tmp_path)
    show_status(run.file.path, as_json=True)
    show_status(run.file.path, as_json=False)
    capsys.readouterr()
    assert files(tmp_path) == before


def test_a_changed_run_is_another_run_and_not_begun(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, plan = begun(tmp_path)
    do(run, plan, Hop.CAPTURE, "prose", 0)
    run.file.path.write_text(run.file.path.read_text().replace("clm_weight: 0.5", "clm_weight: 0.6"))
    show_status(run.file.path, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["run_id"] != run.run_id
    assert found["steps"] == {}


def test_a_store_that_can_not_be_read_is_an_error_of_the_settings(tmp_path: Path) -> None:
    file = write_run(tmp_path)
    (tmp_path / "store").write_text("a file in the way")
    with pytest.raises(ConfigError, match=r"store .*/store: can't be read: .*; check services.store and FUSERY_STORE"):
        show_status(file, as_json=False)
