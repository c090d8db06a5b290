"""The corpora of a run: read, split, deduplicated, sampled, published as content-named shards, and tried on its models.

Splitting, sampling and removal happen once, before any tokenizer is asked, so every source and the target see
the same documents. A held-out document never stands in the training text too: exact doubles leave it.

What a reading found is kept in the store under a key of what was read. The next command finds it there and reads no
text; a reading that was broken off leaves shards under their right names, and no such index.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from fusery.config.file import RunFile
from fusery.core.batches import MOST_DOCUMENTS, by_length
from fusery.core.tokens import ByteTokenizer, TokenizedText
from fusery.hops.names import corpus_shard
from fusery.hops.store import shards
from fusery.hops.store.shards import CorpusDocument
from fusery.hops.store.store import Store
from fusery.run.corpus.reading import Report, Side, no_report, pieces, reading_key
from fusery.run.corpus.scan import Corpora, Corpus, Removed, Selection, checks_of, scan
from fusery.runtime.errors import ConfigError, CorpusError, Corrupt, InvalidInput, ModelError, TooLarge
from fusery.source.api import Document, ModelDescription, check_tokens


def open_corpora(run: RunFile, store: Store | None, report: Report = no_report) -> Corpora:
    """The corpora of a run, from the store's index, else by reading all texts once. Writes nothing.

    Raises:
        CorpusError: a file is missing or unreadable, or there is no text in it; names file and line or row.
        ConfigError: a dataset's name, config or split is wrong; or the store can't be read.
        Unavailable: the store does not answer.
    """
    key = reading_key(run)
    known = None if store is None else _known(store, key)
    return known or scan(run, key, report)


def publish_corpora(run: RunFile, corpora: Corpora, store: Store, report: Report = no_report) -> None:
    """Writes the shards that the store lacks, and the index when all of them are there.

    Raises:
        CorpusError: the files were changed while they were read.
    """
    missing = {Side.TRAIN: corpora.train.missing(store), Side.HELD_OUT: corpora.held_out.missing(store)}
    if any(missing.values()):
        if corpora.found is None:
            read_again = scan(run, corpora.key, report)
            if replace(read_again, found=None) != corpora:
                raise _changed(run)
            corpora = read_again
        assert corpora.found is not None, "just read"
        writers = {side: _Writer(run, found, store, missing[side]) for side, found in corpora.found.items()}
        total = corpora.train.shards + corpora.held_out.shards
        # The second reading.
        for side, _, document in pieces(run):
            if writers[side].add(document):
                report("corpus", sum(writer.shard for writer in writers.values()), total, "shards")
        if any(not writer.is_complete for writer in writers.values()):
            raise _changed(run)
    if corpora.found is not None:
        store.write_note(_index_name(corpora.key), _to_json(corpora))


class _Writer:
    """Publishes the chosen ones of a side's documents, a shard at a time."""

    def __init__(self, run: RunFile, selection: Selection, store: Store, missing: set[int]) -> None:
        self._run, self._selection, self._store, self._missing = run, selection, store, missing
        self._rows: list[CorpusDocument] = []
        self._place, self.shard = 0, 0

    def add(self, document: CorpusDocument) -> bool:
        """True where a shard is complete with it."""
        found, place, shard = self._selection, self._place, self.shard
        self._place += 1
        if place >= len(found.kept):
            raise _changed(self._run)
        if not found.kept[place]:
            return False
        self._rows.append(document)
        if len(self._rows) < found.cuts[shard + 1] - found.cuts[shard]:
            return False
        checks = hashlib.sha256(b"".join(part for row in self._rows for part in checks_of(row))).digest()
        if checks != found.checks[shard]:
            raise _changed(self._run)
        if shard in self._missing:
            digest = found.corpus.digest
            content = shards.write_corpus(self._rows, {"corpus": digest})
            self._store.publish(corpus_shard(digest, shard), content, {"documents": len(self._rows)})
        self._rows, self.shard = [], shard + 1
        return True

    @property
    def is_complete(self) -> bool:
        return self._place == len(self._selection.kept) and self.shard == self._selection.corpus.shards


def _changed(run: RunFile) -> CorpusError:
    return CorpusError(
        f"{run.path}: files of corpus.train or corpus.held_out were changed while they were read; leave them alone "
        "and run the same command again"
    )


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


def check_documents(file: RunFile, corpora: Corpora, role: str, tokenizer: ByteTokenizer, limit: int) -> list[int]:
    """The documents with the most tokens, as far as their bytes tell, fit `limit` tokens and are spelled by them.

    How many tokens they have comes back. All documents are read where the tokenizer has tokens that its model lacks.

    Raises:
        CorpusError: one is too long.
        ModelError: one can't be spelled, or needs a token without an embedding; or nothing of a domain's is spelled.
    """
    if tokenizer.reads_past_model:
        for piece in pieces(file):
            _ids(piece.document, role, tokenizer)
    counts, spelled = [], Counter[str]()
    for document in corpora.longest:
        text = _ids(document, role, tokenizer)
        tokens = len(text.ids_T)
        spelled[document.domain] += text.predicted_bytes if tokens > 1 else 1
        if tokens > limit:
            raise CorpusError(
                f"document {document.doc_id} has {tokens} tokens, {role} holds at most {limit}; lower "
                f"corpus.max_document_bytes (now {file.config.corpus.max_document_bytes})"
            )
        counts.append(tokens)
    if unread := [domain for domain, count in spelled.items() if not count]:
        raise ModelError(
            f"{role}: its tokenizer spells nothing of the documents of domain {unread[0]!r}: it drops or changes them, "
            "or does not know their characters; take another model, or leave these documents out"
        )
    return counts


def _ids(document: CorpusDocument, role: str, tokenizer: ByteTokenizer) -> TokenizedText:
    try:
        text = tokenizer.tokenize(document.text)
        tokenizer.check_ids(text)
    except ModelError as error:
        raise ModelError(f"document {document.doc_id}, {role}: {error}") from error
    return text


def check_requests(file: RunFile, corpora: Corpora, name: str, model: ModelDescription, tokens: Sequence[int]) -> None:
    """The batches that a run makes of its longest documents are within the limits of the source's server.

    Raises:
        ConfigError: they are not, or batches of usual documents are not.
    """
    documents = [Document(document.doc_id, document.text) for document in corpora.longest]
    lengths = [len(document.text.encode()) for document in documents]
    k = min(file.config.capture.top_k, model.vocabulary_size)
    for key, batch_bytes, entries in (
        ("capture.batch_bytes", file.config.capture.batch_bytes, k),
        ("evaluation.batch_bytes", file.config.evaluation.batch_bytes, 1),
    ):
        average = max(1, corpora.train.bytes // corpora.train.documents)
        if min(batch_bytes // average, MOST_DOCUMENTS) > model.limits.max_documents:
            raise ConfigError(
                f"{file.path}: {key} is {batch_bytes}, about {batch_bytes // average} documents in one request; "
                f"the server of source {name} takes at most {model.limits.max_documents}; lower {key}"
            )
        for batch in by_length(lengths, batch_bytes):
            try:
                check_tokens([documents[i] for i in batch], [tokens[i] for i in batch], entries, model)
            except (TooLarge, InvalidInput) as error:
                raise ConfigError(
                    f"{file.path}: {key} is {batch_bytes}, too much for the server of source {name}: {error}; "
                    f"lower {key}, or raise the server's limits"
                ) from error
