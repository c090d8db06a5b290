from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusery.core.fusion import AlignedSource, fuse, quality_of
from fusery.core.rules import FusionRule, Quality
from fusery.core.topk import TopK, empty
from strategies import top_ks


def aligned(positions: list[int], quality: float, first_id: int = 0) -> AlignedSource:
    ids = np.arange(first_id, first_id + len(positions), dtype=np.int64)[:, None]
    return AlignedSource(np.asarray(positions, np.int64), TopK(ids, np.full(ids.shape, -1, np.float32)), quality)


@st.composite
def aligned_sources(draw: st.DrawFn) -> AlignedSource:
    top = draw(top_ks())
    positions = draw(st.lists(st.integers(0, 9), min_size=top.rows, max_size=top.rows, unique=True))
    quality = draw(st.floats(0.1, 20) | st.just(np.inf))
    return AlignedSource(np.asarray(sorted(positions), np.int64), top, quality)


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
        assert chosen == min(having, key=lambda i: sources[i].quality)
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


def test_avg_ce_weights_are_a_softmax_of_minus_quality_over_temperature() -> None:
    evidence = fuse(FusionRule.AVG_CE, [aligned([0, 1], 1.0), aligned([1], 2.0)], temperature=0.5)
    assert evidence.positions_R.tolist() == [0, 1, 1]
    assert evidence.weights_R == pytest.approx([1, 1 / (1 + np.exp(-2)), np.exp(-2) / (1 + np.exp(-2))])


def test_a_hopeless_source_still_counts_where_it_is_alone() -> None:
    evidence = fuse(FusionRule.AVG_CE, [aligned([0], 1.0), aligned([1], np.inf)])
    assert evidence.weights_R.tolist() == [1, 1]


def test_bits_per_byte_and_token_cross_entropy_of_a_document() -> None:
    log_probs = np.log(np.array([0.5, 0.25, 1.0], np.float32))
    ends = np.array([0, 2, 6])
    assert quality_of(Quality.BITS_PER_BYTE, log_probs, ends) == pytest.approx(3 / 6)
    assert quality_of(Quality.TOKEN_CE, log_probs, ends) == pytest.approx(1.5 * np.log(2))


@pytest.mark.parametrize("rule", list(Quality))
def test_a_document_without_a_predicted_token_has_the_worst_quality(rule: Quality) -> None:
    assert quality_of(rule, np.zeros(1, np.float32), np.array([4])) == np.inf
