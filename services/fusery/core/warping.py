"""The exact warping path between two token sequences: the paper's dynamic time warping, compiled.

Exact DTW is O(T·N): 4 M cells at 2048 tokens, where the plain statement takes seconds. Documents repeat their tokens,
so the Levenshtein distances are computed once per distinct pair, and the recurrence runs in compiled code that keeps
two rows of the matrix and one byte per cell: the step by which the path came. Memory: T·N bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist

from fusery.core.rules import TieOrder
from fusery.core.topk import IntArray

_DIAGONAL, _SOURCE, _TARGET = 0, 1, 2


@dataclass(frozen=True, slots=True, eq=False)
class WarpingPath:
    """Matched pairs int64 [P, 2] of (source row, target position), ascending, and the sum of their distances."""

    pairs_P2: IntArray
    cost: int


def warping_path(
    source_tokens: Sequence[str] | Sequence[bytes],
    target_tokens: Sequence[str] | Sequence[bytes],
    ties: TieOrder = TieOrder.DIAGONAL_SOURCE_TARGET,
) -> WarpingPath:
    """The cheapest monotone path through all pairs of tokens.

    FuseLLM section 3.2: D[i,j] = Levenshtein(i, j) + min(D[i−1,j], D[i,j−1], D[i−1,j−1]); where several are the
    least, `ties` says which the path came from. Empty if a side has no tokens.
    """
    if not source_tokens or not target_tokens:
        return WarpingPath(np.zeros((0, 2), np.int64), 0)
    distinct_source, rows_T = _distinct(source_tokens)
    distinct_target, columns_N = _distinct(target_tokens)
    distance_UV = cdist(distinct_source, distinct_target, scorer=Levenshtein.distance, dtype=np.int32)
    steps, walk = _compiled()
    cost, steps_TN = steps(distance_UV, rows_T, columns_N, ties is TieOrder.DIAGONAL_SOURCE_TARGET)
    return WarpingPath(walk(steps_TN), int(cost))


@lru_cache(maxsize=1)
def _compiled() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """`_steps` and `_walk` in machine code: two seconds once per process, and only where a path is asked for."""
    import numba

    return numba.njit(nogil=True)(_steps), numba.njit(nogil=True)(_walk)


def _distinct(tokens: Sequence[Any]) -> tuple[list[Any], npt.NDArray[np.int32]]:
    """The distinct tokens, and for each token its index among them."""
    index: dict[Any, int] = {}
    which = [index.setdefault(token, len(index)) for token in tokens]
    return list(index), np.asarray(which, np.int32)


def _steps(
    distance_UV: npt.NDArray[np.int32],
    rows_T: npt.NDArray[np.int32],
    columns_N: npt.NDArray[np.int32],
    source_before_target: bool,
) -> tuple[int, npt.NDArray[np.uint8]]:
    """The total cost D[T−1, N−1], and for each cell the step that leads to it, uint8 [T, N]."""
    tokens, columns = len(rows_T), len(columns_N)
    steps = np.empty((tokens, columns), np.uint8)
    beyond = np.int64(1) << 60
    # total[j + 1] is D of the row above until it is overwritten with D of this row; total[0] is the border.
    total = np.full(columns + 1, beyond, np.int64)
    total[0] = 0
    for i in range(tokens):
        distances = distance_UV[rows_T[i]]
        diagonal, left = total[0], beyond
        total[0] = beyond
        for j in range(columns):
            above = total[j + 1]
            best, step = diagonal, _DIAGONAL
            if source_before_target:
                if above < best:
                    best, step = above, _SOURCE
                if left < best:
                    best, step = left, _TARGET
            else:
                if left < best:
                    best, step = left, _TARGET
                if above < best:
                    best, step = above, _SOURCE
            left = best + distances[columns_N[j]]
            diagonal = above
            total[j + 1] = left
            steps[i, j] = step
    return total[columns], steps


def _walk(steps_TN: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """The pairs from (0, 0) to the last cell, int64 [P, 2]."""
    i, j = steps_TN.shape[0] - 1, steps_TN.shape[1] - 1
    backwards = np.empty((i + j + 1, 2), np.int64)
    length = 0
    while True:
        backwards[length, 0], backwards[length, 1] = i, j
        length += 1
        if i == 0 and j == 0:
            return backwards[:length][::-1].copy()
        step = steps_TN[i, j]
        i -= step != _TARGET
        j -= step != _SOURCE


def one_to_one(pairs_P2: IntArray, target_tokens: int) -> tuple[IntArray, IntArray]:
    """Of a path's pairs those whose target position meets one source row only: rows, positions, both ascending."""
    rows, positions = pairs_P2[:, 0], pairs_P2[:, 1]
    single = np.bincount(positions, minlength=target_tokens)[positions] == 1
    return rows[single], positions[single]
