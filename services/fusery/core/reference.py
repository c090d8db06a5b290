"""The alignment of the paper's public implementation (fanqiwan/FuseAI), bit for bit: what `reference` means.

It compares token strings, each side's word-start marker taken away for the path and mapped to the target's for the
vocabulary, and does not decode byte pieces or byte-level letters. A target position that meets exactly one source row
whose token is its own under the map takes that row; entries whose image the row had already are dropped. Every other
position gets the certainty of its own token, though its row predicts the next one. Kept for comparison: what is
wrong with it, `boundary` and `partition` mend.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fusery.core.levenshtein import WarpingPath, nearest, one_to_one, warping_path
from fusery.core.rules import Fallback, TieOrder, Vocabulary
from fusery.core.topk import PAD, FloatArray, IntArray, TopK, empty

_BYTE_LEVEL_MARKER = "Ġ"


@dataclass(frozen=True, slots=True, eq=False)
class TokenStrings:
    """One side of a document: tokens as their vocabulary writes them, their ids int64 [T], the word-start marker."""

    tokens: Sequence[str]
    ids_T: IntArray
    marker: str


@dataclass(frozen=True, slots=True, eq=False)
class TokenMap:
    """image_V int64 [source V]: the target id of every source id, PAD for none; `id_of` a source token string."""

    image_V: IntArray
    id_of: Callable[[str], int | None]

    def images(self, ids: IntArray) -> IntArray:
        """The target ids of source ids; PAD for ids past the vocabulary (padded model vocabularies)."""
        known = (ids >= 0) & (ids < len(self.image_V))
        return np.where(known, self.image_V[np.where(known, ids, 0)], PAD)


def key(token: str, marker: str, target_marker: str) -> str:
    """A source token as the target's vocabulary would write it."""
    return token.replace(marker, target_marker)


def token_map(
    rule: Vocabulary,
    source: Sequence[str | None],
    source_marker: str,
    target: Sequence[str | None],
    target_marker: str,
) -> TokenMap:
    """Source ids to target ids by their strings; index = id, None = unused.

    `exact`: the target token with the key's string. `min_ed`: that, else the first in id order at the least
    Levenshtein distance, over all tokens, special ones too, markers counted as characters.
    """
    ids, choices = _used(target)
    source_ids, strings = _used(source)
    keys = [key(string, source_marker, target_marker) for string in strings]
    if rule is Vocabulary.MIN_ED:
        index = nearest(keys, choices)
    else:
        index_of = {token: i for i, token in reversed(list(enumerate(choices)))}
        index = np.asarray([index_of.get(string, PAD) for string in keys], np.int64)
    image = np.full(len(source), PAD, np.int64)
    image[source_ids] = np.where(index == PAD, PAD, ids[index])
    return TokenMap(image, {string: int(i) for i, string in zip(source_ids, strings, strict=True)}.get)


def _used(tokens: Sequence[str | None]) -> tuple[IntArray, list[str]]:
    used = [(i, token) for i, token in enumerate(tokens) if token is not None]
    return np.asarray([i for i, _ in used], np.int64), [token for _, token in used]


def path_of(
    source: TokenStrings, target: TokenStrings, ties: TieOrder = TieOrder.DIAGONAL_SOURCE_TARGET
) -> WarpingPath:
    """The warping path over the strings without their markers."""
    stripped = [[token.replace(side.marker, "") for token in side.tokens] for side in (source, target)]
    return warping_path(stripped[0], stripped[1], ties)


def matches(path: WarpingPath, source: TokenStrings, target: TokenStrings, mapped: TokenMap) -> IntArray:
    """For each target position the source row that it takes, PAD where it falls back, int64 [N].

    Under an exact `mapped` a match is equal strings (`hard`), under a `min_ed` one the image (`soft`).
    """
    row_of_position = np.full(len(target.tokens), PAD, np.int64)
    rows, positions = one_to_one(path.pairs_P2, len(target.tokens))
    keys = [key(source.tokens[row], source.marker, target.marker) for row in rows.tolist()]
    same = mapped.images(source.ids_T[rows]) == target.ids_T[positions]
    equal = (string == target.tokens[i] for string, i in zip(keys, positions.tolist(), strict=True))
    same |= np.fromiter(equal, bool, len(keys))
    if len(positions) and positions[0] == 0 and _lacks_marker(keys[0], source, target):
        string = target.marker + keys[0]
        index = mapped.id_of(source.marker + source.tokens[rows[0]])
        is_image = index is not None and bool(mapped.image_V[index] == target.ids_T[0])
        same[0] = target.tokens[0] == string or is_image
    row_of_position[positions[same]] = rows[same]
    return row_of_position


def _lacks_marker(string: str, source: TokenStrings, target: TokenStrings) -> bool:
    """The one special case: a byte-level source's first token gets the marker that it lacks and the target's has."""
    lacks = target.tokens[0].startswith(target.marker) and not string.startswith(target.marker)
    return source.marker == _BYTE_LEVEL_MARKER and lacks


def with_fallback(
    rule: Fallback, positions_R: IntArray, top: TopK, target_ids_N: IntArray, cell_of_target_V: IntArray, first: int = 0
) -> tuple[IntArray, TopK]:
    """Positions and distributions with those of `rule` where `positions_R` has none, positions ascending.

    The last token predicts nothing; positions before `first` (prefix tokens) get nothing.
    """
    if rule is Fallback.NONE:
        return positions_R, top
    missing = np.setdiff1d(np.arange(first, len(target_ids_N) - 1), positions_R)
    cells = cell_of_target_V[target_ids_N[missing]]
    missing, cells = missing[cells != PAD], cells[cells != PAD]
    sure = empty(len(missing), max(top.k, 1))
    sure.ids_RK[:, 0], sure.log_probs_RK[:, 0] = cells, 0.0
    positions = np.concatenate([positions_R, missing])
    order = np.argsort(positions, kind="stable")
    ids_RK: IntArray = np.concatenate([top.ids_RK, sure.ids_RK])[order]
    log_probs_RK: FloatArray = np.concatenate([top.log_probs_RK, sure.log_probs_RK])[order]
    return positions[order], TopK(ids_RK, log_probs_RK)
