"""Long documents, read in windows that overlap by half.

A corpus is cut into pieces that every source can hold, so that one request answers for one piece. Measuring puts those
that follow each other together again: no text is lost at a cut, every model reads a piece with the one before it, and
an interval draws whole documents, which pieces of one document are not. A window is as long as the longest piece, so
that no server and no memory is asked for more than the run asks anyway.

A model without the text before predicts badly, so every window but the first repeats the second half of the one
before: what is counted of it has at least about half a context before it. The price is twice the forward passes. A
window is a piece of text like any other and gets the model's own BOS, so that it can be asked of any source server.
A tokenizer may read the beginning of a piece differently from the middle of a text; two windows therefore hand over
at the last byte at which a token ends in both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from fusery.core.tokens import ByteTokenizer
from fusery.core.topk import FloatArray, IntArray
from fusery.runtime.errors import CorpusError

_LEAST_WINDOW_TOKENS = 64
"""Where all pieces are tiny: a window must hold a character of many tokens, and something before it."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How a model reads: its tokenizer, and the tokens of one window, prefix tokens included."""

    tokenizer: ByteTokenizer
    window_tokens: int


@dataclass(frozen=True, slots=True)
class Window:
    """A piece of a document, and the byte at which it begins there."""

    start: int
    text: str


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """What a model said of the window at `start`: byte ends int64 [T] in the document, next log-probabilities [T].

    `unspelled_T`: as in `TokenizedText`.
    """

    start: int
    byte_ends_T: IntArray
    next_log_probs_T: FloatArray
    unspelled_T: IntArray | None = None


def documents_of_pieces(names: Sequence[str]) -> list[range]:
    """The places of `names` by document: pieces of one text, NAME#0, NAME#1, …, as far as none between them is missing.

    Doubles and a sample leave pieces out; text on both sides of a gap is not read as one.
    """
    found: list[range] = []
    before: tuple[str, int] | None = None
    for place, name in enumerate(names):
        whole, _, number = name.rpartition("#")
        here = (whole, int(number)) if whole and number.isdecimal() else None
        follows = before is not None and here == (before[0], before[1] + 1)
        found.append(range(found.pop().start if follows else place, place + 1))
        before = here
    return found


def fitted(reading: Reading, pieces: Sequence[str]) -> Reading:
    """`reading` with windows no longer than the longest of `pieces`."""
    longest = max((len(text.ids_T) for text in reading.tokenizer.tokenize_batch(pieces)), default=0)
    return replace(reading, window_tokens=min(reading.window_tokens, max(longest, _LEAST_WINDOW_TOKENS)))


def windows(texts: Sequence[str], reading: Reading) -> list[list[Window]]:
    """The windows of each text, in order; one, the text itself, where it fits.

    Raises:
        CorpusError: a text can't be cut into pieces that fit.
    """
    ends = [text.byte_ends_T for text in reading.tokenizer.tokenize_batch(texts)]
    return [
        [Window(0, text)] if len(ends_T) <= reading.window_tokens else list(_cut(text.encode(), ends_T, reading))
        for text, ends_T in zip(texts, ends, strict=True)
    ]


def _cut(data: bytes, ends_T: IntArray, reading: Reading) -> Iterator[Window]:
    # A character may be several tokens: only its last end is a place to cut.
    places = [0, *(int(end) for end in np.unique(ends_T) if end and (end == len(data) or data[end] & 0xC0 != 0x80))]
    tokens_before = np.searchsorted(ends_T, places, side="right").tolist()
    room = reading.window_tokens - len(reading.tokenizer.prefix_ids)
    first = last = 0
    while last < len(places) - 1:
        end = _fitting_end(data, places, tokens_before, first, room, reading)
        if end <= last:
            raise CorpusError(
                f"held-out text: no window of {reading.window_tokens} tokens can be cut at byte {places[last]}; "
                "use shorter documents (corpus.max_document_bytes)"
            )
        last = end
        yield Window(places[first], data[places[first] : places[last]].decode())
        half = tokens_before[last] - room // 2
        first = max(first + 1, int(np.searchsorted(tokens_before, half)))


def _fitting_end(
    data: bytes, places: list[int], tokens_before: list[int], first: int, room: int, reading: Reading
) -> int:
    """Index of the last place such that the piece from place `first` on is read in one window."""
    end = int(np.searchsorted(tokens_before, tokens_before[first] + room, side="right")) - 1
    # By itself a piece may have a few tokens more than inside the text.
    while end > first:
        tokens = len(reading.tokenizer.tokenize(data[places[first] : places[end]].decode()).ids_T)
        if tokens <= reading.window_tokens:
            break
        end -= max(1, (tokens - reading.window_tokens) // 2)
    return end


def joined(parts: Sequence[Read]) -> tuple[FloatArray, int]:
    """The log-probabilities that count, one for each predicted token of a document, and the bytes that these spell."""
    # Up to which byte a window counts. If no token ends at the same byte in it and the next one, the token across the
    # border counts whole: bits too many, not too few.
    starts = [-1]
    for part, following in pairwise(parts):
        common = np.intersect1d(part.byte_ends_T, following.byte_ends_T[1:])
        starts.append(int(common[-1] if len(common) else part.byte_ends_T[-1]))
    counted, predicted = [], 0
    for part, after, until in zip(parts, starts, [*starts[1:], None], strict=True):
        ends = part.byte_ends_T[1:]
        is_counted = ends > after
        if until is not None:
            is_counted &= ends <= until
        counted.append(part.next_log_probs_T[:-1][is_counted])
        if is_counted.any():
            # What stands before a window's first token is not predicted.
            predicted += int(ends[is_counted][-1]) - max(after, int(part.byte_ends_T[0]))
            predicted -= 0 if part.unspelled_T is None else int(part.unspelled_T[1:][is_counted].sum())
    return np.concatenate(counted), max(predicted, 0)
