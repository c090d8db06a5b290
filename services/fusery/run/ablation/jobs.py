"""Hands trainings and measures to processes, a few at a time, and says which failed and why."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fusery.run.ablation.child import outcome_of
from fusery.run.board import Board, Line
from fusery.run.open_run import Run
from fusery.runtime.processes import Child, Supervisor
from fusery.runtime.settings import child_environment
from fusery.runtime.text.json import read_json_object

_POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class Job:
    """What one process does at a time. `key`: its name among the jobs; `write`: writes the file that says it."""

    key: str
    title: str
    write: Callable[[Path], object]


@dataclass(slots=True)
class _Lane:
    """One process after another, for the jobs that it has not ended yet, in their order."""

    number: int
    waiting: list[Job]
    child: Child | None = None


@dataclass(slots=True)
class Jobs:
    """Carries jobs out in `folder`, `parallel` at a time, on the run of `file` (relative to `relative_to`)."""

    folder: Path
    file: Path
    relative_to: Path
    threads: int
    parallel: int
    environment: Mapping[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    """Reasons by key, of the jobs so far."""

    def carry_out(self, jobs: Sequence[Job], board: Board) -> None:
        """Returns when all have ended; `failed` has the reasons of those that did so badly."""
        if not jobs:
            return
        for job in jobs:
            path = self._path(job)
            path.parent.mkdir(parents=True, exist_ok=True)
            outcome_of(path).unlink(missing_ok=True)
            job.write(path)
        lanes = [_Lane(number, list(jobs[number :: self.parallel])) for number in range(min(self.parallel, len(jobs)))]
        with Supervisor() as supervisor:
            while True:
                for lane in lanes:
                    self._look_at(lane, supervisor)
                under_way = [lane.waiting[0].title for lane in lanes if lane.waiting]
                done = len(jobs) - sum(len(lane.waiting) for lane in lanes)
                board.update(Line("train, measure", done, len(jobs), "models", "; ".join(under_way)))
                if not under_way:
                    return
                time.sleep(_POLL_S)

    def _path(self, job: Job) -> Path:
        return self.folder / "jobs" / f"{job.key}.json"

    def _look_at(self, lane: _Lane, supervisor: Supervisor) -> None:
        """Takes note of what has ended; starts the lane's process, or the next one where it died."""
        has_ended = lane.child is not None and not lane.child.is_running()
        while lane.waiting and (outcome := outcome_of(self._path(lane.waiting[0]))).exists():
            failure = read_json_object(outcome)["failure"]
            job = lane.waiting.pop(0)
            if failure is not None:
                self.failed[job.key] = failure
        if lane.waiting and has_ended and lane.child is not None:
            self.failed[lane.waiting.pop(0).key] = (
                f"its process ended with exit code {lane.child.exit_code}; the end of {lane.child.log}:\n"
                f"{lane.child.last_words()}"
            )
        if lane.waiting and (lane.child is None or has_ended):
            lane.child = supervisor.start(self._child(lane))

    def _child(self, lane: _Lane) -> Child:
        command = [sys.executable, "-m", "fusery.run.ablation.child", str(self.file), str(self.relative_to)]
        # A file: a pipe holds some hundred paths, and writing more of them would wait for the trainings.
        paths = self.folder / f"train-{lane.number}.jobs"
        paths.write_text("".join(f"{self._path(job)}\n" for job in lane.waiting), encoding="utf-8")
        log = self.folder / f"train-{lane.number}.log"
        return Child(
            f"trainer {lane.number}", [*command, str(self.threads)], child_environment(**self.environment), log, paths
        )


def jobs_of(base: Run, folder: Path, parallel: int, cores: int) -> Jobs:
    """Jobs on the copy of the base run's YAML at `run_file(folder)`."""
    threads = base.config.services.threads or max(1, cores // parallel)
    return Jobs(folder, run_file(folder), base.file.folder, threads, parallel, {"FUSERY_STORE": base.store.url})


def run_file(folder: Path) -> Path:
    """The copy of the base run's YAML that an ablation's processes read."""
    return folder / "run.yaml"
