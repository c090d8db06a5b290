"""The three hops, each a function from artefacts of the store to one new artefact, without Celery.

Every hop is idempotent: the same inputs give the same bytes under the same name, so it may run twice, at the
same time, on two machines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from fusery.core import fusion, vocab
from fusery.core.alignment import Side, align
from fusery.core.batches import by_length
from fusery.core.fusion import AlignedSource
from fusery.core.projection import project
from fusery.core.rules import Fallback
from fusery.core.tokens import ByteTokenizer, TokenizedText
from fusery.core.topk import PAD, TopK, empty
from fusery.core.vocab import VocabularyMap
from fusery.errors import InvalidInput
from fusery.formats import shards
from fusery.formats.shards import AlignedDocument, CapturedDocument, CorpusDocument, FusedDocument
from fusery.formats.store import Entry, Store
from fusery.source.api import Document
from fusery.source.client import SourceClient
from fusery.worker.plan import Hop, Plan, PlannedSource, ShardTask, tokenizer_name

Facts = dict[str, Any]


def capture(store: Store, plan: Plan, task: ShardTask, client: SourceClient) -> Entry:
    """Hop 1: one source's top-k over one corpus shard, in the source's own vocabulary."""
    source = plan.source(task.source)
    documents = shards.read_corpus(store.read(plan.corpus_shard(task.shard)))
    k = min(plan.capture.top_k, source.vocabulary_size)
    captured: dict[str, CapturedDocument] = {}
    for batch in batches(documents, plan.capture.batch_bytes):
        request = [Document(document.doc_id, document.text) for document in batch]
        for answer in client.compute(request, k, plan.capture.log_probs, source.model_fingerprint):
            captured[answer.document_id] = CapturedDocument(
                answer.document_id, answer.token_ids_T, answer.byte_ends_T, answer.top, answer.next_log_probs_T
            )
    in_order = [captured[document.doc_id] for document in documents]
    meta = {"source": source.model_fingerprint, "tokenizer": source.tokenizer_fingerprint}
    content = shards.write_captured(in_order, meta, plan.capture.log_probs)
    tokens = sum(len(document.token_ids_T) for document in in_order)
    mass = float(np.concatenate([document.top.mass_R for document in in_order]).mean(dtype=np.float64))
    return store.publish(plan.artefact(task), content, {"tokens": tokens, "kept_mass": round(mass, 6)})


def batches(documents: list[CorpusDocument], batch_bytes: int) -> Iterator[list[CorpusDocument]]:
    """Documents of similar length together, at most `batch_bytes` of padded text each (at least one document).

    A request is one batch of the model and decides its bits, so this is a function of the shard alone.
    """
    lengths = [len(document.text.encode()) for document in documents]
    for indices in by_length(lengths, batch_bytes):
        yield [documents[index] for index in indices]


def align_shard(store: Store, plan: Plan, task: ShardTask) -> Entry:
    """Hop 2: a source's captured shard at the target's positions, in cells that both vocabularies share."""
    source = plan.source(task.source)
    documents = shards.read_corpus(store.read(plan.corpus_shard(task.shard)))
    expect = {"tokenizer": source.tokenizer_fingerprint}
    upstream = plan.artefact(ShardTask(Hop.CAPTURE, task.source, task.shard))
    captured = shards.read_captured(store.read(upstream), expect)
    source_tokenizer = load_tokenizer(store, source.tokenizer_fingerprint)
    target_tokenizer = load_tokenizer(store, plan.target_tokenizer_fingerprint)
    vocabulary = load_vocabulary_map(store, plan, source)
    targets = target_tokenizer.tokenize_batch([document.text for document in documents])
    sources = source_tokenizer.tokenize_batch([document.text for document in documents])
    aligned = []
    for document, answer, source_text, target_text in zip(documents, captured, sources, targets, strict=True):
        if not np.array_equal(answer.token_ids_T, source_text.ids_T):
            raise InvalidInput(
                f"document {document.doc_id}: source {source.name} tokenised it differently from its own tokenizer; "
                "the server's tokenizer library and the worker's must be the same version"
            )
        pairs = align(
            plan.alignment.positions,
            Side(source_tokenizer, source_text),
            Side(target_tokenizer, target_text),
            vocabulary,
        )
        top = project(answer.top.take(pairs.source_rows_R), vocabulary.cell_of_source_V)
        evidence = AlignedSource(
            pairs.target_positions_R,
            top,
            fusion.quality_of(plan.fusion.quality, answer.next_log_probs_T, answer.byte_ends_T),
        )
        aligned.append(AlignedDocument(document.doc_id, document.domain, len(target_text.ids_T), evidence))
    coverage = _coverage(aligned)
    if plan.alignment.fallback is Fallback.NEXT_TOKEN:
        aligned = [_with_next_token(*pair, vocabulary) for pair in zip(aligned, targets, strict=True)]
    meta = {"source": source.tokenizer_fingerprint, "target": plan.target_tokenizer_fingerprint}
    return store.publish(plan.artefact(task), shards.write_aligned(aligned, meta), coverage)


def _with_next_token(document: AlignedDocument, target: TokenizedText, vocabulary: VocabularyMap) -> AlignedDocument:
    """The document with all mass on the cell of the token that does follow, where there is no evidence."""
    evidence = document.source
    missing = np.setdiff1d(np.arange(len(target.ids_T) - 1), evidence.positions_R)
    cells = vocabulary.cell_of_target_V[target.ids_T[missing + 1]]
    missing, cells = missing[cells != PAD], cells[cells != PAD]
    sure = empty(len(missing), max(evidence.top.k, 1))
    sure.ids_RK[:, 0], sure.log_probs_RK[:, 0] = cells, 0.0
    positions = np.concatenate([evidence.positions_R, missing])
    both = TopK(
        np.concatenate([evidence.top.ids_RK, sure.ids_RK]),
        np.concatenate([evidence.top.log_probs_RK, sure.log_probs_RK]),
    )
    order = np.argsort(positions, kind="stable")
    return replace(document, source=AlignedSource(positions[order], both.take(order), evidence.quality))


def _coverage(aligned: list[AlignedDocument]) -> Facts:
    """Per domain: target positions that predict something, those with evidence, and the mass that they keep."""
    domains: dict[str, dict[str, float]] = {}
    for document in aligned:
        counts = domains.setdefault(document.domain, {"positions": 0, "with_evidence": 0, "kept_mass": 0.0})
        counts["positions"] += max(document.target_tokens - 1, 0)
        counts["with_evidence"] += len(document.source.positions_R)
        counts["kept_mass"] += round(float(document.source.top.mass_R.sum(dtype=np.float64)), 6)
    return {"tokens": sum(document.target_tokens for document in aligned), "domains": domains}


def fuse_shard(store: Store, plan: Plan, task: ShardTask) -> Entry:
    """Hop 3: the evidence of all sources for one corpus shard, fused; with the target's tokens."""
    documents = shards.read_corpus(store.read(plan.corpus_shard(task.shard)))
    expect = {"target": plan.target_tokenizer_fingerprint}
    per_source = [shards.read_aligned(store.read(plan.artefact(need)), expect) for need in plan.needs(task)]
    tokenizer = load_tokenizer(store, plan.target_tokenizer_fingerprint)
    targets = tokenizer.tokenize_batch([document.text for document in documents])
    fused = []
    for i, (document, target) in enumerate(zip(documents, targets, strict=True)):
        evidence = fusion.fuse(plan.fusion.rule, [rows[i].source for rows in per_source], plan.fusion.temperature)
        fused.append(FusedDocument(document.doc_id, document.domain, target.ids_T, evidence))
    meta = {
        "target": plan.target_tokenizer_fingerprint,
        "sources": [source.name for source in plan.sources],
        "vocabulary_maps": [plan.vocabulary_map(source.name) for source in plan.sources],
    }
    return store.publish(plan.artefact(task), shards.write_fused(fused, meta), _shares(fused, plan))


def _shares(fused: list[FusedDocument], plan: Plan) -> Facts:
    """Per domain: how much of the evidence's weight each source gave (MinCE: positions that it won)."""
    domains: dict[str, dict[str, float]] = {}
    for document in fused:
        weight = np.bincount(
            document.evidence.sources_R, weights=document.evidence.weights_R, minlength=len(plan.sources)
        )
        shares = domains.setdefault(document.domain, {source.name: 0.0 for source in plan.sources})
        for source, given in zip(plan.sources, weight.tolist(), strict=True):
            shares[source.name] += round(given, 4)
    return {"tokens": sum(len(document.token_ids_N) for document in fused), "domains": domains}


def load_tokenizer(store: Store, fingerprint: str) -> ByteTokenizer:
    """The tokenizer that `fingerprint` names, as its source or target gave it."""
    return _tokenizer(store.url, fingerprint)


@lru_cache(maxsize=16)
def _tokenizer(store_url: str, fingerprint: str) -> ByteTokenizer:
    return ByteTokenizer.from_definition(Store(store_url).read(tokenizer_name(fingerprint)).decode())


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
        )
        meta = {"source": source.tokenizer_fingerprint, "target": plan.target_tokenizer_fingerprint}
        store.publish(name, shards.write_vocabulary_map(built, meta), {"cells": built.cells})
    return shards.read_vocabulary_map(store.read(name))


HOPS: Mapping[Hop, Callable[[Store, Plan, ShardTask], Entry]] = {Hop.ALIGN: align_shard, Hop.FUSE: fuse_shard}
