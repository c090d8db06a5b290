"""The rules as the paper's implementation states them, in plain Python: slow, obvious, for tests and benches only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from rapidfuzz.distance import Levenshtein

DIAGONAL, SOURCE, TARGET = (-1, -1), (-1, 0), (0, -1)
TIES = {"diagonal_source_target": (DIAGONAL, SOURCE, TARGET), "diagonal_target_source": (DIAGONAL, TARGET, SOURCE)}


def plain_matrix(source: Sequence[Any], target: Sequence[Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """D of the recurrence, cell by cell, with its border: [T + 1, N + 1]."""
    total = np.full((len(source) + 1, len(target) + 1), np.inf)
    total[0, 0] = 0
    for i in range(len(source)):
        for j in range(len(target)):
            best = min(total[i, j + 1], total[i + 1, j], total[i, j])
            total[i + 1, j + 1] = Levenshtein.distance(source[i], target[j]) + best
    return total


def plain_path(source: Sequence[Any], target: Sequence[Any], ties: str) -> tuple[float, list[tuple[int, int]]]:
    """The cost, and the path found by going back over the matrix."""
    total = plain_matrix(source, target)
    i, j = len(source) - 1, len(target) - 1
    path = [(i, j)]
    while i or j:
        steps = [(i + di, j + dj) for di, dj in TIES[ties]]
        i, j = min((step for step in steps if min(step) >= 0), key=lambda step: total[step[0] + 1, step[1] + 1])
        path.append((i, j))
    return float(total[-1, -1]), path[::-1]


def plain_nearest(strings: Sequence[Any], choices: Sequence[Any]) -> list[int]:
    """For each string the index of the first choice at the least distance."""
    return [min(range(len(choices)), key=lambda i: Levenshtein.distance(string, choices[i])) for string in strings]


def plain_reference(
    source: Sequence[str],
    target: Sequence[str],
    markers: tuple[str, str],
    mapping: dict[str, str] | None,
    ties: str = "diagonal_source_target",
) -> list[int | None]:
    """For each target position the source row that it takes, None for its own token's certainty; no mapping: exact."""
    source_marker, target_marker = markers
    stripped = [s.replace(source_marker, "") for s in source], [t.replace(target_marker, "") for t in target]
    _, path = plain_path(*stripped, ties)
    matched: list[list[int]] = [[] for _ in target]
    for row, position in path:
        matched[position].append(row)
    taken: list[int | None] = []
    for position, rows in enumerate(matched):
        string = source[rows[0]].replace(source_marker, target_marker)
        lacks = target[position].startswith(target_marker) and not string.startswith(target_marker)
        if position == 0 and source_marker == "Ġ" and lacks:
            string = target_marker + string
        same = string == target[position] or (mapping is not None and mapping.get(string) == target[position])
        taken.append(rows[0] if len(rows) == 1 and same else None)
    return taken


def plain_kept(images: Sequence[int]) -> list[int]:
    """The entries of one row that stay: with an image (not −1) that none before has."""
    seen: set[int] = set()
    kept = []
    for entry, image in enumerate(images):
        if image >= 0 and image not in seen:
            kept.append(entry)
            seen.add(image)
    return kept
