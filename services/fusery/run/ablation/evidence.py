"""Evidence for all cases from one set of captures, made at the most entries that a case uses.

A source is asked where the store lacks a capture, once for all cases; aligning and fusing need no source. Cases that
differ in their training alone share a plan, and so the fused text.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from pydantic import ValidationError

from fusery.config.run import RunConfig
from fusery.core.tokens import ByteTokenizer
from fusery.hops.names import digest, plan_name
from fusery.hops.plan import Hop, Plan, ShardTask
from fusery.run import local
from fusery.run.board import Board, Line, Shown
from fusery.run.coordinator.execution import HopsJob, coordinate
from fusery.run.coordinator.progress import DeadLetter, Progress
from fusery.run.inspect.store import captured_top_k
from fusery.run.open_run import Run, publish_input
from fusery.run.planning import hops_job, measure_sources, plan_of, plan_with
from fusery.runtime.errors import Corrupt, FuseryError, StoreFull, Unavailable
from fusery.runtime.processes import Child, Supervisor, fusery_command
from fusery.runtime.settings import child_environment

_SECTIONS = ("capture", "alignment", "fusion", "sources")
_NOT_CAPTURED = "captures are missing; run the same command again, which asks the sources for them"


@dataclass(frozen=True, slots=True)
class Captures:
    """What is captured together: a run of the sources' all, with the most entries, and the cases that read it."""

    run: Run
    cases: Mapping[str, Run]

    def lacking(self, lost: Mapping[str, str]) -> dict[str, str]:
        """By run's id, the cases that read a source of `lost`, with the reason that stands there."""
        pairs = [(run, source.name) for run in self.cases.values() for source in run.config.sources]
        return {run.run_id: lost[source] for run, source in pairs if source in lost}


@dataclass(frozen=True, slots=True)
class Asked:
    """What came of asking the sources. `lost`: by source, why captures of it are missing; `unmeasured`: why scores."""

    plan: Plan
    lost: Mapping[str, str] = field(default_factory=dict)
    unmeasured: str | None = None


def evidence_run(base: Run, config: RunConfig) -> Run:
    """The run whose evidence is that of `config`; the base run itself where nothing of it differs."""
    fields = {name: getattr(config, name) for name in _SECTIONS}
    changed = base.config.model_copy(update=fields)
    if changed == base.config:
        return base
    dumped = config.model_dump(mode="json", include=set(_SECTIONS)) | {
        "alignment": config.alignment.stored(),
        "fusion": config.fusion.stored(),
    }
    run_id = f"{base.config.name}-{digest([base.run_id, dumped])[:10]}"
    return replace(base, file=replace(base.file, config=changed), run_id=run_id)


def captures(base: Run, configs: Mapping[str, RunConfig]) -> list[Captures]:
    """Cases (configs by name) by what of their captures is no matter of entries; the base run's own come first."""
    groups: dict[tuple[str, int], dict[str, Run]] = {_capture_key(base.config): {}}
    for name, config in configs.items():
        groups.setdefault(_capture_key(config), {})[name] = evidence_run(base, config)
    found = []
    for key, cases in groups.items():
        # What is measured beside the cases has the base run's settings and all of its sources.
        members = [run.config for run in cases.values()] + ([base.config] if key == _capture_key(base.config) else [])
        top_k = max(config.capture.top_k for config in members)
        names = {source.name for config in members for source in config.sources}
        sources = tuple(source for source in base.config.sources if source.name in names)
        capture = members[0].capture.model_copy(update={"top_k": top_k})
        asked = base.config.model_copy(update={"capture": capture, "sources": sources})
        found.append(Captures(evidence_run(base, asked), cases))
    return found


def _capture_key(config: RunConfig) -> tuple[str, int]:
    return config.capture.log_probs, config.capture.batch_bytes


def known_plan(run: Run) -> Plan | None:
    """What an earlier command found out about the sources; None: they must be asked."""
    try:
        note = run.store.read_note(plan_name(run.run_id))
        return None if note is None else Plan.model_validate(note)
    except (Corrupt, ValidationError):
        return None


def case_plan(run: Run, asked: Plan) -> Plan:
    """The plan of a case's run, from what its sources said when `asked` was made."""
    train, sources = run.corpora.train, []
    for spec in run.config.sources:
        source = asked.source(spec.name)
        # The store may have a capture of more entries than were asked for, and none was made then.
        most = asked.captured_top_k(source)
        found = captured_top_k(
            run.store, source.model_fingerprint, train.digest, train.shards, run.config.capture, most
        )
        sources.append(source.model_copy(update={"captured_top_k": found}))
    return plan_with(run, asked.target_tokenizer_fingerprint, sources)


def is_fused(run: Run, plan: Plan) -> bool:
    """Whether all fused shards are there and whole; a training reads them next."""
    names = [plan.artefact(ShardTask(Hop.FUSE, "", shard)) for shard in range(plan.corpus_shards)]
    return all([run.store.is_whole(name) for name in names])


def is_captured(plan: Plan) -> bool:
    """Whether all captures that a case's plan reads were there when it was made."""
    return all(source.captured_top_k is not None for source in plan.sources)


def has_tokenizers(run: Run, plans: Collection[Plan]) -> bool:
    """Whether those of the target and of all sources are in the store; only a source has its own."""
    names = {plan.tokenizer(plan.target_tokenizer_fingerprint) for plan in plans}
    names |= {plan.tokenizer(source.tokenizer_fingerprint) for plan in plans for source in plan.sources}
    return all(run.store.find(name) is not None for name in names)


def capture(of: Captures, base: Run, target: ByteTokenizer, measures: bool, launch: str, board: Board) -> Asked:
    """Asks the sources for what the store lacks, with their servers up.

    `measures`: also for what is measured of the sources themselves, with the settings of `base`.
    """
    run = of.run
    with local.services(run) as services:
        plan = plan_of(run, target, services, board)
        job = hops_job(run, plan, target, services, Hop.CAPTURE)
        progress = coordinate(job, launch, Shown(board))
        unmeasured = _measure(base, plan, services, board) if measures else None
    letters: dict[str, list[DeadLetter]] = {}
    for letter in progress.dead_letters:
        letters.setdefault(letter.task.source, []).append(letter)
    return Asked(plan, {source: _reason(found) for source, found in letters.items()}, unmeasured)


def _measure(base: Run, plan: Plan, services: local.Services, board: Board) -> str | None:
    """Has the sources measured; the reason, where that failed. The cases don't need it."""
    try:
        measure_sources(base, case_plan(base, plan), services, board)
    except StoreFull:
        raise
    except FuseryError as error:
        return str(error)
    return None


def fuse(base: Run, plans: Sequence[Plan], lost: Mapping[str, str], launch: str, board: Board) -> dict[str, str]:
    """Aligns and fuses what the store lacks of `plans`; for those that could not be, their run's id and the reason.

    `lost`: by run's id, why captures are missing, where that is known.
    """
    failed = {plan.run_id: lost.get(plan.run_id, _NOT_CAPTURED) for plan in plans if not is_captured(plan)}
    captured = [plan for plan in plans if is_captured(plan)]
    if not captured:
        return failed
    with _workers(base) as (broker_url, supervisor):
        for number, plan in enumerate(captured):
            board.update(Line("align, fuse", number, len(captured), "settings"))
            reason = _fuse(base, plan, broker_url, _Watch(supervisor, board), launch)
            if reason is not None:
                failed[plan.run_id] = reason
    board.update(Line("align, fuse", len(captured), len(captured), "settings"))
    return failed


def _fuse(base: Run, plan: Plan, broker_url: str, watch: _Watch, launch: str) -> str | None:
    """The reason, where shards of one plan could not be made."""
    job = HopsJob(base.store, plan, broker_url, {}, Hop.FUSE, lambda: publish_input(base), watch.check)
    try:
        progress = coordinate(job, launch, watch.see)
    except _CaptureGone as error:
        return str(error)
    return _reason(progress.dead_letters) if progress.dead_letters else None


class _CaptureGone(Unavailable):
    """A capture was found damaged and taken away, or was removed."""


@dataclass(slots=True)
class _Watch:
    """Looks at captures while others read them: with no source's server up, none is made again."""

    supervisor: Supervisor
    board: Board
    gone: str | None = None

    def see(self, progress: Progress) -> None:
        self.board.heartbeat()
        captures = (hop for hop in progress.hops if hop.hop is Hop.CAPTURE)
        self.gone = next((hop.source for hop in captures if hop.done < hop.total), None)

    def check(self) -> None:
        """Raises what ends the hops; what `see` raises, the coordinator would take for a store that is away."""
        self.supervisor.check()
        if self.gone is not None:
            raise _CaptureGone(
                f"a capture of source {self.gone} was damaged or removed; run the same command again, which asks the "
                "source for it"
            )


@contextmanager
def _workers(run: Run) -> Iterator[tuple[str, Supervisor]]:
    """A broker and a worker for hops that ask no source: embedded ones, where the run has no broker of its own."""
    with Supervisor() as supervisor:
        if run.broker_url is not None:
            yield run.broker_url, supervisor
            return
        folder = run.folder / "services" / uuid.uuid4().hex[:8]
        url = local.start_broker(supervisor, folder)
        environment = child_environment(FUSERY_BROKER_URL=url, FUSERY_STORE=run.store.url, CUDA_VISIBLE_DEVICES="")
        command = fusery_command("worker", "--processes", str(run.config.services.workers), "--hops", "align,fuse")
        supervisor.start(Child("worker", command, environment, folder / "worker.log"))
        yield url, supervisor


def complete(base: Run, run_ids: Iterable[str]) -> None:
    """Notes that nothing of these runs is still to be made, so that the store may be cleared of what they name."""
    for run_id in run_ids:
        base.store.write_note(f"runs/{run_id}/complete.json", {"promised": "an ablation's cases"})


def _reason(letters: Sequence[DeadLetter]) -> str:
    first, *more = letters
    return f"{first.task.key} failed for good: {first.reason}" + (f" (and {len(more)} more shards)" * bool(more))
