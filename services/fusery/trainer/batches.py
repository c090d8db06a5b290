"""What a training step reads: documents in rows, with the evidence beside them, that do not see each other.

How several documents share a row is proved on the model at hand. There is no table of model families. Ways to keep
documents apart are tried on the loaded model, and the first that gives each document the hidden states it has alone is
used. Where none does, every document gets a row of its own: slower by the padding, never wrong. The proof costs a few
forward passes at the start of a training.

Dimensions: B rows of a batch, T tokens, D hidden size, N tokens of a document, R evidence rows, K entries kept per row.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate, pairwise
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator

from fusery.core.fusion import Evidence
from fusery.core.loss import IGNORED, SparseEvidence
from fusery.core.topk import PAD, IntArray, TopK
from fusery.models.head import SplitModel
from fusery.trainer.documents import TrainingDocument
from fusery.trainer.order import Packed, pack

log = logging.getLogger(__name__)

TOLERANCE = 1e-4
"""Of the largest hidden state. Rounding is below 1e-5 in float32; one attended foreign token is above 1e-2."""

PADDING = -1
"""Number of no document: where a row of a batch is padded."""


class Numbered(Protocol):
    """Documents by number."""

    def __getitem__(self, index: int, /) -> TrainingDocument: ...


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Tensors of some sequences: ids, positions within the document, document numbers, labels, all int64 [B, T].

    A label is the next token of the same document, else IGNORED. Evidence rows count through [B·T].
    """

    input_ids_BT: torch.Tensor
    position_ids_BT: torch.Tensor
    documents_BT: torch.Tensor
    labels_BT: torch.Tensor
    evidence: SparseEvidence | None

    def to(self, device: torch.device) -> Batch:
        """The same on `device`."""
        evidence = None if self.evidence is None else self.evidence.to(device)
        ids, positions, documents = self.input_ids_BT, self.position_ids_BT, self.documents_BT
        return Batch(ids.to(device), positions.to(device), documents.to(device), self.labels_BT.to(device), evidence)


def build(rows: Sequence[Packed], documents: Numbered, *, with_evidence: bool, blank: bool = False) -> Batch:
    """The batch whose row b holds the documents `rows[b]`, padded to its longest row; `blank`: without any label."""
    placed = [list(_places(row, documents)) for row in rows]
    width = max((places[-1][1] for places in placed if places), default=0)
    shape = (len(rows), max(width, 1))
    ids, positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    owners, labels = np.full(shape, PADDING, np.int64), np.full(shape, IGNORED, np.int64)
    found: list[tuple[int, Evidence]] = []
    for b, places in enumerate(placed):
        for number, (start, end, document) in enumerate(places):
            tokens = document.token_ids_N
            ids[b, start:end] = tokens
            positions[b, start:end] = np.arange(end - start)
            owners[b, start:end] = number
            labels[b, start : max(start, end - 1)] = tokens[1:]
            found.append((b * shape[1] + start, document.evidence))
        # Padding counts on as a document of its own.
        used = places[-1][1] if places else 0
        positions[b, used:] = np.arange(shape[1] - used)
    if blank:
        labels[:] = IGNORED
    tensors = [torch.from_numpy(array) for array in (ids, positions, owners, labels)]
    return Batch(tensors[0], tensors[1], tensors[2], tensors[3], _stacked(found) if with_evidence else None)


def _places(row: Packed, documents: Numbered) -> Iterator[tuple[int, int, TrainingDocument]]:
    chosen = [documents[index] for index in row]
    edges = accumulate((len(document.token_ids_N) for document in chosen), initial=0)
    return ((start, end, document) for (start, end), document in zip(pairwise(edges), chosen, strict=True))


def _stacked(found: Iterable[tuple[int, Evidence]]) -> SparseEvidence:
    """All documents' evidence, each moved to the batch row where its document begins, padded to one K."""
    parts = list(found)
    total, k = sum(len(e.positions_R) for _, e in parts), max((e.top.k for _, e in parts), default=1)
    rows, sources = np.zeros(total, np.int64), np.zeros(total, np.int64)
    weights = np.zeros(total, np.float32)
    ids, log_probs = np.full((total, k), PAD, np.int64), np.full((total, k), -np.inf, np.float32)
    at = 0
    for first, evidence in parts:
        here = slice(at, at + len(evidence.positions_R))
        rows[here], sources[here] = evidence.positions_R + first, evidence.sources_R
        weights[here] = evidence.weights_R
        ids[here, : evidence.top.k] = evidence.top.ids_RK
        log_probs[here, : evidence.top.k] = evidence.top.log_probs_RK
        at = here.stop
    return SparseEvidence(*(torch.from_numpy(array) for array in (rows, sources, weights, ids, log_probs)))


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


@dataclass(frozen=True, slots=True)
class _Document:
    doc_id: str
    token_ids_N: IntArray
    evidence: Evidence


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """Documents that are measured, packed; the end of one that is longer than a sequence is left out."""

    documents: tuple[_Document, ...]
    sequences: tuple[Packed, ...]

    @classmethod
    def of(cls, token_ids: Sequence[IntArray], capacity: int) -> HeldOut:
        none = np.zeros(0, np.int64)
        nothing = Evidence(none, none, none.astype(np.float32), TopK(none[:, None], none[:, None].astype(np.float32)))
        documents = tuple(_Document(f"held-out-{i}", ids[:capacity], nothing) for i, ids in enumerate(token_ids))
        lengths = [len(document.token_ids_N) for document in documents]
        return cls(documents, tuple(pack(range(len(documents)), lengths, capacity)))

    def batches(self, size: int, packing: Packing, process: int, processes: int) -> list[Batch]:
        """This process's share; every process has as many, some perhaps without a label."""
        parts = [self.sequences[start : start + size] for start in range(0, len(self.sequences), size)]
        found = []
        for first in range(0, len(parts), processes):
            own = parts[first + process] if first + process < len(parts) else parts[0]
            is_blank = first + process >= len(parts)
            found.append(build(rows_for(own, packing), self.documents, with_evidence=False, blank=is_blank))
        return found


@torch.no_grad()
def measure(module: torch.nn.Module, batches: Sequence[Batch], accelerator: Accelerator, use_bfloat16: bool) -> float:
    """Mean nats per predicted token of the batches of all processes; dropout off, nothing else changed."""
    total = torch.zeros(7, dtype=torch.float64, device=accelerator.device)
    module.train(False)
    try:
        for batch in batches:
            with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=use_bfloat16):
                total += module(batch.to(accelerator.device), 1.0)[1]
    finally:
        module.train(True)
    clm_nats, rows = accelerator.reduce(total, "sum")[1:3].tolist()
    return float(clm_nats / max(rows, 1.0))
