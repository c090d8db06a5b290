"""`fusery ablate` on pico models: real servers, worker and trainer for the first case, none of a source's after it."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from fusery import cli
from fusery.run import local
from fusery.run.ablation import evidence
from fusery.run.ablation.jobs import Jobs
from fusery.run.ablation.opened import open_ablation
from fusery.runtime.processes import fusery_command
from support.runs.pico_run import write_run

pytestmark = pytest.mark.timeout(900)


def write_ablation(folder: Path, **content: Any) -> Path:
    path = folder / f"{content['name']}.yaml"
    path.write_text(yaml.safe_dump({"run": "run.yaml", **content}, sort_keys=False))
    return path


def result(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((open_ablation(path).folder / "ablation.json").read_text())
    return content


def captures(folder: Path) -> dict[str, int]:
    """Name → time of change of every captured shard."""
    root = folder / "store" / "captures"
    return {str(path.relative_to(root)): path.stat().st_mtime_ns for path in sorted(root.rglob("*.parquet"))}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str, list[int]]:
    """The file of an ablation, and of another one that Ctrl-C stopped in a training: exit code, message, leftovers."""
    folder = tmp_path_factory.mktemp("ablation")
    write_run(folder)
    cases = [{"name": "whole"}, {"name": "too short", "set": {"training.sequence_length": 8}}]
    path = write_ablation(folder, name="first", cases=cases, compare=["sources"])
    # Before sources are asked, texts are checked against the shortest sequence; so they are asked by another one.
    long = [{"name": "long", "set": {"training.epochs": 40, "training.checkpoint_every_steps": 5}}]
    only = write_ablation(folder, name="only", cases=long, compare=["sources"])
    process = subprocess.Popen(
        fusery_command("ablate", str(only)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and not list(folder.glob("store/ablations/trainings/*/metrics.jsonl")):
        time.sleep(0.2)
    started = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
    process.send_signal(signal.SIGINT)
    message = process.communicate(timeout=120)[1]
    return path, process.returncode, message, [pid for pid in started if psutil.pid_exists(pid)]


@pytest.fixture(scope="module")
def finished(stopped: tuple[Path, int, str, list[int]], warm: None) -> tuple[Path, int]:
    """The file of an ablation of a case that can be made and one that can't; and the exit code."""
    return stopped[0], cli.main(["ablate", str(stopped[0])])


def test_ctrl_c_stops_in_order_and_says_how_to_go_on(stopped: tuple[Path, int, str, list[int]]) -> None:
    path, code, message, leftovers = stopped
    assert code == 130, message
    only = path.with_name("only.yaml")
    assert f"fusery ablate: stopped; nothing is lost. Take it up again with: fusery ablate {only}" in message
    assert leftovers == []
    assert list(path.parent.glob("store/ablations/trainings/*/checkpoints/step-*/complete.json"))


def test_a_case_that_fails_takes_no_other_one_with_it(finished: tuple[Path, int]) -> None:
    path, code = finished
    assert code == 3
    whole, short = result(path)["cases"]
    assert (whole["name"], short["name"]) == ("whole", "too short")
    assert set(whole["bits_per_byte"]) == {"prose", "code", "mean"}
    # Of a shorter sequence there is another CLM.
    assert {"CLM (whole)", "target before", "source prose", "source code"} == set(whole["gains"])
    assert 0 < whole["kept_mass"] <= 1
    assert 0 < whole["positions"] <= 1
    assert "tokens, a sequence holds 8; raise training.sequence_length" in short["failure"]


def test_a_second_ablation_starts_no_source_and_captures_nothing(
    finished: tuple[Path, int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = finished[0].parent
    before = captures(folder)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a source was asked")

    monkeypatch.setattr(local, "services", never)
    monkeypatch.setattr(evidence, "capture", never)
    axes = {"capture.top_k": [8, 3], "training.clm_weight": [0.5, 0.2]}
    path = write_ablation(folder, name="second", axes=axes, keep_models=True)
    # One training of four was done for the first ablation, with its CLM, and the target is measured; but no model of
    # these two was kept, so they are trained again.
    trained = len(list(folder.glob("store/ablations/trainings/*/result.json")))
    assert cli.main(["ablate", str(path), "--parallel", "2", "--json"]) == 0
    assert captures(folder) == before
    assert len(list(folder.glob("store/ablations/trainings/*/result.json"))) == trained + 3
    assert len(list(folder.glob("store/ablations/trainings/*/model/model.safetensors"))) == 5
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (table,) = (line["ablation"] for line in shown if line["event"] == "result")
    assert table == result(path)
    cases = {case["name"]: case for case in table["cases"]}
    assert len(cases) == 4
    assert cases["top_k 3, clm_weight 0.5"]["kept_mass"] < cases["top_k 8, clm_weight 0.5"]["kept_mass"]
    same = result(finished[0])["cases"][0]
    assert cases["top_k 8, clm_weight 0.5"]["bits_per_byte"] == same["bits_per_byte"]


def test_a_finished_ablation_is_shown_again_and_nothing_is_made(
    finished: tuple[Path, int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_ablation(finished[0].parent, name="third", cases=[{"name": "whole"}], compare=["sources"])

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(local, "services", never)
    monkeypatch.setattr(local, "start_broker", never)
    monkeypatch.setattr(Jobs, "_child", never)
    assert cli.main(["ablate", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "whole against CLM: " in shown
    (folder,) = (finished[0].parent / "store" / "ablations").glob("third-*")
    assert sorted(file.name for file in folder.glob("ablation.*")) == [
        *("ablation.csv", "ablation.json", "ablation.png")
    ]


def test_a_mistake_in_the_file_is_one_line_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path)
    path = write_ablation(tmp_path, name="wrong", axes={"training.clm_weight": [2]})
    assert cli.main(["ablate", str(path)]) == 2
    expected = f"fusery ablate: {path}:5: training.clm_weight: Input should be less than or equal to 1, got 2\n"
    assert capsys.readouterr().err == expected
    assert not (tmp_path / "store").exists()
