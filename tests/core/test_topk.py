from __future__ import annotations

import numpy as np
import pytest

from fusery.core.topk import PAD, TopK, empty


def rows(*log_probs: list[float]) -> TopK:
    values = np.asarray(log_probs, np.float32)
    return TopK(np.arange(values.size, dtype=np.int64).reshape(values.shape), values)


def test_mass_is_the_sum_of_the_kept_probabilities() -> None:
    top = rows([np.log(0.5), np.log(0.25)], [np.log(0.1), -np.inf])
    assert top.mass_R == pytest.approx([0.75, 0.1])


def test_an_empty_row_has_no_mass_and_no_ids() -> None:
    top = empty(3, 4)
    assert top.mass_R.tolist() == [0, 0, 0]
    assert (top.ids_RK == PAD).all()


def test_take_gives_rows_in_the_order_asked_for() -> None:
    top = rows([-1.0, -2.0], [-3.0, -4.0])
    assert top.take(np.array([1, 0])).ids_RK.tolist() == [[2, 3], [0, 1]]


@pytest.mark.parametrize(
    ("log_probs", "says"),
    [
        ([[np.nan, -1.0]], "row 0: a log-probability is NaN or positive"),
        ([[-1.0, -2.0], [0.5, -1.0]], "row 1: a log-probability is NaN or positive"),
        ([[-0.1, -0.1]], "probabilities add up to 1.8"),
    ],
)
def test_impossible_probabilities_are_refused_with_their_row(log_probs: list[list[float]], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        rows(*log_probs)


def test_shapes_and_dtypes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="must be one"):
        TopK(np.zeros((2, 3), np.int64), np.zeros((2, 2), np.float32))
    with pytest.raises(ValueError, match="expected int64 ids and float32"):
        TopK(np.zeros((2, 2), np.int32), np.full((2, 2), -1, np.float32))  # type: ignore[arg-type]
