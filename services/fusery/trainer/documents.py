"""Where the documents of a training come from: memory, or fused shards in a store, read as the training goes.

What the order and the checks need (each document's number of tokens, the largest ids) stands in the entries of the
shards, so a start opens none of them. The entries are read once, many at a time; what they say is kept in the store,
where later starts and the CLM baseline find it with one read.
After that, memory holds the shards of about one window (see `order`), whatever the size of the corpus.

Dimensions: D documents, S shards, N tokens of a document.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from fusery.core.fusion import Evidence
from fusery.core.topk import IntArray
from fusery.hops.store.shards import read_fused
from fusery.hops.store.store import Store
from fusery.runtime.errors import CorpusError, Corrupt, Mismatch, TooLarge, Unavailable
from fusery.runtime.text.json import parse_json
from fusery.trainer.order import Layout

_INDEX_VERSION = 2
_ENTRIES_AT_A_TIME = 16
"""Reads of a bucket wait for the network: so many of them at once, and 100,000 entries take a minute or two."""


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

    tokens: Most
    token_id: Most
    source: Most

    @classmethod
    def of(cls, shards: Iterable[Mapping[str, Any]]) -> Extremes:
        """Those of all shards, from what `shards.fused_facts` says of each."""
        known = list(shards)

        def most(name: str) -> Most:
            doc_id, amount = max((one[name] for one in known), key=lambda pair: pair[1], default=("", -1))
            return str(doc_id), int(amount)

        return cls(most("longest"), most("largest_token_id"), most("largest_source"))

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


class Stored:
    """The documents of fused shards in a store. `expect`: fields of the shards' header that must be so."""

    def __init__(self, store: Store, names: Sequence[str], expect: dict[str, Any]) -> None:
        self._store, self._names, self._expect = store, tuple(names), expect
        self._held: OrderedDict[int, Sequence[TrainingDocument]] = OrderedDict()
        self._room = 2
        self.digest = hashlib.sha256(json.dumps([self._names, expect, _INDEX_VERSION]).encode()).hexdigest()
        shards = self._index()
        lengths = [length for shard in shards for length in shard["document_tokens"]]
        edges = np.cumsum([0, *(len(shard["document_tokens"]) for shard in shards)])
        self.layout = Layout(np.asarray(lengths, np.int64), edges.astype(np.int64))
        self._extremes = Extremes.of(shards)

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
        """The documents of a shard, checked; a damaged one is taken away, so that the run makes it again."""
        name = self._names[shard]
        try:
            documents = read_fused(self._store.read(name), self._expect)
        except Corrupt:
            self._store.discard(name)
            raise
        known = self.layout.lengths_D[self.layout.edges[shard] : self.layout.edges[shard + 1]].tolist()
        if [len(document.token_ids_N) for document in documents] != known:
            raise Mismatch(f"{name}: its documents have other lengths than its entry says; fuse again")
        for document in documents:
            check_positions(document)
        return documents

    def _index(self) -> list[dict[str, Any]]:
        """What the entries say of every shard, in order; found once and kept in the store."""
        name = f"training/{self.digest[:32]}.json"
        if self._store.find(name) is None:
            with ThreadPoolExecutor(_ENTRIES_AT_A_TIME) as pool:
                known = list(pool.map(self._known, self._names))
            self._store.publish(name, json.dumps(known).encode(), {"shards": len(self._names)})
        index: list[dict[str, Any]] = parse_json(self._store.read(name))
        return index

    def _known(self, name: str) -> dict[str, Any]:
        """What the entry of one shard says that a training needs.

        Raises:
            Unavailable: the shard is not there, or not whole.
            Mismatch: it was made for another target or run.
        """
        entry = self._store.find(name)
        if entry is None:
            raise Unavailable(f"{name}: not in the store {self._store.url}, or cut off; run the fuse hop again")
        for key, wanted in self._expect.items():
            if (found := entry.facts.get(key)) != wanted:
                raise Mismatch(f"{name}: {key} is {found!r}, expected {wanted!r}; make it again for this run")
        try:
            return {key: entry.facts[key] for key in _NEEDED}
        except KeyError as error:
            raise Mismatch(f"{name}: its entry does not say {error}; remove {name} and fuse again") from error


_NEEDED = ("document_tokens", "longest", "largest_token_id", "largest_source")


def check_positions(document: TrainingDocument) -> None:
    """Returns if the evidence stands at positions that the document has.

    Raises:
        Mismatch: it does not.
    """
    positions, tokens = document.evidence.positions_R, len(document.token_ids_N)
    if len(positions) and not 0 <= positions.min() <= positions.max() < tokens:
        raise Mismatch(
            f"document {document.doc_id}: evidence at positions {positions.min()}..{positions.max()} of {tokens} "
            "tokens; these shards belong to other documents"
        )
