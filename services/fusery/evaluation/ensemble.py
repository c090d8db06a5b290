"""The ensemble: what the fused evidence itself gives to the target's next token, without any training.

The evidence speaks of cells, sets of the target's tokens. So that it can be scored on the target's tokens, each cell's
mass is shared among its tokens as the target before training shares it, and the tail's mass among all tokens that are
in no kept cell, likewise: p(a) = Σ w · P_c · q(a) / Q_c. At a position without evidence p = q. That is a distribution
over the target's vocabulary, the one that the loss with `tail` pulls the target to. The price: a forward pass of the
target.

Under MinCE the evidence knows which source reads the whole document best, the future included. To say which of S it was
would take log2 S bits a document: so much the figure is too good at most, with scope `document`.

Dimensions: R rows, V vocabulary, K entries of a row, N tokens of a document.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from fusery.core.batches import by_length
from fusery.core.fusion import Evidence
from fusery.core.topk import PAD, IntArray
from fusery.hops.store.shards import FusedDocument
from fusery.models.head import SplitModel

_CHUNK_LOGITS = 1 << 22
_LEAST_TAIL = 1e-6
"""Captured log-probabilities are rounded; without a floor a row of mass 1 would make every other token impossible."""
_NOTHING = 1e-12
"""Less than this of the target's mass outside the kept cells is rounding."""


def ensemble_bits(
    model: SplitModel,
    documents: Sequence[FusedDocument],
    cells: Sequence[IntArray],
    batch_tokens: int = 8192,
    progress: Callable[[int, int], None] | None = None,
) -> list[float]:
    """Bits that the ensemble needs for each document's tokens but the first. `cells`: cell_of_target [V] by source."""
    bits = [0.0] * len(documents)
    done = 0
    for rows in by_length([len(document.token_ids_N) for document in documents], batch_tokens):
        with torch.inference_mode():
            for row, hidden_ND in zip(rows, _hidden(model, [documents[row] for row in rows]), strict=True):
                bits[row] = _document_bits(model, hidden_ND, documents[row], cells)
        done += len(rows)
        if progress is not None:
            progress(done, len(documents))
    return bits


def _hidden(model: SplitModel, documents: Sequence[FusedDocument]) -> Iterator[Tensor]:
    """Hidden states of each document's tokens but the last, [N − 1, D]; one batch, padded on the right."""
    lengths = [len(document.token_ids_N) for document in documents]
    ids_BT = torch.zeros((len(documents), max(lengths)), dtype=torch.int64)
    mask_BT = torch.zeros_like(ids_BT)
    for row, (document, length) in enumerate(zip(documents, lengths, strict=True)):
        ids_BT[row, :length] = torch.from_numpy(np.asarray(document.token_ids_N, np.int64))
        mask_BT[row, :length] = 1
    device = next(model.model.parameters()).device
    hidden_BTD = model.hidden(ids_BT.to(device), mask_BT.to(device))
    yield from (hidden_BTD[row, : length - 1] for row, length in enumerate(lengths))


def _document_bits(model: SplitModel, hidden_ND: Tensor, document: FusedDocument, cells: Sequence[IntArray]) -> float:
    next_ids_N = torch.from_numpy(np.asarray(document.token_ids_N[1:], np.int64)).to(hidden_ND.device)
    evidence, total, start = document.evidence, 0.0, 0
    # Its size depends on the vocabulary alone, not on what else is in memory.
    chunk = max(1, _CHUNK_LOGITS // max((len(cell_V) for cell_V in cells), default=1))
    for part_RD in torch.split(hidden_ND, chunk):
        q_RV = model.logits(part_RD).double().softmax(dim=1)
        end = start + len(part_RD)
        p_R = next_probabilities(q_RV, next_ids_N[start:end], _of_positions(evidence, start, end), cells)
        total -= float(p_R.log().sum()) / math.log(2)
        start = end
    return total + 0.0


def _of_positions(evidence: Evidence, start: int, end: int) -> Evidence:
    """The rows of the positions from `start` to before `end`, counted from `start`."""
    first, last = np.searchsorted(evidence.positions_R, [start, end])
    rows = np.arange(first, last)
    return Evidence(
        evidence.positions_R[rows] - start, evidence.sources_R[rows], evidence.weights_R[rows], evidence.top.take(rows)
    )


def next_probabilities(q_RV: Tensor, next_ids_R: Tensor, evidence: Evidence, cells: Sequence[IntArray]) -> Tensor:
    """The ensemble's probability of each row's next token, float64 [R]; `q_RV` float64: the target's distributions."""
    q_next_R = q_RV.gather(1, next_ids_R[:, None]).squeeze(1)
    mixed_R, has_evidence_R = torch.zeros_like(q_next_R), torch.zeros(len(q_RV), dtype=torch.bool, device=q_RV.device)
    for source, cell_V in enumerate(cells):
        rows = np.flatnonzero(evidence.sources_R == source)
        if not len(rows):
            continue
        positions = torch.from_numpy(evidence.positions_R[rows]).to(q_RV.device)
        weights = torch.from_numpy(evidence.weights_R[rows].astype(np.float64)).to(q_RV.device)
        kept = evidence.top.take(rows)
        ids_RK = torch.from_numpy(kept.ids_RK).to(q_RV.device)
        mass_RK = torch.from_numpy(np.exp(kept.log_probs_RK.astype(np.float64))).to(q_RV.device)
        # Models have more logits than their tokenizers have tokens.
        cell_of_V = torch.full((q_RV.shape[1],), PAD, dtype=torch.int64, device=q_RV.device)
        cell_of_V[: len(cell_V)] = torch.from_numpy(np.asarray(cell_V[: q_RV.shape[1]], np.int64))
        p = _of_source(q_RV[positions], next_ids_R[positions], q_next_R[positions], ids_RK, mass_RK, cell_of_V)
        mixed_R.index_add_(0, positions, weights * p)
        has_evidence_R[positions] = True
    return torch.where(has_evidence_R, mixed_R, q_next_R)


def _of_source(
    q_RV: Tensor, next_ids_R: Tensor, q_next_R: Tensor, ids_RK: Tensor, mass_RK: Tensor, cell_of_V: Tensor
) -> Tensor:
    """The next token's probability by the rows of one source, float64 [R]."""
    cells = int(cell_of_V.max()) + 1
    # What is in no cell is gathered in one more column, which no entry names.
    columns_V = torch.where(cell_of_V == PAD, cells, cell_of_V)
    q_cells = torch.zeros((len(q_RV), cells + 1), dtype=torch.float64, device=q_RV.device)
    q_cells.index_add_(1, columns_V, q_RV)
    is_known = torch.zeros(cells + 1, dtype=torch.bool, device=q_RV.device)
    is_known[cell_of_V[cell_of_V != PAD]] = True
    # A cell without a token of the target is nothing that the target could say: its mass joins the tail.
    is_kept = (ids_RK >= 0) & (ids_RK < cells)
    is_kept &= is_known[torch.where(is_kept, ids_RK, 0)]
    column_RK = torch.where(is_kept, ids_RK, 0)
    q_RK = torch.where(is_kept, q_cells.gather(1, column_RK), 0.0)
    kept_RK = torch.where(is_kept, mass_RK, 0.0)
    rest_R = 1.0 - q_RK.sum(dim=1)
    # Where the kept cells are the whole vocabulary there is no token that a tail could fall on.
    most_R = torch.where(rest_R > _NOTHING, 1.0 - _LEAST_TAIL, 1.0)
    kept_R = kept_RK.sum(dim=1)
    scale_R = torch.where((kept_R > most_R) | (rest_R <= _NOTHING), most_R / kept_R.clamp_min(1e-300), 1.0)
    tail_R = 1.0 - kept_R * scale_R
    is_next = is_kept & (ids_RK == cell_of_V[next_ids_R][:, None])
    share_R = (kept_RK * is_next / torch.where(is_next, q_RK.clamp_min(1e-300), 1.0)).sum(dim=1) * scale_R
    of_tail_R = tail_R / rest_R.clamp_min(1e-300)
    return q_next_R * torch.where(is_next.any(dim=1), share_R, of_tail_R)
