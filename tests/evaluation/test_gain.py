"""Paired bootstrap: intervals that are right where the truth is known."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusery.evaluation.gain import Gain, Interval, domain_gains, intervals, paired_gain
from fusery.evaluation.scores import Scores
from fusery.runtime.errors import CorpusError, Mismatch


def scores_of(bits: list[float], predicted: list[int] | None = None, domains: list[str] | None = None) -> Scores:
    ids = tuple(f"d{place}" for place in range(len(bits)))
    names = tuple(domains or ["all"] * len(bits))
    return Scores(ids, names, tuple(bits), tuple(predicted or [100] * len(bits)))


def test_a_model_against_itself_gains_exactly_nothing() -> None:
    scores = scores_of([120.0, 80.0, 210.0], domains=["a", "b", "b"])
    gain = paired_gain(scores, scores, seed=0)
    assert (gain.bits_per_byte.value, gain.bits_per_byte.low, gain.bits_per_byte.high) == (0.0, 0.0, 0.0)


def test_a_model_that_saves_the_same_share_everywhere_has_a_certain_relative_gain() -> None:
    baseline = scores_of([120.0, 80.0, 210.0, 300.0], domains=["a", "b", "b", "a"])
    model = scores_of([bits * 0.9 for bits in baseline.bits], domains=["a", "b", "b", "a"])
    gain = paired_gain(baseline, model, seed=0)
    assert gain.relative.value == pytest.approx(-0.1)
    assert gain.relative.low == pytest.approx(-0.1)
    assert gain.relative.high == pytest.approx(-0.1)
    assert gain.bits_per_byte.low < gain.bits_per_byte.value < gain.bits_per_byte.high < 0


def test_the_value_is_the_difference_of_the_means_over_domains() -> None:
    baseline = scores_of([100.0, 300.0, 50.0], [100, 100, 50], ["a", "a", "b"])
    model = scores_of([100.0, 200.0, 60.0], [100, 100, 50], ["a", "a", "b"])
    gain = paired_gain(baseline, model, seed=3)
    assert gain.bits_per_byte.value == pytest.approx(model.mean_bits_per_byte - baseline.mean_bits_per_byte)
    assert gain.bits_per_byte.value == pytest.approx((1.5 + 1.2) / 2 - (2.0 + 1.0) / 2)
    assert (gain.documents, gain.fewest_documents) == (3, 1)


def test_the_same_seed_gives_the_same_bounds_and_another_seed_others() -> None:
    rng = np.random.default_rng(5)
    baseline = scores_of(rng.uniform(50, 150, 30).tolist())
    model = scores_of(rng.uniform(50, 150, 30).tolist())
    assert paired_gain(baseline, model, 1) == paired_gain(baseline, model, 1)
    assert paired_gain(baseline, model, 1) != paired_gain(baseline, model, 2)


def test_the_interval_is_as_wide_as_the_normal_approximation_says() -> None:
    rng = np.random.default_rng(7)
    hard = rng.uniform(50, 350, 400)
    saved = rng.normal(2.0, 10.0, 400)
    gain = paired_gain(scores_of(hard.tolist()), scores_of((hard - saved).tolist()), seed=0, resamples=4000)
    half_width = 1.96 * saved.std() / 20 / 100
    assert gain.bits_per_byte.high - gain.bits_per_byte.low == pytest.approx(2 * half_width, rel=0.1)


def test_pairing_keeps_the_spread_between_documents_out_of_the_interval() -> None:
    hard = np.random.default_rng(1).uniform(10, 1000, 50)
    gain = paired_gain(scores_of(hard.tolist()), scores_of((hard - 1.0).tolist()), seed=0)
    assert gain.bits_per_byte.high - gain.bits_per_byte.low < 1e-9


def test_about_95_of_100_intervals_hold_the_truth() -> None:
    rng = np.random.default_rng(11)
    held = 0
    for trial in range(200):
        hard = rng.uniform(50, 150, 60)
        saved = rng.normal(1.0, 5.0, 60)
        gain = paired_gain(scores_of(hard.tolist()), scores_of((hard - saved).tolist()), trial, 400)
        held += gain.bits_per_byte.low <= -0.01 <= gain.bits_per_byte.high
    assert 178 <= held <= 199


@settings(max_examples=30)
@given(st.lists(st.tuples(st.floats(1, 1000), st.floats(1, 1000), st.integers(1, 500)), min_size=1, max_size=12))
def test_bounds_are_finite_and_in_order(rows: list[tuple[float, float, int]]) -> None:
    before, after, predicted = (list(column) for column in zip(*rows, strict=True))
    gain = paired_gain(scores_of(before, predicted), scores_of(after, predicted), seed=0, resamples=200)
    for interval in (gain.bits_per_byte, gain.relative):
        assert np.isfinite([interval.low, interval.value, interval.high]).all()
        assert interval.low <= interval.high


def test_documents_that_one_model_predicts_nothing_of_are_left_out_for_both() -> None:
    with_bos = scores_of([10.0, 100.0], [5, 100])
    without = scores_of([0.0, 90.0], [0, 95])
    gain = paired_gain(with_bos, without, seed=0)
    assert gain.documents == 1
    assert gain.bits_per_byte.value == pytest.approx(90 / 95 - 1.0)


def test_a_domain_without_a_common_document_is_refused() -> None:
    first, second = scores_of([1.0, 1.0], [0, 5]), scores_of([1.0, 1.0], [5, 0])
    with pytest.raises(CorpusError, match="domain 'all': no document has a byte that both models predict"):
        paired_gain(first, second, seed=0)


def test_scores_of_other_documents_do_not_compare() -> None:
    with pytest.raises(Mismatch, match=r"different documents \(1 and 2"):
        paired_gain(scores_of([1.0]), scores_of([1.0, 2.0]), seed=0)
    with pytest.raises(Mismatch, match="measure both on the same"):
        paired_gain(scores_of([1.0], domains=["a"]), scores_of([1.0], domains=["b"]), seed=0)


def test_a_gain_survives_json() -> None:
    gain = paired_gain(scores_of([100.0, 120.0]), scores_of([90.0, 130.0]), seed=0)
    content = json.loads(json.dumps(gain.to_json()))
    both = {key: Interval(**content.pop(key)) for key in ("bits_per_byte", "relative")}
    assert Gain(**both, **content) == gain


def test_the_gain_of_a_domain_is_that_of_its_documents_alone() -> None:
    rng = np.random.default_rng(0)
    domains = ["a"] * 30 + ["b"] * 30
    before = scores_of(rng.uniform(90, 110, 60).tolist(), domains=domains)
    after = scores_of([0.9 * bits for bits in before.bits[:30]] + list(before.bits[30:]), domains=domains)
    gains = domain_gains(before, after, seed=1)
    assert list(gains) == ["a", "b"]
    assert gains["a"].relative.value == pytest.approx(-0.1)
    assert gains["a"].relative.high < 0
    assert (gains["a"].documents, gains["b"].documents) == (30, 30)
    assert gains["b"].bits_per_byte.value == gains["b"].bits_per_byte.low == gains["b"].bits_per_byte.high == 0
    assert gains["a"] == paired_gain(scores_of(list(before.bits[:30])), scores_of(list(after.bits[:30])), seed=1)


def test_the_interval_of_a_domain_holds_its_bits_per_byte_and_narrows_with_more_documents() -> None:
    rng = np.random.default_rng(0)
    few, many = (intervals(scores_of(rng.normal(100, 10, size).tolist()), seed=0)["all"] for size in (10, 1000))
    assert few.low < few.value < few.high
    assert many.low < many.value < many.high
    assert many.high - many.low < (few.high - few.low) / 4
    constant = intervals(scores_of([7.0] * 5), seed=0)["all"]
    assert constant.low == constant.value == constant.high


def test_domains_that_differ_by_a_nul_at_the_end_are_two() -> None:
    before = scores_of([100.0, 300.0, 50.0], domains=["a", "a\x00", "\x00"])
    gains = domain_gains(before, scores_of([50.0, 300.0, 50.0], domains=["a", "a\x00", "\x00"]), seed=0)
    assert {domain: gain.relative.value for domain, gain in gains.items()} == {"a": -0.5, "a\x00": 0.0, "\x00": 0.0}
