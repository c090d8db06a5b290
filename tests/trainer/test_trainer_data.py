"""Batches: nothing across documents, labels and evidence where they belong."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from fusery.core.loss import IGNORED
from fusery.trainer.batches import PADDING, build
from fusery.trainer.order import Packed, pack
from support.models.training_data import Document, random_evidence

CAPACITY = 20
SEEDS = st.integers(0, 10)


def documents_of(lengths: list[int], seed: int = 0) -> list[Document]:
    """Documents whose tokens tell where they come from: 100 · document + position."""
    rng = np.random.default_rng(seed)
    return [Document(f"d{i}", 100 * i + np.arange(n), random_evidence(rng, n)) for i, n in enumerate(lengths)]


def packed(lengths: list[int], seed: int) -> list[Packed]:
    return pack(np.random.default_rng(seed).permutation(len(lengths)).tolist(), lengths, CAPACITY)


@given(lengths=st.lists(st.integers(2, CAPACITY), min_size=1, max_size=12), seed=SEEDS)
def test_labels_are_the_next_token_of_the_same_document(lengths: list[int], seed: int) -> None:
    documents = documents_of(lengths)
    batch = build(packed(lengths, seed), documents, with_evidence=True)
    labelled = batch.labels_BT != IGNORED
    assert int(labelled.sum()) == sum(n - 1 for n in lengths)
    assert (batch.labels_BT[labelled] == batch.input_ids_BT[labelled] + 1).all()
    assert not labelled[batch.documents_BT == PADDING].any()


@given(lengths=st.lists(st.integers(2, CAPACITY), min_size=1, max_size=12), seed=SEEDS)
def test_positions_restart_with_every_document(lengths: list[int], seed: int) -> None:
    batch = build(packed(lengths, seed), documents_of(lengths), with_evidence=False)
    real = batch.documents_BT != PADDING
    assert (batch.position_ids_BT[real] == batch.input_ids_BT[real] % 100).all()
    is_last_of_padding = batch.position_ids_BT[:, -1][~real[:, -1]]
    assert (is_last_of_padding == (~real).sum(1)[~real[:, -1]] - 1).all()
    assert batch.evidence is None


@given(lengths=st.lists(st.integers(2, CAPACITY), min_size=1, max_size=12), seed=SEEDS)
def test_evidence_stands_at_the_rows_of_its_positions(lengths: list[int], seed: int) -> None:
    documents = documents_of(lengths, seed)
    batch = build(packed(lengths, seed), documents, with_evidence=True)
    evidence = batch.evidence
    assert evidence is not None
    tokens = batch.input_ids_BT.flatten()[evidence.rows_R].tolist()
    expected = {
        (100 * i + int(p), int(s)): d.evidence.top.ids_RK[e].tolist()
        for i, d in enumerate(documents)
        for e, (p, s) in enumerate(zip(d.evidence.positions_R, d.evidence.sources_R, strict=True))
    }
    found = {}
    for e, token in enumerate(tokens):
        found[token, int(evidence.partitions_R[e])] = [i for i in evidence.ids_RK[e].tolist() if i >= 0]
    assert found == expected


def test_the_same_tokens_come_with_and_without_evidence() -> None:
    documents = documents_of([5, 9, 3, 12])
    rows = packed([5, 9, 3, 12], 0)
    fused, clm = build(rows, documents, with_evidence=True), build(rows, documents, with_evidence=False)
    for name in ("input_ids_BT", "position_ids_BT", "documents_BT", "labels_BT"):
        assert torch.equal(getattr(fused, name), getattr(clm, name))


def test_a_blank_batch_has_no_labels() -> None:
    batch = build([(0,)], documents_of([6]), with_evidence=True, blank=True)
    assert (batch.labels_BT == IGNORED).all()


def test_documents_of_differing_k_are_padded_to_the_widest() -> None:
    rng = np.random.default_rng(0)
    documents = [Document(f"d{k}", np.arange(9), random_evidence(rng, 9, k)) for k in (2, 5)]
    evidence = build([(0, 1)], documents, with_evidence=True).evidence
    assert evidence is not None
    assert evidence.ids_RK.shape[1] == 5
    assert torch.isinf(evidence.log_probs_RK[0, 2:]).all()
