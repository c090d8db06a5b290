"""Tokens as text that a terminal or a page can show without harm, and the columns in which they stand.

Blanks, line ends, parts of characters and characters without a look of their own (joiners, direction marks, controls)
get a visible form, so that a column is as wide as its text says and a hostile text can't turn the line around.

Tokenisations of one text stand under each other so that common byte ends line up. A column is one character cell. A
byte end gets the leftmost column that leaves every token before it room for its text, in all rows at once: the longest
path through the ends, O(tokens).
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from rich.cells import cell_len, set_cell_size

from fusery.core.tokens import ByteTokenizer

_VISIBLE = {" ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍"}
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"})
_JOINED = frozenset({"Mn", "Me"})
_VARIATION_SELECTORS = range(0xFE00, 0xFE10)

_Key = tuple[int, int]
"""Byte end, and how many tokens of the row with the same end come after: negative, so that the last stands at 0."""
_ORIGIN: _Key = (-1, 0)


def visible(spelled: bytes) -> str:
    """The bytes as text: blanks as ␣ ⏎ ⇥ ␍, bytes of part of a character as ⟨E6⟩, unseen characters as ⟨U+200D⟩."""
    shown: list[str] = []
    rest = spelled
    while rest:
        try:
            text, rest, broken = rest.decode(), b"", b""
        except UnicodeDecodeError as error:
            text, broken, rest = rest[: error.start].decode(), rest[error.start : error.end], rest[error.end :]
        for character in text:
            shown.append(_character(character, bool(shown)))
        shown.extend(f"⟨{byte:02X}⟩" for byte in broken)
    return "".join(shown)


def _character(character: str, has_before: bool) -> str:
    if character in _VISIBLE:
        return _VISIBLE[character]
    category = unicodedata.category(character)
    # A variation selector changes the width of the character before it, in some terminals only.
    alone = category in _JOINED and (not has_before or ord(character) in _VARIATION_SELECTORS)
    return f"⟨U+{ord(character):04X}⟩" if category in _UNSEEN or alone else character


def probability(value: float, digits: int) -> str:
    """'0.250', '<0.001': never 0 for what is only small."""
    shown = f"{value:.{digits}f}"
    return shown if float(shown) or value == 0 else f"<{10.0**-digits:.{digits}f}"


def clipped(shown: str, width: int) -> str:
    """At most `width` columns of it, the last of them "…" where something was cut."""
    return shown if cell_len(shown) <= width else set_cell_size(shown, width - 1) + "…"


class TokenNames:
    """What to call the tokens of a tokenizer."""

    def __init__(self, tokenizer: ByteTokenizer) -> None:
        self._tokenizer = tokenizer

    def spelled(self, index: int) -> bytes | None:
        """The bytes that a token spells; None for a special token, and for an id past the vocabulary."""
        return self._tokenizer.token_bytes[index] if index < self._tokenizer.size else None

    def shown(self, index: int) -> str:
        """A token as visible text; a special token by its name as ‹s›, an id without a token as ‹32001›."""
        spelled = self.spelled(index)
        if spelled is not None:
            return visible(spelled) or "∅"
        name = self._tokenizer.token_strings[index] if index < self._tokenizer.size else None
        return f"‹{visible((name or '').strip('<>|').encode()) or index}›"


@dataclass(frozen=True, slots=True)
class Token:
    """A token of a text: bytes start to end. `shown` is visible text; `spelled` None for special tokens."""

    id: int
    shown: str
    spelled: bytes | None
    start: int
    end: int


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
