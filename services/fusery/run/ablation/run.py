"""`fusery ablate`: from an ablation's YAML to its table; what is done is not done again.

Captures first, for all cases; then align and fuse, then trainings one after another. All of it is named by what it is
made from, so a case that is added later costs its trainings alone. A case that fails takes no other one with it.
"""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from fusery.config.sections import USUAL_SEQUENCE_LENGTH
from fusery.core.tokens import ByteTokenizer
from fusery.hops.names import coordinator_name, digest
from fusery.hops.store.lease import followed_lease
from fusery.registry.licences import check_licences
from fusery.registry.tracking import artifact_folder
from fusery.run.ablation import comparisons, evidence
from fusery.run.ablation.evidence import Asked, Captures
from fusery.run.ablation.jobs import Job, jobs_of, run_file
from fusery.run.ablation.opened import Ablation, Plans, finished_runs, not_fused, open_ablation, plans_of, table_of
from fusery.run.ablation.results import Table
from fusery.run.ablation.tables import render
from fusery.run.board import Board, Line
from fusery.run.children import keep_run_file
from fusery.run.coordinator.coordinator import PACE
from fusery.run.coordinator.execution import new_launch
from fusery.run.open_run import Run, publish_input
from fusery.run.planning import publish_tokenizer
from fusery.run.preflight.checks import check_run
from fusery.run.steps.trainings import Training
from fusery.runtime import output
from fusery.runtime.errors import Degraded, Interrupted
from fusery.runtime.stop_signals import stops_in_order

_TABLE_WIDTH = 200
"""Columns of a table that goes into a pipe or a file."""


def ablate(path: Path, parallel: int = 1, as_json: bool = False) -> None:
    """Carries the ablation of `path` out, `parallel` trainings at a time, and shows its table.

    Raises:
        InvalidInput: something is wrong with the input, or changed while it was read; nothing was begun.
        Degraded: some cases failed; the others are done, and in the table.
        Unavailable: MLflow is gone; the table is kept.
        Interrupted: it was stopped; the message says how to go on.
    """
    console = output.console(breaks_lines=False)
    board, started = Board(console, as_json), time.monotonic()
    again = shlex.join(["fusery", "ablate", str(path), *(["--parallel", str(parallel)] if parallel > 1 else [])])
    try:
        with stops_in_order("ablate"):
            ablation = open_ablation(path)
            with board.open():
                table = _carry_out(ablation, parallel, board)
            _keep(ablation, table, again, board)
    except KeyboardInterrupt:
        raise Interrupted(f"stopped; nothing is lost. Take it up again with: {again}") from None
    _show(ablation, table, board)
    board.say("end", f"took {time.monotonic() - started:.0f} s", seconds=round(time.monotonic() - started, 1))
    failed = list(table.failures())
    if failed:
        raise Degraded(
            f"{len(failed)} failed ({'; '.join(failed[:3])}{'; …' * (len(failed) > 3)}); the reasons stand under the "
            f"table, everything else is done. Mend the cause, then: {again}"
        )


def _carry_out(ablation: Ablation, parallel: int, board: Board) -> Table:
    base, file = ablation.base, ablation.file
    board.say(
        "ablation",
        f"ablation {ablation.ablation_id}: {len(file.cases)} cases with seeds {list(file.seeds)}, run {base.run_id}",
        ablation=ablation.ablation_id,
        run_id=base.run_id,
        cases=len(file.cases),
    )
    waited_for: set[str] = set()

    def follow(other: str) -> None:
        if other not in waited_for:
            board.say("follow", f"{other} works on the run {base.run_id}; waiting for its end", worker=other)
        waited_for.add(other)

    launch = new_launch()
    with followed_lease(base.store, coordinator_name(base.run_id), {"launch": launch}, PACE.lease_s, follow):
        # Not when the first training starts: hours of captures may lie between.
        keep_run_file(base, run_file(ablation.folder))
        plans = _evidence_plans(ablation, launch, board)
        failed = _fuse(base, plans, launch, board)
        reasons = _train(ablation, plans, list(plans.missing(failed=failed).values()), parallel, board)
        evidence.complete(base, finished_runs(ablation, plans))
    return table_of(ablation, plans, failed, reasons)


def _fuse(base: Run, plans: Plans, launch: str, board: Board) -> dict[str, str]:
    """Fuses what trainings read; the reasons of what failed, by run's id.

    A baseline of several cases goes on to the text of the next one, which may have to be fused for it.
    """
    failed: dict[str, str] = {}
    looked_at: set[str] = set()
    while new := [one for one in plans.missing(failed=failed).values() if one.plan.run_id not in looked_at]:
        failed |= evidence.fuse(base, not_fused(base, new), plans.lost, launch, board)
        looked_at |= {one.plan.run_id for one in new}
    return failed


def _evidence_plans(ablation: Ablation, launch: str, board: Board) -> Plans:
    """The plans of all cases; sources are asked where the store lacks what only they can say."""
    known = [evidence.known_plan(group.run) for group in ablation.groups]
    asks = [True] * len(known)
    if None not in known:
        plans = plans_of(ablation, [plan for plan in known if plan is not None])
        asks = [_must_ask(ablation, plans, group) for group in ablation.groups]
        if not any(asks):
            return plans
    for warning in check_licences(ablation.base):
        board.say("warning", f"warning: {warning}", "yellow")
    target = _checked_target(ablation)
    publish_input(ablation.base, lambda *line: board.update(Line(*line)))
    publish_tokenizer(ablation.base, target)
    measures = comparisons.asks_sources(ablation.file.spec.compare)
    answers, lost = [], dict[str, str]()
    for group, plan, must in zip(ablation.groups, known, asks, strict=True):
        if plan is not None and not must:
            answers.append(Asked(plan))
            continue
        is_first = group is ablation.groups[0]
        answers.append(evidence.capture(group, ablation.comparing, target, measures and is_first, launch, board))
        lost |= group.lacking(answers[-1].lost)
    plans = plans_of(ablation, [answer.plan for answer in answers])
    plans.lost, plans.unmeasured = lost, answers[0].unmeasured
    return plans


def _checked_target(ablation: Ablation) -> ByteTokenizer:
    """The target's tokenizer, when models, texts and addresses are found to fit all cases."""
    lengths = {case.config.training.sequence_length for case in ablation.file.cases}
    by_length = sorted(lengths, key=lambda length: length or USUAL_SEQUENCE_LENGTH)
    for group in ablation.groups:
        for length in {by_length[0], by_length[-1]}:
            training = group.run.config.training.model_copy(update={"sequence_length": length})
            config = group.run.config.model_copy(update={"training": training})
            target = check_run(replace(group.run, file=replace(group.run.file, config=config)))
    return target.tokenizer


def _must_ask(ablation: Ablation, plans: Plans, group: Captures) -> bool:
    """Whether a training needs evidence for which captures or tokenizers are missing, or a source must be measured."""
    base, compare = ablation.base, ablation.file.spec.compare
    if group is ablation.groups[0] and comparisons.needs_sources(ablation.comparing, plans.base, compare):
        return True
    wanted = {one.plan.run_id: one.plan for one in plans.missing(list(group.cases)).values()}
    if not evidence.has_tokenizers(base, wanted.values()):
        return True
    # A server elsewhere may have another model by now.
    is_remote = any(source.address is not None for source in group.run.config.sources)
    unsure = [plan for plan in wanted.values() if is_remote or not evidence.is_captured(plan)]
    return any(not evidence.is_fused(base, plan) for plan in unsure)


def _train(
    ablation: Ablation, plans: Plans, trainings: Sequence[Training], parallel: int, board: Board
) -> dict[str, str]:
    """Trains and measures what is missing; the reasons of what failed, by the key of the training or the name."""
    base, spec = ablation.base, ablation.file.spec
    found = [Job(one.key, one.title, partial(one.write, keeps_model=spec.keep_models)) for one in trainings]
    named = comparisons.scores_by_name(ablation.comparing, plans.base, spec.compare)
    unmeasured = [name for name, scores in named.items() if base.store.find(scores) is None]
    for name in unmeasured:
        if not comparisons.is_asked(name):
            plan = plans.base.model_dump(mode="json")
            job = {"run_id": base.run_id, "compare": list(spec.compare), "measure_beside": name, "plan": plan}
            write = partial(Path.write_text, data=json.dumps(job), encoding="utf-8")
            found.append(Job(digest(name), name, write))
    jobs = jobs_of(base, ablation.folder, parallel, len(os.sched_getaffinity(0)))
    jobs.carry_out(found, board)
    asked = {digest(name): plans.unmeasured or "not measured" for name in unmeasured if comparisons.is_asked(name)}
    return jobs.failed | asked


def _keep(ablation: Ablation, table: Table, again: str, board: Board) -> None:
    """The table as JSON, CSV and PNG in the ablation's folder, and in MLflow, where the run registers."""
    from fusery.run.ablation.tables import plot_gains

    folder, base = ablation.folder, ablation.base
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"ablation.json": json.dumps(table.to_json(), indent=1, ensure_ascii=False), "ablation.csv": table.to_csv()}
    for name, text in texts.items():
        draft = folder / f"{name}.tmp"
        draft.write_text(text, encoding="utf-8")
        draft.replace(folder / name)
    if all(row.fused is None for row in table.rows):
        return
    plot_gains(table, folder / "ablation.png")
    if base.config.registry.enabled:
        _record(ablation, table, again, board)


def _record(ablation: Ablation, table: Table, again: str, board: Board) -> None:
    """Logs the table to MLflow, unless the folder says that just this was logged there."""
    folder, base = ablation.folder, ablation.base
    note, content = folder / "recorded.txt", digest([table.to_json(), base.tracking_uri])
    if note.exists() and note.read_text(encoding="utf-8") == content:
        return
    from fusery.run.ablation.record import record

    artifacts = artifact_folder(base.tracking_uri, base.work)
    files = [folder / name for name in ("ablation.json", "ablation.csv", "ablation.png")]
    record(table, base.config.name, base.tracking_uri, artifacts, [*files, ablation.file.path], again)
    note.write_text(content, encoding="utf-8")
    board.say("recorded", f"recorded in MLflow, experiment {base.config.name}")


def _show(ablation: Ablation, table: Table, board: Board) -> None:
    if board.as_json:
        board.say("result", "done", ablation=table.to_json(), folder=str(ablation.folder))
        return
    is_terminal = board.console.is_terminal
    console = board.console if is_terminal else output.console(width=_TABLE_WIDTH)
    for part in render(table):
        console.print(part, soft_wrap=False)
    for name in ("ablation.json", "ablation.csv", "ablation.png"):
        if (ablation.folder / name).exists():
            board.say("file", f"{name}  {ablation.folder / name}")
