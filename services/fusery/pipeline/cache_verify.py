"""A look at every byte of a store: sizes, checksums, seals, and whether every artefact can be read for what it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from fusery.core.tokens import ByteTokenizer
from fusery.errors import Corrupt, Mismatch, ModelError, Unavailable
from fusery.formats import shards
from fusery.formats.store import Store
from fusery.json_text import parse_json
from fusery.pipeline.cache import all_folders
from fusery.worker.plan import tokenizer_name

Kind = Literal["artefact", "leftover", "note"]
Report = Callable[[int, int], None]
"""Is told how many files and bytes are read so far."""

_RUN_NOTES = ("plan.json", "complete.json", "registered.json", "manifest.json")


@dataclass(frozen=True, slots=True)
class Damage:
    """Something that is not as it must be. A leftover is half of an artefact, of a writer that was killed or works."""

    name: str
    kind: Kind
    reason: str


@dataclass(frozen=True, slots=True)
class Verified:
    artefacts: int
    notes: int
    bytes: int
    damages: tuple[Damage, ...]

    @property
    def damaged(self) -> tuple[Damage, ...]:
        """What was there once and is wrong now; leftovers were never complete."""
        return tuple(damage for damage in self.damages if damage.kind != "leftover")


def verify(store: Store, report: Report = lambda _files, _bytes: None) -> Verified:
    """Reads every artefact of the hops and every note that a run goes on from."""
    artefacts = notes = size = 0
    damages: list[Damage] = []
    for folder in all_folders(store):
        for name, length in store.listed(folder).items():
            damages += _of_artefact(store, name)
            artefacts, size = artefacts + 1, size + length
            report(artefacts, size)
        damages += [Damage(name, "leftover", "half of an artefact") for name in store.leftovers(folder)]
    for name in _notes(store):
        damages += _of_note(store, name)
        notes += 1
    return Verified(artefacts, notes, size, tuple(damages))


def remove(store: Store, damages: tuple[Damage, ...]) -> None:
    """Takes what is damaged away, so that the next run makes it again."""
    for damage in damages:
        if damage.kind == "artefact":
            store.discard(damage.name)
        elif damage.kind == "leftover":
            store.remove_leftover(damage.name)
        else:
            store.remove_note(damage.name)


def _of_artefact(store: Store, name: str) -> list[Damage]:
    try:
        _parse(name, store.read(name))
    except (Corrupt, Mismatch, ModelError, ValueError) as error:
        return [Damage(name, "artefact", str(error))]
    except Unavailable:
        # Taken away since it was listed.
        if store.find(name) is None:
            return []
        raise
    return []


def _of_note(store: Store, name: str) -> list[Damage]:
    try:
        store.read_note(name)
    except Corrupt as error:
        return [Damage(name, "note", str(error))]
    return []


def _notes(store: Store) -> Iterator[str]:
    yield from store.list_notes("readings")
    for run in store.folders("runs"):
        yield from (name for name in store.list_notes(run) if name.rpartition("/")[2] in _RUN_NOTES)


def _parse(name: str, content: bytes) -> None:
    """Nothing, if `content` is what an artefact of that name holds.

    Raises:
        Corrupt, Mismatch, ModelError, ValueError: it is not.
    """
    _PARSERS[name.split("/")[0]](name, content)


def _parse_tokenizer(name: str, content: bytes) -> None:
    found = tokenizer_name(ByteTokenizer.from_definition(content.decode()).fingerprint)
    if found != name:
        raise Mismatch(f"{name}: it defines the tokenizer of {found}; it is made again")


_PARSERS: dict[str, Callable[[str, bytes], object]] = {
    "corpora": lambda _, content: shards.read_corpus(content),
    "captures": lambda _, content: shards.read_captured(content),
    "aligned": lambda _, content: shards.read_aligned(content),
    "fused": lambda _, content: shards.read_fused(content),
    "maps": lambda _, content: shards.read_vocabulary_map(content),
    "tokenizers": _parse_tokenizer,
    "training": lambda _, content: parse_json(content),
    "runs": lambda _, content: parse_json(content),
}
