"""Loss and gradient of one chunk of logits, from the formulas.

With q = softmax(z), Q_c the target's mass of cell c, P_c the sources' mass, m = Σ P_c, p_T = 1 − m and q_T the mass
outside the support, the gradient of one row of evidence is (m + p_T)·q − Σ_c P_c·softmax(z within c) − p_T·softmax(z
outside the support). Every term is at most 1 in size and computed as it stands, so nothing cancels at either extreme.

Dimensions: n rows of a chunk, V vocabulary, R evidence rows, K entries, E entries flat,
M members of cells flat, C cells of all partitions, P partitions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch

from fusery.core.rules import Tail
from fusery.core.topk import PAD, IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Partitions:
    """The cells of one or several partitions of one vocabulary, numbered through.

    Cells are ragged (most have one member, some have hundreds), so members stand in one flat array and are reached by
    offsets: padded to the largest cell they take hundreds of times the memory.

    members int64 [M], ids of the target's tokens, cell after cell; starts and sizes int64 [C]; cell c of
    partition p has the number first_cells_P[p] + c; partition p has first_cells_P[p+1] − first_cells_P[p] cells.
    """

    members_M: torch.Tensor
    starts_C: torch.Tensor
    sizes_C: torch.Tensor
    first_cells_P: torch.Tensor

    @classmethod
    def of(cls, cell_of_target: Sequence[IntArray]) -> Partitions:
        """From one array cell_of_target [V] per partition; tokens whose cell is PAD are members of none."""
        parts = [_members_of(cells_V) for cells_V in cell_of_target]
        sizes = np.concatenate([sizes_C for _, sizes_C in parts]) if parts else np.zeros(0, np.int64)
        members = np.concatenate([members_M for members_M, _ in parts]) if parts else np.zeros(0, np.int64)
        first_cells = np.fromiter(accumulate((len(s) for _, s in parts), initial=0), np.int64, len(parts) + 1)
        return cls(
            torch.from_numpy(members),
            torch.from_numpy(np.cumsum(sizes) - sizes),
            torch.from_numpy(sizes),
            torch.from_numpy(first_cells),
        )

    @property
    def vocabulary(self) -> int:
        """The least size of a vocabulary that holds every member."""
        return int(self.members_M.max()) + 1 if len(self.members_M) else 0

    def to(self, device: torch.device) -> Partitions:
        """The same on `device`."""
        return Partitions(*(getattr(self, name).to(device) for name in self.__slots__))

    def numbers(self, ids_RK: torch.Tensor, partitions_R: torch.Tensor) -> torch.Tensor:
        """Numbers of the cells `ids_RK` of the row's partition, int64 [R, K]; PAD where absent, unknown or empty."""
        first_R = self.first_cells_P[partitions_R][:, None]
        known = (ids_RK >= 0) & (ids_RK < self.first_cells_P[partitions_R + 1][:, None] - first_R)
        number_RK = torch.where(known, ids_RK + first_R, 0)
        if len(self.sizes_C):
            known &= self.sizes_C[number_RK] > 0
        return torch.where(known, number_RK, PAD)

    def expand(self, cells_E: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Members of the given cells: token ids [M], the entry each belongs to [M], members per entry [E]."""
        sizes_E = self.sizes_C[cells_E]
        entries_M = torch.repeat_interleave(sizes_E)
        # Where an entry's members stand in `members_M`, less where they stand here.
        shifts_E = self.starts_C[cells_E] - (sizes_E.cumsum(0) - sizes_E)
        places_M = torch.arange(len(entries_M), device=cells_E.device) + shifts_E[entries_M]
        return self.members_M[places_M], entries_M, sizes_E


def _members_of(cells_V: IntArray) -> tuple[IntArray, IntArray]:
    """Token ids ordered by cell, then by id, int64 [M], and the number of members of each cell, int64 [C]."""
    tokens = np.flatnonzero(cells_V != PAD)
    order = np.argsort(cells_V[tokens], kind="stable")
    return tokens[order].astype(np.int64), np.bincount(cells_V[tokens]).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Objective:
    """λ, what becomes of the mass outside the kept entries, and the temperature of the sources' distributions."""

    clm_weight: float
    tail: Tail
    temperature: float = 1.0


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


def tempered(mass_RK: torch.Tensor, temperature: float) -> torch.Tensor:
    """The kept mass [R, K] of P^(1/temperature), normalised; the tail counts as one outcome more.

    With `renormalise` the tail's share cancels: that is the paper's softmax over the kept logits at a temperature.
    """
    if temperature == 1.0:
        return mass_RK
    raised_RK = mass_RK.pow(1 / temperature)
    tail_R = (1 - mass_RK.sum(1)).clamp(min=0).pow(1 / temperature)
    # A row that keeps nothing and has no tail stays one that keeps nothing.
    return raised_RK / (raised_RK.sum(1) + tail_R).clamp(min=torch.finfo(mass_RK.dtype).tiny)[:, None]


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
    tails: list[torch.Tensor] = []
    supports: list[_Support] = []
    for part in targets.rounds():
        weights = part.weights_R.to(q.dtype)
        share = (1 - objective.clm_weight) * weights
        support = _support(logits_nV, lse, part, share, partitions, objective.tail)
        nats, kept = -(support.mass_RK * support.log_q_RK).sum(1), support.mass_RK.sum(1)
        if objective.tail is Tail.TAIL:
            factor_n, tail_nats, tail_mass = _tail(q, part.rows_R, support, 1 - kept, share)
            tails.append(factor_n)
            nats, kept = nats + tail_nats, kept + tail_mass
        fusion[part.rows_R] += weights * nats
        normaliser[part.rows_R] += share * kept
        supports.append(support)
        on_support_R = torch.where(part.mass_RK > 0, support.log_q_RK.exp(), 0).sum(1)
        sums[4] += (weights * part.mass_RK.sum(1)).sum()
        sums[5] += (weights * on_support_R).sum()
    _add_sums(sums, clm, clm_weight, fusion, targets)
    grad = _weighted(q, normaliser, tails, [support.places_M for support in supports])
    for support in supports:
        # Places are distinct, so this needs no atomic additions: the same bits on every run.
        grad.view(-1)[support.places_M] -= support.pull_M
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
    """What the tail takes from q off the support, by row [n]; its nats [R], and the mass [R] it adds to the normaliser.

    q_T is summed over what is off the support, not 1 − Σ Q_c, which would be rounding noise where the target is sure.
    Where q_T is below the smallest number, or nothing is off the support, the tail is left out.
    """
    flat = q_nV.view(-1)
    # Taken out and put back: a copy of the chunk would be the largest thing in memory.
    on_support_M = flat[support.places_M]
    flat[support.places_M] = 0
    q_tail_R = q_nV.sum(1)[rows_R]
    flat[support.places_M] = on_support_M
    # Shares of hundreds of sources still add up to a finite factor.
    least = torch.finfo(q_nV.dtype).tiny * 2**10
    mass_R = torch.where(q_tail_R >= least, tail_mass_R.clamp(min=0), 0)
    q_tail_R = q_tail_R.clamp(min=least)
    factor_n = torch.zeros_like(q_nV[:, 0])
    factor_n[rows_R] = share_R * mass_R / q_tail_R
    return factor_n, -mass_R * q_tail_R.log(), mass_R


def _weighted(
    q_nV: torch.Tensor, normaliser_n: torch.Tensor, tails: list[torch.Tensor], places: list[torch.Tensor]
) -> torch.Tensor:
    """q times the row's normaliser, less every tail's factor where the place is off that tail's support; in q's memory.

    The factor of a tail can be 1e30. On the support it never enters the sum, so nothing cancels there.
    """
    if not tails:
        return q_nV.mul_(normaliser_n[:, None])
    width, flat = q_nV.shape[1], q_nV.view(-1)
    places_U, number = (places[0], None) if len(places) == 1 else torch.unique(torch.cat(places), return_inverse=True)
    rows_U = places_U // width
    weight_U = normaliser_n[rows_U]
    if number is not None:
        for factor_n, own in zip(tails, number.split([len(of_round) for of_round in places]), strict=True):
            weight_U -= factor_n[rows_U].index_fill_(0, own, 0)
    on_support_U = flat[places_U] * weight_U
    q_nV.mul_((normaliser_n - torch.stack(tails).sum(0))[:, None])
    flat[places_U] = on_support_U
    return q_nV


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
