"""Members of cells, and their numbers over several partitions."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fusery.core.objective import Partitions
from fusery.core.topk import PAD

CELL_ARRAYS = st.lists(hnp.arrays(np.int64, st.integers(0, 12), elements=st.integers(PAD, 5)), max_size=3)


@settings(deadline=None)
@given(arrays=CELL_ARRAYS)
def test_expanding_a_cell_gives_its_members_in_order(arrays: list[np.ndarray]) -> None:
    partitions = Partitions.of(arrays)
    for index, cell_of_target in enumerate(arrays):
        present = np.unique(cell_of_target[cell_of_target != PAD])
        ids = torch.as_tensor(present)[:, None]
        numbers = partitions.numbers(ids, torch.full((len(present),), index))
        tokens, entries, sizes = partitions.expand(numbers[:, 0])
        for entry, cell in enumerate(present.tolist()):
            members = np.flatnonzero(cell_of_target == cell).tolist()
            assert tokens[entries == entry].tolist() == members
            assert int(sizes[entry]) == len(members)


@settings(deadline=None)
@given(arrays=CELL_ARRAYS.filter(len))
def test_every_token_is_a_member_of_at_most_one_cell_of_a_partition(arrays: list[np.ndarray]) -> None:
    partitions = Partitions.of(arrays)
    for index in range(len(arrays)):
        cells = torch.arange(int(partitions.first_cells_P[index]), int(partitions.first_cells_P[index + 1]))
        tokens, _, _ = partitions.expand(cells)
        assert len(set(tokens.tolist())) == len(tokens) == int((arrays[index] != PAD).sum())


def test_absent_unknown_and_empty_cells_have_no_number() -> None:
    partitions = Partitions.of([np.asarray([0, 2, PAD]), np.asarray([0, 0, 0])])
    ids = torch.tensor([[0, 1, 2, 3, PAD], [0, 1, 2, 3, PAD]])
    numbers = partitions.numbers(ids, torch.tensor([0, 1]))
    assert numbers.tolist() == [[0, PAD, 2, PAD, PAD], [3, PAD, PAD, PAD, PAD]]


def test_vocabulary_is_the_least_size_that_holds_every_member() -> None:
    assert Partitions.of([np.asarray([0, PAD, 1, PAD])]).vocabulary == 3
    assert Partitions.of([]).vocabulary == 0
