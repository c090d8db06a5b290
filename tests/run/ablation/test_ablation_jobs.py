"""Processes that train: what a job's end, its failure and its process's death mean for it and for the others."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from fusery.config.file import read_run_file
from fusery.run.ablation.child import main
from fusery.run.ablation.jobs import Job, Jobs, _Lane, jobs_of, run_file
from fusery.run.board import Board
from fusery.run.children import keep_run_file
from fusery.runtime.errors import ConfigError
from fusery.runtime.processes import Child
from fusery.runtime.settings import child_environment
from support.runs.pico_run import write_run

WORKER = """
import json, os, sys
from pathlib import Path
for line in sys.stdin:
    path = Path(line.strip())
    does = json.loads(path.read_text())["does"]
    with open(sys.argv[1], "a") as log:
        log.write(path.stem + "\\n")
    if does == "die":
        print("last words", flush=True)
        os._exit(9)
    path.with_suffix(".outcome.json").write_text(json.dumps({"failure": does if does != "end" else None}))
"""


class Fakes(Jobs):
    """Jobs whose process does what each job says."""

    def _child(self, lane: _Lane) -> Child:
        child = super()._child(lane)
        child.command = [sys.executable, "-c", WORKER, str(self.folder / "done.txt")]
        return child


def writes(**content: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(json.dumps(content))


def carried_out(folder: Path, parallel: int, *does: str) -> tuple[dict[str, str], list[str]]:
    """Reasons of failures, and the jobs in the order of their start."""
    jobs = Fakes(folder, folder / "run.yaml", folder, 1, parallel)
    board = Board(Console(file=io.StringIO()))
    jobs.carry_out([Job(f"{n}", f"job {n}", writes(does=what)) for n, what in enumerate(does)], board)
    return jobs.failed, (folder / "done.txt").read_text().split()


def test_jobs_are_done_by_one_process_in_their_order(tmp_path: Path) -> None:
    assert carried_out(tmp_path, 1, "end", "end", "end") == ({}, ["0", "1", "2"])


def test_a_job_that_fails_has_its_reason_and_the_others_go_on(tmp_path: Path) -> None:
    assert carried_out(tmp_path, 1, "end", "no such thing", "end") == ({"1": "no such thing"}, ["0", "1", "2"])


def test_a_process_that_dies_costs_the_job_under_way_alone(tmp_path: Path) -> None:
    failed, started = carried_out(tmp_path, 1, "end", "die", "end", "die")
    assert sorted(failed) == ["1", "3"]
    assert failed["1"].startswith("its process ended with exit code 9; the end of ")
    assert failed["1"].endswith("last words")
    assert started == ["0", "1", "2", "3"]


@pytest.mark.parametrize("parallel", [2, 5])
def test_several_processes_share_the_jobs(parallel: int, tmp_path: Path) -> None:
    failed, started = carried_out(tmp_path, parallel, "end", "die", "end", "bad")
    assert sorted(failed) == ["1", "3"]
    assert sorted(started) == ["0", "1", "2", "3"]


def test_nothing_to_do_starts_nothing(tmp_path: Path) -> None:
    jobs = Fakes(tmp_path, tmp_path / "run.yaml", tmp_path, 1, 1)
    jobs.carry_out([], Board(Console(file=io.StringIO())))
    assert list(tmp_path.iterdir()) == []


def test_a_job_that_failed_before_is_tried_anew(tmp_path: Path) -> None:
    assert carried_out(tmp_path, 1, "bad")[0] == {"0": "bad"}
    assert carried_out(tmp_path, 1, "end")[0] == {}


def test_a_child_is_told_its_jobs_by_standard_input_alone(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path, tmp_path / "run.yaml", Path("/elsewhere"), 3, 1, {"FUSERY_STORE": "/store"})
    lane: Any = _Lane(0, [Job("a", "a", writes()), Job("b", "b", writes())])
    child = jobs._child(lane)
    assert child.command[1:] == ["-m", "fusery.run.ablation.child", f"{tmp_path}/run.yaml", "/elsewhere", "3"]
    assert isinstance(child.stdin, Path)
    assert child.stdin.read_text() == f"{tmp_path}/jobs/a.json\n{tmp_path}/jobs/b.json\n"
    assert child.environment == child_environment(FUSERY_STORE="/store")


def test_a_child_starts_before_it_has_read_the_names_of_all_its_jobs(tmp_path: Path) -> None:
    names, go = tmp_path / "train-0.jobs", tmp_path / "go"
    names.write_text("".join(f"{tmp_path}/jobs/{number:032x}.json\n" for number in range(5000)))
    waits = "import pathlib, sys, time\nwhile not pathlib.Path(sys.argv[1]).exists(): time.sleep(0.05)\n"
    counts = "print(sum(1 for line in sys.stdin))"
    child = Child("patient", [sys.executable, "-c", waits + counts, str(go)], {}, tmp_path / "log", names)
    child.start()
    go.touch()
    assert child.wait(60)
    child.kill()
    assert child.last_words() == "5000"


def opened_run(folder: Path) -> Any:
    path = folder / "run.yaml"
    path.write_text(
        "name: base\ntarget: {model: target}\nsources: [{name: docs, model: docs}]\n"
        "corpus: {train: [{path: train.jsonl}], held_out_share: 0.5}\nservices: {threads: 2}\n"
    )
    file = read_run_file(path)
    return SimpleNamespace(file=file, config=file.config, run_id="base-1", store=SimpleNamespace(url="store"))


def test_processes_read_the_yaml_as_it_was_at_the_start(tmp_path: Path) -> None:
    run = opened_run(tmp_path)
    before = run.file.path.read_text()
    keep_run_file(run, run_file(tmp_path / "ablation"))
    run.file.path.write_text("name: edited\n")
    jobs = jobs_of(run, tmp_path / "ablation", 1, 8)
    assert jobs.file.read_text() == before
    assert (jobs.relative_to, jobs.threads) == (tmp_path, 2)


def test_a_yaml_that_changed_since_it_was_read_is_refused(tmp_path: Path) -> None:
    run = opened_run(tmp_path)
    run.file.path.write_text(run.file.path.read_text().replace("0.5", "0.4"))
    with pytest.raises(ConfigError, match=r"run\.yaml: changed while it was being started; start it again"):
        keep_run_file(run, run_file(tmp_path / "ablation"))


def test_a_child_that_finds_another_run_than_the_ablations_measures_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, job = write_run(tmp_path), tmp_path / "job.json"
    job.write_text(json.dumps({"run_id": "base-1", "compare": [], "measure_beside": "target before", "plan": {}}))
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{job}\n"))
    monkeypatch.setattr("sys.argv", ["child", str(file), str(tmp_path), "1"])
    assert main() == 0
    failure = json.loads(job.with_suffix(".outcome.json").read_text())["failure"]
    assert failure.startswith("this is run pico-")
    assert "the ablation was started with base-1" in failure
