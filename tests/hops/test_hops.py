from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusery.config.sections import AlignmentSpec, CaptureSpec, FusionSpec
from fusery.core.topk import PAD, TopK
from fusery.hops.align import align_shard
from fusery.hops.capture import batches, capture
from fusery.hops.fuse import HOPS
from fusery.hops.names import corpus_shard, tokenizer_name
from fusery.hops.plan import Hop, Plan, PlannedSource, ShardTask
from fusery.hops.store import shards
from fusery.hops.store.shards import CorpusDocument, FusedDocument
from fusery.hops.store.store import Store
from fusery.hops.tables import load_vocabulary_map
from fusery.runtime.errors import InvalidInput
from fusery.source.api import Distributions, Document
from support.models.pico_models import TEXTS, TOKENIZERS, pico_byte_tokenizer
from support.source.fake_source import FakeSource
from support.store.s3_server import new_store_url, s3_server

DOCUMENTS = [CorpusDocument(f"d{i}", "even" if i % 2 == 0 else "odd", text) for i, text in enumerate(TEXTS)]


def make_plan(store: Store, target: str, kinds: list[str], **sections: Any) -> Plan:
    """A plan over DOCUMENTS in two shards, with corpus and tokenizers in the store."""
    for shard, rows in enumerate((DOCUMENTS[:4], DOCUMENTS[4:])):
        store.publish(corpus_shard("c" * 64, shard), shards.write_corpus(rows, {}))
    for kind in {target, *kinds}:
        tokenizer = pico_byte_tokenizer(kind)
        store.publish(tokenizer_name(tokenizer.fingerprint), tokenizer.definition().encode())
    sources = tuple(
        PlannedSource(
            name=f"s{i}",
            model_fingerprint=f"{i}{kind}".ljust(64, "0"),
            tokenizer_fingerprint=pico_byte_tokenizer(kind).fingerprint,
            vocabulary_size=pico_byte_tokenizer(kind).size,
        )
        for i, kind in enumerate(kinds)
    )
    return Plan(
        run_id="r",
        corpus_digest="c" * 64,
        corpus_shards=2,
        target_tokenizer_fingerprint=pico_byte_tokenizer(target).fingerprint,
        sources=sources,
        capture=CaptureSpec(top_k=4, log_probs="float32"),
        alignment=AlignmentSpec(**sections.get("alignment", {})),
        fusion=FusionSpec(**sections.get("fusion", {})),
    )


def carry_out(store: Store, plan: Plan, sources: list[FakeSource]) -> list[FusedDocument]:
    """All hops of all shards; the fused documents in order."""
    by_name = {planned.name: source for planned, source in zip(plan.sources, sources, strict=True)}
    fused = []
    for task in plan.tasks:
        if task.hop is Hop.CAPTURE:
            capture(store, plan, task, by_name[task.source])  # type: ignore[arg-type]
        else:
            entry = HOPS[task.hop](store, plan, task)
            if task.hop is Hop.FUSE:
                fused.extend(shards.read_fused(store.read(entry.name)))
    return fused


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.mark.parametrize(("target", "kinds"), [(t, [s]) for t, s in itertools.product(TOKENIZERS, TOKENIZERS)])
def test_most_evidence_names_the_cell_of_the_token_that_follows(store: Store, target: str, kinds: list[str]) -> None:
    plan = make_plan(store, target, kinds)
    fused = carry_out(store, plan, [FakeSource(kinds[0])])
    vocabulary = load_vocabulary_map(store, plan, plan.sources[0])
    right = rows = 0
    for document, corpus in zip(fused, DOCUMENTS, strict=True):
        assert document.doc_id == corpus.doc_id
        assert document.token_ids_N.tolist() == pico_byte_tokenizer(target).tokenize(corpus.text).ids_T.tolist()
        following = vocabulary.cell_of_target_V[document.token_ids_N[document.evidence.positions_R + 1]]
        right += int((document.evidence.top.ids_RK[:, 0] == following).sum())
        rows += len(following)
    assert rows > 100
    assert right / rows > (0.99 if [target] == kinds else 0.85)


def test_the_better_source_wins_and_the_facts_say_so(store: Store) -> None:
    plan = make_plan(store, "sentencepiece", ["byte_level", "byte_level"])
    fused = carry_out(store, plan, [FakeSource("byte_level", 0.3), FakeSource("byte_level", 0.6)])
    assert all((document.evidence.sources_R == 1).all() for document in fused)
    entry = store.find(plan.artefact(ShardTask(Hop.FUSE, "", 0)))
    assert entry is not None
    weights = [counts["weights"] for counts in entry.facts["domains"].values()]
    assert all(given["s0"] == 0 < given["s1"] for given in weights)


def test_three_sources_average_with_weights_that_add_up(store: Store) -> None:
    plan = make_plan(store, "unigram", list(TOKENIZERS), fusion={"rule": "avg_ce"})
    for document in carry_out(store, plan, [FakeSource(kind) for kind in TOKENIZERS]):
        evidence = document.evidence
        totals = np.bincount(evidence.positions_R, weights=evidence.weights_R)
        np.testing.assert_allclose(totals[totals > 0], 1, atol=1e-5)


def test_coverage_counts_positions_and_mass_by_domain(store: Store) -> None:
    plan = make_plan(store, "byte_level", ["byte_level"])
    carry_out(store, plan, [FakeSource("byte_level")])
    entry = store.find(plan.artefact(ShardTask(Hop.ALIGN, "s0", 0)))
    assert entry is not None
    for counts in entry.facts["domains"].values():
        assert counts["with_evidence"] == counts["positions"] > 0
        assert counts["same_bytes"] / counts["with_evidence"] == pytest.approx(0.75, abs=0.01)
        assert sum(counts["kept_histogram"][74:76]) >= 0.95 * counts["with_evidence"]


def test_the_fallback_puts_all_mass_on_the_current_token(store: Store) -> None:
    sections = {"alignment": {"positions": "dtw", "vocabulary": "exact", "fallback": "current_token"}}
    plan = make_plan(store, "byte_level", ["sentencepiece"], **sections)
    for document in carry_out(store, plan, [FakeSource("sentencepiece")]):
        assert document.evidence.positions_R.tolist() == list(range(len(document.token_ids_N) - 1))
        sure = document.evidence.top.log_probs_RK[:, 0] == 0
        assert sure.any()
        expected = document.token_ids_N[:-1][sure]
        np.testing.assert_array_equal(document.evidence.top.ids_RK[sure, 0], expected)
        assert (document.evidence.top.ids_RK[sure, 1:] == PAD).all()


def test_every_hop_twice_gives_the_same_bytes(store: Store, tmp_path: Path) -> None:
    plan = make_plan(store, "sentencepiece", ["unigram"])
    carry_out(store, plan, [FakeSource("unigram")])
    other = Store(str(tmp_path / "other"))
    carry_out(other, make_plan(other, "sentencepiece", ["unigram"]), [FakeSource("unigram")])
    for task in plan.tasks:
        assert store.find(plan.artefact(task)) == other.find(plan.artefact(task))


def test_requests_are_a_function_of_the_shard_and_hold_similar_lengths(store: Store) -> None:
    plan = make_plan(store, "byte_level", ["byte_level"])
    one, other = FakeSource("byte_level"), FakeSource("byte_level")
    task = ShardTask(Hop.CAPTURE, "s0", 0)
    capture(store, plan, task, one)  # type: ignore[arg-type]
    store.discard(plan.artefact(task))
    capture(store, plan, task, other)  # type: ignore[arg-type]
    assert one.requests == other.requests


@given(lengths=st.lists(st.integers(1, 50), min_size=1, max_size=30), limit=st.integers(1, 200))
def test_batches_hold_every_document_once_within_the_limit(lengths: list[int], limit: int) -> None:
    documents = [CorpusDocument(str(i), "x", "a" * length) for i, length in enumerate(lengths)]
    found = list(batches(documents, limit))
    assert sorted(d.doc_id for batch in found for d in batch) == sorted(d.doc_id for d in documents)
    assert all(len(batch) == 1 or len(batch) * max(len(d.text) for d in batch) <= limit for batch in found)


def test_a_server_that_tokenises_otherwise_is_found_out_with_the_document(store: Store) -> None:
    plan = make_plan(store, "byte_level", ["sentencepiece"])
    task = ShardTask(Hop.CAPTURE, "s0", 0)
    # The plan says sentencepiece, the server answers as unigram would.
    capture(store, plan, task, FakeSource("unigram"))  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match=r"document d0: source s0 tokenised it differently"):
        align_shard(store, plan, ShardTask(Hop.ALIGN, "s0", 0))


def test_a_vocabulary_map_is_built_once_and_kept(store: Store) -> None:
    plan = make_plan(store, "byte_level", ["unigram"])
    built = load_vocabulary_map(store, plan, plan.sources[0])
    entry = store.find(plan.vocabulary_map("s0"))
    assert entry is not None
    assert entry.facts == {"cells": built.cells}


def test_a_larger_capture_gives_the_aligned_and_fused_bytes_of_one_of_the_entries_used(
    store: Store, tmp_path: Path
) -> None:
    plan = make_plan(store, "sentencepiece", ["unigram", "byte_level"])
    carry_out(store, plan, [FakeSource("unigram"), FakeSource("byte_level")])
    other = Store(str(tmp_path / "other"))
    make_plan(other, "sentencepiece", ["unigram", "byte_level"])
    larger = plan.model_copy(
        update={"sources": tuple(s.model_copy(update={"captured_top_k": 9 + i}) for i, s in enumerate(plan.sources))}
    )
    carry_out(other, larger, [WithKFromRank("unigram"), WithKFromRank("byte_level")])
    for task in plan.tasks:
        if task.hop is not Hop.CAPTURE:
            assert plan.artefact(task) == larger.artefact(task)
            assert store.read(plan.artefact(task)) == other.read(larger.artefact(task))
            assert store.find(plan.artefact(task)) == other.find(larger.artefact(task))
    captured = shards.read_captured(other.read(larger.artefact(larger.tasks[0])))
    assert {document.top.k for document in captured} == {9}


class WithKFromRank(FakeSource):
    """As a true source: more entries are added behind, and change none of the first ones."""

    def _answer(self, document: Document, k: int) -> Distributions:
        few, many = super()._answer(document, 4), super()._answer(document, k)
        ids, log_probs = many.top.ids_RK, np.full_like(many.top.log_probs_RK, -9)
        log_probs[:, :4] = few.top.log_probs_RK
        return replace(few, top=TopK(ids, log_probs))


def test_a_hop_says_which_documents_it_is_about_to_work_on(store: Store) -> None:
    plan = make_plan(store, "byte_level", ["unigram"])
    for hop, source in ((Hop.CAPTURE, "s0"), (Hop.ALIGN, "s0"), (Hop.FUSE, "")):
        heard: list[list[str]] = []
        task = ShardTask(hop, source, 0)

        def at(ids: Sequence[str], heard: list[list[str]] = heard) -> None:
            heard.append(list(ids))

        if hop is Hop.CAPTURE:
            capture(store, plan, task, FakeSource("unigram"), at=at)  # type: ignore[arg-type]
        else:
            HOPS[hop](store, plan, task, at=at)
        assert sorted({doc_id for ids in heard for doc_id in ids}) == ["d0", "d1", "d2", "d3"]
        if hop is Hop.ALIGN:
            assert heard[1:] == [["d0"], ["d1"], ["d2"], ["d3"]]


def test_all_hops_run_on_a_bucket_and_give_the_bytes_of_a_folder(store: Store) -> None:
    plan = make_plan(store, "sentencepiece", ["unigram"])
    carry_out(store, plan, [FakeSource("unigram")])
    with s3_server():
        bucket = Store(new_store_url())
        carry_out(bucket, make_plan(bucket, "sentencepiece", ["unigram"]), [FakeSource("unigram")])
        for task in plan.tasks:
            assert bucket.find(plan.artefact(task)) == store.find(plan.artefact(task))
        assert bucket.listed(plan.folder(Hop.FUSE)) == store.listed(plan.folder(Hop.FUSE))
