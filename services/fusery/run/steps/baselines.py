"""Baselines: the ensemble of the sources, the mean of weights, a fusion of one source alone; and what they need.

The ensemble needs the sources' distributions over the held-out text. They are captured while the servers are up, by the
same code and under the same kind of names as the training text's, so the next run with these sources finds them too.
`fusery evaluate` starts no server: where they are missing it says what makes them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fusery.config.run import EngineKind, SourceSpec, split_engine
from fusery.core.rules import Positions
from fusery.evaluation.bits_per_byte import HeldOutDocument
from fusery.evaluation.scores import Scores
from fusery.hops.align import align_shard
from fusery.hops.capture import capture
from fusery.hops.fuse import fuse_shard
from fusery.hops.names import digest
from fusery.hops.plan import Hop, Plan, ShardTask
from fusery.hops.store import shards
from fusery.hops.tables import load_tokenizer, load_vocabulary_map
from fusery.models.checkpoint import local_folder
from fusery.run.open_run import Run
from fusery.runtime.errors import ConfigError, CorpusError
from fusery.source.client import SourceClient


def held_out_plan(run: Run, plan: Plan) -> Plan:
    """The plan of the same run whose documents are the held-out ones."""
    return plan.over_held_out(run.corpora.held_out.digest, run.corpora.held_out.shards)


def why_no_ensemble(run: Run) -> str | None:
    """Why this run has no ensemble; None: it has one."""
    if run.config.alignment.positions is Positions.REFERENCE:
        return "positions: reference says of most rows what the current token is, not what follows it"
    return None


def wants_ensemble(run: Run) -> bool:
    return run.config.evaluation.ensemble and why_no_ensemble(run) is None


def capture_names(run: Run, plan: Plan, source: str) -> list[str]:
    """The artefacts with a source's distributions over the held-out text; none where no ensemble is wanted."""
    if not wants_ensemble(run):
        return []
    held_out = held_out_plan(run, plan)
    return [held_out.artefact(ShardTask(Hop.CAPTURE, source, shard)) for shard in range(held_out.corpus_shards)]


def capture_held_out(
    run: Run, plan: Plan, source: str, client: SourceClient, mark: Callable[[str, int, int, str], None]
) -> None:
    """Captures what is missing of the held-out text, asked of the source's server; `mark` hears how far it is."""
    held_out, names = held_out_plan(run, plan), capture_names(run, plan, source)
    missing = [shard for shard, name in enumerate(names) if run.store.find(name) is None]
    for done, shard in enumerate(missing, len(names) - len(missing)):
        mark(f"capture held-out {source}", done, len(names), "shards")
        capture(run.store, held_out, ShardTask(Hop.CAPTURE, source, shard), client)
    if missing:
        mark(f"capture held-out {source}", len(names), len(names), "shards")


def ensemble_made_from(run: Run, plan: Plan) -> list[str]:
    return [held_out_plan(run, plan).folder(Hop.FUSE), run.run_id]


def measure_ensemble(run: Run, plan: Plan, documents: Sequence[HeldOutDocument]) -> Scores:
    """The scores of the fused evidence on the held-out `documents`; aligns and fuses what is not yet.

    Each piece is read by itself, as the sources were asked about it; what is scored is the whole document.

    Raises:
        ConfigError: a source's distributions over the held-out text are not there; says which command asks for them.
    """
    from fusery.evaluation.ensemble import ensemble_bits
    from fusery.models.head import split
    from fusery.models.loading import load_model

    held_out = held_out_plan(run, plan)
    check_measured(run, {source.name: _needed_captures(run, held_out, source.name) for source in held_out.sources})
    make_missing(run, held_out)
    expect = {"target": plan.target_tokenizer_fingerprint}
    names = [held_out.artefact(ShardTask(Hop.FUSE, "", shard)) for shard in range(held_out.corpus_shards)]
    fused = [document for name in names for document in shards.read_fused(run.store.read(name), expect)]
    cells = [load_vocabulary_map(run.store, held_out, source).cell_of_target_V for source in held_out.sources]
    model = load_model(run.file.model(run.config.target.model), run.config.target.revision, device=None)
    bits = ensemble_bits(split(model), fused, cells)
    tokenizer = load_tokenizer(run.store, plan.target_tokenizer_fingerprint)
    texts = tokenizer.tokenize_batch(
        [document.text for document in documents], [document.doc_id for document in documents]
    )
    predicted = tuple(text.predicted_bytes for text in texts)
    whole = (
        len(document.text.encode()) - int(text.byte_ends_T[0]) for document, text in zip(documents, texts, strict=True)
    )
    unspelled = tuple(all_bytes - spelled for all_bytes, spelled in zip(whole, predicted, strict=True))
    ids, domains = (document.doc_id for document in documents), (document.domain for document in documents)
    return Scores(tuple(ids), tuple(domains), tuple(bits), predicted, unspelled).of_whole_documents()


def make_missing(run: Run, plan: Plan) -> None:
    """Aligns and fuses, in this process, what the store lacks of a plan whose captures are there."""
    for shard in range(plan.corpus_shards):
        fused = ShardTask(Hop.FUSE, "", shard)
        if run.store.find(plan.artefact(fused)) is not None:
            continue
        for need in plan.needs(fused):
            if run.store.find(plan.artefact(need)) is None:
                align_shard(run.store, plan, need)
        fuse_shard(run.store, plan, fused)


def _needed_captures(run: Run, held_out: Plan, source: str) -> list[str]:
    """The captures of a source from which something is still to be made."""
    shards_left = [
        shard
        for shard in range(held_out.corpus_shards)
        if run.store.find(held_out.artefact(ShardTask(Hop.FUSE, "", shard))) is None
        and run.store.find(held_out.artefact(ShardTask(Hop.ALIGN, source, shard))) is None
    ]
    return [held_out.artefact(ShardTask(Hop.CAPTURE, source, shard)) for shard in shards_left]


@dataclass(frozen=True, slots=True)
class Merging:
    """What weight merging takes the mean of: names, folders, the target first; `left_out`: which not, and why."""

    names: tuple[str, ...]
    folders: tuple[Path, ...]
    left_out: tuple[str, ...]

    @property
    def is_possible(self) -> bool:
        return len(self.names) > 1

    @property
    def reason(self) -> str:
        """For the report: what was left out."""
        return "; ".join(self.left_out) or "the sources are the target itself"


def merging(run: Run, plan: Plan) -> Merging:
    """The target and every source that fits it; reads headers only."""
    from fusery.evaluation.merging import Member, why_not

    target = run.config.target
    folder = local_folder(run.file.model(target.model), target.revision)
    first = Member("the target", folder, plan.target_tokenizer_fingerprint)
    members, left_out = [first], []
    for spec, planned in zip(run.config.sources, plan.sources, strict=True):
        reason = not_at_hand(spec)
        if reason is None:
            place = local_folder(run.file.model(spec.model), spec.revision)
            member = Member(f"source {spec.name}", place, planned.tokenizer_fingerprint)
            if place in [other.folder for other in members]:
                continue
            reason = why_not(first, member)
        if reason is None:
            members.append(member)
        else:
            left_out.append(reason)
    return Merging(tuple(m.name for m in members), tuple(m.folder for m in members), tuple(left_out))


def not_at_hand(source: SourceSpec) -> str | None:
    """Why the weights of a source can't be used here; None: they can."""
    if split_engine(source.model)[0] is not EngineKind.TRANSFORMERS:
        return f"source {source.name} is an inference server; its weights are not here"
    if source.address is not None:
        return f"source {source.name} is served at {source.address}; its weights are not here"
    return None


def merged_folder(run: Run, found: Merging) -> Path:
    return run.folder / f"merged-{digest([run.run_id, list(found.names)])[:8]}" / "model"


def merge_weights(run: Run, found: Merging) -> None:
    """Writes the merged checkpoint, unless it is there."""
    from fusery.evaluation.merging import Member, merge

    pairs = zip(found.names, found.folders, strict=True)
    merge([Member(name, folder, "") for name, folder in pairs], merged_folder(run, found))


def check_domains(run: Run) -> None:
    """Returns if every domain of the training text is measured, or the gate does not look at domains.

    Raises:
        CorpusError: a domain has no held-out text, so what the training cost it can't be measured.
    """
    train, held_out = run.corpora.train.domains, run.corpora.held_out.domains
    unseen = [domain for domain in train if domain not in held_out]
    if unseen and run.config.gate.domain_tolerance is not None:
        raise CorpusError(
            f"{run.file.path}: training text of {_domains(unseen)} without held-out text, held-out text of "
            f"{_domains(list(held_out))}; name some under corpus.held_out (or raise corpus.held_out_share, "
            "corpus.max_held_out_documents), or set gate.domain_tolerance: null"
        )


def _domains(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return f"domain {shown}" if len(names) == 1 else f"domains {shown}"


def check_measured(run: Run, artefacts: Mapping[str, Sequence[str]]) -> None:
    """Returns if the store has the `artefacts` that each source's server must be asked for.

    Where it lacks some the run is not complete, whatever its note says; the note is taken away, so that the command
    which the message names does not take the run for done.

    Raises:
        ConfigError: some are missing; says of which sources, and the command that makes them.
    """
    missing = [source for source, names in artefacts.items() if any(run.store.find(name) is None for name in names)]
    if missing:
        run.store.remove_note(f"{run.name}/complete.json")
        raise ConfigError(
            f"run {run.run_id}: the store lacks what source{'s' * (len(missing) > 1)} {', '.join(missing)} said of the "
            "held-out text (it was removed, or this version or these settings measure it anew), and only a source's "
            f"server can say it; make it with: {run.file.command('run')}"
        )
