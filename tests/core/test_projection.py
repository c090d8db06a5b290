from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fusery.core.projection import project
from fusery.core.topk import PAD, TopK
from support.core.strategies import top_ks

cell_maps = arrays(np.int64, 30, elements=st.integers(PAD, 9))
total_maps = arrays(np.int64, 30, elements=st.integers(0, 9))


@given(top=top_ks(), cell_of=cell_maps)
def test_projection_never_creates_mass(top: TopK, cell_of: np.ndarray) -> None:  # type: ignore[type-arg]
    assert (project(top, cell_of).mass_R <= top.mass_R + 1e-5).all()


@given(top=top_ks(), cell_of=total_maps)
def test_projection_loses_no_mass_where_every_token_has_a_cell(top: TopK, cell_of: np.ndarray) -> None:  # type: ignore[type-arg]
    np.testing.assert_allclose(project(top, cell_of).mass_R, top.mass_R, atol=1e-5)


@given(top=top_ks(), cell_of=cell_maps)
def test_every_cell_gets_the_sum_of_its_tokens(top: TopK, cell_of: np.ndarray) -> None:  # type: ignore[type-arg]
    projected = project(top, cell_of)
    for row in range(top.rows):
        expected: dict[int, float] = {}
        for index, log_prob in zip(top.ids_RK[row].tolist(), top.log_probs_RK[row].tolist(), strict=True):
            if index != PAD and cell_of[index] != PAD:
                expected[int(cell_of[index])] = expected.get(int(cell_of[index]), 0.0) + float(np.exp(log_prob))
        kept = projected.ids_RK[row] != PAD
        found = dict(
            zip(projected.ids_RK[row][kept].tolist(), np.exp(projected.log_probs_RK[row][kept]).tolist(), strict=True)
        )
        assert found.keys() == expected.keys()
        assert all(abs(found[cell] - expected[cell]) < 1e-5 for cell in found)


@given(top=top_ks(), cell_of=cell_maps)
def test_entries_are_best_first_and_absent_ones_last(top: TopK, cell_of: np.ndarray) -> None:  # type: ignore[type-arg]
    projected = project(top, cell_of)
    log_probs = np.where(projected.ids_RK == PAD, -1e9, projected.log_probs_RK)
    assert (np.diff(log_probs, axis=1) <= 0).all()


@given(top=top_ks(), cell_of=cell_maps)
def test_arguments_are_not_changed(top: TopK, cell_of: np.ndarray) -> None:  # type: ignore[type-arg]
    before = (top.ids_RK.copy(), top.log_probs_RK.copy(), cell_of.copy())
    project(top, cell_of)
    assert all(np.array_equal(a, b) for a, b in zip(before, (top.ids_RK, top.log_probs_RK, cell_of), strict=True))


def test_ids_past_the_tokenizer_have_no_cell() -> None:
    top = TopK(np.array([[2, 7]]), np.log(np.array([[0.5, 0.5]], np.float32)))
    projected = project(top, np.array([0, 1, 4]))
    assert projected.ids_RK.tolist() == [[4, PAD]]
    assert np.allclose(projected.mass_R, [0.5])
