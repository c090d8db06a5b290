"""Packing and batches: nothing twice, nothing lost, nothing across documents."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fusery.core.loss import IGNORED
from fusery.errors import CorpusError, Mismatch, TooLarge
from fusery.trainer.data import PADDING, Plan, build, check_documents, pack
from trainingdata import Document, no_evidence, random_evidence

CAPACITY = 20
LENGTHS = st.lists(st.integers(0, CAPACITY), max_size=60)
SEEDS = st.integers(0, 10)


def documents_of(lengths: list[int], seed: int = 0) -> list[Document]:
    """Documents whose tokens tell where they come from: 100 · document + position."""
    rng = np.random.default_rng(seed)
    return [Document(f"d{i}", 100 * i + np.arange(n), random_evidence(rng, n)) for i, n in enumerate(lengths)]


@given(lengths=LENGTHS, seed=SEEDS, epoch=st.integers(0, 3))
def test_packing_holds_every_document_exactly_once_and_nothing_too_long(
    lengths: list[int], seed: int, epoch: int
) -> None:
    sequences = pack(lengths, CAPACITY, seed, epoch)
    assert sorted(i for sequence in sequences for i in sequence) == [i for i, n in enumerate(lengths) if n >= 2]
    assert all(0 < sum(lengths[i] for i in sequence) <= CAPACITY for sequence in sequences)


@given(lengths=LENGTHS, seed=SEEDS)
def test_packing_is_a_function_of_seed_and_epoch(lengths: list[int], seed: int) -> None:
    assert pack(lengths, CAPACITY, seed, 1) == pack(list(lengths), CAPACITY, seed, 1)


def test_seeds_and_epochs_give_other_orders() -> None:
    lengths = [10] * 30
    orders = {tuple(pack(lengths, CAPACITY, seed, epoch)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


def test_packing_fills_sequences() -> None:
    lengths = np.random.default_rng(0).integers(2, CAPACITY * 5, 2000).tolist()
    sequences = pack(lengths, CAPACITY * 5, 0, 0)
    assert sum(lengths) / (len(sequences) * CAPACITY * 5) > 0.94


@given(lengths=LENGTHS, batch=st.integers(1, 5), epochs=st.integers(1, 3))
def test_every_epoch_of_a_plan_holds_every_document_once(lengths: list[int], batch: int, epochs: int) -> None:
    plan = Plan.of(lengths, CAPACITY, batch, epochs, 0)
    assert plan.steps == len(plan.epochs)
    for epoch in range(epochs):
        steps = [plan.batches[i] for i in range(plan.steps) if plan.epochs[i] == epoch]
        found = [i for step in steps for sequence in step for i in sequence]
        assert sorted(found) == [i for i, n in enumerate(lengths) if n >= 2]
        assert all(len(step) == batch for step in steps[:-1])
        assert all(1 <= len(step) <= batch for step in steps)


@given(lengths=st.lists(st.integers(2, CAPACITY), min_size=1, max_size=12), seed=SEEDS)
def test_labels_are_the_next_token_of_the_same_document(lengths: list[int], seed: int) -> None:
    documents = documents_of(lengths)
    batch = build(pack(lengths, CAPACITY, seed, 0), documents, with_evidence=True)
    labelled = batch.labels_BT != IGNORED
    assert int(labelled.sum()) == sum(n - 1 for n in lengths)
    assert (batch.labels_BT[labelled] == batch.input_ids_BT[labelled] + 1).all()
    assert not labelled[batch.documents_BT == PADDING].any()


@given(lengths=st.lists(st.integers(2, CAPACITY), min_size=1, max_size=12), seed=SEEDS)
def test_positions_restart_with_every_document(lengths: list[int], seed: int) -> None:
    batch = build(pack(lengths, CAPACITY, seed, 0), documents_of(lengths), with_evidence=False)
    real = batch.documents_BT != PADDING
    assert (batch.position_ids_BT[real] == batch.input_ids_BT[real] % 100).all()
    is_last_of_padding = batch.position_ids_BT[:, -1][~real[:, -1]]
    assert (is_last_of_padding == (~real).sum(1)[~real[:, -1]] - 1).all()
    assert batch.evidence is None


@given(lengths=st.lists(st.integers(2, CAPACITY), min_size=1, max_size=12), seed=SEEDS)
def test_evidence_stands_at_the_rows_of_its_positions(lengths: list[int], seed: int) -> None:
    documents = documents_of(lengths, seed)
    batch = build(pack(lengths, CAPACITY, seed, 0), documents, with_evidence=True)
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
    rows = pack([5, 9, 3, 12], CAPACITY, 0, 0)
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


def with_evidence_at(position: int, source: int) -> Document:
    document = documents_of([6])[0]
    one = random_evidence(np.random.default_rng(1), 6)
    places = np.full_like(one.positions_R, position)
    return replace(document, evidence=replace(one, positions_R=places, sources_R=np.full_like(places, source)))


@pytest.mark.parametrize(
    ("document", "error", "message"),
    [
        (Document("long", np.arange(21), no_evidence()), TooLarge, "document long: 21 tokens, a sequence holds 20"),
        (Document("strange", np.asarray([1, 5000]), no_evidence()), Mismatch, "strange: token ids 1..5000"),
        (with_evidence_at(6, 0), Mismatch, "evidence at positions 6..6 of 6 tokens"),
        (with_evidence_at(0, 2), Mismatch, "evidence of source 2, there are 2 partitions"),
    ],
)
def test_documents_that_do_not_fit_are_refused_by_name(
    document: Document, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        check_documents([*documents_of([5]), document], CAPACITY, 4000, 2)


@pytest.mark.parametrize("lengths", [[], [0], [1, 1]])
def test_nothing_to_predict_is_refused(lengths: list[int]) -> None:
    with pytest.raises(CorpusError, match="nothing to train on"):
        check_documents(documents_of(lengths), CAPACITY, 4000, 2)


def test_lengths_come_in_the_documents_order() -> None:
    assert check_documents(documents_of([5, 0, 7]), CAPACITY, 4000, 2) == [5, 0, 7]
