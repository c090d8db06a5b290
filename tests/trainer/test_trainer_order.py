"""The order of a training: nothing twice, nothing lost, a function of seed and epoch, in windows of shards."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusery.trainer import order
from fusery.trainer.order import Layout, Schedule, pack

CAPACITY = 20
LENGTHS = st.lists(st.integers(0, CAPACITY), max_size=60)
SEEDS = st.integers(0, 10)


def layout_of(lengths: list[int], shard: int = 7) -> Layout:
    edges = [*range(0, len(lengths), shard), len(lengths)]
    return Layout(np.asarray(lengths, np.int64), np.asarray(edges))


@given(lengths=LENGTHS)
def test_packing_holds_every_document_exactly_once_and_nothing_too_long(lengths: list[int]) -> None:
    sequences = pack(range(len(lengths)), lengths, CAPACITY)
    assert sorted(i for sequence in sequences for i in sequence) == [i for i, n in enumerate(lengths) if n >= 2]
    assert all(0 < sum(lengths[i] for i in sequence) <= CAPACITY for sequence in sequences)


def test_packing_fills_sequences() -> None:
    lengths = np.random.default_rng(0).integers(2, CAPACITY * 5, 2000).tolist()
    sequences = pack(range(2000), lengths, CAPACITY * 5)
    assert sum(lengths) / (len(sequences) * CAPACITY * 5) > 0.94


@given(lengths=LENGTHS, batch=st.integers(1, 5), epochs=st.integers(1, 3), window=st.integers(1, 300))
def test_every_epoch_of_a_plan_holds_every_document_once(
    lengths: list[int], batch: int, epochs: int, window: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order, "WINDOW_TOKENS", window)
        schedule = Schedule.of(layout_of(lengths), CAPACITY, batch, epochs, 0)
    assert schedule.steps == 0 or schedule.epoch(schedule.steps - 1) == epochs - 1
    for epoch in range(epochs):
        steps = [schedule.batch(step) for step in range(schedule.steps) if schedule.epoch(step) == epoch]
        found = [i for step in steps for sequence in step for i in sequence]
        assert sorted(found) == [i for i, n in enumerate(lengths) if n >= 2]
        assert all(len(step) == batch for step in steps[:-1])
        assert all(1 <= len(step) <= batch for step in steps)


@given(lengths=LENGTHS, seed=SEEDS)
def test_a_step_is_the_same_whatever_was_asked_before(lengths: list[int], seed: int) -> None:
    schedule = Schedule.of(layout_of(lengths), CAPACITY, 2, 2, seed)
    forwards = [schedule.batch(step) for step in range(schedule.steps)]
    again = Schedule.of(layout_of(list(lengths)), CAPACITY, 2, 2, seed)
    assert [again.batch(step) for step in reversed(range(again.steps))] == forwards[::-1]


def test_seeds_and_epochs_give_other_orders() -> None:
    layout = layout_of([10] * 30)
    plans = [Schedule.of(layout, CAPACITY, 100, 3, seed) for seed in range(3)]
    assert len({tuple(schedule.batch(epoch)) for schedule in plans for epoch in range(3)}) == 9


def test_a_window_is_read_to_its_end_before_the_next_one_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "WINDOW_TOKENS", 200)
    layout = layout_of([10] * 100, shard=10)
    schedule = Schedule.of(layout, CAPACITY, 1, 1, 3)
    assert schedule.window_shards == 2
    shards = [
        layout.shard_of(i) for step in range(schedule.steps) for sequence in schedule.batch(step) for i in sequence
    ]
    windows = [set(shards[start : start + 20]) for start in range(0, 100, 20)]
    assert all(len(window) == 2 for window in windows)
    assert all(not one & other for one, other in pairwise(windows))


def test_a_small_corpus_is_shuffled_as_a_whole_whatever_its_shards() -> None:
    lengths = np.random.default_rng(1).integers(2, CAPACITY, 50).tolist()
    one, many = (Schedule.of(layout_of(lengths, shard), CAPACITY, 100, 1, 5) for shard in (1000, 4))
    documents = [{frozenset(sequence) for sequence in schedule.batch(0)} for schedule in (one, many)]
    assert documents[0] == documents[1]


def test_the_shard_of_a_document_leaves_empty_shards_out() -> None:
    layout = Layout(np.asarray([3, 4, 5]), np.asarray([0, 0, 2, 2, 3]))
    assert [layout.shard_of(i) for i in range(3)] == [1, 1, 3]
    assert [layout.tokens_of(s) for s in range(4)] == [0, 7, 0, 5]
