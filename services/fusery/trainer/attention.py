"""How several documents share a row without seeing each other, proved on the model at hand.

There is no table of model families. Ways to keep documents apart are tried on the loaded model, and the first
that gives each document the hidden states it has alone is used. Where none does, every document gets a row of
its own: slower by the padding, never wrong. The proof costs a few forward passes at the start of a training.

Dimensions: B rows of a batch, T tokens, D hidden size.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any

import torch

from fusery.models.head import SplitModel
from fusery.trainer.data import Batch
from fusery.trainer.order import Packed

log = logging.getLogger(__name__)

TOLERANCE = 1e-4
"""Of the largest hidden state. Rounding is below 1e-5 in float32; one attended foreign token is above 1e-2."""


class Packing(StrEnum):
    """How documents in one row are kept apart.

    `mask`: a block-diagonal causal mask for every layer. `positions`: no mask, restarting positions; newer
    transformers models derive the mask of each layer from them, sliding windows included. `single`: one document a row.
    """

    MASK = "mask"
    POSITIONS = "positions"
    SINGLE = "single"


def hidden_states(model: SplitModel, batch: Batch, packing: Packing) -> torch.Tensor:
    """Hidden states [B, T, D] of a batch laid out for `packing`."""
    return _FORWARD[packing](model, batch)


def rows_for(sequences: Sequence[Packed], packing: Packing) -> list[Packed]:
    """The rows of the batch for these sequences: the sequences themselves, or one row per document."""
    if packing is not Packing.SINGLE:
        return list(sequences)
    return [(index,) for sequence in sequences for index in sequence]


def prove_packing(model: SplitModel, capacity: int, longest: int) -> Packing:
    """The first way that keeps two documents apart in this model; `single` if none does, logged with the reasons.

    The probe's second document is as long as the longest of the training allows, so that a sliding window shows.
    """
    first = max(1, min(16, capacity // 4))
    second = max(1, min(longest, capacity - first))
    reasons = []
    training = model.model.training
    model.model.train(False)
    try:
        for packing in (Packing.MASK, Packing.POSITIONS):
            reason = _fault_of(model, packing, first, second)
            if reason is None:
                return packing
            reasons.append(f"{packing.value}: {reason}")
    finally:
        model.model.train(training)
    log.warning("%s can't pack documents, each gets a row: %s", type(model.model).__name__, "; ".join(reasons))
    return Packing.SINGLE


def vocabulary_size(model: SplitModel) -> int:
    """How many token ids the model has an embedding for; may be more than its tokenizer's tokens."""
    embeddings: Any = model.model.get_input_embeddings()
    return int(embeddings.weight.shape[0])


@torch.no_grad()
def _fault_of(model: SplitModel, packing: Packing, first: int, second: int) -> str | None:
    """Why `packing` does not keep a probe of two documents apart; None if it does."""
    batch = _probe(model, first, second)
    ids = batch.input_ids_BT
    try:
        packed = hidden_states(model, batch, packing)[0]
        alone = torch.cat([model.hidden(ids[:, :first])[0], model.hidden(ids[:, first:])[0]])
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError, NotImplementedError) as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    # A random model may not react to anything; then the difference can't show and the layout does not matter.
    difference = float((packed - alone).abs().amax() / alone.abs().amax().clamp(min=1e-30))
    return None if difference <= TOLERANCE else f"hidden states differ by {difference:.1e}"


def _probe(model: SplitModel, first: int, second: int) -> Batch:
    device = model.model.device
    vocabulary = vocabulary_size(model)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary, (1, first + second), generator=generator).to(device)
    positions = torch.cat([torch.arange(first), torch.arange(second)])[None].to(device)
    owners = torch.tensor([0] * first + [1] * second, device=device)[None]
    return Batch(ids, positions, owners, ids, None)


def _with_mask(model: SplitModel, batch: Batch) -> torch.Tensor:
    owners = batch.documents_BT
    length = owners.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=owners.device).tril()
    may_see = (owners[:, :, None] == owners[:, None, :]) & causal
    # Additive, since some architectures read a boolean mask the other way round.
    mask = torch.zeros(may_see.shape, dtype=model.model.dtype, device=owners.device)
    mask.masked_fill_(~may_see, torch.finfo(mask.dtype).min)
    return model.hidden(batch.input_ids_BT, mask[:, None], batch.position_ids_BT)


def _with_positions(model: SplitModel, batch: Batch) -> torch.Tensor:
    return model.hidden(batch.input_ids_BT, None, batch.position_ids_BT)


def _single(model: SplitModel, batch: Batch) -> torch.Tensor:
    # Padding stands at the end of a row, where no token of the document can see it.
    return model.hidden(batch.input_ids_BT, (batch.documents_BT >= 0).long(), None)


_FORWARD: dict[Packing, Callable[[SplitModel, Batch], torch.Tensor]] = {
    Packing.MASK: _with_mask,
    Packing.POSITIONS: _with_positions,
    Packing.SINGLE: _single,
}
