"""The optimizer's values at a step."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fusery.config.sections import TrainingSpec
from fusery.trainer.weights import learning_rate, optimizer_for, peak_learning_rate


@given(steps=st.integers(1, 400), warmup=st.floats(0, 0.5), floor=st.floats(0, 1))
def test_the_learning_rate_rises_to_its_peak_and_falls_to_its_floor(steps: int, warmup: float, floor: float) -> None:
    spec = TrainingSpec(warmup_ratio=warmup, min_learning_rate_ratio=floor)
    rates = [learning_rate(spec, 2.0, step, steps) for step in range(steps)]
    top = rates.index(max(rates))
    assert all(a < b for a, b in pairwise(rates[: top + 1]))
    assert all(a >= b for a, b in pairwise(rates[top:]))
    assert max(rates) == pytest.approx(2.0)
    assert all(0 < rate <= 2.0 + 1e-9 for rate in rates)
    assert min(rates[top:]) >= 2.0 * floor - 1e-9


def test_half_way_through_the_cosine_the_rate_is_half() -> None:
    assert learning_rate(TrainingSpec(warmup_ratio=0), 1.0, 50, 100) == pytest.approx(0.5)


def test_the_clm_baseline_may_have_its_own_learning_rate() -> None:
    spec = TrainingSpec(learning_rate=1e-3, clm_learning_rate=5e-4)
    assert peak_learning_rate(spec, clm_only=False) == 1e-3
    assert peak_learning_rate(spec, clm_only=True) == 5e-4
    assert peak_learning_rate(TrainingSpec(learning_rate=1e-3), clm_only=True) == 1e-3


def test_weight_decay_is_for_matrices_only() -> None:
    layer = torch.nn.Linear(3, 2)
    frozen = torch.nn.Parameter(torch.zeros(2, 2), requires_grad=False)
    optimizer = optimizer_for([*layer.parameters(), frozen], TrainingSpec(weight_decay=0.3, beta2=0.9))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decay == {id(layer.weight): 0.3, id(layer.bias): 0.0}
    assert optimizer.defaults["betas"] == (0.9, 0.9)
