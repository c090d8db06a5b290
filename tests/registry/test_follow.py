"""MLflow hears of a training from a process of its own: once of every step, however often anything was away."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fusery.registry.follow import TRAINING_TAG, Followed, Follower, _batches, _Parent, follow, is_followed
from fusery.registry.session import session
from fusery.registry.tracking import default_artifact_folder, default_tracking_uri
from fusery.registry.training_metrics import Step


def followed(folder: Path, uri: str | None = None) -> Followed:
    return Followed(
        tracking_uri=uri or default_tracking_uri(folder / "mlflow"),
        experiment="fusions",
        run_name="tiny fused",
        training_id="tiny-0/fused",
        artifact_folder=str(default_artifact_folder(folder / "mlflow")),
        params={"training.epochs": "1", "long": "x" * 7000},
        datasets={"corpus": "c" * 64},
    )


def write_steps(folder: Path, steps: int, first: int = 1) -> None:
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
        for step in range(first, steps + 1):
            line: dict[str, Any] = {"step": step, "loss": 1 / step, "learning_rate": 1e-5, "time_s": 1e9 + step}
            file.write(json.dumps(line | {"fusion_nats": None}) + "\n")


@pytest.fixture
def pipe() -> Iterator[tuple[_Parent, int]]:
    """What a child sees of its trainer, and the end to speak into."""
    read, write = os.pipe()
    with os.fdopen(read, "rb") as stream:
        yield _Parent(stream), write


def say(write: int, *words: bytes) -> None:
    for word in words:
        os.write(write, word)
    os.close(write)


def runs_of(uri: str) -> list[Any]:
    with session(uri, "test") as client:
        experiment = client.get_experiment_by_name("fusions")
        return list(client.search_runs([experiment.experiment_id]))


def history(uri: str, run_id: str, name: str) -> list[tuple[int, float, int]]:
    with session(uri, "test") as client:
        found = client.get_metric_history(run_id, f"train/{name}")
    return sorted((metric.step, metric.value, metric.timestamp) for metric in found)


def test_a_training_that_went_on_twice_is_one_run_with_every_step_once(
    tmp_path: Path, pipe: tuple[_Parent, int]
) -> None:
    parent, write = pipe
    plan = followed(tmp_path)
    uri = plan.tracking_uri
    Follower(tmp_path, plan, None)
    content = {name: getattr(plan, name) for name in Followed.__slots__ if name != "tracking_uri"}
    (tmp_path / "tracking-plan.json").write_text(json.dumps(content))
    write_steps(tmp_path, 5)
    say(write)  # killed: no last word
    follow(tmp_path, uri, parent)
    (run,) = runs_of(uri)
    assert run.info.status == "KILLED"
    assert not is_followed(tmp_path)

    # Resumed from step 3: the steps after it are done and written again, with other times.
    kept = (tmp_path / "metrics.jsonl").read_text().splitlines(keepends=True)[:3]
    (tmp_path / "metrics.jsonl").write_text("".join(kept))
    (tmp_path / "tracking.json").unlink()
    write_steps(tmp_path, 8, first=4)
    read, write = os.pipe()
    say(write, b"done\n")
    with os.fdopen(read, "rb") as stream:
        follow(tmp_path, uri, _Parent(stream))
    (run,) = runs_of(uri)
    assert run.info.status == "FINISHED"
    assert is_followed(tmp_path)
    assert run.data.tags[TRAINING_TAG] == "tiny-0/fused"
    assert run.data.params["long"] == "x" * 5999 + "…"
    assert run.inputs.dataset_inputs[0].dataset.digest == "c" * 36
    expected = [(step, 1 / step, int((1e9 + step) * 1000)) for step in range(1, 9)]
    assert history(uri, run.info.run_id, "loss") == [pytest.approx(point) for point in expected]


@pytest.mark.timeout(900)
def test_a_server_that_is_away_is_no_failure_and_gets_everything_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fusery.registry.follow.FLUSH_S", 400)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    write_steps(tmp_path, 4)
    away = Follower(tmp_path, followed(tmp_path, f"http://user:secret@127.0.0.1:{port}"), None)
    begun = time.monotonic()
    away.__enter__()
    # No measure of speed: starting waits for nobody, MLflow's client would take minutes.
    assert time.monotonic() - begun < 30
    away.__exit__(KeyboardInterrupt, None, None)
    assert not is_followed(tmp_path)
    assert away.run_id() is None
    assert "secret" not in "".join(path.read_text() for path in tmp_path.glob("tracking*"))

    plan = followed(tmp_path)
    with Follower(tmp_path, plan, None) as back:
        pass
    assert is_followed(tmp_path), (tmp_path / "tracking.log").read_text()
    (run,) = runs_of(plan.tracking_uri)
    assert run.info.run_id == back.run_id()
    assert [step for step, _, _ in history(plan.tracking_uri, run.info.run_id, "loss")] == [1, 2, 3, 4]


def test_the_run_of_a_checkpoint_is_the_one_that_goes_on(tmp_path: Path) -> None:
    assert Follower(tmp_path, followed(tmp_path), "run-of-the-checkpoint").run_id() == "run-of-the-checkpoint"
    assert Follower(tmp_path, followed(tmp_path), "another").run_id() == "run-of-the-checkpoint"


def test_a_request_holds_whole_steps() -> None:
    steps = [Step(number, 0.0, {f"m{i}": 1.0 for i in range(450)}) for number in range(5)]
    assert [[step.step for step in batch] for batch in _batches(iter(steps))] == [[0, 1], [2, 3], [4]]
    large = [Step(0, 0.0, {f"m{i}": 1.0 for i in range(1100)})]
    assert list(_batches(iter(large))) == [large]


@pytest.mark.timeout(900)
def test_two_trainings_that_start_together_make_one_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fusery.registry.follow.FLUSH_S", 400)
    plan = followed(tmp_path)
    folders = {name: tmp_path / name for name in ("fused", "clm")}
    for folder in folders.values():
        folder.mkdir()
        write_steps(folder, 3)
    with (
        Follower(folders["fused"], plan, None),
        Follower(folders["clm"], replace(plan, training_id="tiny-0/clm"), None),
    ):
        pass
    logs = "".join((folder / "tracking.log").read_text() for folder in folders.values())
    assert all(is_followed(folder) for folder in folders.values()), logs
    assert {run.data.tags[TRAINING_TAG] for run in runs_of(plan.tracking_uri)} == {"tiny-0/fused", "tiny-0/clm"}
