"""A causal LM in two parts: a body that gives hidden states, and a head that turns some of them into logits.

Logits are the largest array of a forward pass (tokens by vocabulary). With the parts apart they are made for
a few rows at a time and dropped. What lies between the hidden state and the logits (bias, scale, soft cap)
differs between architectures and is not in a table here: every combination of what the config mentions is
tried until one gives the model's own logits, on real input and on inputs large enough for a soft cap to show.
A model that fits none still works, as a whole: its "hidden states" are its logits, at their full price in memory.

Dimensions: B documents, T tokens, R rows, D width, V entries of the vocabulary.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import PreTrainedModel

_SCALE_KEYS = ("logit_scale", "logits_scaling", "lm_head_multiplier", "output_multiplier")
_CAP_KEYS = ("final_logit_softcapping", "logits_soft_cap")
_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}
"""Of the largest logit; half-precision formats are given 3 %: a wrong scale or cap is off by far more."""


@dataclass(frozen=True, slots=True)
class Head:
    """How a hidden state becomes logits: softcap·tanh(z / softcap) of z = scale·(W h + b)."""

    weight_VD: Tensor
    bias_V: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    def logits(self, hidden_RD: Tensor) -> Tensor:
        """Logits float32 [R, V]."""
        logits_RV = linear(hidden_RD, self.weight_VD, self.bias_V).float()
        if self.scale != 1.0:
            logits_RV = logits_RV * self.scale
        return logits_RV if self.softcap is None else self.softcap * torch.tanh(logits_RV / self.softcap)


class SplitModel:
    """A causal LM as body and head. Without a head, `hidden` gives float32 logits and `logits` gives them back."""

    def __init__(self, model: PreTrainedModel, body: nn.Module, head: Head | None) -> None:
        self.model = model
        self.body = body
        self.head = head
        self._accepted = frozenset(inspect.signature(body.forward).parameters)

    @property
    def softcap(self) -> float | None:
        return None if self.head is None else self.head.softcap

    @property
    def scale(self) -> float:
        return 1.0 if self.head is None else self.head.scale

    def hidden(
        self, input_ids_BT: Tensor, attention_mask: Tensor | None = None, position_ids: Tensor | None = None
    ) -> Tensor:
        """Hidden states [B, T, D], or logits float32 [B, T, V] of a model without a head. Keeps gradients.

        `position_ids` are left out for architectures that take none (ALiBi: only distances count).
        """
        given = {"attention_mask": attention_mask, "position_ids": position_ids, "use_cache": False}
        fitting = {key: value for key, value in given.items() if value is not None and key in self._accepted}
        output = self.body(input_ids=input_ids_BT, return_dict=True, **fitting)
        hidden_BTD: Tensor = output.logits.float() if self.head is None else output.last_hidden_state
        return hidden_BTD

    def logits(self, hidden_RD: Tensor) -> Tensor:
        """Logits float32 [R, V]. Keeps gradients."""
        return hidden_RD if self.head is None else self.head.logits(hidden_RD)


def split(model: PreTrainedModel) -> SplitModel:
    """`model` as body and head, proved to give the model's own logits; else the whole model as its own body."""
    body, projection = model.base_model, model.get_output_embeddings()  # type: ignore[no-untyped-call]
    training = model.training
    model.train(False)
    try:
        if isinstance(projection, nn.Linear) and body is not model:
            for head in _candidate_heads(model, projection):
                candidate = SplitModel(model, body, head)
                if _is_proved(candidate, projection):
                    return candidate
        return SplitModel(model, model, None)
    finally:
        model.train(training)


def _candidate_heads(model: PreTrainedModel, projection: nn.Linear) -> Iterator[Head]:
    """Heads by what the config mentions, the fullest first: a small logit does not show that a cap is missing."""
    config = model.config.get_text_config(decoder=True)
    mentioned = [value for key in _SCALE_KEYS if (value := _number(config, key)) is not None]
    scales = [*mentioned, *(1 / value for value in mentioned), 1.0]
    softcaps = [*(value for key in _CAP_KEYS if (value := _number(config, key)) is not None), None]
    for softcap, scale in itertools.product(softcaps, scales):
        yield Head(projection.weight, projection.bias, scale, softcap)


def _number(config: Any, key: str) -> float | None:
    value = getattr(config, key, None)
    return float(value) if isinstance(value, int | float) and value > 0 else None


@torch.no_grad()
def _is_proved(candidate: SplitModel, projection: nn.Linear) -> bool:
    """Whether body and head together give the model's logits, and the head alone on inputs of several sizes."""
    weight = projection.weight
    generator = torch.Generator().manual_seed(0)
    ids_BT = torch.randint(0, min(weight.shape[0], 256), (2, 5), generator=generator).to(weight.device)
    mask_BT = torch.ones_like(ids_BT)
    try:
        hidden_BTD = candidate.hidden(ids_BT, mask_BT)
        whole_BTV = candidate.model(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False).logits
        if not _agrees(candidate.logits(hidden_BTD), whole_BTV, weight.dtype):
            return False
        noise = torch.randn(hidden_BTD.shape, generator=generator).to(hidden_BTD)
        unit_BTD = noise / linear(noise, weight).abs().amax().clamp_min(1e-6)
        return all(
            _agrees(
                candidate.logits(unit_BTD * size),
                _logits_of(candidate.model, projection, unit_BTD * size),
                weight.dtype,
            )
            for size in (1.0, 30.0, 100.0)
        )
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError):
        # An architecture whose body or head is called in another way is used whole.
        return False


def _logits_of(model: PreTrainedModel, projection: nn.Linear, hidden_BTD: Tensor) -> Tensor:
    """The model's own logits for given inputs of its output projection."""
    hook = projection.register_forward_pre_hook(lambda _module, _inputs: (hidden_BTD,))
    try:
        ids_BT = torch.zeros(hidden_BTD.shape[:2], dtype=torch.long, device=hidden_BTD.device)
        logits_BTV: Tensor = model(input_ids=ids_BT, attention_mask=torch.ones_like(ids_BT), use_cache=False).logits
        return logits_BTV
    finally:
        hook.remove()


def _agrees(ours: Tensor, models: Tensor, dtype: torch.dtype) -> bool:
    if ours.shape != models.shape:
        return False
    largest = models.float().abs().amax()
    return bool((ours - models.float()).abs().amax() <= _TOLERANCE.get(dtype, 0.03) * largest + 1e-12)
