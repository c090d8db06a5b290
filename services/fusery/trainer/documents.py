"""Where the documents of a training come from: memory, or fused shards in a store, read as the training goes.

A first look reads every shard once, checks every document, and keeps in the store what the order needs: the number of
tokens of each document. Later starts, and the CLM baseline, find that index and read nothing twice.
After it, memory holds the shards of about one window (see `order`), whatever the size of the corpus.

Dimensions: D documents, S shards, N tokens of a document.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from fusery.core.fusion import Evidence
from fusery.core.topk import IntArray
from fusery.errors import CorpusError, Mismatch, TooLarge
from fusery.formats.shards import read_fused
from fusery.formats.store import Store
from fusery.trainer.order import Layout

_INDEX_VERSION = 1


class TrainingDocument(Protocol):
    """A document in the target's tokens, and what the sources say at its positions."""

    @property
    def doc_id(self) -> str: ...
    @property
    def token_ids_N(self) -> IntArray: ...
    @property
    def evidence(self) -> Evidence: ...


class TrainingDocuments(Protocol):
    """Documents by number, in the corpus' order. `digest` (hex) tells them from all others."""

    @property
    def layout(self) -> Layout: ...
    @property
    def digest(self) -> str: ...
    def __getitem__(self, index: int) -> TrainingDocument: ...

    def check(self, limits: Limits) -> None:
        """Returns if the target can be trained on all of them.

        Raises:
            TooLarge: a document has more tokens than a sequence holds.
            Mismatch: token ids, evidence positions or sources that the target and its partitions do not have.
            CorpusError: there is no document with two tokens, so nothing to predict.
        """

    def hold(self, shards: int) -> None:
        """Makes room for so many shards in memory."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a target can read: tokens of a sequence, token ids, sources that have a partition."""

    capacity: int
    vocabulary: int
    sources: int


Most = tuple[str, int]
"""A document's id, and the most of something that is in any document."""


@dataclass(frozen=True, slots=True)
class Extremes:
    """What documents ask of a target: most tokens, largest token id, largest number of a source (−1: none)."""

    tokens: Most = ("", 0)
    token_id: Most = ("", -1)
    source: Most = ("", -1)

    def and_of(self, document: TrainingDocument) -> Extremes:
        """With one document more, whose evidence is checked too.

        Raises:
            Mismatch: evidence stands at a position that the document does not have.
        """
        doc_id, ids, sources = document.doc_id, document.token_ids_N, document.evidence.sources_R
        _check_positions(document)
        return Extremes(
            max(self.tokens, (doc_id, len(ids)), key=_amount),
            max(self.token_id, (doc_id, int(ids.max(initial=-1))), key=_amount),
            max(self.source, (doc_id, int(sources.max(initial=-1))), key=_amount),
        )

    def check(self, limits: Limits) -> None:
        """As `TrainingDocuments.check`."""
        doc_id, tokens = self.tokens
        if tokens > limits.capacity:
            raise TooLarge(
                f"document {doc_id}: {tokens} tokens, a sequence holds {limits.capacity}; raise "
                "training.sequence_length (up to the target's context) or lower corpus.max_document_bytes"
            )
        doc_id, token_id = self.token_id
        if token_id >= limits.vocabulary:
            raise Mismatch(
                f"document {doc_id}: token id {token_id}, the target has 0..{limits.vocabulary - 1}; "
                "tokenize and align again for this target"
            )
        doc_id, source = self.source
        if source >= limits.sources:
            raise Mismatch(
                f"document {doc_id}: evidence of source {source}, there are {limits.sources} partitions; give one "
                "partition per source, in the order of the run"
            )
        if tokens < 2:
            raise CorpusError("no document has two tokens; there is nothing to train on")


def _amount(most: Most) -> int:
    return most[1]


class Stored:
    """The documents of fused shards in a store. `expect`: fields of the shards' header that must be so."""

    def __init__(self, store: Store, names: Sequence[str], expect: dict[str, Any]) -> None:
        self._store, self._names, self._expect = store, tuple(names), expect
        self._held: OrderedDict[int, Sequence[TrainingDocument]] = OrderedDict()
        self._room = 2
        self.digest = hashlib.sha256(json.dumps([self._names, expect, _INDEX_VERSION]).encode()).hexdigest()
        index = self._index()
        lengths = [length for shard in index["lengths"] for length in shard]
        edges = np.cumsum([0, *(len(shard) for shard in index["lengths"])])
        self.layout = Layout(np.asarray(lengths, np.int64), edges.astype(np.int64))
        self._extremes = Extremes(**{name: (str(most[0]), int(most[1])) for name, most in index["extremes"].items()})

    def __getitem__(self, index: int) -> TrainingDocument:
        shard = self.layout.shard_of(index)
        return self._shard(shard)[index - int(self.layout.edges[shard])]

    def check(self, limits: Limits) -> None:
        self._extremes.check(limits)

    def hold(self, shards: int) -> None:
        self._room = max(2, shards + 1)

    def _shard(self, shard: int) -> Sequence[TrainingDocument]:
        """A shard's documents; those read least recently make room."""
        if shard in self._held:
            self._held.move_to_end(shard)
            return self._held[shard]
        while len(self._held) >= self._room:
            self._held.popitem(last=False)
        self._held[shard] = self._read(shard)
        return self._held[shard]

    def _read(self, shard: int) -> Sequence[TrainingDocument]:
        return read_fused(self._store.read(self._names[shard]), self._expect)

    def _index(self) -> dict[str, Any]:
        """What the order and the checks need of every shard, found once and kept in the store."""
        name = f"training/{self.digest[:32]}.json"
        if self._store.find(name) is None:
            content = json.dumps(_look_at(range(len(self._names)), self._read)).encode()
            self._store.publish(name, content, {"shards": len(self._names)})
        index: dict[str, Any] = json.loads(self._store.read(name))
        return index


def _look_at(numbers: Iterable[int], read: Callable[[int], Sequence[TrainingDocument]]) -> dict[str, Any]:
    """Token counts by shard, and the extremes of all documents; each of them is looked at."""
    lengths: list[list[int]] = []
    extremes = Extremes()
    for number in numbers:
        documents = read(number)
        lengths.append([len(document.token_ids_N) for document in documents])
        for document in documents:
            extremes = extremes.and_of(document)
    return {"lengths": lengths, "extremes": asdict(extremes)}


def _check_positions(document: TrainingDocument) -> None:
    positions, tokens = document.evidence.positions_R, len(document.token_ids_N)
    if len(positions) and not 0 <= positions.min() <= positions.max() < tokens:
        raise Mismatch(
            f"document {document.doc_id}: evidence at positions {positions.min()}..{positions.max()} of {tokens} "
            "tokens; these shards belong to other documents"
        )
