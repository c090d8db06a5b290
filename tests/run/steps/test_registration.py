"""The commands of a run whose models are there: what `register` and `run` end with, and what is refused before work."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from fusery import cli
from fusery.evaluation.report import report as reports
from fusery.evaluation.report.gate import judge
from fusery.evaluation.report.report import Report
from fusery.evaluation.scores import Scores
from fusery.registry.session import session
from fusery.run import run as run_module
from fusery.run.open_run import Run, publish_input
from fusery.run.steps import steps
from support.models.pico_models import pico_model
from support.runs.coverage_notes import begun, finish
from support.runs.pico_run import write_run

# MLflow and what it imports warn about each other's future.
pytestmark = pytest.mark.filterwarnings("ignore")


def scores_of(mean: float) -> Scores:
    documents = 24
    bits = tuple(mean * 100 + i % 3 for i in range(documents))
    ids = tuple(f"d{i}" for i in range(documents))
    return Scores(ids, ("prose", "code") * (documents // 2), bits, (100,) * documents)


def evaluated(folder: Path, fused: float, clm: float) -> Run:
    """A run whose hops, trainings and evaluation are done, the scores by hand, and that is not registered."""
    run, plan = begun(folder, registry={"enabled": True})
    publish_input(run)
    finish(run, plan)
    for clm_only in (False, True):
        training = steps.training_folder(run, plan, clm_only)
        shutil.copytree(pico_model("llama"), training / "model")
        (training / "metrics.jsonl").write_text(json.dumps({"step": 1, "clm_nats": 3.0, "elapsed_s": 1.0}) + "\n")
    report = Report(run.run_id, scores_of(2.5), scores_of(fused), {}, scores_of(clm), resamples=100)
    judged = Report.from_json(report.to_json() | {"verdict": judge(report, run.config.gate).to_json()})
    reports.write(judged, steps.evaluation_path(run))
    return run


def test_a_gate_that_fails_ends_register_and_run_with_4_and_the_version_has_no_alias(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = evaluated(tmp_path, fused=2.3, clm=2.2)
    assert cli.main(["register", str(run.file.path)]) == 4
    printed = capsys.readouterr()
    registered: dict[str, Any] = json.loads(printed.out)
    assert (registered["version"], registered["alias"], registered["remark"]) == ("1", None, "")
    assert "the gate failed; everything is kept" in printed.err
    assert "not held: fewer bits per byte than CLM" in printed.err

    run.store.write_note(f"{run.name}/complete.json", {"promised": run_module._promised(run)})
    assert cli.main(["run", str(run.file.path)]) == 4
    printed = capsys.readouterr()
    assert "models:/pico/1, without an alias" in printed.out
    assert "not held: fewer bits per byte than CLM" in printed.err


def test_a_name_that_is_not_fusery_s_is_refused_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_run(tmp_path, registry={"enabled": True})
    with session(f"sqlite:///{tmp_path}/store/mlflow/mlflow.db", "") as client:
        client.create_registered_model("pico")
        client.create_model_version("pico", "file:///somewhere")
    for command in ("validate", "run"):
        assert cli.main([command, str(file)]) == 2
        assert "version 1 was not registered by fusery" in capsys.readouterr().err
    assert not list((tmp_path / "store").glob("captures/*"))
