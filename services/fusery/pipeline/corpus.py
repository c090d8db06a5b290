"""Corpora: documents read from files, split, deduplicated, sampled, and published as content-named shards.

Splitting, sampling and removal happen once, before any tokenizer is asked, so every source and the target see
the same documents. A held-out document never stands in the training text too: exact doubles leave it.

What a reading found is kept in the store under a key of what was read. The next command finds it there and reads no
text; a reading that was broken off leaves shards under their right names, and no such index.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from fusery.errors import CorpusError, Corrupt
from fusery.formats import shards
from fusery.formats.shards import CorpusDocument
from fusery.formats.store import Store
from fusery.pipeline.corpus_reading import Report, Side, no_report, pieces, reading_key
from fusery.pipeline.corpus_scan import Removed, Scan, Selection, checks_of, scan
from fusery.run_file import RunFile
from fusery.worker.plan import corpus_shard


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

    def missing(self, store: Store) -> list[int]:
        """The shards that the store lacks. One listing."""
        names = [corpus_shard(self.digest, shard) for shard in range(self.shards)]
        present = store.listed(names[0].rpartition("/")[0])
        return [shard for shard, name in enumerate(names) if name not in present]


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
    found: Scan | None = None
    """What this process found by reading; None: an earlier one did, and left it in the store."""


def open_corpora(run: RunFile, store: Store | None, report: Report = no_report) -> Corpora:
    """The corpora of a run, from the store's index, else by reading all texts once. Writes nothing.

    Raises:
        CorpusError: a file is missing or unreadable, or there is no text in it; names file and line or row.
        ConfigError: a dataset's name, config or split is wrong; or the store can't be read.
        Unavailable: the store does not answer.
    """
    key = reading_key(run)
    known = None if store is None else _known(store, key)
    return known or _corpora(scan(run, report), key)


def publish_corpora(run: RunFile, corpora: Corpora, store: Store, report: Report = no_report) -> None:
    """Writes the shards that the store lacks, and the index when all of them are there.

    Raises:
        CorpusError: the files were changed while they were read.
    """
    missing = {side: set(corpus.missing(store)) for side, corpus in _sides(corpora).items()}
    if any(missing.values()):
        if corpora.found is None:
            read_again = _corpora(scan(run, report), corpora.key)
            if replace(read_again, found=None) != corpora:
                raise _changed(run)
            corpora = read_again
        assert corpora.found is not None, "just read"
        _write(run, corpora.found, store, missing, report)
    if corpora.found is not None:
        store.write_note(_index_name(corpora.key), _to_json(corpora))


def _write(run: RunFile, found: Scan, store: Store, missing: dict[Side, set[int]], report: Report) -> None:
    """The second reading."""
    writers = {side: _Writer(run, found.sides[side], store, missing[side]) for side in Side}
    total = sum(writer.shards for writer in writers.values())
    for side, _, document in pieces(run):
        if writers[side].add(document):
            report("corpus", sum(writer.shard for writer in writers.values()), total, "shards")
    if any(not writer.is_complete for writer in writers.values()):
        raise _changed(run)


class _Writer:
    """Publishes the chosen ones of a side's documents, a shard at a time."""

    def __init__(self, run: RunFile, selection: Selection, store: Store, missing: set[int]) -> None:
        self._run, self._selection, self._store, self._missing = run, selection, store, missing
        self._rows: list[CorpusDocument] = []
        self._place = 0
        self.shard, self.shards = 0, len(selection.checks)

    def add(self, document: CorpusDocument) -> bool:
        """True where a shard is complete with it."""
        if self._place >= len(self._selection.kept):
            raise _changed(self._run)
        self._place += 1
        if not self._selection.kept[self._place - 1]:
            return False
        self._rows.append(document)
        cuts = self._selection.cuts
        if len(self._rows) < cuts[self.shard + 1] - cuts[self.shard]:
            return False
        self._publish()
        return True

    def _publish(self) -> None:
        checks = hashlib.sha256(b"".join(part for row in self._rows for part in checks_of(row))).digest()
        if checks != self._selection.checks[self.shard]:
            raise _changed(self._run)
        if self.shard in self._missing:
            digest = self._selection.digest
            content = shards.write_corpus(self._rows, {"corpus": digest})
            self._store.publish(corpus_shard(digest, self.shard), content, {"documents": len(self._rows)})
        self._rows, self.shard = [], self.shard + 1

    @property
    def is_complete(self) -> bool:
        return self._place == len(self._selection.kept) and self.shard == self.shards


def _changed(run: RunFile) -> CorpusError:
    return CorpusError(
        f"{run.path}: files of corpus.train or corpus.held_out were changed while they were read; leave them alone "
        "and run the same command again"
    )


def _sides(corpora: Corpora) -> dict[Side, Corpus]:
    return {Side.TRAIN: corpora.train, Side.HELD_OUT: corpora.held_out}


def _corpora(found: Scan, key: str) -> Corpora:
    train, held_out = (
        Corpus(s.digest, len(s.checks), s.documents, s.bytes, s.domains)
        for s in (found.sides[Side.TRAIN], found.sides[Side.HELD_OUT])
    )
    return Corpora(train, held_out, found.removed, found.longest, key, found.skipped, found)


def _index_name(key: str) -> str:
    return f"readings/{key}.json"


def _to_json(corpora: Corpora) -> dict[str, Any]:
    content = asdict(replace(corpora, found=None))
    for side in ("train", "held_out"):
        # Notes sort their keys.
        content[side]["domains"] = list(content[side]["domains"].items())
    return content


def _known(store: Store, key: str) -> Corpora | None:
    try:
        note = store.read_note(_index_name(key))
    except (Corrupt, ValueError):
        # Reading the files again is always right.
        return None
    if note is None:
        return None
    train, held_out = (
        Corpus(**{**note[side], "domains": dict(note[side]["domains"])}) for side in ("train", "held_out")
    )
    return Corpora(
        train=train,
        held_out=held_out,
        removed=Removed(**note["removed"]),
        longest=tuple(CorpusDocument(**fields) for fields in note["longest"]),
        key=key,
        skipped=note["skipped"],
    )
