"""The three hops, each a function from artefacts of the store to one new artefact, without Celery.

Every hop is idempotent: the same inputs give the same bytes under the same name, so it may run twice, at the
same time, on two machines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import chain
from typing import Protocol

import numpy as np

from fusery.core import fusion, vocab
from fusery.core.alignment import Side, align
from fusery.core.batches import by_length
from fusery.core.fusion import AlignedSource
from fusery.core.projection import project, project_as_reference
from fusery.core.reference import with_fallback
from fusery.core.rules import Positions
from fusery.core.tokens import ByteTokenizer, TokenizedText
from fusery.core.topk import IntArray, TopK, VocabularyMap
from fusery.errors import Corrupt, InvalidInput
from fusery.formats import shards
from fusery.formats.shards import AlignedDocument, CapturedDocument, CorpusDocument, FusedDocument
from fusery.formats.store import Entry, Store
from fusery.source.api import Document, check_ids
from fusery.source.client import SourceClient
from fusery.worker import facts
from fusery.worker.plan import Hop, Plan, PlannedSource, ShardTask, tokenizer_name

At = Callable[[Sequence[str]], None]
"""Is told the ids of the documents that are about to be worked on, so that a killed attempt can name them."""


def _nowhere(_: Sequence[str]) -> None:
    pass


def capture(store: Store, plan: Plan, task: ShardTask, client: SourceClient, at: At = _nowhere) -> Entry:
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


def align_shard(store: Store, plan: Plan, task: ShardTask, at: At = _nowhere) -> Entry:
    """Hop 2: a source's captured shard at the target's positions, in cells that both vocabularies share."""
    source = plan.source(task.source)
    documents = shards.read_corpus(store.read(plan.corpus_shard(task.shard)))
    texts, names = [document.text for document in documents], [document.doc_id for document in documents]
    at(names)
    expect = {"tokenizer": source.tokenizer_fingerprint}
    upstream = plan.artefact(ShardTask(Hop.CAPTURE, task.source, task.shard))
    captured = _first(shards.read_captured(store.read(upstream), expect), plan.used_top_k(source))
    source_tokenizer = load_tokenizer(store, source.tokenizer_fingerprint)
    target_tokenizer = load_tokenizer(store, plan.target_tokenizer_fingerprint)
    vocabulary = load_vocabulary_map(store, plan, source)
    targets = target_tokenizer.tokenize_batch(texts, names)
    sources = source_tokenizer.tokenize_batch(texts, names)
    images = facts.token_images(vocabulary, source_tokenizer, target_tokenizer)
    tally = facts.Tally(images, drops_duplicates=plan.alignment.positions is Positions.REFERENCE)
    aligned = []
    for document, answer, source_text, target_text in zip(documents, captured, sources, targets, strict=True):
        at([document.doc_id])
        _check_tokens(document.doc_id, source.name, answer, source_text)
        target_tokenizer.check_ids(target_text)
        sides = Side(source_tokenizer, source_text), Side(target_tokenizer, target_text)
        pairs = align(plan.alignment.positions, *sides, vocabulary, plan.alignment.ties)
        # An inference server may have nothing to say at a row: that is no evidence.
        pairs = pairs.take(np.flatnonzero(answer.top.mass_R[pairs.source_rows_R] > 0))
        used = answer.top.take(pairs.source_rows_R)
        tally.add(document.domain, source_text, target_text, used)
        cost = fusion.cost_of(plan.fusion.cost, answer.next_log_probs_T, source_text.predicted_bytes_T)
        evidence = _evidence(plan, cost, pairs.target_positions_R, used, sides[1], vocabulary)
        aligned.append(AlignedDocument(document.doc_id, document.domain, len(target_text.ids_T), evidence))
    meta = {"source": source.tokenizer_fingerprint, "target": plan.target_tokenizer_fingerprint}
    known = {**tally.facts(), "source": source.name}
    return store.publish(plan.artefact(task), shards.write_aligned(aligned, meta), known)


def _first(captured: list[CapturedDocument], k: int) -> list[CapturedDocument]:
    """The documents with the first `k` entries of every row: what a capture of k entries would have kept."""
    return [
        replace(
            document,
            top=TopK(
                np.ascontiguousarray(document.top.ids_RK[:, :k]), np.ascontiguousarray(document.top.log_probs_RK[:, :k])
            ),
        )
        for document in captured
    ]


def _check_tokens(doc_id: str, source: str, answer: CapturedDocument, text: TokenizedText) -> None:
    if np.array_equal(answer.token_ids_T, text.ids_T) and np.array_equal(answer.byte_ends_T, text.byte_ends_T):
        return
    raise InvalidInput(
        f"document {doc_id}: source {source} tokenised it differently from its own tokenizer; "
        "the server's tokenizer library and the worker's must be the same version"
    )


def _evidence(
    plan: Plan,
    cost: float,
    positions_R: IntArray,
    used: TopK,
    target: Side,
    vocabulary: VocabularyMap,
) -> AlignedSource:
    """The captured rows `used`, which speak at `positions_R`, in shared cells; other positions get the fallback."""
    as_reference = plan.alignment.positions is Positions.REFERENCE
    top = (project_as_reference if as_reference else project)(used, vocabulary.cell_of_source_V)
    first = len(target.tokenizer.prefix_ids) if as_reference else 0
    cells = vocabulary.cell_of_target_V
    positions_R, top = with_fallback(plan.alignment.fallback, positions_R, top, target.text.ids_T, cells, first)
    return AlignedSource(positions_R, top, cost)


def fuse_shard(store: Store, plan: Plan, task: ShardTask, at: At = _nowhere) -> Entry:
    """Hop 3: the evidence of all sources for one corpus shard, fused; with the target's tokens."""
    documents = shards.read_corpus(store.read(plan.corpus_shard(task.shard)))
    texts, names = [document.text for document in documents], [document.doc_id for document in documents]
    at(names)
    expect = {"target": plan.target_tokenizer_fingerprint}
    per_source = [shards.read_aligned(store.read(plan.artefact(need)), expect) for need in plan.needs(task)]
    tokenizer = load_tokenizer(store, plan.target_tokenizer_fingerprint)
    targets = tokenizer.tokenize_batch(texts, names)
    of_documents = [[rows[i].source for rows in per_source] for i in range(len(documents))]
    fused = [
        FusedDocument(
            document.doc_id,
            document.domain,
            target.ids_T,
            fusion.fuse(plan.fusion.rule, sources, plan.fusion.temperature),
        )
        for document, target, sources in zip(documents, targets, of_documents, strict=True)
    ]
    shares = facts.of_fused(fused, plan)
    fused = [replace(d, evidence=fusion.merged(d.evidence, plan.cell_spaces)) for d in fused]
    meta = {
        "target": plan.target_tokenizer_fingerprint,
        "sources": [source.name for source in plan.sources],
        "vocabulary_maps": [plan.vocabulary_map(source.name) for source in plan.sources],
    }
    known = {**shares, **meta, "rule": plan.fusion.rule.value, **shards.fused_facts(fused)}
    return store.publish(plan.artefact(task), shards.write_fused(fused, meta), known)


def load_tokenizer(store: Store, fingerprint: str) -> ByteTokenizer:
    """The tokenizer that `fingerprint` names, as its source or target gave it."""
    return _tokenizer(store.url, fingerprint)


@lru_cache(maxsize=16)
def _tokenizer(store_url: str, fingerprint: str) -> ByteTokenizer:
    name = tokenizer_name(fingerprint)
    tokenizer = ByteTokenizer.from_definition(Store(store_url).read(name).decode())
    if tokenizer.fingerprint != fingerprint:
        raise Corrupt(
            f"{name}: its fingerprint is {tokenizer.fingerprint[:16]}, the plan says {fingerprint[:16]}; it was "
            "changed, or this worker has another version of tokenizers than the run; it is published again",
            name,
        )
    return tokenizer


def load_vocabulary_map(store: Store, plan: Plan, source: PlannedSource) -> VocabularyMap:
    """The source's map to the target's vocabulary, built and stored if nobody has yet."""
    return _vocabulary_map(store.url, plan.model_dump_json(), source.name)


@lru_cache(maxsize=16)
def _vocabulary_map(store_url: str, plan_json: str, source_name: str) -> VocabularyMap:
    store, plan = Store(store_url), Plan.model_validate_json(plan_json)
    name, source = plan.vocabulary_map(source_name), plan.source(source_name)
    if store.find(name) is None:
        built = vocab.build(
            plan.alignment.vocabulary,
            load_tokenizer(store, source.tokenizer_fingerprint),
            load_tokenizer(store, plan.target_tokenizer_fingerprint),
            plan.alignment.positions,
        )
        meta = {"source": source.tokenizer_fingerprint, "target": plan.target_tokenizer_fingerprint}
        store.publish(name, shards.write_vocabulary_map(built, meta), {"cells": built.cells})
    return shards.read_vocabulary_map(store.read(name))


class ShardHop(Protocol):
    """A hop that needs nothing but the store."""

    def __call__(self, store: Store, plan: Plan, task: ShardTask, at: At = ...) -> Entry: ...


HOPS: Mapping[Hop, ShardHop] = {Hop.ALIGN: align_shard, Hop.FUSE: fuse_shard}
