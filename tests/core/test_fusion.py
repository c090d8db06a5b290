from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusery.core.fusion import AlignedSource, cost_of, fuse, merged
from fusery.core.rules import Cost, FusionRule
from fusery.core.topk import TopK, empty
from support.core.strategies import top_ks


def aligned(positions: list[int], cost: float, first_id: int = 0) -> AlignedSource:
    ids = np.arange(first_id, first_id + len(positions), dtype=np.int64)[:, None]
    return AlignedSource(np.asarray(positions, np.int64), TopK(ids, np.full(ids.shape, -1, np.float32)), cost)


@st.composite
def aligned_sources(draw: st.DrawFn) -> AlignedSource:
    top = draw(top_ks())
    positions = draw(st.lists(st.integers(0, 9), min_size=top.rows, max_size=top.rows, unique=True))
    cost = draw(st.floats(0.1, 20) | st.just(np.inf))
    return AlignedSource(np.asarray(sorted(positions), np.int64), top, cost)


several = st.lists(aligned_sources(), min_size=1, max_size=4)


@given(sources=several, rule=st.sampled_from(list(FusionRule)), temperature=st.floats(0.05, 5))
def test_weights_of_every_position_add_up_to_1(
    sources: list[AlignedSource], rule: FusionRule, temperature: float
) -> None:
    evidence = fuse(rule, sources, temperature)
    covered = sorted({int(p) for source in sources for p in source.positions_R})
    assert sorted(set(evidence.positions_R.tolist())) == covered
    for position in covered:
        assert evidence.weights_R[evidence.positions_R == position].sum() == pytest.approx(1, abs=1e-5)


@given(sources=several)
def test_min_ce_takes_the_best_source_that_has_evidence(sources: list[AlignedSource]) -> None:
    evidence = fuse(FusionRule.MIN_CE, sources)
    assert len(set(evidence.positions_R.tolist())) == len(evidence.positions_R)
    for row, (position, chosen) in enumerate(
        zip(evidence.positions_R.tolist(), evidence.sources_R.tolist(), strict=True)
    ):
        having = [i for i, source in enumerate(sources) if position in source.positions_R]
        assert chosen == min(having, key=lambda i: sources[i].cost)
        source = sources[chosen]
        at = source.positions_R.tolist().index(position)
        assert evidence.top.ids_RK[row, : source.top.k].tolist() == source.top.ids_RK[at].tolist()


@given(source=aligned_sources(), copies=st.integers(1, 4), rule=st.sampled_from(list(FusionRule)))
def test_fusing_copies_of_one_source_gives_that_source(source: AlignedSource, copies: int, rule: FusionRule) -> None:
    evidence = fuse(rule, [source] * copies)
    for row, position in enumerate(evidence.positions_R.tolist()):
        at = source.positions_R.tolist().index(position)
        assert evidence.top.ids_RK[row].tolist() == source.top.ids_RK[at].tolist()
        assert evidence.top.log_probs_RK[row].tolist() == source.top.log_probs_RK[at].tolist()


@given(sources=several, rule=st.sampled_from(list(FusionRule)))
def test_a_source_without_evidence_changes_nothing(sources: list[AlignedSource], rule: FusionRule) -> None:
    silent = AlignedSource(np.zeros(0, np.int64), empty(0, 3), 0.0)
    one, other = fuse(rule, sources), fuse(rule, [*sources, silent])
    assert one.positions_R.tolist() == other.positions_R.tolist()
    assert one.sources_R.tolist() == other.sources_R.tolist()
    np.testing.assert_allclose(one.weights_R, other.weights_R, atol=1e-6)


def test_positions_of_one_source_only_use_that_source() -> None:
    evidence = fuse(FusionRule.MIN_CE, [aligned([0, 1], 1.0), aligned([1, 2], 0.5, first_id=10)])
    assert evidence.positions_R.tolist() == [0, 1, 2]
    assert evidence.sources_R.tolist() == [0, 1, 1]
    assert evidence.top.ids_RK[:, 0].tolist() == [0, 10, 11]


def test_ties_go_to_the_source_named_first() -> None:
    assert fuse(FusionRule.MIN_CE, [aligned([0], 1.0), aligned([0], 1.0)]).sources_R.tolist() == [0]


def test_avg_ce_weights_are_a_softmax_of_minus_cost_over_temperature() -> None:
    evidence = fuse(FusionRule.AVG_CE, [aligned([0, 1], 1.0), aligned([1], 2.0)], temperature=0.5)
    assert evidence.positions_R.tolist() == [0, 1, 1]
    assert evidence.weights_R == pytest.approx([1, 1 / (1 + np.exp(-2)), np.exp(-2) / (1 + np.exp(-2))])


def test_a_hopeless_source_still_counts_where_it_is_alone() -> None:
    evidence = fuse(FusionRule.AVG_CE, [aligned([0], 1.0), aligned([1], np.inf)])
    assert evidence.weights_R.tolist() == [1, 1]


def test_bits_per_byte_and_token_cross_entropy_of_a_document() -> None:
    log_probs = np.log(np.array([0.5, 0.25, 1.0], np.float32))
    spelled = np.array([2, 4])
    assert cost_of(Cost.BITS_PER_BYTE, log_probs, spelled) == pytest.approx(3 / 6)
    assert cost_of(Cost.TOKEN_CE, log_probs, spelled) == pytest.approx(1.5 * np.log(2))


@pytest.mark.parametrize("rule", list(Cost))
def test_a_document_without_a_predicted_token_has_the_worst_cost(rule: Cost) -> None:
    assert cost_of(rule, np.zeros(1, np.float32), np.zeros(0, np.int64)) == np.inf


def test_avg_ce_exp_weights_are_a_softmax_of_exp_of_minus_cost() -> None:
    evidence = fuse(FusionRule.AVG_CE_EXP, [aligned([0], 1.0), aligned([0], 2.0)])
    scores = np.exp(np.exp([-1.0, -2.0]))
    assert evidence.weights_R == pytest.approx(scores / scores.sum())


@given(sources=several, rule=st.sampled_from(list(FusionRule)), data=st.data())
def test_merging_rows_of_one_space_keeps_every_weight_and_every_weighted_mass(
    sources: list[AlignedSource], rule: FusionRule, data: st.DataObject
) -> None:
    spaces = [data.draw(st.integers(0, i)) for i in range(len(sources))]
    spaces = [spaces[space] if spaces[space] <= space else space for space in spaces]
    evidence = fuse(rule, sources)
    joined = merged(evidence, spaces)
    expected: dict[tuple[int, int, int], float] = {}
    for row in range(len(evidence.positions_R)):
        place = int(evidence.positions_R[row]), spaces[evidence.sources_R[row]]
        for index, log_prob in zip(evidence.top.ids_RK[row].tolist(), evidence.top.log_probs_RK[row], strict=True):
            if index >= 0:
                mass = float(evidence.weights_R[row] * np.exp(log_prob))
                expected[*place, index] = expected.get((*place, index), 0.0) + mass
    places = [(p, spaces[s]) for p, s in zip(joined.positions_R.tolist(), joined.sources_R.tolist(), strict=True)]
    assert len(places) == len(set(places))
    order = list(zip(joined.positions_R.tolist(), joined.sources_R.tolist(), strict=True))
    assert order == sorted(order)
    found = {
        (*place, int(index)): float(joined.weights_R[row] * np.exp(log_prob))
        for row, place in enumerate(places)
        for index, log_prob in zip(joined.top.ids_RK[row].tolist(), joined.top.log_probs_RK[row], strict=True)
        if index >= 0 and joined.weights_R[row] > 0
    }
    assert found == pytest.approx({where: mass for where, mass in expected.items() if mass > 0}, abs=1e-5)


@given(source=aligned_sources(), copies=st.integers(1, 4))
def test_merged_copies_of_one_source_are_that_source(source: AlignedSource, copies: int) -> None:
    joined = merged(fuse(FusionRule.AVG_CE, [source] * copies), [0] * copies)
    assert joined.positions_R.tolist() == source.positions_R.tolist()
    np.testing.assert_allclose(joined.weights_R, 1, atol=1e-5)
    np.testing.assert_allclose(joined.top.mass_R, source.top.mass_R, atol=1e-5)


@given(sources=several)
def test_arguments_are_not_changed(sources: list[AlignedSource]) -> None:
    arrays = [a for s in sources for a in (s.positions_R, s.top.ids_RK, s.top.log_probs_RK)]
    before = [array.copy() for array in arrays]
    merged(fuse(FusionRule.AVG_CE, sources), [0] * len(sources))
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(arrays, before, strict=True))
