"""The first reading of a corpus: what stands in it, which documents are used, where shards are cut. No text is kept.

In memory lie 33 bytes a document (16 of its text's digest, 8 of its id's and domain's, size, domain, whether it begins
one), about 130 while doubles are looked for; never a text, but for the few with most tokens. The price is a second
reading when the shards are written. In return everything that can be wrong with a file is found before anything is
written, a shard's name is known before its bytes, and memory does not grow with the length of the documents.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import random
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from fusery.config.file import RunFile
from fusery.hops.names import corpus_shard
from fusery.hops.store import shards
from fusery.hops.store.shards import CorpusDocument
from fusery.hops.store.store import Store
from fusery.run.corpus.reading import Report, Side, no_report, pieces
from fusery.runtime.errors import CorpusError

TEXT_BYTES, LABEL_BYTES = 16, 8
_LIKELY_LONGEST, _LIKELY_LONGEST_BYTES = 1024, 8 << 20
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Corpus:
    """The documents of one side of a run, which lie in the store. `digest`: SHA-256 (hex) over all shards' documents.

    `bytes` of text; `domains`: documents by domain, in order of first appearance.
    """

    digest: str
    shards: int
    documents: int
    bytes: int
    domains: dict[str, int]

    def read(self, store: Store) -> Iterator[CorpusDocument]:
        """The documents in order, one shard in memory at a time.

        Raises:
            Unavailable, Corrupt: a shard is not there, or damaged.
        """
        for shard in range(self.shards):
            yield from shards.read_corpus(store.read(corpus_shard(self.digest, shard)))

    def missing(self, store: Store) -> set[int]:
        """The shards that the store lacks. One listing."""
        names = [corpus_shard(self.digest, shard) for shard in range(self.shards)]
        present = store.listed(names[0].rpartition("/")[0])
        return {shard for shard, name in enumerate(names) if name not in present}


@dataclass(frozen=True, slots=True)
class Removed:
    """Documents left out of the training text: `duplicates` stood before, `held_out` are held out.

    `whole_…`: documents of the files of which no piece was left; the others lost some of their pieces.
    """

    duplicates: int
    held_out: int
    whole_duplicates: int
    whole_held_out: int


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """Which pieces of one side are used, in the order of reading, and where its shards begin (cuts[-1]: the end)."""

    corpus: Corpus
    kept: Bools
    cuts: Ints
    checks: list[bytes]
    """For each shard a digest of its documents, by which the second reading is compared with the first."""


@dataclass(frozen=True, slots=True)
class Corpora:
    """Both sides. `key` says what was read; `longest`: some documents with most likely tokens, longest first."""

    train: Corpus
    held_out: Corpus
    removed: Removed
    longest: tuple[CorpusDocument, ...]
    key: str
    skipped: dict[str, int]
    """What of the files was no document, by reason."""
    found: dict[Side, Selection] | None = None
    """What this process found by reading; None: an earlier one did, and left it in the store."""


@dataclass(slots=True)
class _Pieces:
    """What is kept of the pieces of one side."""

    texts: bytearray = field(default_factory=bytearray)
    labels: bytearray = field(default_factory=bytearray)
    sizes: array[int] = field(default_factory=lambda: array("I"))
    domains: array[int] = field(default_factory=lambda: array("I"))
    begins: bytearray = field(default_factory=bytearray)
    longest: list[tuple[int, int, bytes, CorpusDocument]] = field(default_factory=list)
    """A heap: likely tokens, −place, digest of the text, document."""
    _longest_texts: set[bytes] = field(default_factory=set)

    def add(self, document: CorpusDocument, begins: bool, domain: int, longest: int) -> None:
        text, label = checks_of(document)
        size = len(document.text.encode())
        tokens = likely_tokens(document.text)
        is_long = len(self.longest) < longest or tokens > self.longest[0][0]
        if is_long and text not in self._longest_texts:
            self._longest_texts.add(text)
            heapq.heappush(self.longest, (tokens, -len(self.sizes), text, document))
            if len(self.longest) > longest:
                self._longest_texts.discard(heapq.heappop(self.longest)[2])
        self.texts += text
        self.labels += label
        self.sizes.append(size)
        self.domains.append(domain)
        self.begins.append(begins)


def checks_of(document: CorpusDocument) -> tuple[bytes, bytes]:
    """Digests of a document's text, and of its id and domain."""
    text = hashlib.blake2b(document.text.encode(), digest_size=TEXT_BYTES).digest()
    label = hashlib.blake2b(json.dumps([document.doc_id, document.domain]).encode(), digest_size=LABEL_BYTES).digest()
    return text, label


def likely_tokens(text: str) -> int:
    """Orders texts by how many tokens they may have: bytes, non-ASCII ones three times, for they merge less."""
    if text.isascii():
        return len(text)
    return 3 * len(text.encode()) - 2 * len(text.encode("ascii", "ignore"))


def scan(run: RunFile, key: str, report: Report = no_report) -> Corpora:
    """Reads all texts of a run once.

    Raises:
        CorpusError, ConfigError: as `pieces`; or nothing is left on a side.
    """
    spec = run.config.corpus
    found, domains = {side: _Pieces() for side in Side}, dict[str, int]()
    longest = max(16, min(_LIKELY_LONGEST, _LIKELY_LONGEST_BYTES // spec.max_document_bytes))
    skipped = Counter[str]()
    for side, begins, document in pieces(run, report, skipped):
        found[side].add(document, begins, domains.setdefault(document.domain, len(domains)), longest)
    held_out, train = found[Side.HELD_OUT], found[Side.TRAIN]
    if not len(held_out.sizes):
        raise CorpusError(
            f"corpus.held_out_share: {spec.held_out_share} of {sum(train.begins)} documents held none out; raise it, "
            "or name files under corpus.held_out"
        )
    kept_held_out, kept_train, removed = _distinct(held_out, train)
    if not kept_train.any():
        raise CorpusError("corpus.train: every document is held out too; nothing is left to train on")
    kept_train = _sample(kept_train, spec.max_train_documents, run.config.seed)
    kept_held_out = _sample(kept_held_out, spec.max_held_out_documents, run.config.seed)
    names = list(domains)
    sides = {
        Side.TRAIN: _selection(train, kept_train, names, spec.shard_bytes),
        Side.HELD_OUT: _selection(held_out, kept_held_out, names, spec.shard_bytes),
    }
    used = [
        item
        for side, kept in ((train, kept_train), (held_out, kept_held_out))
        for item in side.longest
        if kept[-item[1]]
    ]
    few = max(4, min(64, (1 << 20) // spec.max_document_bytes))
    return Corpora(
        train=sides[Side.TRAIN].corpus,
        held_out=sides[Side.HELD_OUT].corpus,
        removed=removed,
        longest=tuple(document for _, _, _, document in heapq.nlargest(few, used)),
        key=key,
        skipped=dict(skipped),
        found=sides,
    )


def _distinct(held_out: _Pieces, train: _Pieces) -> tuple[Bools, Bools, Removed]:
    """For both sides which pieces stay: each text once, and a held-out one only there."""
    texts = np.frombuffer(held_out.texts + train.texts, np.uint64).reshape(-1, 2)
    order = np.lexsort((texts[:, 1], texts[:, 0]))
    begins_group = np.ones(len(order), bool)
    in_order = texts[order]
    begins_group[1:] = (in_order[1:] != in_order[:-1]).any(axis=1)
    # The sort is stable: a group begins with the text that was read first, and held-out ones were.
    first, size = order[begins_group], len(held_out.sizes)
    kept, is_held_out = np.zeros(len(order), bool), np.zeros(len(order), bool)
    kept[first] = True
    is_held_out[order] = (first < size)[np.cumsum(begins_group) - 1]
    return kept[:size], kept[size:], _removed(train, kept[size:], is_held_out[size:])


def _removed(train: _Pieces, kept: Bools, is_held_out: Bools) -> Removed:
    whole_of = np.cumsum(np.frombuffer(train.begins, np.uint8)) - 1
    pieces_of = np.bincount(whole_of)
    gone = int((np.bincount(whole_of, ~kept) == pieces_of).sum())
    held_out = int((np.bincount(whole_of, is_held_out) == pieces_of).sum())
    return Removed(int((~kept & ~is_held_out).sum()), int(is_held_out.sum()), gone - held_out, held_out)


def _sample(kept: Bools, most: int | None, seed: int) -> Bools:
    """At most `most` of the kept pieces. Held-out ones left out here are not trained on either."""
    places = np.flatnonzero(kept)
    if most is None or most >= len(places):
        return kept
    sampled = np.zeros_like(kept)
    sampled[places[random.Random(seed).sample(range(len(places)), most)]] = True
    return sampled


def _selection(found: _Pieces, kept: Bools, domains: list[str], shard_bytes: int) -> Selection:
    sizes = np.frombuffer(found.sizes, np.uint32)[kept].astype(np.int64)
    cuts = cut(sizes, shard_bytes)
    texts = np.frombuffer(found.texts, np.uint8).reshape(-1, TEXT_BYTES)[kept]
    labels = np.frombuffer(found.labels, np.uint8).reshape(-1, LABEL_BYTES)[kept]
    rows = np.concatenate([texts, labels], axis=1)
    checks = [hashlib.sha256(rows[start:end].tobytes()).digest() for start, end in pairwise(cuts.tolist())]
    ids, first, counts = np.unique(np.frombuffer(found.domains, np.uint32)[kept], return_index=True, return_counts=True)
    corpus = Corpus(
        digest=hashlib.sha256(b"".join(checks)).hexdigest(),
        shards=len(checks),
        documents=len(sizes),
        bytes=int(sizes.sum()),
        domains={domains[ids[i]]: int(counts[i]) for i in np.argsort(first)},
    )
    return Selection(corpus, kept, cuts, checks)


def cut(sizes: Ints, shard_bytes: int) -> Ints:
    """Where shards begin, and the end: each has at most `shard_bytes`, or one document; int64 [shards + 1]."""
    ends = np.cumsum(sizes)
    cuts = [0]
    while cuts[-1] < len(sizes):
        before = ends[cuts[-1] - 1] if cuts[-1] else 0
        cuts.append(max(cuts[-1] + 1, int(np.searchsorted(ends, before + shard_bytes, side="right"))))
    return np.asarray(cuts, np.int64)
