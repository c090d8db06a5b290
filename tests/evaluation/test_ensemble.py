"""The ensemble is a distribution, equals the model that it is made of, and follows the evidence where there is some."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fusery.core.fusion import Evidence
from fusery.core.topk import PAD, TopK
from fusery.evaluation.ensemble import ensemble_bits, next_probabilities
from fusery.hops.store.shards import FusedDocument

V = 6
torch.set_num_threads(1)


def top_of(rows: list[dict[int, float]], k: int = 3) -> TopK:
    ids = np.full((len(rows), k), PAD, np.int64)
    log_probs = np.full((len(rows), k), -np.inf, np.float32)
    for place, row in enumerate(rows):
        for entry, (cell, mass) in enumerate(sorted(row.items(), key=lambda item: -item[1])):
            ids[place, entry], log_probs[place, entry] = cell, np.log(np.float32(mass))
    return TopK(ids, log_probs)


def evidence_of(rows: list[tuple[int, int, float, dict[int, float]]]) -> Evidence:
    """Rows of (position, source, weight, masses by cell)."""
    columns = list(zip(*rows, strict=True)) if rows else [(), (), (), ()]
    return Evidence(
        np.asarray(columns[0], np.int64),
        np.asarray(columns[1], np.int64),
        np.asarray(columns[2], np.float32),
        top_of(list(columns[3])) if rows else top_of([]),
    )


def probabilities(q: list[float], evidence: Evidence, cells: list[list[int]]) -> list[float]:
    """The ensemble's probability of every token after one position."""
    tokens, rows = len(q), len(evidence.positions_R)
    each = np.tile(np.arange(rows), tokens)
    everywhere = Evidence(
        np.repeat(np.arange(tokens), rows),
        evidence.sources_R[each],
        evidence.weights_R[each],
        evidence.top.take(each),
    )
    q_RV = torch.tensor([q] * tokens, dtype=torch.float64)
    arrays = [np.asarray(cell_V, np.int64) for cell_V in cells]
    return next_probabilities(q_RV, torch.arange(tokens), everywhere, arrays).tolist()


def test_a_cells_mass_is_shared_as_the_target_shares_it_and_the_tail_among_the_rest() -> None:
    # Cells: 0 = tokens 0 and 1, 1 = token 2, 2 = token 3; tokens 4 and 5 are in none.
    evidence = evidence_of([(0, 0, 1.0, {0: 0.6, 1: 0.1})])
    found = probabilities([0.1, 0.3, 0.2, 0.1, 0.1, 0.2], evidence, [[0, 0, 1, 2, PAD, PAD]])
    assert found == pytest.approx([0.6 / 4, 0.6 * 3 / 4, 0.1, 0.3 / 4, 0.3 / 4, 0.3 * 2 / 4], rel=1e-5)


def test_without_evidence_the_target_speaks_for_itself() -> None:
    q = [0.1, 0.3, 0.2, 0.1, 0.1, 0.2]
    assert probabilities(q, evidence_of([]), [[0, 0, 1, 2, PAD, PAD]]) == pytest.approx(q)


def test_rows_of_several_sources_are_mixed_by_weight_each_in_its_own_cells() -> None:
    evidence = evidence_of([(0, 0, 0.25, {0: 1.0}), (0, 1, 0.75, {1: 0.5})])
    found = probabilities([0.5, 0.25, 0.25], evidence, [[0, 0, 0], [0, 1, PAD]])
    alone = [0.5, 0.25, 0.25], [0.5 * 0.5 / 0.75, 0.5, 0.5 * 0.25 / 0.75]
    assert found == pytest.approx([0.25 * a + 0.75 * b for a, b in zip(*alone, strict=True)], rel=1e-5)


def test_mass_of_a_cell_that_the_target_cannot_say_joins_the_tail() -> None:
    evidence = evidence_of([(0, 0, 1.0, {0: 0.5, 3: 0.4})])
    assert probabilities([0.5, 0.25, 0.25], evidence, [[0, 1, 1]]) == pytest.approx([0.5, 0.25, 0.25], rel=1e-5)


def test_a_row_of_mass_one_leaves_every_token_possible() -> None:
    found = probabilities([0.5, 0.25, 0.25], evidence_of([(0, 0, 1.0, {0: 1.0})]), [[0, 1, 2]])
    assert 0 < found[1] < 1e-6
    assert sum(found) == pytest.approx(1.0)


@settings(max_examples=40)
@given(data=st.data())
def test_it_is_a_distribution_over_the_targets_vocabulary(data: st.DataObject) -> None:
    q = np.asarray(data.draw(st.lists(st.floats(0.01, 1), min_size=V, max_size=V)))
    cells = [
        data.draw(st.lists(st.integers(PAD, 3), min_size=V, max_size=V).filter(lambda row: max(row) > PAD))
        for _ in range(2)
    ]
    masses = []
    for _ in range(2):
        chosen = data.draw(st.lists(st.integers(0, 4), unique=True, min_size=1, max_size=3))
        parts = data.draw(st.lists(st.floats(0.01, 1), min_size=len(chosen), max_size=len(chosen)))
        total = sum(parts) / data.draw(st.floats(0.05, 1.0))
        masses.append({cell: part / total for cell, part in zip(chosen, parts, strict=True)})
    weight = data.draw(st.floats(0.0, 1.0))
    evidence = evidence_of([(0, 0, weight, masses[0]), (0, 1, 1 - weight, masses[1])])
    found = probabilities((q / q.sum()).tolist(), evidence, cells)
    assert min(found) > 0
    assert sum(found) == pytest.approx(1.0, rel=1e-5)


@pytest.fixture(scope="module")
def folder() -> Path:
    from support.models.pico_models import pico_model

    return pico_model("llama")


@pytest.mark.parametrize("top_k", [3, 560])
@pytest.mark.parametrize("copies", [1, 3])
def test_an_ensemble_of_copies_of_the_target_is_the_target(folder: Path, top_k: int, copies: int) -> None:
    from fusery.evaluation.bits_per_byte import HeldOutDocument, measure
    from fusery.models.head import split
    from fusery.models.loading import load_model
    from fusery.source.api import Document
    from fusery.source.engines.transformers import load_engine
    from support.models.pico_models import TEXTS

    engine = load_engine(str(folder))
    answers = engine.compute([Document(str(place), text) for place, text in enumerate(TEXTS[:3])], top_k)
    vocabulary = engine.model.vocabulary_size
    documents = []
    for answer in answers:
        rows = np.arange(len(answer.token_ids_T) - 1)
        positions = np.repeat(rows, copies)
        sources = np.tile(np.arange(copies), len(rows))
        weights = np.full(len(positions), 1 / copies, np.float32)
        evidence = Evidence(positions, sources, weights, answer.top.take(positions))
        documents.append(FusedDocument(answer.document_id, "all", answer.token_ids_T, evidence))
    bits = ensemble_bits(split(load_model(str(folder))), documents, [np.arange(vocabulary)] * copies)
    held_out = [HeldOutDocument(str(place), "all", text) for place, text in enumerate(TEXTS[:3])]
    assert bits == pytest.approx(measure(engine, held_out).bits, rel=1e-4)


def test_evidence_that_knows_the_next_token_costs_almost_nothing(folder: Path) -> None:
    from fusery.models.head import split
    from fusery.models.loading import load_model

    ids = np.asarray([1, 300, 301, 302, 303], np.int64)
    rows = [(place, 0, 1.0, {int(ids[place + 1]): 0.5}) for place in range(4)]
    document = FusedDocument("a", "all", ids, evidence_of(rows))
    (bits,) = ensemble_bits(split(load_model(str(folder))), [document], [np.arange(560)])
    assert bits == pytest.approx(4.0, rel=1e-5)
    assert not math.isnan(bits)
