"""Hop 1: a source is asked about one corpus shard. Idempotent, as all hops are: same inputs, same bytes, same name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain

import numpy as np

from fusery.core.batches import by_length
from fusery.hops.plan import Plan, ShardTask
from fusery.hops.store import shards
from fusery.hops.store.shards import CapturedDocument, CorpusDocument
from fusery.hops.store.store import Entry, Store
from fusery.hops.tables import At, nowhere
from fusery.source.api import Document, check_ids
from fusery.source.client import SourceClient


def capture(store: Store, plan: Plan, task: ShardTask, client: SourceClient, at: At = nowhere) -> Entry:
    """Hop 1: one source's top-k over one corpus shard, in the source's own vocabulary."""
    source = plan.source(task.source)
    documents = shards.read_corpus(store.read(plan.corpus_shard(task.shard)))
    captured: dict[str, CapturedDocument] = {}
    requests = _requests(batches(documents, plan.capture.batch_bytes), captured, at)
    k = plan.captured_top_k(source)
    answers = client.compute_many(requests, k, plan.capture.log_probs, source.model_fingerprint)
    for answer in chain.from_iterable(answers):
        check_ids(answer, source.vocabulary_size, source.name)
        captured[answer.document_id] = CapturedDocument(
            answer.document_id, answer.token_ids_T, answer.byte_ends_T, answer.top, answer.next_log_probs_T
        )
    in_order = [captured[document.doc_id] for document in documents]
    meta = {"source": source.model_fingerprint, "tokenizer": source.tokenizer_fingerprint}
    content = shards.write_captured(in_order, meta, plan.capture.log_probs)
    tokens = sum(len(document.token_ids_T) for document in in_order)
    mass = float(np.concatenate([document.top.mass_R for document in in_order]).mean(dtype=np.float64))
    known = {"tokens": tokens, "kept_mass": round(mass, 6), "source": source.name}
    return store.publish(plan.artefact(task), content, known)


def _requests(
    batches: Iterable[list[CorpusDocument]], answered: Mapping[str, object], at: At
) -> Iterator[list[Document]]:
    """One request per batch; before each, `at` hears of all documents that are asked and not answered."""
    asked: list[str] = []
    for batch in batches:
        asked = [doc_id for doc_id in asked if doc_id not in answered] + [document.doc_id for document in batch]
        at(asked)
        yield [Document(document.doc_id, document.text) for document in batch]


def batches(documents: list[CorpusDocument], batch_bytes: int) -> Iterator[list[CorpusDocument]]:
    """Documents of similar length together, at most `batch_bytes` of padded text each (at least one document).

    A request is one batch of the model and decides its bits, so this is a function of the shard alone.
    """
    lengths = [len(document.text.encode()) for document in documents]
    for indices in by_length(lengths, batch_bytes):
        yield [documents[index] for index in indices]
