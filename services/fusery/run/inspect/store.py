"""What a store holds, and which runs use it: the artefacts of the hops, by what makes and removes them together.

A capture is found by later runs because its name depends on the source, the text and the capture settings alone; one of
more entries than a run uses serves too. So a store grows, and what may go is what no plan in runs/ names.

`verify` reads every byte: sizes, checksums, seals, and whether each artefact can be read for what it is.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import ValidationError

from fusery.config.sections import CaptureSpec
from fusery.core.tokens import ByteTokenizer
from fusery.hops.names import capture_name, captures_folder, coordinator_name, corpus_shard, plan_name, tokenizer_name
from fusery.hops.plan import Hop, Plan
from fusery.hops.store import shards
from fusery.hops.store.store import Store
from fusery.runtime.errors import Corrupt, Mismatch, ModelError, Unavailable
from fusery.runtime.text.json import parse_json

QUARANTINE = "quarantine"
SINGLE = ("tokenizers", "maps", "training")
"""Kinds whose artefacts stand for themselves; those of the others are the shards of a folder."""
_DEPTH = {"corpora": 1, "captures": 3, "aligned": 1, "fused": 1}
_DIGEST = re.compile(r"^([0-9a-f]{8})[0-9a-f]{8,}(?=\.|$)")
_CAPTURE = re.compile(r"k(\d+)-(float\d+)-b(\d+)-v\d+")
_RUN_NOTES = ("plan.json", "complete.json", "registered.json", "manifest.json")
_READERS: dict[str, Callable[[bytes], object]] = {
    "corpora": shards.read_corpus,
    "captures": shards.read_captured,
    "aligned": shards.read_aligned,
    "fused": shards.read_fused,
    "maps": shards.read_vocabulary_map,
    "training": parse_json,
    "runs": parse_json,
}


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
    """Runs that are carried out and have no plan yet."""

    def is_needed(self, name: str) -> bool:
        return any(run not in self.complete for run in self.runs_of.get(name, ()))


def usage(store: Store) -> Usage:
    """Read from the plans of all runs, and from what was read for their corpora."""
    found = Usage()
    held_out: dict[str, set[str]] = {}
    for note in _readings(store):
        held_out.setdefault(str(note["train"]["digest"]), set()).add(str(note["held_out"]["digest"]))
    for folder in store.folders("runs"):
        run_id = folder.rpartition("/")[2]
        try:
            planned = store.read_note(plan_name(run_id))
            plan = None if planned is None else Plan.model_validate(planned)
        except (Corrupt, ValidationError):
            found.unreadable.append(run_id)
            continue
        if plan is None:
            if _has_note(store, coordinator_name(run_id)):
                found.beginning.append(run_id)
            continue
        if _has_note(store, f"{folder}/complete.json"):
            found.complete.add(run_id)
        for name in set(_names(plan, held_out.get(plan.corpus_digest, ()))):
            found.runs_of.setdefault(name, []).append(run_id)
    return found


def _names(plan: Plan, held_out: Iterable[str] = ()) -> Iterator[str]:
    """Of all holdings that a run reads or makes; those of its baselines too, whether it asks for them or not."""
    yield corpus_shard(plan.corpus_digest, 0).rpartition("/")[0]
    yield plan.tokenizer(plan.target_tokenizer_fingerprint)
    yield plan.folder(Hop.FUSE)
    for source in plan.sources:
        yield plan.tokenizer(source.tokenizer_fingerprint)
        yield plan.vocabulary_map(source.name)
        yield plan.folder(Hop.CAPTURE, source.name)
        yield plan.folder(Hop.ALIGN, source.name)
        yield plan.of_source_alone(source.name).folder(Hop.FUSE)
    for digest in held_out:
        yield from _names(plan.over_held_out(digest, 1))


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


def holdings(store: Store, of: Usage) -> list[Holding]:
    """All of them, kind by kind, in the order of names. One listing each, and one entry read."""
    texts = {
        corpus_shard(str(note[side]["digest"]), 0).rpartition("/")[0]: f"{text}, {note[side]['documents']:,} documents"
        for note in _readings(store)
        for side, text in (("train", "training text"), ("held_out", "held-out text"))
    }
    found = []
    for kind in (*_DEPTH, *SINGLE, QUARANTINE):
        for name, artefacts in _grouped(store, kind):
            last = list(artefacts)[-1]
            entry = store.find(last)
            about = texts.get(name) or _about(kind, name, {} if entry is None else entry.facts)
            runs = tuple(sorted(of.runs_of.get(name, ())))
            size, made_at = sum(artefacts.values()), store.made_at(last)
            found.append(Holding(name, kind, tuple(artefacts), size, about, made_at, runs, of.is_needed(name)))
    return found


def _grouped(store: Store, kind: str) -> Iterator[tuple[str, dict[str, int]]]:
    """Name and artefacts of each holding of a kind, those with at least one."""
    if kind in SINGLE:
        groups = [(name, {name: size}) for name, size in store.listed(kind).items()]
    elif kind == QUARANTINE:
        groups = [(kind, store.leftovers(kind))]
    else:
        groups = [(folder, store.listed(folder)) for folder in _folders(store, kind, _DEPTH[kind])]
    return ((name, artefacts) for name, artefacts in groups if artefacts)


def _folders(store: Store, folder: str, depth: int) -> list[str]:
    if depth == 0:
        return [folder]
    return [deepest for inner in store.folders(folder) for deepest in _folders(store, inner, depth - 1)]


def _about(kind: str, name: str, facts: Mapping[str, object]) -> str:
    """What a holding is, from its name and what its last artefact says of itself."""

    def fact(key: str) -> object:
        return facts.get(key, "?")

    match kind:
        case "corpora":
            return f"text, {fact('documents')} documents in the last shard"
        case "captures":
            found = _CAPTURE.fullmatch(name.rpartition("/")[2])
            return f"source {fact('source')}" + (f", k {found[1]}, {found[2]}" if found else "")
        case "aligned":
            return f"source {fact('source')}"
        case "fused":
            sources = facts.get("sources")
            return f"sources {', '.join(map(str, sources)) if isinstance(sources, list) else '?'}, {fact('rule')}"
        case "tokenizers":
            return str(fact("name"))
        case "maps":
            return f"{fact('cells')} cells"
        case "training":
            return f"index of {fact('shards')} fused shards"
    return "compare them with what stands under the name"


@dataclass(frozen=True, slots=True)
class Damage:
    """Something that is not as it must be. A leftover is half of an artefact, of a writer that was killed or works."""

    name: str
    kind: Literal["artefact", "leftover", "note"]
    reason: str


@dataclass(frozen=True, slots=True)
class Verified:
    artefacts: int
    notes: int
    bytes: int
    damages: tuple[Damage, ...]


def verify(store: Store, report: Callable[[int, int], None] = lambda _files, _bytes: None) -> Verified:
    """Reads every artefact of the hops and every note that a run goes on from.

    `report` is told how many artefacts and bytes are read so far.
    """
    runs = store.folders("runs")
    artefacts = size = 0
    damages: list[Damage] = []
    shards_folders = [folder for kind, depth in _DEPTH.items() for folder in _folders(store, kind, depth)]
    for folder in [*shards_folders, *SINGLE, *(f"{run}/scores" for run in runs)]:
        for name, length in store.listed(folder).items():
            if reason := _wrong_with(store, name):
                damages.append(Damage(name, "artefact", reason))
            artefacts, size = artefacts + 1, size + length
            report(artefacts, size)
        damages += [Damage(name, "leftover", "half of an artefact") for name in store.leftovers(folder)]
    notes = store.list_notes("readings")
    notes += [name for run in runs for name in store.list_notes(run) if name.rpartition("/")[2] in _RUN_NOTES]
    for name in notes:
        try:
            store.read_note(name)
        except Corrupt as error:
            damages.append(Damage(name, "note", str(error)))
    return Verified(artefacts, len(notes), size, tuple(damages))


def _wrong_with(store: Store, name: str) -> str | None:
    """Why an artefact is not what its name says; None if it is, or was taken away since it was listed."""
    try:
        content = store.read(name)
        kind = name.split("/")[0]
        if kind == "tokenizers":
            found = tokenizer_name(ByteTokenizer.from_definition(content.decode()).fingerprint)
            return None if found == name else f"{name}: it defines the tokenizer of {found}; it is made again"
        _READERS[kind](content)
    except (Corrupt, Mismatch, ModelError, ValueError) as error:
        return str(error)
    except Unavailable:
        if store.find(name) is not None:
            raise
    return None


def remove(store: Store, damages: Iterable[Damage]) -> None:
    """Takes what is damaged away, so that the next run makes it again."""
    acts = {"artefact": store.discard, "leftover": store.remove_leftover, "note": store.remove_note}
    for damage in damages:
        acts[damage.kind](damage.name)


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
