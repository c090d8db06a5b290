"""Hop 3: the evidence of all sources for one corpus shard, fused."""

from __future__ import annotations

from dataclasses import replace

from fusery.core import fusion
from fusery.hops import facts
from fusery.hops.align import align_shard
from fusery.hops.plan import Hop, Plan, ShardTask
from fusery.hops.store import shards
from fusery.hops.store.shards import FusedDocument
from fusery.hops.store.store import Entry, Store
from fusery.hops.tables import At, load_tokenizer, nowhere


def fuse_shard(store: Store, plan: Plan, task: ShardTask, at: At = nowhere) -> Entry:
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


HOPS = {Hop.ALIGN: align_shard, Hop.FUSE: fuse_shard}
"""Those that need nothing but the store."""
