"""What a store holds, and which runs use it: the artefacts of the hops, by what makes and removes them together.

A capture is found by later runs because its name depends on the source, the text and the capture settings alone; one of
more entries than a run uses serves too. So a store grows, and someone asks what may go: what no plan in runs/ names.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from pydantic import ValidationError

from fusery.errors import Corrupt
from fusery.formats.store import Entry, Store
from fusery.run_sections import CaptureSpec
from fusery.worker.plan import (
    Hop,
    Plan,
    capture_name,
    captures_folder,
    coordinator_name,
    corpus_shard,
    plan_name,
)

QUARANTINE = "quarantine"
SINGLE = ("tokenizers", "maps", "training")
"""Kinds whose artefacts stand for themselves; those of the others are the shards of a folder."""
_DEPTH = {"corpora": 1, "captures": 3, "aligned": 1, "fused": 1}
_DIGEST = re.compile(r"^([0-9a-f]{8})[0-9a-f]{8,}(?=\.|$)")
_CAPTURE = re.compile(r"k(\d+)-(float\d+)-b(\d+)-v\d+")


@dataclass(frozen=True, slots=True)
class Holding:
    """What is kept or removed as one: a folder of shards, or a single artefact.

    `about`: what it is, for people; `runs`: those whose plans name it; `made_at`: of its last shard, by the store's
    clock.
    """

    name: str
    kind: str
    artefacts: tuple[str, ...]
    bytes: int
    about: str
    made_at: float | None
    runs: tuple[str, ...]
    is_needed: bool
    """A run that is not complete uses it."""

    @property
    def short_name(self) -> str:
        """Its digests cut to eight digits, as it is shown and as it may be named."""
        return "/".join(_DIGEST.sub(r"\1", part) for part in self.name.split("/"))

    def is_called(self, pattern: str) -> bool:
        """Whether `pattern` (* stands for anything) is one of its names, or a folder that it lies in."""
        names = (self.name, self.short_name)
        return any(fnmatch.fnmatchcase(name, form) for name in names for form in (pattern, f"{pattern}/*"))


@dataclass(slots=True)
class Usage:
    """Who uses what. `unreadable`: runs whose plan is damaged or of another version, so that it is not known."""

    runs_of: dict[str, list[str]] = field(default_factory=dict)
    complete: set[str] = field(default_factory=set)
    unreadable: list[str] = field(default_factory=list)
    beginning: list[str] = field(default_factory=list)
    """Runs that somebody carries out, and that have no plan yet."""

    def is_needed(self, name: str) -> bool:
        return any(run not in self.complete for run in self.runs_of.get(name, ()))


def usage(store: Store) -> Usage:
    """Read from the plans of all runs, and from what was read for their corpora."""
    found = Usage()
    held_out = _held_out_of(store)
    for folder in store.folders("runs"):
        run_id = folder.rpartition("/")[2]
        plan = _plan(store, run_id, found.unreadable)
        if plan is None:
            if run_id not in found.unreadable and _has_note(store, coordinator_name(run_id)):
                found.beginning.append(run_id)
            continue
        if _has_note(store, f"{folder}/complete.json"):
            found.complete.add(run_id)
        for name in {*_names(plan), *_names_of_measures(plan, held_out.get(plan.corpus_digest, ()))}:
            found.runs_of.setdefault(name, []).append(run_id)
    return found


def _names(plan: Plan) -> Iterator[str]:
    """Of all holdings that a run reads or makes."""
    yield corpus_shard(plan.corpus_digest, 0).rpartition("/")[0]
    yield plan.tokenizer(plan.target_tokenizer_fingerprint)
    yield plan.folder(Hop.FUSE)
    for source in plan.sources:
        yield plan.tokenizer(source.tokenizer_fingerprint)
        yield plan.vocabulary_map(source.name)
        yield plan.folder(Hop.CAPTURE, source.name)
        yield plan.folder(Hop.ALIGN, source.name)


def _names_of_measures(plan: Plan, held_out: Iterable[str]) -> Iterator[str]:
    """Of the holdings that a run's baselines read or make, whether it asks for them or not."""
    for source in plan.sources:
        yield plan.of_source_alone(source.name).folder(Hop.FUSE)
    for digest in held_out:
        yield from _names(plan.over_held_out(digest, 1))


def _plan(store: Store, run_id: str, unreadable: list[str]) -> Plan | None:
    try:
        note = store.read_note(plan_name(run_id))
        return None if note is None else Plan.model_validate(note)
    except (Corrupt, ValidationError):
        unreadable.append(run_id)
        return None


def _has_note(store: Store, name: str) -> bool:
    try:
        return store.read_note(name) is not None
    except Corrupt:
        return False


def _readings(store: Store) -> Iterator[Mapping[str, Mapping[str, object]]]:
    """What was found when corpora were read: digests, documents and bytes of both sides."""
    for name in store.list_notes("readings"):
        try:
            note = store.read_note(name)
        except Corrupt:
            continue
        if note is not None and {"train", "held_out"} <= note.keys():
            yield note


def _held_out_of(store: Store) -> dict[str, set[str]]:
    """Digest of a training corpus → digests of the held-out ones that belong to it."""
    found: dict[str, set[str]] = {}
    for note in _readings(store):
        found.setdefault(str(note["train"]["digest"]), set()).add(str(note["held_out"]["digest"]))
    return found


def holdings(store: Store, of: Usage) -> list[Holding]:
    """All of them, kind by kind, in the order of names. One listing each, and one entry read."""
    corpora = _corpora_by_folder(store)
    found = []
    for kind in (*_DEPTH, *SINGLE, QUARANTINE):
        for name, artefacts in _grouped(store, kind):
            last = list(artefacts)[-1]
            about = corpora.get(name) or _about(kind, name, store.find(last))
            runs = tuple(sorted(of.runs_of.get(name, ())))
            size = sum(artefacts.values())
            made_at = store.made_at(last)
            found.append(Holding(name, kind, tuple(artefacts), size, about, made_at, runs, of.is_needed(name)))
    return found


def _grouped(store: Store, kind: str) -> Iterator[tuple[str, dict[str, int]]]:
    if kind in SINGLE:
        for name, size in store.listed(kind).items():
            yield name, {name: size}
        return
    if kind == QUARANTINE:
        files = store.leftovers(kind)
        if files:
            yield kind, files
        return
    for folder in _folders(store, kind, _DEPTH[kind]):
        artefacts = store.listed(folder)
        if artefacts:
            yield folder, artefacts


def all_folders(store: Store) -> list[str]:
    """Every folder with artefacts of the hops or of a run, for a look at each file."""
    shards = [folder for kind, depth in _DEPTH.items() for folder in _folders(store, kind, depth)]
    return [*shards, *SINGLE, *(f"{run}/scores" for run in store.folders("runs"))]


def _folders(store: Store, folder: str, depth: int) -> list[str]:
    if depth == 0:
        return [folder]
    return [deepest for inner in store.folders(folder) for deepest in _folders(store, inner, depth - 1)]


def _corpora_by_folder(store: Store) -> dict[str, str]:
    found: dict[str, str] = {}
    for note in _readings(store):
        for side in ("train", "held_out"):
            of = note[side]
            about = f"{'training' if side == 'train' else 'held-out'} text, {of['documents']:,} documents"
            found[corpus_shard(str(of["digest"]), 0).rpartition("/")[0]] = about
    return found


def _about(kind: str, name: str, entry: Entry | None) -> str:
    facts = {} if entry is None else entry.facts
    return _ABOUT[kind](name, facts)


def _of_capture(name: str, facts: Mapping[str, object]) -> str:
    found = _CAPTURE.fullmatch(name.rpartition("/")[2])
    settings = f", k {found[1]}, {found[2]}" if found else ""
    return f"source {facts.get('source', '?')}{settings}"


def _of_fused(_: str, facts: Mapping[str, object]) -> str:
    sources = facts.get("sources")
    names = ", ".join(map(str, sources)) if isinstance(sources, list) else "?"
    return f"sources {names}, {facts.get('rule', '?')}"


_ABOUT: dict[str, Callable[[str, Mapping[str, object]], str]] = {
    "corpora": lambda _, facts: f"text, {facts.get('documents', '?')} documents in the last shard",
    "captures": _of_capture,
    "aligned": lambda _, facts: f"source {facts.get('source', '?')}",
    "fused": _of_fused,
    "tokenizers": lambda _, facts: str(facts.get("name", "?")),
    "maps": lambda _, facts: f"{facts.get('cells', '?')} cells",
    QUARANTINE: lambda _name, _facts: "compare them with what stands under the name",
    "training": lambda _, facts: f"index of {facts.get('shards', '?')} fused shards",
}


def captured_top_k(store: Store, model: str, corpus: str, shards: int, capture: CaptureSpec, most: int) -> int | None:
    """Entries a row of the smallest complete capture that holds those `capture` asks for and at most `most`.

    None: there is none, and the source is asked. A capture of more entries holds one of fewer: rows are best first.
    """
    folder = captures_folder(model, corpus)
    names = (name.rpartition("/")[2] for name in store.folders(folder))
    numbers = sorted(int(found[1]) for name in names if (found := _CAPTURE.fullmatch(name)) is not None)
    for top_k in numbers:
        name = capture_name(capture, top_k)
        if capture.top_k <= top_k <= most and len(store.listed(f"{folder}/{name}")) == shards:
            return top_k
    return None
