"""Cells of the target's vocabulary as the loss reads them: which tokens are the members of a cell.

Dimensions: M members, C cells of all partitions, E entries (a row's cells, flat), R evidence rows, K entries
kept per row. Cells are ragged (most have one member, some have hundreds), so members stand in one flat array
and are reached by offsets: padding them to the largest cell would cost hundreds of times the memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch

from fusery.core.topk import PAD, IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Partitions:
    """The cells of one or several partitions of one vocabulary, numbered through.

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
