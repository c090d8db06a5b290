from __future__ import annotations

import numpy as np
import pytest

from fusery.core.fallback import with_fallback
from fusery.core.rules import Fallback
from fusery.core.topk import PAD, TopK, empty

TOP = TopK(np.array([[7, 8], [5, PAD]]), np.log(np.array([[0.5, 0.25], [0.5, 0]], np.float32) + 1e-30))
POSITIONS = np.array([1, 3])
TARGET = np.array([10, 11, 12, 13, 14])
CELLS = np.arange(20) + 100


def test_without_a_fallback_nothing_is_added() -> None:
    positions, top = with_fallback(Fallback.NONE, POSITIONS, TOP, TARGET, CELLS)
    assert positions is POSITIONS
    assert top is TOP


@pytest.mark.parametrize(
    ("rule", "expected"), [(Fallback.NEXT_TOKEN, [111, 113]), (Fallback.CURRENT_TOKEN, [110, 112])]
)
def test_positions_without_evidence_are_certain_of_one_token(rule: Fallback, expected: list[int]) -> None:
    positions, top = with_fallback(rule, POSITIONS, TOP, TARGET, CELLS)
    assert positions.tolist() == [0, 1, 2, 3]
    assert top.ids_RK[[0, 2], 0].tolist() == expected
    assert top.log_probs_RK[[0, 2]].tolist() == [[0, -np.inf]] * 2
    assert top.ids_RK[[1, 3]].tolist() == TOP.ids_RK.tolist()


def test_positions_before_the_first_get_nothing_and_the_last_token_predicts_nothing() -> None:
    positions, _ = with_fallback(Fallback.CURRENT_TOKEN, np.zeros(0, np.int64), empty(0, 2), TARGET, CELLS, first=2)
    assert positions.tolist() == [2, 3]


def test_a_token_in_no_cell_gets_no_certainty() -> None:
    cells = CELLS.copy()
    cells[12] = PAD
    positions, _ = with_fallback(Fallback.NEXT_TOKEN, np.array([0, 3]), TOP, TARGET, cells)
    assert positions.tolist() == [0, 2, 3]
