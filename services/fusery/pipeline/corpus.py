"""Corpora: documents read from files, split, deduplicated, sampled, and published as content-named shards.

Splitting, sampling and removal happen once, before any tokenizer is asked, so every source and the target see
the same documents. A held-out document never stands in the training text too: exact doubles leave it.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fusery.errors import CorpusError
from fusery.formats import shards
from fusery.formats.shards import CorpusDocument
from fusery.formats.store import Store
from fusery.pipeline.corpus_files import read_path
from fusery.pipeline.corpus_hub import read_dataset
from fusery.run_config import CorpusFile, CorpusSpec
from fusery.run_file import RunFile
from fusery.worker.plan import corpus_shard


@dataclass(frozen=True, slots=True)
class Corpus:
    """The documents of one part of a run. `digest`: SHA-256 (hex) over ids, domains and texts, in order."""

    documents: tuple[CorpusDocument, ...]
    shard_documents: int

    @property
    def digest(self) -> str:
        content = hashlib.sha256(str(self.shard_documents).encode())
        for document in self.documents:
            content.update(json.dumps([document.doc_id, document.domain, document.text]).encode())
        return content.hexdigest()

    @property
    def shards(self) -> int:
        return -(-len(self.documents) // self.shard_documents)

    @property
    def domains(self) -> list[str]:
        """The domains, in order of first appearance."""
        return list(dict.fromkeys(document.domain for document in self.documents))

    def publish(self, store: Store) -> None:
        """Writes the shards that the store lacks."""
        digest = self.digest
        for shard in range(self.shards):
            name = corpus_shard(digest, shard)
            if store.find(name) is None:
                rows = self.documents[shard * self.shard_documents : (shard + 1) * self.shard_documents]
                store.publish(name, shards.write_corpus(rows, {"corpus": digest}), {"documents": len(rows)})


@dataclass(frozen=True, slots=True)
class Corpora:
    train: Corpus
    held_out: Corpus
    removed_duplicates: int
    """Training documents left out because the same text is held out or stood before."""


def read_corpora(run: RunFile) -> Corpora:
    """The training and held-out documents of a run.

    Raises:
        CorpusError: a file is missing or unreadable, or there is no text in it; names file and line or row.
        ConfigError: a dataset's name, config or split is wrong, or the package that reads it is missing.
    """
    spec = run.config.corpus
    held_out, _ = _distinct(_read_part(run, spec.held_out, spec), set())
    seen = {document.text for document in held_out}
    train, removed = _distinct(_read_part(run, spec.train, spec), seen)
    if not train:
        raise CorpusError("corpus.train: every document is held out too; nothing is left to train on")
    train = _sample(train, spec.max_train_documents, run.config.seed)
    held_out = _sample(held_out, spec.max_held_out_documents, run.config.seed)
    size = spec.shard_documents
    return Corpora(Corpus(tuple(train), size), Corpus(tuple(held_out), size), removed)


def _sample(documents: list[CorpusDocument], most: int | None, seed: int) -> list[CorpusDocument]:
    """At most `most` of the documents, in their order. Held-out ones left out here are not trained on either."""
    if most is None or most >= len(documents):
        return documents
    chosen = random.Random(seed).sample(range(len(documents)), most)
    return [documents[index] for index in sorted(chosen)]


def _distinct(documents: Sequence[CorpusDocument], seen: set[str]) -> tuple[list[CorpusDocument], int]:
    """Documents whose text is not in `seen` and did not stand before, and how many were left out."""
    known, kept = set(seen), []
    for document in documents:
        if document.text not in known:
            known.add(document.text)
            kept.append(document)
    return kept, len(documents) - len(kept)


def _read_part(run: RunFile, files: Sequence[CorpusFile], spec: CorpusSpec) -> list[CorpusDocument]:
    documents = []
    for index, file in enumerate(files):
        found = [piece for whole in _read_entry(run, file, index) for piece in split(whole, spec.max_document_bytes)]
        if not found:
            place = file.path if file.dataset else run.resolve(file.path)
            raise CorpusError(f"{place}: no text in it; expected documents with text (column {file.text_column!r})")
        documents.extend(found)
    return documents


def _read_entry(run: RunFile, file: CorpusFile, index: int) -> Iterator[CorpusDocument]:
    if file.dataset is not None:
        return read_dataset(run, file, index)
    path = Path(run.resolve(file.path))
    return read_path(path, file, f"{index}-{path.name}")


def split(document: CorpusDocument, max_bytes: int) -> Iterator[CorpusDocument]:
    """Pieces of at most `max_bytes` UTF-8 bytes, cut after white space where there is any; blank ones are left out."""
    text, start, number = document.text, 0, 0
    end = len(text.rstrip())
    while start < end:
        # A character has a byte at least: more than the window never fits, and the rest need not be looked at.
        piece = text[start : start + max_bytes + 1]
        content = piece.encode()
        if len(content) > max_bytes:
            # Cutting bytes may cut a character; dropping the broken end gives whole ones.
            head = content[:max_bytes].decode(errors="ignore")
            cut = max(head.rfind("\n"), head.rfind(" ")) + 1
            piece = head[:cut] if head[:cut].strip() else head
        if piece.strip():
            name = document.doc_id if len(piece) == len(text) else f"{document.doc_id}#{number}"
            yield CorpusDocument(name, document.domain, piece)
        start, number = start + len(piece), number + 1
