"""Random damage to a store: every byte of every kind of file may be another, and files may end too soon.

A campaign is a function of its seed. Each blow hits one file of a whole store; then the file is opened, which must say
that it is damaged, and made again by what makes it, which must give the bytes that stood there before.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fusery.config.sections import AlignmentSpec, CaptureSpec, FusionSpec
from fusery.hops import tables
from fusery.hops.capture import capture
from fusery.hops.fuse import HOPS
from fusery.hops.names import plan_name, tokenizer_name
from fusery.hops.plan import Hop, Plan, PlannedSource, ShardTask
from fusery.hops.store import shards
from fusery.hops.store.shards import CorpusDocument
from fusery.hops.store.store import Store
from fusery.hops.tables import load_vocabulary_map
from fusery.runtime.errors import Corrupt
from support.models.pico_models import TEXTS, pico_byte_tokenizer
from support.source.fake_source import FakeSource

_KINDS = ("byte_level", "unigram")
_TARGET = "sentencepiece"
_ENTRY = ".entry.json"
_TRUNCATED = 0.2


@dataclass(slots=True)
class Campaign:
    """What was hit, and what was not found or not made again as it was (there should be none)."""

    hits: Counter[str] = field(default_factory=Counter)
    truncated: int = 0
    not_found: list[str] = field(default_factory=list)
    not_mended: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _File:
    """A file of the store: its kind, the name that is opened, and what makes it again."""

    kind: str
    name: str
    make: Callable[[], object]

    @property
    def opened(self) -> str:
        return self.name.removesuffix(_ENTRY)


def campaign(folder: Path, blows: int, seed: int) -> Campaign:
    """`blows` damages, one after the other, to a store in `folder`."""
    store = Store(str(folder / "store"))
    files = _whole_store(store)
    kinds = sorted({file.kind for file in files})
    chance, found = random.Random(seed), Campaign()
    for number in range(blows):
        # Kinds in turn: large files would take nearly all blows otherwise.
        file = chance.choice([file for file in files if file.kind == kinds[number % len(kinds)]])
        path = folder / "store" / file.name
        whole = path.read_bytes()
        damaged, what = _damaged(whole, chance)
        path.write_bytes(damaged)
        found.hits[file.kind] += 1
        found.truncated += what.startswith("ends")
        blow = f"{file.name}: {what}"
        if not _is_found(store, file):
            found.not_found.append(blow)
        file.make()
        if path.read_bytes() != whole or not _opens(store, file):
            found.not_mended.append(blow)
            path.write_bytes(whole)
    return found


def _damaged(whole: bytes, chance: random.Random) -> tuple[bytes, str]:
    place = chance.randrange(len(whole))
    if chance.random() < _TRUNCATED:
        return whole[:place], f"ends after {place} of {len(whole)} bytes"
    other = whole[place] ^ chance.randrange(1, 256)
    return whole[:place] + bytes([other]) + whole[place + 1 :], f"byte {place} is {other:02x}, was {whole[place]:02x}"


def _opens(store: Store, file: _File) -> bool:
    try:
        if file.kind == "note":
            return store.read_note(file.name) is not None
        store.read(file.opened)
    except Corrupt:
        return False
    return True


def _is_found(store: Store, file: _File) -> bool:
    """Whether the next open says so; what it found is taken away, as a task does."""
    if _opens(store, file):
        return False
    if file.kind == "note":
        return True
    if file.kind.endswith("entry") and store.find(file.opened) is not None:
        return False
    store.discard(file.opened)
    return store.find(file.opened) is None


def _whole_store(store: Store) -> list[_File]:
    """All files of a small run's hops, made."""
    documents = [CorpusDocument(f"d{i}", "even" if i % 2 == 0 else "odd", text) for i, text in enumerate(TEXTS)]
    plan = _plan()
    files = []
    for name, kind, make in _makers(store, plan, documents):
        make()
        if kind == "note":
            files.append(_File(kind, name, make))
        else:
            files += [_File(kind, name, make), _File(f"{kind} entry", name + _ENTRY, make)]
    return files


def _plan() -> Plan:
    sources = tuple(
        PlannedSource(
            name=kind,
            model_fingerprint=kind.ljust(64, "0"),
            tokenizer_fingerprint=pico_byte_tokenizer(kind).fingerprint,
            vocabulary_size=pico_byte_tokenizer(kind).size,
        )
        for kind in _KINDS
    )
    return Plan(
        run_id="flips",
        corpus_digest="c" * 64,
        corpus_shards=2,
        target_tokenizer_fingerprint=pico_byte_tokenizer(_TARGET).fingerprint,
        sources=sources,
        capture=CaptureSpec(top_k=8),
        alignment=AlignmentSpec(),
        fusion=FusionSpec(),
    )


def _makers(
    store: Store, plan: Plan, documents: list[CorpusDocument]
) -> Iterator[tuple[str, str, Callable[[], object]]]:
    """Name, kind and maker of every artefact and note, in an order in which they can be made."""
    for shard, rows in enumerate((documents[:4], documents[4:])):
        name, content = plan.corpus_shard(shard), shards.write_corpus(rows, {})
        yield name, "corpus", lambda n=name, c=content: store.publish(n, c)
    for kind in (_TARGET, *_KINDS):
        name = tokenizer_name(pico_byte_tokenizer(kind).fingerprint)
        definition = pico_byte_tokenizer(kind).definition().encode()
        yield name, "tokenizer", lambda n=name, c=definition: store.publish(n, c)
    for source in plan.sources:
        yield plan.vocabulary_map(source.name), "map", lambda s=source: _build_map(store, plan, s)
    for task in plan.tasks:
        yield plan.artefact(task), task.hop.value, lambda t=task: _perform(store, plan, t)
    for name, content in (
        (plan_name(plan.run_id), plan.model_dump(mode="json")),
        (f"runs/{plan.run_id}/failed.json", {"task": "align-a-00001", "reason": "out of memory", "retryable": True}),
    ):
        yield name, "note", lambda n=name, c=content: store.write_note(n, c)


def _build_map(store: Store, plan: Plan, source: PlannedSource) -> object:
    # A worker keeps its maps; another one reads what the store has.
    tables._vocabulary_map.cache_clear()
    return load_vocabulary_map(store, plan, source)


def _perform(store: Store, plan: Plan, task: ShardTask) -> object:
    if task.hop is Hop.CAPTURE:
        return capture(store, plan, task, FakeSource(task.source))  # type: ignore[arg-type]
    return HOPS[task.hop](store, plan, task)
