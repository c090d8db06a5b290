"""The objective of the training, λ·CLM + (1−λ)·fusion, without logits of the whole batch ever existing.

Dimensions: N rows of a batch, n rows of a chunk, D hidden size, V vocabulary, R evidence rows, K entries kept
per row. A chunk's logits are formed, its loss and its gradient computed at once, then freed: memory is chunk × V
and nothing is computed twice. Both terms share the softmax, so a fused step costs about what a CLM step costs.
The price: gradients come from formulas and not from autograd, and there are no second derivatives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from fusery.core.objective import ChunkTargets, Objective, Partitions, chunk_loss_and_gradient, tempered
from fusery.core.topk import PAD

IGNORED = -100
"""Label of a row that predicts nothing: it has no loss, and evidence at it counts nothing."""

CHUNK_ENTRIES = {"cpu": 2**21, "cuda": 2**27}
"""Logits of one chunk: about what a core's cache holds; what keeps a GPU busy (0.5 GiB in float32)."""

EVIDENCE_ENTRIES = {"cpu": 2**14, "cuda": 2**24}
"""Entries of evidence looked at together, before there are logits."""

MIN_CHUNK_ROWS = 64
"""With fewer rows a product spends its time reading the head's weight: 2.5 times slower at V = 262k."""


class Head(Protocol):
    """The target's output head: logits = cap(scale · (h Wᵀ + b)), cap(x) = softcap · tanh(x / softcap)."""

    @property
    def weight_VD(self) -> torch.Tensor: ...
    @property
    def bias_V(self) -> torch.Tensor | None: ...
    @property
    def scale(self) -> float: ...
    @property
    def softcap(self) -> float | None: ...


@dataclass(frozen=True, slots=True, eq=False)
class SparseEvidence:
    """Evidence of a batch: what the sources say at some of its rows.

    rows int64 [R], the row of the batch, ascending; partitions int64 [R], whose cells the ids are; weights
    float32 [R], adding up to 1 over the evidence of one row; ids int64 [R, K], no cell twice in a row, and
    log_probs float32 [R, K], PAD and −inf where absent.

    Raises:
        ValueError: shapes do not belong together, or rows are not ascending.
    """

    rows_R: torch.Tensor
    partitions_R: torch.Tensor
    weights_R: torch.Tensor
    ids_RK: torch.Tensor
    log_probs_RK: torch.Tensor

    def __post_init__(self) -> None:
        rows = len(self.rows_R)
        if {len(getattr(self, name)) for name in self.__slots__} != {rows} or self.ids_RK.ndim != 2:
            shapes = {name: tuple(getattr(self, name).shape) for name in self.__slots__}
            raise ValueError(f"evidence must have one row number, partition, weight and [K] entries per row: {shapes}")
        if self.ids_RK.shape != self.log_probs_RK.shape:
            raise ValueError(f"ids {tuple(self.ids_RK.shape)} and log-probs {tuple(self.log_probs_RK.shape)} differ")
        if rows > 1 and bool((self.rows_R.diff() < 0).any()):
            raise ValueError("evidence rows must be ascending; sort the evidence by row")

    def to(self, device: torch.device) -> SparseEvidence:
        """The same on `device`."""
        return SparseEvidence(*(getattr(self, name).to(device) for name in self.__slots__))

    def take(self, rows: torch.Tensor) -> SparseEvidence:
        """The given evidence rows (indices or a mask)."""
        return SparseEvidence(*(getattr(self, name)[rows] for name in self.__slots__))


@dataclass(frozen=True, slots=True, eq=False)
class LossSums:
    """Sums over rows, float64 [7], detached; sums of micro-batches and of processes add up.

    In this order: loss, CLM nats, labelled rows; fusion nats, kept mass and the target's mass on the support over
    rows with evidence are divided by the number of those rows, the last entry.
    """

    values: torch.Tensor

    def __add__(self, other: LossSums) -> LossSums:
        return LossSums(self.values + other.values)

    def means(self) -> LossMeans:
        """Means per row; those over rows with evidence are None where there is no evidence."""
        loss, clm, labelled, fusion, kept, on_support, evident = self.values.tolist()
        rows = max(labelled, 1.0)
        fusion, kept, on_support = (value / evident if evident else None for value in (fusion, kept, on_support))
        return LossMeans(loss / rows, clm / rows, fusion, kept, on_support, int(labelled), int(evident))


@dataclass(frozen=True, slots=True)
class LossMeans:
    """What a step's metrics say of its loss, in nats per row; masses are probabilities."""

    loss: float
    clm_nats: float
    fusion_nats: float | None
    kept_mass: float | None
    target_mass_on_support: float | None
    labelled_rows: int
    evidence_rows: int


def loss_of_hidden(
    hidden_ND: torch.Tensor,
    head: Head,
    labels_N: torch.Tensor,
    evidence: SparseEvidence | None,
    partitions: Partitions,
    objective: Objective,
    denominator: float | None = None,
    chunk_rows: int | None = None,
) -> tuple[torch.Tensor, LossSums]:
    """Loss (scalar) of the rows with a label, and its parts. Differentiable in hidden states, weight and bias.

    The sum over rows is divided by `denominator`, by default the number of labelled rows; a micro-batch passes
    the number of the whole batch. Arithmetic is float32, float64 if the hidden states are.
    """
    problem = _Problem.of(labels_N, evidence, partitions, objective, denominator)
    return _apply(hidden_ND, head, head.weight_VD.shape[0], problem, chunk_rows)


def loss_of_logits(
    logits_NV: torch.Tensor,
    labels_N: torch.Tensor,
    evidence: SparseEvidence | None,
    partitions: Partitions,
    objective: Objective,
    denominator: float | None = None,
    chunk_rows: int | None = None,
) -> tuple[torch.Tensor, LossSums]:
    """The same for models whose head can't be taken off; differentiable in the logits [N, V]."""
    problem = _Problem.of(labels_N, evidence, partitions, objective, denominator)
    return _apply(logits_NV, None, logits_NV.shape[1], problem, chunk_rows)


def _apply(
    rows_NX: torch.Tensor, head: Head | None, vocabulary: int, problem: _Problem, chunk_rows: int | None
) -> tuple[torch.Tensor, LossSums]:
    weight, bias = (None, None) if head is None else (head.weight_VD, head.bias_V)
    usual = max(MIN_CHUNK_ROWS, CHUNK_ENTRIES.get(rows_NX.device.type, 2**24) // max(1, vocabulary))
    chunk, wants_gradient = chunk_rows or usual, torch.is_grad_enabled()
    loss, sums = _Loss.apply(rows_NX, weight, bias, head, problem, chunk, wants_gradient)  # type: ignore[no-untyped-call]
    return loss, LossSums(sums)


@dataclass(frozen=True, slots=True, eq=False)
class _Problem:
    """The rows that count: their numbers [n], labels [n], and the evidence at them, with row numbers and weights [R].

    Evidence becomes cells and masses chunk by chunk: those of a whole batch would be larger than what a chunk needs.
    """

    rows: torch.Tensor
    labels: torch.Tensor
    evidence: SparseEvidence
    evidence_rows_R: torch.Tensor
    weights_R: torch.Tensor
    partitions: Partitions
    objective: Objective
    denominator: float

    @classmethod
    def of(
        cls,
        labels_N: torch.Tensor,
        evidence: SparseEvidence | None,
        partitions: Partitions,
        objective: Objective,
        denominator: float | None,
    ) -> _Problem:
        rows = torch.nonzero(labels_N != IGNORED).squeeze(1)
        number_N = torch.full_like(labels_N, PAD)
        number_N[rows] = torch.arange(len(rows), device=rows.device)
        evidence = evidence or _no_evidence(labels_N.device)
        # A row that keeps no mass says nothing: its share goes to the other sources' evidence at that position.
        says = (evidence.weights_R > 0) & _keeps_mass(evidence, partitions, objective)
        counts = says & (number_N[evidence.rows_R] != PAD)
        if not bool(counts.all()):
            evidence = evidence.take(counts)
        at, weights = number_N[evidence.rows_R], evidence.weights_R
        total_n = torch.zeros(len(rows), device=weights.device, dtype=weights.dtype).index_put((at,), weights, True)
        if denominator is None:
            denominator = max(1, len(rows))
        weights = weights / total_n[at]
        return cls(rows, labels_N[rows], evidence, at, weights, partitions, objective, denominator)

    def chunks(self, size: int) -> Iterator[tuple[torch.Tensor, ChunkTargets]]:
        """Row numbers and targets of at most `size` rows at a time."""
        edges = torch.arange(0, len(self.rows) + size, size, device=self.rows.device)
        first = torch.searchsorted(self.evidence_rows_R, edges).tolist()
        for i, start in enumerate(range(0, len(self.rows), size)):
            part = slice(first[i], first[i + 1])
            cells, mass = _cells_and_mass(self.evidence, part, self.partitions, self.objective)
            targets = ChunkTargets(
                self.labels[start : start + size],
                self.evidence_rows_R[part] - start,
                self.weights_R[part],
                cells,
                mass,
            )
            yield self.rows[start : start + size], targets


def _cells_and_mass(
    evidence: SparseEvidence, part: slice, partitions: Partitions, objective: Objective
) -> tuple[torch.Tensor, torch.Tensor]:
    """Numbers of the cells, PAD where there is no mass, and kept mass, [R, K], of some evidence rows."""
    cells = partitions.numbers(evidence.ids_RK[part], evidence.partitions_R[part])
    mass = tempered(torch.where(cells == PAD, 0.0, evidence.log_probs_RK[part].exp()), objective.temperature)
    return torch.where(mass > 0, cells, PAD), mass


def _keeps_mass(evidence: SparseEvidence, partitions: Partitions, objective: Objective) -> torch.Tensor:
    """Whether a row has mass in a cell that there is, bool [R]."""
    size = max(1, EVIDENCE_ENTRIES.get(evidence.rows_R.device.type, 2**20) // max(1, evidence.ids_RK.shape[1]))
    parts = (slice(start, start + size) for start in range(0, len(evidence.rows_R), size))
    found = [_cells_and_mass(evidence, part, partitions, objective)[1].sum(1) > 0 for part in parts]
    return torch.cat(found) if found else torch.zeros_like(evidence.rows_R, dtype=torch.bool)


def _no_evidence(device: torch.device) -> SparseEvidence:
    index, number = torch.zeros(0, dtype=torch.int64, device=device), torch.zeros(0, device=device)
    return SparseEvidence(index, index, number, index.reshape(0, 1), number.reshape(0, 1))


class _Loss(torch.autograd.Function):
    """The loss of rows [N, X]: hidden states, with a head, or logits, without one."""

    @staticmethod
    def forward(
        ctx: Any,
        rows_NX: torch.Tensor,
        weight_VD: torch.Tensor | None,
        bias_V: torch.Tensor | None,
        head: Head | None,
        problem: _Problem,
        chunk: int,
        wants_gradient: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        exact = torch.promote_types(rows_NX.dtype, torch.float32)
        # Matrix products run in what autocast says; everything between them in `exact`.
        device = rows_NX.device.type
        product = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else rows_NX.dtype
        needs_rows, needs_weight, needs_bias = (wants_gradient and need for need in ctx.needs_input_grad[:3])
        grad_rows = torch.zeros_like(rows_NX) if needs_rows else None
        grad_weight = torch.zeros_like(weight_VD, dtype=exact) if needs_weight and weight_VD is not None else None
        grad_bias = torch.zeros_like(bias_V, dtype=exact) if needs_bias and bias_V is not None else None
        sums = torch.zeros(7, dtype=torch.float64, device=rows_NX.device)
        with torch.autocast(device, enabled=False):
            weight = None if weight_VD is None else weight_VD.to(product)
            for places, targets in problem.chunks(chunk):
                rows = rows_NX.index_select(0, places)
                if head is None or weight is None:
                    logits = rows.to(exact)
                else:
                    rows = rows.to(product)
                    logits = _logits(rows, weight, bias_V, head, exact)
                grad = chunk_loss_and_gradient(logits, targets, problem.partitions, problem.objective, sums)
                if not wants_gradient:
                    continue
                if head is not None and weight is not None:
                    grad = _through_cap(grad, logits, head)
                    if grad_bias is not None:
                        grad_bias += grad.sum(0)
                    grad = grad.to(product)
                    if grad_weight is not None:
                        _add_product(grad_weight, grad, rows)
                    grad = grad @ weight if grad_rows is not None else grad
                if grad_rows is not None:
                    grad_rows.index_copy_(0, places, grad.to(grad_rows.dtype))
        for found in (grad_rows, grad_weight, grad_bias):
            if found is not None:
                found /= problem.denominator
        ctx.save_for_backward(grad_rows, grad_weight, grad_bias)
        ctx.dtypes = [None if given is None else given.dtype for given in (rows_NX, weight_VD, bias_V)]
        ctx.mark_non_differentiable(sums)
        return (sums[0] / problem.denominator).to(exact), sums

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_loss: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        saved = zip(_times(grad_loss, ctx.saved_tensors), ctx.dtypes, strict=True)
        return (*(None if grad is None else grad.to(dtype) for grad, dtype in saved), None, None, None, None)


def _times(grad_loss: torch.Tensor, grads: Sequence[torch.Tensor | None]) -> Sequence[torch.Tensor | None]:
    """The gradients times the loss's own. As a training step has it, that is 1, and nothing is copied: dW may be the
    largest tensor there is."""
    if float(grad_loss) == 1:
        return grads
    return [None if grad is None else grad * grad_loss.to(grad.dtype) for grad in grads]


def _logits(
    hidden: torch.Tensor, weight: torch.Tensor, bias_V: torch.Tensor | None, head: Head, exact: torch.dtype
) -> torch.Tensor:
    logits = (hidden @ weight.T).to(exact)
    if bias_V is not None:
        logits += bias_V
    if head.scale != 1.0:
        logits *= head.scale
    if head.softcap is not None:
        logits = logits.div_(head.softcap).tanh_().mul_(head.softcap)
    return logits


def _through_cap(grad: torch.Tensor, logits: torch.Tensor, head: Head) -> torch.Tensor:
    """The gradient before softcap and scale; d cap(x) / dx = 1 − (cap(x) / softcap)²."""
    if head.softcap is not None:
        grad = grad * (1 - (logits / head.softcap).square_())
    return grad if head.scale == 1.0 else grad * head.scale


def _add_product(total_VD: torch.Tensor, grad: torch.Tensor, hidden: torch.Tensor) -> None:
    if grad.dtype == total_VD.dtype:
        total_VD.addmm_(grad.T, hidden)
    else:
        total_VD += grad.T @ hidden
