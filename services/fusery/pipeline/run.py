"""`fusery run`: from a YAML to a registered model, step by step; what is done is not done again.

Hops run on workers; training and evaluation run as commands of their own, so that a crash of one takes nothing
else with it and a cluster can run the same commands as jobs.
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.text import Text

from fusery import tracing
from fusery.core.tokens import ByteTokenizer
from fusery.errors import Degraded, FuseryError, InvalidInput
from fusery.evaluation import report as reports
from fusery.evaluation.tables import render_tables
from fusery.pipeline import local, steps
from fusery.pipeline.coverage_warnings import warnings_of
from fusery.pipeline.preflight import Run, check_run, open_run
from fusery.pipeline.processes import Child, Supervisor, fusery_command
from fusery.pipeline.progress import Board, Line, hop_lines
from fusery.settings import child_environment
from fusery.worker.plan import Hop, Plan, PlannedSource, ShardTask, digest, plan_name, tokenizer_name

_POLL_S = 0.5


def run_to_the_end(path: Path) -> None:
    """Carries the run of `path` out, and shows its table.

    Raises:
        InvalidInput: something is wrong with the input; nothing was begun.
        Degraded: some shards failed for good; the rest is done.
    """
    console = Console()
    started = time.monotonic()
    with _sigterm_as_interrupt():
        run = open_run(path)
        _say(console, f"run {run.run_id}: {len(run.config.sources)} sources, {_documents(run)}")
        if _is_complete(run):
            _say(console, "everything is done already; nothing to do")
        else:
            _carry_out(run, console)
    _show_result(run, console)
    _say(console, f"took {time.monotonic() - started:.0f} s")


def _carry_out(run: Run, console: Console) -> None:
    target = check_run(run)
    _say(console, f"store {run.store.url}; stop with Ctrl-C, take up again with: fusery run {run.file.path}")
    with Board(console).open() as board:
        plan = _hops(run, target.tokenizer, board)
        for warning in warnings_of(run.store, plan, run.config.coverage):
            _say(console, f"warning: {warning.text}", "yellow")
        _train(run, plan, board)
        _command(run, board, "evaluate", "evaluate", str(run.file.path), "--threads", str(_cores(run)))
        if run.config.registry.enabled:
            _command(run, board, "register", "register", str(run.file.path))
    run.store.write_note(f"{run.name}/manifest.json", steps.manifest(run, plan))
    run.store.write_note(f"{run.name}/complete.json", {"promised": _promised(run)})


def _hops(run: Run, target: ByteTokenizer, board: Board) -> Plan:
    """Capture, align and fuse; and the sources' scores, while their servers are up."""
    run.corpora.train.publish(run.store)
    _publish_tokenizer(run, target)
    known = run.store.read_note(plan_name(run.run_id))
    if known is not None and all(source.address is None for source in run.config.sources):
        plan = Plan.model_validate(known)
        if _hops_are_done(run, plan):
            return plan
    with local.services(run) as services:
        plan = _plan(run, target, services)
        run.store.write_note(plan_name(run.run_id), plan.model_dump(mode="json"))
        coordinator = local.carry_out(run, plan, services, lambda progress: board.update(*hop_lines(progress)))
        dead = coordinator.progress().dead_letters
        if dead:
            reasons = "\n".join(f"  {letter.task.key}: {letter.reason}" for letter in dead[:10])
            raise Degraded(f"{len(dead)} shards failed for good; the rest is done and kept:\n{reasons}")
        _measure_sources(run, plan, services, board)
    return plan


def _measure_sources(run: Run, plan: Plan, services: local.Services, board: Board) -> None:
    """All sources at the same time: each is a server of its own."""
    marks: dict[str, tuple[int, int]] = {}
    failures: list[Exception] = []

    def measure(name: str) -> None:
        try:
            with services.client(name) as client:
                steps.measure_source(run, plan, name, client, lambda done, total: marks.update({name: (done, total)}))
        except Exception as error:  # handed to the main thread
            failures.append(error)

    # Daemons: Ctrl-C does not wait for a request that is under way.
    threads = [threading.Thread(target=measure, args=(source.name,), daemon=True) for source in plan.sources]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        services.supervisor.check()
        time.sleep(_POLL_S)
        board.update(*(Line(f"measure {name}", *mark, "documents") for name, mark in sorted(marks.items())))
    if failures:
        raise failures[0]


def _hops_are_done(run: Run, plan: Plan) -> bool:
    names = [plan.artefact(ShardTask(Hop.FUSE, "", shard)) for shard in range(plan.corpus_shards)]
    names += [steps.source_scores_name(run, plan, source.name) for source in plan.sources]
    # The training reads them next; what was damaged since is made again now.
    return all([run.store.is_whole(name) for name in names])


def _plan(run: Run, target: ByteTokenizer, services: local.Services) -> Plan:
    """Asks every source what it is, and keeps its tokenizer."""
    sources = []
    for spec in run.config.sources:
        with services.client(spec.name) as client:
            model, tokenizer = client.model(), client.tokenizer()
        if run.config.capture.top_k > model.vocabulary_size:
            raise InvalidInput(f"source {spec.name}: capture.top_k is over its vocabulary of {model.vocabulary_size}")
        _publish_tokenizer(run, tokenizer)
        planned = PlannedSource(
            name=spec.name,
            model_fingerprint=model.fingerprint,
            tokenizer_fingerprint=tokenizer.fingerprint,
            vocabulary_size=model.vocabulary_size,
        )
        sources.append(planned)
    return Plan(
        run_id=run.run_id,
        corpus_digest=run.corpora.train.digest,
        corpus_shards=run.corpora.train.shards,
        target_tokenizer_fingerprint=target.fingerprint,
        sources=tuple(sources),
        capture=run.config.capture,
        alignment=run.config.alignment,
        fusion=run.config.fusion,
    )


def _publish_tokenizer(run: Run, tokenizer: ByteTokenizer) -> None:
    name = tokenizer_name(tokenizer.fingerprint)
    if run.store.find(name) is None:
        run.store.publish(name, tokenizer.definition().encode(), {"name": tokenizer.name})


def _train(run: Run, plan: Plan, board: Board) -> None:
    """The fused training and the CLM baseline, side by side where the run allows it."""
    wanted = [False, True] if run.config.evaluation.clm_baseline else [False]
    missing = [clm_only for clm_only in wanted if not steps.is_trained(run, plan, clm_only)]
    if run.config.services.parallel_trainers:
        _train_some(run, plan, board, missing, local.threads_per_process(run))
    else:
        for clm_only in missing:
            _train_some(run, plan, board, [clm_only], _cores(run))


def _train_some(run: Run, plan: Plan, board: Board, trainings: Sequence[bool], threads: int) -> None:
    entries = (run.store.find(plan.artefact(ShardTask(Hop.FUSE, "", n))) for n in range(plan.corpus_shards))
    total = run.config.training.epochs * sum(int(entry.facts["tokens"]) for entry in entries if entry is not None)
    with Supervisor() as supervisor:
        children = {}
        for clm_only in trainings:
            command = fusery_command("train", str(run.file.path), "--threads", str(threads))
            command += ["--clm-only"] if clm_only else []
            name = "train clm" if clm_only else "train fused"
            child = Child(name, command, _environment(), run.folder / "services" / f"{name.replace(' ', '-')}.log")
            children[clm_only] = supervisor.start(child)
        while any(child.is_running() for child in children.values()):
            board.update(*(_training_line(run, plan, clm_only, total) for clm_only in children))
            time.sleep(_POLL_S)
            _check_ended(children.values())
        _check_ended(children.values())
        board.update(*(_training_line(run, plan, clm_only, total) for clm_only in children))


def _check_ended(children: Any) -> None:
    for child in children:
        if not child.is_running() and child.exit_code != 0:
            kind = InvalidInput if child.exit_code == InvalidInput.exit_code else FuseryError
            raise kind(
                f"{child.name} ended with exit code {child.exit_code}; the end of {child.log}:\n{child.last_words()}"
            )


def _training_line(run: Run, plan: Plan, clm_only: bool, total: int) -> Line:
    """Progress by tokens, read from the metrics that the trainer writes."""
    path = steps.training_folder(run, plan, clm_only) / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    metrics = [json.loads(line) for line in lines if line.endswith("}")]
    done = total if steps.is_trained(run, plan, clm_only) else min(sum(m["tokens"] for m in metrics), total - 1)
    loss = next((m["clm_nats"] for m in reversed(metrics) if m["clm_nats"] is not None), None)
    note = "" if loss is None else f"step {metrics[-1]['step']}, CLM {loss:.3f} nats"
    return Line("train clm" if clm_only else "train fused", done, total, "tokens", note)


def _environment() -> dict[str, str]:
    """Of a child that carries out a part of this run: its work belongs to this command's trace."""
    return child_environment(TRACEPARENT=tracing.outgoing())


def _command(run: Run, board: Board, title: str, *arguments: str) -> None:
    """Runs one command of fusery's as a child, to its end."""
    board.update(Line(title, 0, 1, "steps"))
    with Supervisor() as supervisor:
        log = run.folder / "services" / f"{title}.log"
        child = supervisor.start(Child(title, fusery_command(*arguments), _environment(), log))
        while child.is_running():
            time.sleep(_POLL_S)
            board.heartbeat()
        _check_ended([child])
    board.update(Line(title, 1, 1, "steps"))


def _cores(run: Run) -> int:
    return max(local.threads_per_process(run), 2 if run.config.services.threads is None else 1)


def _is_complete(run: Run) -> bool:
    """Everything that the run promises is there."""
    note = run.store.read_note(f"{run.name}/complete.json")
    if note is None or note["promised"] != _promised(run) or not steps.evaluation_path(run).exists():
        return False
    plan = steps.load_plan(run)
    return (steps.training_folder(run, plan, clm_only=False) / "model" / "config.json").exists()


def _promised(run: Run) -> str:
    """A digest of what a run makes besides its models: measures, with their warnings, and a registered version."""
    sections = run.config.model_dump(mode="json", include={"evaluation", "registry", "coverage"})
    return digest([sections, run.tracking_uri if run.config.registry.enabled else None])


def _show_result(run: Run, console: Console) -> None:
    plan = steps.load_plan(run)
    console.print()
    for part in render_tables(reports.read(steps.evaluation_path(run))):
        console.print(part)
    console.print()
    registered = run.store.read_note(f"{run.name}/registered.json")
    if registered is not None:
        alias = f"models:/{registered['model_name']}@{registered['alias']}"
        _say(console, f"registered  {alias} (version {registered['version']}) at {registered['tracking_uri']}")
    _say(console, f"model       {steps.training_folder(run, plan, clm_only=False) / 'model'}")
    _say(console, f"evaluation  {steps.evaluation_path(run)}")


def _documents(run: Run) -> str:
    train, held_out = run.corpora.train, run.corpora.held_out
    return f"{len(train.documents)} training documents, {len(held_out.documents)} held out"


def _say(console: Console, line: str, style: str = "") -> None:
    """One plain line; paths and names are never read as mark-up, and never broken."""
    console.print(Text(line, style), soft_wrap=True)


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """SIGTERM and a closed terminal stop a run as Ctrl-C does: children are stopped and nothing is lost."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
