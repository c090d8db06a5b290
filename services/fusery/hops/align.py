"""Hop 2: a captured shard at the target's positions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fusery.core import fusion
from fusery.core.alignment import Side, align
from fusery.core.fusion import AlignedSource
from fusery.core.projection import project, project_as_reference
from fusery.core.reference import with_fallback
from fusery.core.rules import Positions
from fusery.core.tokens import TokenizedText
from fusery.core.topk import IntArray, TopK, VocabularyMap
from fusery.hops import facts
from fusery.hops.plan import Hop, Plan, ShardTask
from fusery.hops.store import shards
from fusery.hops.store.shards import AlignedDocument, CapturedDocument
from fusery.hops.store.store import Entry, Store
from fusery.hops.tables import At, load_tokenizer, load_vocabulary_map, nowhere
from fusery.runtime.errors import InvalidInput


def align_shard(store: Store, plan: Plan, task: ShardTask, at: At = nowhere) -> Entry:
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
