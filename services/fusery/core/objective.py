"""Loss and gradient of one chunk of logits, from the formulas.

With q = softmax(z), Q_c the target's mass of cell c, P_c the sources' mass, m = Σ P_c, p_T = 1 − m and q_T the mass
outside the support, the gradient of one row of evidence is (m + p_T)·q − Σ_c P_c·softmax(z within c) − p_T·softmax(z
outside the support). Every term is at most 1 in size and computed as it stands, so nothing cancels at either extreme.

Dimensions: n rows of a chunk, V vocabulary, R evidence rows, K entries, E entries flat, M members of cells flat.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from fusery.core.cells import Partitions
from fusery.core.rules import Tail
from fusery.core.topk import PAD


@dataclass(frozen=True, slots=True)
class Objective:
    """λ and what becomes of the mass outside the kept entries."""

    clm_weight: float
    tail: Tail


@dataclass(frozen=True, slots=True, eq=False)
class ChunkTargets:
    """Labels int64 [n]; evidence: rows of the chunk int64 [R] ascending, weights [R], cells int64 and mass [R, K]."""

    labels_n: torch.Tensor
    rows_R: torch.Tensor
    weights_R: torch.Tensor
    cells_RK: torch.Tensor
    mass_RK: torch.Tensor

    def rounds(self) -> Iterator[ChunkTargets]:
        """The evidence in parts that have at most one row of evidence per row of the chunk."""
        if not len(self.rows_R):
            return
        first_R = torch.searchsorted(self.rows_R, self.rows_R)
        number_R = torch.arange(len(self.rows_R), device=self.rows_R.device) - first_R
        rounds = int(number_R.max()) + 1
        if rounds == 1:
            yield self
            return
        for number in range(rounds):
            part = number_R == number
            yield ChunkTargets(
                self.labels_n, self.rows_R[part], self.weights_R[part], self.cells_RK[part], self.mass_RK[part]
            )


@dataclass(frozen=True, slots=True, eq=False)
class _Support:
    """Where a round's cells are: places [M] in the flat logits, log Q and P [R, K], and the gradient's weighted
    P·softmax within the cell [M]."""

    places_M: torch.Tensor
    log_q_RK: torch.Tensor
    mass_RK: torch.Tensor
    pull_M: torch.Tensor


def chunk_loss_and_gradient(
    logits_nV: torch.Tensor,
    targets: ChunkTargets,
    partitions: Partitions,
    objective: Objective,
    sums: torch.Tensor,
) -> torch.Tensor:
    """Gradient of the summed loss, [n, V]; adds to `sums` what `loss.LossSums` lists."""
    labels = targets.labels_n[:, None]
    q = torch.softmax(logits_nV, dim=1)
    # The largest probability is at least 1/V, so its logarithm is exact: cheaper than a second pass of exponentials.
    lse = logits_nV.amax(1) - q.amax(1).log()
    clm = lse - logits_nV.gather(1, labels).squeeze(1)
    clm_weight = torch.ones_like(lse)
    clm_weight[targets.rows_R] = objective.clm_weight
    fusion, normaliser = torch.zeros_like(lse), clm_weight.clone()
    pulls: list[tuple[torch.Tensor, torch.Tensor]] = []
    off_support: torch.Tensor | None = None
    for part in targets.rounds():
        weights = part.weights_R.to(q.dtype)
        share = (1 - objective.clm_weight) * weights
        support = _support(logits_nV, lse, part, share, partitions, objective.tail)
        nats, kept = -(support.mass_RK * support.log_q_RK).sum(1), support.mass_RK.sum(1)
        if objective.tail is Tail.TAIL:
            off, tail_nats, tail_mass = _tail(q, part.rows_R, support, 1 - kept, share)
            off_support = off if off_support is None else off_support.add_(off)
            nats, kept = nats + tail_nats, kept + tail_mass
        fusion[part.rows_R] += weights * nats
        normaliser[part.rows_R] += share * kept
        pulls.append((support.places_M, support.pull_M))
        _add_evidence_sums(sums, weights, part.mass_RK, support)
    _add_sums(sums, clm, clm_weight, fusion, targets)
    grad = q.mul_(normaliser[:, None])
    if off_support is not None:
        grad -= off_support
    for places, pull in pulls:
        # Places are distinct, so this needs no atomic additions: the same bits on every run.
        grad.view(-1)[places] -= pull
    grad.scatter_(1, labels, grad.gather(1, labels) - clm_weight[:, None])
    return grad


def _support(
    logits_nV: torch.Tensor,
    lse_n: torch.Tensor,
    part: ChunkTargets,
    share_R: torch.Tensor,
    partitions: Partitions,
    tail: Tail,
) -> _Support:
    present_E = torch.nonzero(part.cells_RK.flatten() != PAD).squeeze(1)
    rows_E = part.rows_R[present_E // part.cells_RK.shape[1]]
    tokens_M, entries_M, sizes_E = partitions.expand(part.cells_RK.flatten()[present_E])
    places_M = rows_E[entries_M] * logits_nV.shape[1] + tokens_M
    z_M = logits_nV.reshape(-1)[places_M]
    # log Q_c by the members' own logits: it never underflows, however unlikely the target thinks the cell.
    top_E = torch.segment_reduce(z_M, "max", lengths=sizes_E, unsafe=True)
    e_M = (z_M - top_E[entries_M]).exp_()
    sum_E = torch.segment_reduce(e_M, "sum", lengths=sizes_E, unsafe=True)
    mass_RK = part.mass_RK.to(z_M.dtype)
    log_q_RK = torch.zeros_like(mass_RK)
    log_q_RK.view(-1)[present_E] = (top_E + sum_E.log() - lse_n[rows_E]).clamp_(max=0)
    if tail is Tail.RENORMALISE:
        mass_RK = mass_RK / mass_RK.sum(1, keepdim=True)
    pull_E = (share_R[:, None] * mass_RK).flatten()[present_E] / sum_E
    return _Support(places_M, log_q_RK, mass_RK, e_M * pull_E[entries_M])


def _tail(
    q_nV: torch.Tensor, rows_R: torch.Tensor, support: _Support, tail_mass_R: torch.Tensor, share_R: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradient of the tail off the support [n, V], its nats [R] and the mass [R] that it adds to the normaliser.

    q_T is summed over what is off the support, not 1 − Σ Q_c, which would be rounding noise where the target is sure.
    Where q_T is below the smallest number, or nothing is off the support, the tail is left out.
    """
    off = q_nV.clone()
    off.view(-1)[support.places_M] = 0
    q_tail_R = off.sum(1)[rows_R]
    least = torch.finfo(q_nV.dtype).tiny
    mass_R = torch.where(q_tail_R >= least, tail_mass_R.clamp(min=0), 0)
    q_tail_R = q_tail_R.clamp(min=least)
    factor_n = torch.zeros_like(off[:, 0])
    factor_n[rows_R] = share_R * mass_R / q_tail_R
    return off.mul_(factor_n[:, None]), -mass_R * q_tail_R.log(), mass_R


def _add_evidence_sums(sums: torch.Tensor, weights_R: torch.Tensor, mass_RK: torch.Tensor, support: _Support) -> None:
    present = mass_RK > 0
    sums[4] += (weights_R * mass_RK.sum(1)).sum()
    sums[5] += (weights_R * torch.where(present, support.log_q_RK.exp(), 0).sum(1)).sum()


def _add_sums(
    sums: torch.Tensor, clm_n: torch.Tensor, clm_weight_n: torch.Tensor, fusion_n: torch.Tensor, targets: ChunkTargets
) -> None:
    evident = torch.zeros_like(clm_n, dtype=torch.bool)
    evident[targets.rows_R] = True
    sums[0] += (clm_weight_n * clm_n).sum() + ((1 - clm_weight_n) * fusion_n).sum()
    sums[1] += clm_n.sum()
    sums[2] += len(clm_n)
    sums[3] += fusion_n.sum()
    sums[6] += evident.sum()
