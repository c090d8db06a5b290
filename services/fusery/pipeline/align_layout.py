"""Tokenisations of one text under each other: in which columns every token stands, so that common byte ends line up.

A column is one character cell. The tokens of each row lie between byte ends; a byte end gets the leftmost column
that leaves every token before it room for its text, in all rows at once: the longest path through the ends, O(tokens).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from rich.cells import cell_len

from fusery.pipeline.align_view import Token

_Key = tuple[int, int]
"""Byte end, and how many tokens of the row with the same end come after: negative, so that the last stands at 0."""
_ORIGIN: _Key = (-1, 0)


@dataclass(frozen=True, slots=True)
class Box:
    """A token's place: its text begins at column `left`, its end is drawn at column `right`."""

    index: int
    left: int
    right: int


@dataclass(frozen=True, slots=True)
class Layout:
    """Boxes of each row, and the column of every byte end at which a token stands; `width` columns in all."""

    rows: tuple[tuple[Box, ...], ...]
    column_of_end: dict[int, int]
    width: int


def laid_out(rows: Sequence[Sequence[Token]]) -> Layout:
    """The columns of all `rows`' tokens, each as wide as its visible text."""
    spans = [list(_spans(row)) for row in rows]
    keys = sorted({key for row in spans for span in row for key in span} | {_ORIGIN, (0, 0)})
    ending: dict[_Key, list[tuple[_Key, int]]] = {key: [] for key in keys}
    for row, tokens in zip(spans, rows, strict=True):
        for (start, end), token in zip(row, tokens, strict=True):
            ending[end].append((start, cell_len(token.shown)))
    column = {_ORIGIN: -1}
    has_prefix = bool(ending[0, 0])
    for before, key in pairwise(keys):
        # Without a prefix token the text begins where the line begins.
        least = column[before] + 1 if key != (0, 0) or has_prefix else column[before]
        column[key] = max([least, *(column[start] + 1 + width for start, width in ending[key])])
    boxes = tuple(
        tuple(Box(index, column[start] + 1, column[end]) for index, (start, end) in enumerate(row)) for row in spans
    )
    ends = {end: at for (end, after), at in column.items() if after == 0 and end >= 0}
    return Layout(boxes, ends, column[keys[-1]] + 1)


def _spans(tokens: Sequence[Token]) -> Iterator[tuple[_Key, _Key]]:
    """Between which keys each token lies."""
    left = Counter(token.end for token in tokens)
    before = _ORIGIN
    for token in tokens:
        left[token.end] -= 1
        end = (token.end, -left[token.end])
        # The first token of a text begins at byte 0, also where another row has a prefix token before it.
        yield (before if token.end in (0, before[0]) else (max(before[0], 0), 0)), end
        before = end


def lines(layout: Layout, width: int) -> list[tuple[int, int]]:
    """The layout cut into lines of at most `width` columns: half-open column ranges.

    Cut after an end that all rows have, else one that a row has, as far right as fits; else in a token.
    """
    ends = [{box.right for box in row} for row in layout.rows]
    common, any_end = set.intersection(*ends), set.union(*ends)
    cuts, start = [], 0
    while layout.width - start > width:
        fitting = range(start + width - 1, start + width // 2, -1)
        at = next((x for x in fitting if x in common), None)
        if at is None:
            at = next((x for x in fitting if x in any_end), start + width - 1)
        cuts.append((start, at + 1))
        start = at + 1
    return [*cuts, (start, layout.width)]
