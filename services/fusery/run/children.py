"""Training, evaluation and registration of a run, as commands of their own that a run starts, watches and shows.

In a cluster, training and evaluation may be jobs instead (`step_jobs`): the same commands in pods of their own.

A training gets a file that says all of it; the others work on a copy of the YAML as the run was started with it. A file
that is edited while a run goes on changes the next start and nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from fusery.cluster.manifests.names import Step
from fusery.config.file import read_run_file
from fusery.hops.plan import Hop, Plan, ShardTask
from fusery.registry.training_metrics import read_steps, series
from fusery.run import local
from fusery.run.board import Board, Line
from fusery.run.open_run import Run
from fusery.run.steps import jobs as step_jobs
from fusery.run.steps import steps
from fusery.run.steps.trainings import Training, trainings_of
from fusery.runtime import tracing
from fusery.runtime.errors import ConfigError, FuseryError, InvalidInput
from fusery.runtime.processes import Child, Supervisor, fusery_command
from fusery.runtime.settings import child_environment

_POLL_S = 0.5


def keep_run_file(run: Run, copy: Path | None = None) -> None:
    """Copies the YAML for child processes, to `copy` or beside the run: an edit meanwhile changes nothing for them.

    Raises:
        ConfigError: it was changed since this command read it.
    """
    copy = copy or _copy(run)
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_bytes(run.file.path.read_bytes())
    if read_run_file(copy, run.file.folder).config != run.file.config:
        raise ConfigError(f"{run.file.path}: changed while it was being started; start it again")


def train(run: Run, plan: Plan, board: Board) -> None:
    """The fused training and its baselines, two side by side where the run allows it."""
    missing = [training for training in trainings_of(run, plan) if not training.is_done]
    at_once = 2 if run.config.services.parallel_trainers else 1
    threads = local.threads_per_process(run) if at_once > 1 else _cores(run)
    for first in range(0, len(missing), at_once):
        some = missing[first : first + at_once]
        if step_jobs.has_job(run, Step.TRAIN):
            _train_in_jobs(run, board, some)
        else:
            _train_some(run, board, some, threads)


def evaluate(run: Run, board: Board) -> None:
    if step_jobs.has_job(run, Step.EVALUATE):
        _evaluate_in_a_job(run, board)
        return
    _command(run, board, "evaluate", "--threads", str(_cores(run)))


def register(run: Run, board: Board) -> None:
    _command(run, board, "register")


def report(run: Run, board: Board) -> None:
    """The report's page and pictures, of a run that registers nothing."""
    _command(run, board, "report")


def _train_some(run: Run, board: Board, trainings: Sequence[Training], threads: int) -> None:
    """Each in a process of its own, which is given the training as a file and opens no run."""
    total = _tokens(run)
    with Supervisor() as supervisor:
        children = []
        for training in trainings:
            file = run.folder / "jobs" / f"{training.folder.name}.json"
            environment = training.write(file)
            child = _child(run, training.title, environment, "train", str(file), "--threads", str(threads))
            children.append(supervisor.start(child))
        while any(child.is_running() for child in children):
            board.update(*(_training_line(training, total) for training in trainings))
            time.sleep(_POLL_S)
            _check_ended(children)
        _check_ended(children)
        board.update(*(_training_line(training, total) for training in trainings))


def _train_in_jobs(run: Run, board: Board, trainings: Sequence[Training]) -> None:
    total, by_title = _tokens(run), {training.title: training for training in trainings}

    def show() -> None:
        board.update(*(_training_line(training, total) for training in trainings))

    options = {training.title: training.options for training in trainings}
    step_jobs.StepJobs(run, board, Step.TRAIN, options, show, is_done=lambda title: by_title[title].is_done).carry_out()


def _evaluate_in_a_job(run: Run, board: Board) -> None:
    board.update(Line("evaluate", 0, 1, "steps"))
    is_there = steps.evaluation_path(run).exists
    options: dict[str, tuple[str, ...]] = {"evaluate": ()}
    step_jobs.StepJobs(run, board, Step.EVALUATE, options, board.heartbeat, is_done=lambda _: is_there()).carry_out()
    board.update(Line("evaluate", 1, 1, "steps"))


def _tokens(run: Run) -> int:
    """What every training of the run reads."""
    plan = steps.load_plan(run)
    entries = (run.store.find(plan.artefact(ShardTask(Hop.FUSE, "", n))) for n in range(plan.corpus_shards))
    return run.config.training.epochs * sum(int(entry.facts["tokens"]) for entry in entries if entry is not None)


def _training_line(training: Training, total: int) -> Line:
    """Progress by tokens, read from the metrics that the trainer writes."""
    steps_done = read_steps(training.folder / "metrics.jsonl")
    tokens = int(sum(step.values.get("tokens", 0) for step in steps_done))
    done = total if training.is_done else min(tokens, total - 1)
    losses = series(steps_done, "clm_nats")[1]
    note = f"step {steps_done[-1].step}, CLM {losses[-1]:.3f} nats" if losses else ""
    return Line(training.title, done, total, "tokens", note)


def _command(run: Run, board: Board, title: str, *options: str) -> None:
    """Runs one command of fusery's as a child, to its end."""
    board.update(Line(title, 0, 1, "steps"))
    with Supervisor() as supervisor:
        place = [str(_copy(run)), "--relative-to", str(run.file.folder)]
        child = supervisor.start(_child(run, title, {}, title, *place, *options))
        while child.is_running():
            time.sleep(_POLL_S)
            board.heartbeat()
        _check_ended([child])
    board.update(Line(title, 1, 1, "steps"))


def _child(run: Run, name: str, environment: Mapping[str, str], *arguments: str) -> Child:
    """A command of fusery's; its work belongs to this command's trace."""
    environment = child_environment(**environment, TRACEPARENT=tracing.outgoing())
    log = run.folder / "services" / f"{name.replace(' ', '-')}.log"
    return Child(name, fusery_command(*arguments), environment, log)


def _check_ended(children: Iterable[Child]) -> None:
    for child in children:
        if not child.is_running() and child.exit_code != 0:
            kind = InvalidInput if child.exit_code == InvalidInput.exit_code else FuseryError
            raise kind(
                f"{child.name} ended with exit code {child.exit_code}; the end of {child.log}:\n{child.last_words()}"
            )


def _cores(run: Run) -> int:
    return max(local.threads_per_process(run), 2 if run.config.services.threads is None else 1)


def _copy(run: Run) -> Path:
    return run.folder / "run.yaml"
