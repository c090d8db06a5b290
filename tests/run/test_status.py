"""`fusery status` reads a run's state from the store alone, and changes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fusery.evaluation.report import report as reports
from fusery.evaluation.report.report import Report
from fusery.evaluation.scores import Scores
from fusery.hops.names import coordinator_name, plan_name, progress_name
from fusery.hops.plan import Hop, Plan, PlannedSource, ShardTask
from fusery.run import status
from fusery.run.board import keep_lines
from fusery.run.coordinator.coordinator import PACE
from fusery.run.coordinator.progress import DeadLetter, FailedAttempts, HopProgress, Progress
from fusery.run.open_run import Run, open_run
from fusery.run.status import show_status, state
from fusery.run.steps import steps
from fusery.runtime.errors import ConfigError
from support.runs.pico_run import write_run

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
    show_status(str(file), None, as_json=False)
    run_id = open_run(file).run_id
    assert capsys.readouterr().out == f"run {run_id}: nothing is done yet; start it with: fusery run {file}\n"
    show_status(str(file), None, as_json=True)
    nothing: dict[str, Any] = {
        **{"run_id": run_id, "coordinator": None, "steps": {}, "failed_attempts": [], "dead_letters": []},
        **{"model": None, "evaluation": None, "registered": None},
    }
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
    assert {name: {key: part[key] for key in ("done", "total")} for name, part in found["steps"].items()} == {
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


def test_trainings_on_one_source_alone_are_listed_and_shown_as_they_go(tmp_path: Path) -> None:
    run, plan = begun(tmp_path, evaluation={"single_source": True, "clm_baseline": False})
    train(run, steps.single_sources(run, plan)["code"], clm_only=False)
    counts = {"running": 0, "failed": 0, "dead": 0, "bytes": 0, "rate": None, "left_s": None}
    line = {"title": "train only prose", "done": 40, "total": 90, "unit": "tokens", "note": "step 2", **counts}
    keep_lines(run.store, run.run_id, [line])
    found = state(run, plan)["steps"]
    trainings = [name for name in found if name.startswith("train")]
    assert trainings == ["train fused", "train only prose", "train only code"]
    assert (found["train only prose"]["done"], found["train only prose"]["unit"]) == (40, "tokens")
    assert found["train only code"]["done"] == found["train only code"]["total"] == 1


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
    show_status(str(run.file.path), None, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert all(step["done"] == step["total"] for step in found["steps"].values())
    assert found["model"] == str(folder / "model")
    assert found["evaluation"] == str(run.folder / "evaluation.json")
    assert found["registered"] == {"model_name": "pico", "version": "3"}
    show_status(str(run.file.path), None, as_json=False)
    shown = capsys.readouterr().out
    assert shown.startswith(f"run {run.run_id}\n")
    assert ["capture", "prose", "3/3", "shards", "done"] in [line.split()[:5] for line in shown.splitlines()]
    assert "fused against CLM" in shown


def test_looking_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, plan = begun(tmp_path)
    do(run, plan, Hop.CAPTURE, "prose", 0)
    before = files(tmp_path)
    show_status(str(run.file.path), None, as_json=True)
    show_status(str(run.file.path), None, as_json=False)
    capsys.readouterr()
    assert files(tmp_path) == before


def test_a_changed_run_is_another_run_and_not_begun(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, plan = begun(tmp_path)
    do(run, plan, Hop.CAPTURE, "prose", 0)
    run.file.path.write_text(run.file.path.read_text().replace("clm_weight: 0.5", "clm_weight: 0.6"))
    show_status(str(run.file.path), None, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["run_id"] != run.run_id
    assert found["steps"] == {}


def test_a_run_is_found_by_its_id_in_a_store(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, plan = begun(tmp_path)
    do(run, plan, Hop.CAPTURE, "prose", 0)
    show_status(run.run_id, run.store.url, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert (found["run_id"], found["steps"]["capture prose"]["done"]) == (run.run_id, 1)
    monkeypatch.setenv("FUSERY_STORE", run.store.url)
    show_status(run.run_id, None, as_json=False)
    assert capsys.readouterr().out.startswith(f"run {run.run_id}: nobody carries it out now")
    with pytest.raises(ConfigError, match=f"has no run other; it has: {run.run_id}"):
        show_status("other", None, as_json=False)
    monkeypatch.delenv("FUSERY_STORE")
    with pytest.raises(ConfigError, match="give --store URL, set FUSERY_STORE"):
        show_status(run.run_id, None, as_json=False)


def test_dead_letters_are_shown_with_their_documents(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, plan = begun(tmp_path)
    poison = ShardTask(Hop.CAPTURE, "prose", 1)
    hops = (HopProgress(Hop.CAPTURE, "prose", 0, SHARDS, running=1, failed=3, dead=1),)
    progress = Progress(hops, (DeadLetter(poison, "the source gave up", ("a#1", "b#2")),))
    run.store.write_note(progress_name(run.run_id), progress.to_json())
    show_status(str(run.file.path), None, as_json=False)
    said = "given up: capture-prose-00001: the source gave up (at work on: a#1, b#2)"
    assert said in capsys.readouterr().out.splitlines()
    prose = state(run, plan)["steps"]["capture prose"]
    assert (prose["failed"], prose["dead"], prose["running"]) == (3, 1, 0), "nobody is at work without a coordinator"


def test_reasons_of_failed_attempts_are_shown_to_people_and_programs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, plan = begun(tmp_path)
    reasons = (FailedAttempts(2, "the source gives NaN"), FailedAttempts(1, "killed; out of memory?"))
    hops = (
        HopProgress(Hop.CAPTURE, "prose", 0, SHARDS, failed=3, reasons=reasons, waits_for="source prose: it is away"),
        HopProgress(Hop.FUSE, "", 0, SHARDS),
    )
    run.store.write_note(progress_name(run.run_id), Progress(hops, ()).to_json())
    content = state(run, plan)
    assert content["failed_attempts"] == [
        {"step": "capture prose", "attempts": 2, "reason": "the source gives NaN"},
        {"step": "capture prose", "attempts": 1, "reason": "killed; out of memory?"},
    ]
    show_status(run.run_id, run.store.url, as_json=False)
    shown = " ".join(capsys.readouterr().out.split())
    assert "capture prose: 2 failed: the source gives NaN; 1 failed: killed; out of memory?" in shown
    assert "waits" not in shown, "nobody waits where no coordinator is"


def test_a_coordinator_is_alive_where_its_beat_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, plan = begun(tmp_path)
    name, now = coordinator_name(run.run_id), [1000.0]

    def beat(number: int) -> None:
        run.store.write_note(name, {"launch": "l", "worker": "host:7", "beat": number})

    def sleep(seconds: float) -> None:
        now[0] += seconds
        if moves:
            beat(int(now[0]))

    monkeypatch.setattr(status, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    for moves in (True, False):
        beat(1)
        assert state(run, plan)["coordinator"] == {"worker": "host:7", "alive": moves}
    assert now[0] > 1000 + (PACE.lease_s / 5)


def test_watching_ends_with_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, plan = begun(tmp_path)
    left = [ShardTask(Hop.FUSE, "", shard) for shard in range(SHARDS)]
    for task in [task for task in plan.tasks if task not in left]:
        run.store.publish(plan.artefact(task), b"")

    def sleep(_seconds: float) -> None:
        run.store.publish(plan.artefact(left.pop(0)), b"")

    monkeypatch.setattr(status, "time", SimpleNamespace(monotonic=lambda: 0.0, sleep=sleep))
    show_status(run.run_id, run.store.url, as_json=True, watch=True)
    done = [json.loads(line)["steps"]["fuse"]["done"] for line in capsys.readouterr().out.splitlines()]
    assert done == list(range(SHARDS + 1))


def test_a_store_that_can_not_be_read_is_an_error_of_the_settings(tmp_path: Path) -> None:
    file = write_run(tmp_path)
    (tmp_path / "store").write_text("a file in the way")
    with pytest.raises(ConfigError, match=r"store.*; check services.store, FUSERY_STORE"):
        show_status(str(file), None, as_json=False)
