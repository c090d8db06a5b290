"""What a training step reads: sequences of documents as padded rows, with the evidence beside them.

Dimensions: B rows of a batch, T tokens, N tokens of a document, R evidence rows, K entries kept per row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Protocol

import numpy as np
import torch

from fusery.core.fusion import Evidence
from fusery.core.loss import IGNORED, SparseEvidence
from fusery.core.topk import PAD
from fusery.trainer.documents import TrainingDocument
from fusery.trainer.order import Packed

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
