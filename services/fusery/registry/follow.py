"""MLflow hears of a training while it goes, from a process of its own that no step ever waits for.

The trainer writes metrics.jsonl and nothing else. A child process reads it and sends what MLflow does not have yet; it
asks MLflow for the last step there, and a batch holds whole steps, so each step is there once, however often trainer,
child or server were away. Whatever is not sent when the training ends is sent by the same command, started again.

    output/tracking.json   the run's id in MLflow, the last step sent, whether it is finished
    output/tracking.log    what the child had to say

The child ends when its standard input does, so it outlives no trainer by more than a last try.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from fusery.registry.sending import METRICS_IN_A_BATCH, experiment_id, log_datasets, log_metrics, log_params
from fusery.registry.session import session
from fusery.registry.training_metrics import Step, read_steps
from fusery.runtime.errors import FuseryError
from fusery.runtime.settings import child_environment, settings
from fusery.runtime.text.json import read_json_object

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

log = logging.getLogger(__name__)

TRAINING_TAG = "fusery.training"
FLUSH_S = 180.0
"""How long the end of a training waits for the last metrics to be sent."""
_POLL_S, _LONGEST_PAUSE_S = 2.0, 60.0
_MARK = "train/learning_rate"
"""Every step has it, so its history says which steps are there."""
_METRICS, _STATE, _PLAN = "metrics.jsonl", "tracking.json", "tracking-plan.json"
_DONE = b"done\n"


@dataclass(frozen=True, slots=True)
class Followed:
    """What MLflow is told of a training. `training_id` tells it from all others; `datasets`: digest by name."""

    tracking_uri: str
    experiment: str
    run_name: str
    training_id: str
    artifact_folder: str | None = None
    params: Mapping[str, str] = field(default_factory=dict)
    datasets: Mapping[str, str] = field(default_factory=dict)


class Follower:
    """The child process; entering starts it, leaving gives it FLUSH_S to send the rest."""

    def __init__(self, folder: Path, followed: Followed, run_id: str | None) -> None:
        self._folder, self._followed = folder, followed
        if run_id is not None and not (folder / _STATE).exists():
            _write(folder / _STATE, {"run_id": run_id, "step": 0, "is_finished": False})
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Follower:
        plan = asdict(self._followed)
        # It may hold a password, which goes by the environment.
        uri = plan.pop("tracking_uri")
        _write(self._folder / _PLAN, plan)
        with (self._folder / "tracking.log").open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "fusery.registry.follow", str(self._folder)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=child_environment(FUSERY_TRACKING_URI=uri, CUDA_VISIBLE_DEVICES=""),
                # Ctrl-C is for the trainer, which then tells the child.
                start_new_session=True,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        child = self._process
        if child is None or child.stdin is None:
            return
        try:
            if kind is None:
                child.stdin.write(_DONE)
            child.stdin.close()
            child.wait(FLUSH_S)
        except (OSError, subprocess.TimeoutExpired):
            child.kill()
            child.wait()
        if not is_followed(self._folder) and kind is None:
            log.warning(
                "MLflow has not all of this training's metrics (%s says why); they are kept in %s, and the same "
                "command sends the rest",
                self._folder / "tracking.log",
                self._folder / _METRICS,
            )

    def run_id(self) -> str | None:
        return run_of(self._folder)


def run_of(folder: Path) -> str | None:
    """The id in MLflow of the training in `folder`, once there is one."""
    known = _state(folder)["run_id"]
    return None if known is None else str(known)


def is_followed(folder: Path) -> bool:
    """Whether MLflow has everything of a finished training."""
    return bool(_state(folder)["is_finished"])


def _state(folder: Path) -> dict[str, Any]:
    try:
        found = read_json_object(folder / _STATE)
    except (FileNotFoundError, ValueError):
        found = {}
    return {"run_id": None, "step": 0, "is_finished": False} | found


def _write(path: Path, content: Mapping[str, Any]) -> None:
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(content, indent=1), encoding="utf-8")
    draft.replace(path)


class _Parent:
    """What the trainer says through the pipe: nothing while it lives, `done` when the training is, then the end."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.is_done = False
        self.is_gone = False

    def wait(self, seconds: float) -> None:
        """Returns after so many seconds, or when there is news."""
        if self.is_gone:
            time.sleep(seconds)
            return
        ready, _, _ = select.select([self._stream], [], [], seconds)
        if ready:
            said = os.read(self._stream.fileno(), 64)
            self.is_done = self.is_done or said.startswith(_DONE)
            self.is_gone = not said


def follow(folder: Path, tracking_uri: str, parent: _Parent) -> None:
    """Sends the steps of `folder`'s metrics until the trainer is gone and all is sent, or a last try failed."""
    plan = read_json_object(folder / _PLAN)
    followed = Followed(tracking_uri, **plan)
    pause_s = _POLL_S
    while True:
        try:
            with _alone(folder), session(tracking_uri, "it is tried again") as client:
                _send_until_the_end(client, folder, followed, parent)
            return
        except FuseryError as error:
            log.warning("%s", error)
            if parent.is_gone:
                return
        parent.wait(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """The child of a killed trainer, which has its last look, and that of the next one: never both at a time.

    Each asks MLflow what is there and sends the rest; both at once would make two runs, or send a step twice.
    """
    with (folder / "tracking.lock").open("a") as file:
        # Some shared file systems have no locks; there the next child is late enough, as a rule.
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _send_until_the_end(client: MlflowClient, folder: Path, followed: Followed, parent: _Parent) -> None:
    run_id = _run_id(client, folder, followed)
    last = max((metric.step for metric in client.get_metric_history(run_id, _MARK)), default=0)
    while True:
        # Looked at before the file: what was written until then is read now.
        is_last_look = parent.is_gone
        for batch in _batches(step for step in read_steps(folder / _METRICS) if step.step > last):
            _log_steps(client, run_id, batch)
            last = batch[-1].step
            _write(folder / _STATE, {"run_id": run_id, "step": last, "is_finished": False})
        if is_last_look:
            client.set_terminated(run_id, "FINISHED" if parent.is_done else "KILLED")
            _write(folder / _STATE, {"run_id": run_id, "step": last, "is_finished": parent.is_done})
            return
        parent.wait(_POLL_S)


def _batches(steps: Iterator[Step]) -> Iterator[list[Step]]:
    """Whole steps, as many as one request may hold."""
    batch: list[Step] = []
    count = 0
    for step in steps:
        if batch and count + len(step.values) > METRICS_IN_A_BATCH:
            yield batch
            batch, count = [], 0
        batch.append(step)
        count += len(step.values)
    if batch:
        yield batch


def _log_steps(client: MlflowClient, run_id: str, steps: list[Step]) -> None:
    from mlflow.entities import Metric

    metrics = [
        Metric(f"train/{name}", value, int(step.time_s * 1000), step.step)
        for step in steps
        for name, value in step.values.items()
    ]
    log_metrics(client, run_id, metrics)


def _run_id(client: MlflowClient, folder: Path, followed: Followed) -> str:
    """The training's run, running: the one that is known, the one that carries its tag, or a new one."""
    known = _state(folder)["run_id"]
    folder_of_new = None if followed.artifact_folder is None else Path(followed.artifact_folder)
    experiment = experiment_id(client, followed.experiment, folder_of_new)
    if known is None:
        tag = followed.training_id.replace("'", "''")
        found = client.search_runs([experiment], f"tags.`{TRAINING_TAG}` = '{tag}'")
        known = found[0].info.run_id if found else None
    if known is None:
        tags = {TRAINING_TAG: followed.training_id}
        known = client.create_run(experiment, run_name=followed.run_name, tags=tags).info.run_id
    client.update_run(known, status="RUNNING")
    log_params(client, known, followed.params)
    log_datasets(client, known, followed.datasets)
    _write(folder / _STATE, {"run_id": known, "step": 0, "is_finished": False})
    return str(known)


def main() -> None:
    from fusery.runtime.telemetry import set_up_logging

    set_up_logging("follow", "info", "text")
    os.nice(10)
    uri = settings().tracking_uri
    if uri is None:
        raise SystemExit("FUSERY_TRACKING_URI is not set; the trainer sets it")
    follow(Path(sys.argv[1]), uri, _Parent(sys.stdin.buffer))


if __name__ == "__main__":
    main()
