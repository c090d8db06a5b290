"""What a training step reads: documents packed into sequences, sequences into batches, evidence beside them.

The order is a function of (seed, epoch) and of the documents' lengths alone, so the fused training and the CLM
baseline read the same tokens in the same steps, and a resumed training needs no state of a data loader. Packing
is first-fit over the latest open sequences: it fills 95 to 99 % where filling one at a time fills 75 to 90 %.

Dimensions: B rows of a batch, T tokens, N tokens of a document, R evidence rows, K entries kept per row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Protocol

import numpy as np
import torch

from fusery.core.fusion import Evidence
from fusery.core.loss import IGNORED, SparseEvidence
from fusery.core.topk import PAD, IntArray
from fusery.errors import CorpusError, Mismatch, TooLarge

OPEN_SEQUENCES = 64
"""How many unfinished sequences a document may still join."""

PADDING = -1
"""Number of no document: where a row of a batch is padded."""


class TrainingDocument(Protocol):
    """A document in the target's tokens, and what the sources say at its positions."""

    @property
    def doc_id(self) -> str: ...
    @property
    def token_ids_N(self) -> IntArray: ...
    @property
    def evidence(self) -> Evidence: ...


Packed = tuple[int, ...]
"""One sequence: the numbers of its documents, in order."""


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


def check_documents(
    documents: Sequence[TrainingDocument], capacity: int, vocabulary: int, partitions: int
) -> list[int]:
    """Lengths in tokens of all documents, after a look at each.

    Raises:
        TooLarge: a document has more than `capacity` tokens.
        Mismatch: token ids, evidence positions or sources that this target and these partitions do not have.
        CorpusError: there is no document with two tokens, so nothing to predict.
    """
    for document in documents:
        _check(document, capacity, vocabulary, partitions)
    lengths = [len(document.token_ids_N) for document in documents]
    if max(lengths, default=0) < 2:
        raise CorpusError(f"none of the {len(lengths)} documents has two tokens; there is nothing to train on")
    return lengths


def _check(document: TrainingDocument, capacity: int, vocabulary: int, partitions: int) -> None:
    ids, evidence = document.token_ids_N, document.evidence
    if len(ids) > capacity:
        raise TooLarge(
            f"document {document.doc_id}: {len(ids)} tokens, a sequence holds {capacity}; raise "
            "training.sequence_length (up to the target's context) or lower corpus.max_document_bytes"
        )
    if len(ids) and not 0 <= ids.min() <= ids.max() < vocabulary:
        raise Mismatch(
            f"document {document.doc_id}: token ids {ids.min()}..{ids.max()}, the target has 0..{vocabulary - 1}; "
            "tokenize and align again for this target"
        )
    positions, sources = evidence.positions_R, evidence.sources_R
    if len(positions) and not 0 <= positions.min() <= positions.max() < len(ids):
        raise Mismatch(
            f"document {document.doc_id}: evidence at positions {positions.min()}..{positions.max()} of {len(ids)} "
            "tokens; these shards belong to other documents"
        )
    if len(sources) and not 0 <= sources.min() <= sources.max() < partitions:
        raise Mismatch(
            f"document {document.doc_id}: evidence of source {sources.max()}, there are {partitions} partitions; give "
            "one partition per source, in the order of the run"
        )


def pack(lengths: Sequence[int], capacity: int, seed: int, epoch: int) -> list[Packed]:
    """Every document that has something to predict, once, in sequences of at most `capacity` tokens.

    Ordered by when a sequence was opened.
    """
    sequences: list[list[int]] = []
    free: list[int] = []
    for index in _permutation(len(lengths), seed, epoch):
        if lengths[index] < 2:
            continue
        recent = range(max(0, len(free) - OPEN_SEQUENCES), len(free))
        place = next((i for i in recent if free[i] >= lengths[index]), None)
        if place is None:
            place = len(sequences)
            sequences.append([])
            free.append(capacity)
        sequences[place].append(index)
        free[place] -= lengths[index]
    return [tuple(sequence) for sequence in sequences]


def _permutation(count: int, seed: int, epoch: int) -> list[int]:
    """By hash and not by a random generator, whose stream may change with the library's version."""
    return sorted(range(count), key=lambda i: hashlib.blake2b(f"{seed}/{epoch}/{i}".encode(), digest_size=16).digest())


@dataclass(frozen=True, slots=True)
class Plan:
    """The sequences of every step, and the epoch (from 0) of every step. The last step of an epoch may be short."""

    batches: tuple[tuple[Packed, ...], ...]
    epochs: tuple[int, ...]

    @classmethod
    def of(cls, lengths: Sequence[int], capacity: int, batch_sequences: int, epochs: int, seed: int) -> Plan:
        batches: list[tuple[Packed, ...]] = []
        epoch_of: list[int] = []
        for epoch in range(epochs):
            sequences = pack(lengths, capacity, seed, epoch)
            starts = range(0, len(sequences), batch_sequences)
            batches += [tuple(sequences[start : start + batch_sequences]) for start in starts]
            epoch_of += [epoch] * len(starts)
        return cls(tuple(batches), tuple(epoch_of))

    @property
    def steps(self) -> int:
        return len(self.batches)


def build(
    rows: Sequence[Packed], documents: Sequence[TrainingDocument], *, with_evidence: bool, blank: bool = False
) -> Batch:
    """The batch whose row b holds the documents `rows[b]`, padded to its longest row; `blank`: without any label."""
    width = max((sum(len(documents[i].token_ids_N) for i in row) for row in rows), default=0)
    shape = (len(rows), max(width, 1))
    ids, positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    owners, labels = np.full(shape, PADDING, np.int64), np.full(shape, IGNORED, np.int64)
    found: list[tuple[int, Evidence]] = []
    for b, row in enumerate(rows):
        for number, (start, end, document) in enumerate(_places(row, documents)):
            tokens = document.token_ids_N
            ids[b, start:end] = tokens
            positions[b, start:end] = np.arange(end - start)
            owners[b, start:end] = number
            labels[b, start : max(start, end - 1)] = tokens[1:]
            found.append((b * shape[1] + start, document.evidence))
        # Padding counts on as a document of its own.
        used = int((owners[b] != PADDING).sum())
        positions[b, used:] = np.arange(shape[1] - used)
    if blank:
        labels[:] = IGNORED
    tensors = [torch.from_numpy(array) for array in (ids, positions, owners, labels)]
    return Batch(tensors[0], tensors[1], tensors[2], tensors[3], _stacked(found) if with_evidence else None)


def _places(row: Packed, documents: Sequence[TrainingDocument]) -> Iterator[tuple[int, int, TrainingDocument]]:
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
