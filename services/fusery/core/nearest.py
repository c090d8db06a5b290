"""The nearest string of a vocabulary by Levenshtein distance (MinED), exactly, for tens of thousands of strings.

Strings whose lengths differ by d are at least d apart, so the choices are tried by growing difference of length and
a string is done once its best distance is below the next difference. The distances come from rapidfuzz, many at once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist

from fusery.core.topk import PAD, IntArray

_BLOCK = 256
"""Strings compared at once: a block's distances stay in the cache."""


def nearest(strings: Sequence[str] | Sequence[bytes], choices: Sequence[str] | Sequence[bytes]) -> IntArray:
    """For each of `strings` the index of the choice at the least distance, the first of several, int64 [n].

    PAD if there are no choices.
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
