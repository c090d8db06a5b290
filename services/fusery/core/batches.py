"""Which documents are computed together. A model's bits depend on its batch, so this is a function of lengths alone."""

from __future__ import annotations

from collections.abc import Sequence

MOST_DOCUMENTS = 1024
"""What a source server takes at once by default."""


def by_length(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Indices sorted by length, then by place, cut so that count × longest ≤ `most`, one index at least.

    Count × longest and not the sum: a batch is padded to its longest document.

    >>> by_length([5, 2, 3, 9], most=8)
    [[1, 2], [0], [3]]
    """
    cut: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if cut and len(cut[-1]) < MOST_DOCUMENTS and (len(cut[-1]) + 1) * lengths[index] <= most:
            cut[-1].append(index)
        else:
            cut.append([index])
    return cut
