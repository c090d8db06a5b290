"""A training as a file: it says all that a process needs, keeps no password, and is refused where it no longer fits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from fusery import cli
from fusery.config.sections import AlignmentSpec, CaptureSpec, FusionSpec
from fusery.hops.plan import Plan, PlannedSource
from fusery.run.open_run import open_run
from fusery.run.steps.steps import load_plan
from fusery.run.steps.training_file import TrainingFile, carry_out, read_training
from fusery.run.steps.trainings import own_training
from fusery.runtime.errors import ConfigError, Mismatch
from support.runs.launchers import fused_run
from support.runs.pico_run import write_run


def described(folder: Path, **registry: Any) -> TrainingFile:
    """The fused training of a run that has no shards yet."""
    run = open_run(write_run(folder, **registry))
    source = PlannedSource(name="prose", model_fingerprint="m", tokenizer_fingerprint="t", vocabulary_size=100)
    plan = Plan(
        run_id=run.run_id,
        corpus_digest=run.corpora.train.digest,
        corpus_shards=run.corpora.train.shards,
        target_tokenizer_fingerprint="t",
        sources=(source,),
        capture=CaptureSpec(),
        alignment=AlignmentSpec(),
        fusion=FusionSpec(),
    )
    return own_training(run, plan, clm_only=False).file()


def test_a_training_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    training = described(tmp_path, registry={"enabled": True})
    assert training.tracking is not None
    assert training.lineage is not None
    training.write(tmp_path / "jobs" / "fused.json")
    assert read_training(tmp_path / "jobs" / "fused.json") == training
    assert [path.name for path in (tmp_path / "jobs").iterdir()] == ["fused.json"]


def test_a_password_goes_by_the_environment_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri, path = "http://mia:secret@mlflow:5000", tmp_path / "fused.json"
    monkeypatch.setenv("FUSERY_TRACKING_URI", uri)
    training = described(tmp_path, registry={"enabled": True})
    training.write(path)
    assert "secret" not in path.read_text()
    assert read_training(path) == training
    monkeypatch.delenv("FUSERY_TRACKING_URI")
    with pytest.raises(ConfigError, match=r"has a password, which no file has; set FUSERY_TRACKING_URI"):
        read_training(path)


@pytest.mark.parametrize("content", ["{}", "no JSON", '{"format": 2}'])
def test_a_file_that_is_no_training_of_this_version_says_what_writes_one(content: str, tmp_path: Path) -> None:
    path = tmp_path / "fused.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"its run writes it anew: fusery train FILE\.yaml"):
        read_training(path)
    with pytest.raises(ConfigError, match="No such file"):
        read_training(tmp_path / "absent.json")


def test_a_target_that_changed_since_is_not_trained(tmp_path: Path) -> None:
    training = described(tmp_path)
    (Path(training.target) / "config.json").touch()
    with pytest.raises(Mismatch, match="its files have changed since train fused was planned"):
        carry_out(training, 1)


def test_a_file_says_itself_which_training_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "fused.json"
    described(tmp_path).write(path)
    assert cli.main(["train", str(path), "--clm-only"]) == 2
    assert "says itself which training it is" in capsys.readouterr().err


@pytest.mark.timeout(600)
def test_a_training_needs_its_file_the_store_and_the_target_alone(tmp_path: Path) -> None:
    run = open_run(fused_run(tmp_path))
    training, path = own_training(run, load_plan(run), clm_only=False), tmp_path / "fused.json"
    training.write(path)
    run.file.path.unlink()
    for name in ("corpus", "models/prose", "models/code"):
        shutil.rmtree(tmp_path / name)
    assert cli.main(["train", str(path), "--threads", "1"]) == 0
    assert json.loads((training.folder / "result.json").read_text())["config_digest"] == training.key
