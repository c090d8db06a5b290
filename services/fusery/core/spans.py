"""A tokenizer's spans beside the text: what its tokens spell of it, where they do not spell all of it."""

from __future__ import annotations

from collections.abc import Iterator
from unicodedata import combining

import numpy as np
import numpy.typing as npt

from fusery.core.topk import IntArray


def loses_text(text: str, spans_T2: IntArray) -> bool:
    """Whether a character is in no token's span that is neither white space nor a mark on the one before it."""
    covered = np.zeros(len(text), bool)
    for start, end in spans_T2.tolist():
        covered[start:end] = True
    return any(not text[i].isspace() and not combining(text[i]) for i in np.flatnonzero(~covered).tolist())


def compared(
    data: bytes, pieces: list[bytes], starts_T: IntArray, ends_T: IntArray
) -> tuple[npt.NDArray[np.bool_], IntArray]:
    """The tokens beside the text that their spans cover: `stands`, bool [T + 1], and unspelled bytes, int64 [T].

    `stands`: whether what follows is spelled as it stands in the text: before the first token, then after each. Tokens
    whose spans overlap (pieces of a character, or of what normalisation made of it) spell them together, so only the
    last of them stands. Behind the last token nothing follows: true.
    """
    stands, unspelled = np.zeros(len(pieces) + 1, bool), np.diff(ends_T, prepend=0)
    before = 0
    for first, after in _overlapping(starts_T.tolist(), ends_T.tolist()):
        start, end = int(starts_T[first]), int(ends_T[after - 1])
        if b"".join(pieces[first:after]) == data[start:end]:
            stands[first] = start == before
            unspelled[first:after] = 0
            unspelled[first] = start - before
        before = end
    stands[-1] = before == len(data)
    return stands, unspelled


def _overlapping(starts: list[int], ends: list[int]) -> Iterator[tuple[int, int]]:
    """Runs of spans that overlap, as (first, after)."""
    first = 0
    for i in range(1, len(starts) + 1):
        if i == len(starts) or starts[i] >= ends[i - 1]:
            yield first, i
            first = i
