"""`fusery run`: from a YAML to a registered model, step by step; what is done is not done again.

Hops run on workers; training and evaluation run as commands of their own, so that a crash of one takes nothing
else with it and a cluster can run the same commands as jobs.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any

from fusery.cluster.manifests.names import run_name
from fusery.config.file import MOUNTED, command_on
from fusery.core.tokens import ByteTokenizer
from fusery.evaluation.report import report as reports
from fusery.evaluation.report.tables import render_tables
from fusery.hops.names import coordinator_name, digest, plan_name
from fusery.hops.plan import Hop, Plan, ShardTask
from fusery.hops.store.lease import followed_lease
from fusery.registry.licences import check_licences
from fusery.run import children as run_children
from fusery.run import local
from fusery.run.board import Board, Line, Shown, keep_lines, kept_lines
from fusery.run.children import keep_run_file
from fusery.run.coordinator.coordinator import PACE
from fusery.run.coordinator.execution import coordinate, new_launch
from fusery.run.corpus.reading import told
from fusery.run.coverage import warnings_of
from fusery.run.open_run import Run, open_run, publish_input
from fusery.run.planning import hops_job, measure_sources, plan_of, publish_tokenizer
from fusery.run.preflight.checks import check_registered_name, check_run
from fusery.run.steps import jobs as step_jobs
from fusery.run.steps import steps
from fusery.run.steps.registration import check_gate
from fusery.run.steps.tasks import check_tasks
from fusery.runtime import output
from fusery.runtime.errors import Corrupt, Degraded, Interrupted
from fusery.runtime.stop_signals import stops_in_order

log = logging.getLogger(__name__)


class Stage(StrEnum):
    """A stage of a run, in order: the hops, then what is made of their shards."""

    CAPTURE = "capture"
    ALIGN = "align"
    FUSE = "fuse"
    TRAIN = "train"
    EVALUATE = "evaluate"

    def includes(self, stage: Stage) -> bool:
        return list(Stage).index(stage) <= list(Stage).index(self)


def run_to_the_end(path: Path, until: Stage | None = None, as_json: bool = False, folder: Path | None = None) -> None:
    """Carries the run of `path` out, or up to and with the step `until`, and shows its table.

    `folder`: what relative paths in the file are relative to; None: its own.

    Raises:
        InvalidInput: something is wrong with the input; nothing was begun.
        Degraded: some shards failed for good; the rest is done.
        GateFailed: everything is done, and the fused model is not what the gate asks for.
        StoreFull: the store has no room; what is done is kept.
        Interrupted: it was stopped; the message says how to go on.
    """
    console = output.console(breaks_lines=False)
    board = Board(console, as_json)
    started = time.monotonic()
    try:
        with stops_in_order("run"):
            run = _open_and_carry_out(path, folder, until, board)
    except KeyboardInterrupt:
        raise Interrupted(f"stopped; nothing is lost. Take it up again with: {_again(path, folder, until)}") from None
    if until is None:
        _show_result(run, board)
    board.say("end", f"took {time.monotonic() - started:.0f} s", seconds=round(time.monotonic() - started, 1))
    if until is None:
        check_gate(run)


def _open_and_carry_out(path: Path, folder: Path | None, until: Stage | None, board: Board) -> Run:
    with board.open():
        run = open_run(path, lambda *line: board.update(Line(*line)), folder=folder)
        board.say("run", f"run {run.run_id}: {len(run.config.sources)} sources, {_documents(run)}", run_id=run.run_id)
        if _is_complete(run):
            board.say("complete", "everything is done already; nothing to do")
            return run
        with _lead(run, board) as launch:
            if not _is_complete(run):
                _carry_out(run, launch, until, board)
    return run


@contextmanager
def _lead(run: Run, board: Board) -> Iterator[str]:
    """The block runs when no other `fusery run` carries this run out; until then its progress is shown."""
    followed: set[str] = set()

    def follow(other: str) -> None:
        if other not in followed:
            board.say("follow", f"{other} carries this run out; following it, to take over if it ends", worker=other)
        followed.add(other)
        board.update(*kept_lines(run.store, run.run_id))

    launch = new_launch()
    with followed_lease(run.store, coordinator_name(run.run_id), {"launch": launch}, PACE.lease_s, follow):
        board.keep = lambda lines: keep_lines(run.store, run.run_id, lines)
        yield launch


def _carry_out(run: Run, launch: str, until: Stage | None, board: Board) -> None:
    # What needs no model first: a model takes seconds.
    check_tasks(run)
    for line in check_licences(run):
        board.say("warning", f"warning: {line}", "yellow")
    step_jobs.check_jobs(run)
    target = check_run(run)
    check_registered_name(run, target)
    keep_run_file(run)
    again = _again(run.file.path, run.file.relative_to, until)
    board.say("store", f"store {run.store.url}; stop with {_stop(run)}, take up again with: {again}")
    plan = _hops(run, target.tokenizer, launch, until, board)
    if until is not None and not until.includes(Stage.TRAIN):
        return
    for warning in warnings_of(run.store, plan, run.config.coverage):
        board.say("warning", f"warning: {warning.text}", "yellow")
    run_children.train(run, plan, board)
    if until is Stage.TRAIN:
        return
    run_children.evaluate(run, board)
    if until is Stage.EVALUATE:
        return
    if run.config.registry.enabled:
        run_children.register(run, board)
    else:
        run_children.report(run, board)
    run.store.write_note(f"{run.name}/manifest.json", steps.manifest(run, plan))
    run.store.write_note(f"{run.name}/complete.json", {"promised": _promised(run)})


def _hops(run: Run, target: ByteTokenizer, launch: str, until: Stage | None, board: Board) -> Plan:
    """Capture, align and fuse; and the sources' scores, while their servers are up."""
    publish_input(run, lambda *line: board.update(Line(*line)))
    publish_tokenizer(run, target)
    known = _note(run, plan_name(run.run_id))
    if known is not None and all(source.address is None for source in run.config.sources):
        plan = Plan.model_validate(known)
        if _hops_are_done(run, plan):
            return plan
    with local.services(run) as services:
        plan = plan_of(run, target, services, board)
        hop = Hop(until.value) if until in (Stage.CAPTURE, Stage.ALIGN) else Hop.FUSE
        job = hops_job(run, plan, target, services, hop)
        progress = coordinate(job, launch, Shown(board))
        if progress.dead_letters:
            raise Degraded(
                f"{progress.what_failed}\nall reasons: {run.file.command('status')}. Mend the cause, or take the "
                f"documents out of the corpus (which makes another run), then: {run.file.command('run')}"
            )
        if job.until is Hop.FUSE:
            measure_sources(run, plan, services, board)
    return plan


def _hops_are_done(run: Run, plan: Plan) -> bool:
    names = [plan.artefact(ShardTask(Hop.FUSE, "", shard)) for shard in range(plan.corpus_shards)]
    names += [name for source in plan.sources for name in steps.source_measures(run, plan, source.name)]
    # The training reads them next; what was damaged since is made again now.
    return all([run.store.is_whole(name) for name in names])


def _is_complete(run: Run) -> bool:
    """Everything that the run promises is there."""
    note = _note(run, f"{run.name}/complete.json")
    if note is None or note["promised"] != _promised(run) or not steps.evaluation_path(run).exists():
        return False
    plan = steps.load_plan(run)
    return (steps.training_folder(run, plan, clm_only=False) / "model" / "config.json").exists()


def _note(run: Run, name: str) -> dict[str, Any] | None:
    """A note of the run; None: it is not there, or damaged, and made again."""
    try:
        return run.store.read_note(name)
    except Corrupt as error:
        log.warning("%s", error)
        return None


def _promised(run: Run) -> str:
    """A digest of what a run makes besides its models: measures, with their warnings, and a registered version."""
    sections = run.config.model_dump(mode="json", include={"evaluation", "registry", "coverage", "gate"})
    return digest([sections, run.tracking_uri if run.config.registry.enabled else None])


def _show_result(run: Run, board: Board) -> None:
    plan = steps.load_plan(run)
    report = reports.read(steps.evaluation_path(run))
    model = steps.training_folder(run, plan, clm_only=False) / "model"
    registered = run.store.read_note(f"{run.name}/registered.json")
    if board.as_json:
        board.say("result", "done", model=str(model), evaluation=report.to_json(), registered=registered)
        return
    board.console.print()
    for part in render_tables(report):
        board.console.print(part)
    board.console.print()
    if registered is not None:
        name, version, alias = (registered[key] for key in ("model_name", "version", "alias"))
        shown = f"{name}/{version}, without an alias" if alias is None else f"{name}@{alias} (version {version})"
        board.say("registered", f"registered  models:/{shown}, at {registered['tracking_uri']}")
        if registered.get("remark"):
            board.say("warning", f"warning: {registered['remark']}", "yellow")
    board.say("model", f"model       {model}")
    board.say("evaluation", f"evaluation  {steps.evaluation_path(run)}")
    board.say("report", f"report      {run.folder / 'report/report.html'}")


def _again(path: Path, folder: Path | None, until: Stage | None) -> str:
    """The command that takes the run up."""
    place = [] if folder is None or path.parent == MOUNTED else ["--relative-to", str(folder)]
    return command_on(path, "run", *place, *([] if until is None else ["--until", until.value]))


def _stop(run: Run) -> str:
    """How a person stops this run."""
    if run.file.path.parent != MOUNTED:
        return "Ctrl-C"
    space = run.config.kubernetes.namespace
    return " ".join(["kubectl", *([f"--namespace {space}"] if space else []), "delete job", run_name(run.config)])


def _documents(run: Run) -> str:
    train, held_out, removed = run.corpora.train, run.corpora.held_out, run.corpora.removed
    counts = f"{train.documents} training documents, {held_out.documents} held out"
    doubles = removed.duplicates + removed.held_out
    counts += f", {doubles} exact doubles left out" if doubles else ""
    return f"{counts}; skipped: {told(run.corpora.skipped)}" if run.corpora.skipped else counts
