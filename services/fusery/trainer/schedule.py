"""The optimizer's values at a step, as pure functions of the step."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from fusery.run_sections import TrainingSpec


def learning_rate(spec: TrainingSpec, peak: float, step: int, steps: int) -> float:
    """Linear warm-up to `peak`, then cosine to min_learning_rate_ratio · peak; `step` counts from 0."""
    warmup = math.ceil(spec.warmup_ratio * steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    floor = spec.min_learning_rate_ratio
    return peak * (floor + (1 - floor) * (1 + math.cos(math.pi * done)) / 2)


def peak_learning_rate(spec: TrainingSpec, clm_only: bool) -> float:
    """The CLM baseline may have a learning rate of its own, so that it is tuned as carefully."""
    return spec.clm_learning_rate if clm_only and spec.clm_learning_rate is not None else spec.learning_rate


def optimizer_for(parameters: Iterable[torch.nn.Parameter], spec: TrainingSpec) -> torch.optim.AdamW:
    """AdamW; no weight decay on vectors (norms, biases), where it would pull towards a meaningless zero."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": spec.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=spec.learning_rate, betas=(spec.beta1, spec.beta2))
