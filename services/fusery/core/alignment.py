"""Sequence alignment: which source row is evidence for which target position.

`boundary` (default): a source row says what comes after the byte at which its token ends, so it is valid
evidence exactly for the target position whose token ends at the same byte. `mined`: the paper's dynamic time
warping over the two token sequences, on canonical bytes. Its plain statement is O(T·N): 4 M cells at 2048 tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist

from fusery.core.rules import Positions
from fusery.core.tokens import ByteTokenizer, TokenizedText
from fusery.core.topk import IntArray
from fusery.core.vocab import VocabularyMap


@dataclass(frozen=True, slots=True, eq=False)
class Alignment:
    """Pairs (target position, source row), both int64 [R], target positions strictly ascending.

    The last token of a target document predicts nothing inside it and never appears.
    """

    target_positions_R: IntArray
    source_rows_R: IntArray


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a pair: the tokenizer and what it made of the document."""

    tokenizer: ByteTokenizer
    text: TokenizedText


def align(rule: Positions, source: Side, target: Side, vocabulary: VocabularyMap) -> Alignment:
    """Valid evidence for the target's positions under `rule`."""
    return _RULES[rule](source, target, vocabulary)


def _boundary(source: Side, target: Side, _: VocabularyMap) -> Alignment:
    return boundary(source.text, target.text)


def boundary(source: TokenizedText, target: TokenizedText) -> Alignment:
    """Rows that stand at the same byte end. O(T + N).

    Of several tokens with one end (pieces of a character, BOS and a space before the text) only the last
    stands there. At byte 0 the two sides expect the same continuation only if both or neither put a space
    before the text.
    """
    rows, positions = _last_of_each_end(source.byte_ends_T), _last_of_each_end(target.byte_ends_T)
    ends, source_index, target_index = np.intersect1d(
        source.byte_ends_T[rows], target.byte_ends_T[positions], assume_unique=True, return_indices=True
    )
    valid = positions[target_index] < len(target.ids_T) - 1
    if source.has_prefix_space != target.has_prefix_space:
        valid &= ends > 0
    return Alignment(positions[target_index][valid], rows[source_index][valid])


def _last_of_each_end(ends_T: IntArray) -> IntArray:
    return np.flatnonzero(np.diff(ends_T, append=np.int64(-1)) != 0)


def _mined(source: Side, target: Side, vocabulary: VocabularyMap) -> Alignment:
    """Positions that meet exactly one source row whose token is in the same cell as theirs."""
    path = warping_path(_bytes_of(source), _bytes_of(target))
    rows, positions = path[:, 0], path[:, 1]
    counts = np.bincount(positions, minlength=len(target.text.ids_T))
    single = counts[positions] == 1
    rows, positions = rows[single], positions[single]
    source_cells = _cells(vocabulary.cell_of_source_V, source.text.ids_T[rows])
    target_cells = _cells(vocabulary.cell_of_target_V, target.text.ids_T[positions])
    valid = (source_cells == target_cells) & (source_cells >= 0) & (positions < len(target.text.ids_T) - 1)
    return Alignment(positions[valid], rows[valid])


def _cells(cell_of_V: IntArray, ids: IntArray) -> IntArray:
    return np.asarray(cell_of_V[ids])


def _bytes_of(side: Side) -> list[bytes]:
    return [side.tokenizer.token_bytes[index] or b"" for index in side.text.ids_T.tolist()]


def warping_path(source_tokens: list[bytes], target_tokens: list[bytes]) -> IntArray:
    """The cheapest monotone path through all pairs, int64 [P, 2] of (source row, target position), ascending.

    FuseLLM section 3.2: D[i,j] = Levenshtein(i, j) + min(D[i−1,j], D[i,j−1], D[i−1,j−1]); on ties the
    diagonal, then the previous source token, then the previous target token.
    """
    cost = cdist(source_tokens, target_tokens, scorer=Levenshtein.distance, dtype=np.int32)
    total = accumulated_cost(cost)
    row, position = cost.shape[0] - 1, cost.shape[1] - 1
    path = [(row, position)]
    while row or position:
        steps = [(row - 1, position - 1), (row - 1, position), (row, position - 1)]
        inside = [step for step in steps if min(step) >= 0]
        row, position = min(inside, key=lambda step: total[step])
        path.append((row, position))
    return np.asarray(path[::-1], np.int64)


def accumulated_cost(cost_TN: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
    """D of the recurrence, float64 [T, N], one anti-diagonal at a time (its cells do not depend on each other)."""
    rows, columns = cost_TN.shape
    padded = np.full((rows + 1, columns + 1), np.inf)
    padded[0, 0] = 0.0
    for diagonal in range(rows + columns - 1):
        i = np.arange(max(0, diagonal - columns + 1), min(rows, diagonal + 1))
        j = diagonal - i
        previous = np.minimum(np.minimum(padded[i, j + 1], padded[i + 1, j]), padded[i, j])
        padded[i + 1, j + 1] = cost_TN[i, j] + previous
    return padded[1:, 1:]


_RULES: dict[Positions, Callable[[Side, Side, VocabularyMap], Alignment]] = {
    Positions.BOUNDARY: _boundary,
    Positions.MINED: _mined,
}
