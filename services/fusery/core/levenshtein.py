"""The paper's two uses of the Levenshtein distance, exact and compiled: the warping path (`dtw`), and the nearest token
of a vocabulary (`min_ed`).

Exact DTW is O(T·N): 4 M cells at 2048 tokens, where the plain statement takes seconds. Documents repeat their tokens,
so the distances are computed once per distinct pair, many at once, by rapidfuzz; the recurrence runs in numba's machine
code that keeps two rows of the matrix and one byte per cell: the step by which the path came. Memory: T·N bytes.
Strings whose lengths differ by d are at least d apart, so the nearest is looked for by growing difference of length,
and a string is done once its best distance is below the next difference.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist

from fusery.core.rules import TieOrder
from fusery.core.topk import PAD, IntArray

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

    >>> warping_path(["ab", "cd"], ["a", "b", "cd"]).pairs_P2.tolist()
    [[0, 0], [0, 1], [1, 2]]
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


_BLOCK = 256
"""Strings compared at once: a block's distances stay in the cache."""


def nearest(strings: Sequence[str] | Sequence[bytes], choices: Sequence[str] | Sequence[bytes]) -> IntArray:
    """For each of `strings` the index of the choice at the least distance, the first of several, int64 [n].

    PAD if there are no choices.

    >>> nearest(["the", "thes"], ["a", "th", "them"]).tolist()
    [1, 2]
    """
    index_of: dict[Any, int] = {}
    for i, choice in enumerate(choices):
        index_of.setdefault(choice, i)
    found = np.asarray([index_of.get(string, PAD) for string in strings], np.int64)
    if not index_of:
        return found
    distinct, order = list(index_of), np.fromiter(index_of.values(), np.int64, len(index_of))
    groups = {length: (order[rows], [distinct[row] for row in rows]) for length, rows in _by_length(distinct).items()}
    missing = np.flatnonzero(found == PAD).tolist()
    for length, rows in _by_length([strings[row] for row in missing]).items():
        for start in range(0, len(rows), _BLOCK):
            block = [missing[row] for row in rows[start : start + _BLOCK].tolist()]
            found[block] = _nearest_in_groups([strings[row] for row in block], length, groups)
    return found


def _by_length(strings: Sequence[Any]) -> dict[int, IntArray]:
    """Length → the rows of the strings that have it, ascending."""
    rows: dict[int, list[int]] = defaultdict(list)
    for row, string in enumerate(strings):
        rows[len(string)].append(row)
    return {length: np.asarray(of_length, np.int64) for length, of_length in sorted(rows.items())}


def _nearest_in_groups(strings: list[Any], length: int, groups: dict[int, tuple[IntArray, list[Any]]]) -> IntArray:
    """`nearest` for strings of one length; a group is the choices of one length with their indices, ascending."""
    best = np.full(len(strings), np.iinfo(np.int64).max)
    index = np.full(len(strings), np.iinfo(np.int64).max)
    for difference in range(max(length, max(groups) - length) + 1):
        # At a distance equal to the difference a choice with a smaller index may still win.
        active = np.flatnonzero(best >= difference)
        if not len(active):
            break
        for other in {length - difference, length + difference} & groups.keys():
            indices, group = groups[other]
            distances = _distances([strings[row] for row in active], group)
            at = distances.argmin(axis=1)
            distance, candidate = distances[np.arange(len(active)), at].astype(np.int64), indices[at]
            wins = (distance < best[active]) | ((distance == best[active]) & (candidate < index[active]))
            best[active[wins]], index[active[wins]] = distance[wins], candidate[wins]
    return index


def _distances(strings: list[Any], choices: list[Any]) -> npt.NDArray[Any]:
    longest = max(len(strings[0]), len(choices[0]))
    return cdist(strings, choices, scorer=Levenshtein.distance, dtype=np.uint8 if longest < 256 else np.int32)
