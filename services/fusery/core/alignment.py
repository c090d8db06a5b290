"""Sequence alignment: which source row is evidence for which target position.

`boundary` (default): a source row says what comes after the byte at which its token ends, so it is valid
evidence exactly for the target position whose token ends at the same byte. `dtw`: the paper's dynamic time
warping over the two token sequences, on canonical bytes. `reference`: the same on token strings, as the paper's
implementation does it (see `reference`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fusery.core import reference
from fusery.core.levenshtein import one_to_one, warping_path
from fusery.core.rules import Positions, TieOrder
from fusery.core.tokens import ByteTokenizer, TokenizedText
from fusery.core.topk import IntArray, VocabularyMap


@dataclass(frozen=True, slots=True, eq=False)
class Alignment:
    """Pairs (target position, source row), both int64 [R], target positions strictly ascending.

    The last token of a target document predicts nothing inside it and never appears.
    """

    target_positions_R: IntArray
    source_rows_R: IntArray

    def take(self, which: IntArray) -> Alignment:
        """The pairs with the given numbers."""
        return Alignment(self.target_positions_R[which], self.source_rows_R[which])


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a pair: the tokenizer and what it made of the document."""

    tokenizer: ByteTokenizer
    text: TokenizedText


def align(
    rule: Positions,
    source: Side,
    target: Side,
    vocabulary: VocabularyMap,
    ties: TieOrder = TieOrder.DIAGONAL_SOURCE_TARGET,
) -> Alignment:
    """Valid evidence for the target's positions under `rule`; `ties` is for `reference`."""
    return _RULES[rule](source, target, vocabulary, ties)


def _boundary(source: Side, target: Side, _: VocabularyMap, __: TieOrder) -> Alignment:
    if source.tokenizer.fingerprint == target.tokenizer.fingerprint:
        everything = np.arange(max(len(target.text.ids_T) - 1, 0))
        return Alignment(everything, everything)
    return boundary(source.text, target.text)


def boundary(source: TokenizedText, target: TokenizedText) -> Alignment:
    """Rows that stand at the same byte end. O(T + N).

    Of several tokens with one end (pieces of a character, two prefix tokens) only the last stands there. A prefix
    token with a space before the text behind it stands before that space, where only its like stands.

    >>> source = TokenizedText(np.array([7, 8, 9]), np.array([2, 5, 9]))     # ab|cde|fghi
    >>> target = TokenizedText(np.array([1, 2, 3, 4]), np.array([1, 2, 5, 9]))  # a|b|cde|fghi
    >>> pairs = boundary(source, target)
    >>> pairs.target_positions_R.tolist(), pairs.source_rows_R.tolist()
    ([1, 2], [0, 1])
    """
    all_source_ends, all_target_ends = _ends(source), _ends(target)
    rows, positions = _standing(source, all_source_ends), _standing(target, all_target_ends)
    source_ends, target_ends = all_source_ends[rows], all_target_ends[positions]
    # Both are strictly ascending: where a target's end would be inserted, the source's equal one stands.
    at = np.searchsorted(source_ends, target_ends)
    common = np.zeros(len(positions), bool)
    inside = at < len(rows)
    common[inside] = source_ends[at[inside]] == target_ends[inside]
    common &= positions < len(target.ids_T) - 1
    return Alignment(positions[common], rows[at[common]])


def _ends(text: TokenizedText) -> IntArray:
    """Byte ends, −1 before a space that is not in the text."""
    if not text.has_prefix_space:
        return text.byte_ends_T
    return np.where(np.arange(len(text.ids_T)) < text.prefix_tokens, -1, text.byte_ends_T)


def _standing(text: TokenizedText, ends_T: IntArray) -> IntArray:
    """The tokens after which the text goes on as it stands there: the last of each end."""
    last = np.diff(ends_T, append=np.int64(-2)) != 0
    return np.flatnonzero(last if text.stands_T is None else last & text.stands_T)


def _dtw(source: Side, target: Side, vocabulary: VocabularyMap, _: TieOrder) -> Alignment:
    """Positions that meet exactly one source row whose token is in the same cell as theirs."""
    path = warping_path(_bytes_of(source), _bytes_of(target))
    rows, positions = one_to_one(path.pairs_P2, len(target.text.ids_T))
    source_cells = vocabulary.cell_of_source_V[source.text.ids_T[rows]]
    target_cells = vocabulary.cell_of_target_V[target.text.ids_T[positions]]
    valid = (source_cells == target_cells) & (source_cells >= 0) & (positions < len(target.text.ids_T) - 1)
    return Alignment(positions[valid], rows[valid])


def _reference(source: Side, target: Side, vocabulary: VocabularyMap, ties: TieOrder) -> Alignment:
    """The paper's implementation, on token strings; prefix tokens take no part."""
    source_strings, target_strings = _strings_of(source), _strings_of(target)
    mapped = reference.TokenMap(vocabulary.cell_of_source_V, source.tokenizer.token_id)
    path = reference.path_of(source_strings, target_strings, ties)
    row_of_position = reference.matches(path, source_strings, target_strings, mapped)
    positions = np.flatnonzero(row_of_position[:-1] >= 0)
    first_row, first_position = len(source.tokenizer.prefix_ids), len(target.tokenizer.prefix_ids)
    return Alignment(positions + first_position, row_of_position[positions] + first_row)


def _strings_of(side: Side) -> reference.TokenStrings:
    ids = side.text.ids_T[len(side.tokenizer.prefix_ids) :]
    strings = side.tokenizer.token_strings
    return reference.TokenStrings([strings[index] or "" for index in ids.tolist()], ids, side.tokenizer.space_marker)


def _bytes_of(side: Side) -> list[bytes]:
    return [side.tokenizer.token_bytes[index] or b"" for index in side.text.ids_T.tolist()]


_RULES: dict[Positions, Callable[[Side, Side, VocabularyMap, TieOrder], Alignment]] = {
    Positions.BOUNDARY: _boundary,
    Positions.DTW: _dtw,
    Positions.REFERENCE: _reference,
}
