"""What the tokens of a definition spell, and what of a text they spell, where they do not spell all of it.

A definition's byte-level alphabet, word-start marker and byte fallback are undone, and the marks taken away that its
model puts on tokens inside a word or at its end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from unicodedata import combining, name

import numpy as np
import numpy.typing as npt

from fusery.core import definition as definitions
from fusery.core.definition import LETTER_TO_BYTE, Definition
from fusery.core.topk import IntArray

_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")


def spelled_tokens(definition: Definition) -> list[bytes | None]:
    """For each id what it spells in the middle of a text; None for special tokens and unused ids."""
    of_model, added = definitions.model_vocabulary(definition), definition["added_tokens"]
    largest = max([*of_model.values(), *(token["id"] for token in added)], default=-1)
    spelled: list[bytes | None] = [None] * (largest + 1)
    unknown, speller = definitions.unknown_token(definition), _Speller(definition)
    for string, index in of_model.items():
        if string != unknown or speller.is_byte_level:
            spelled[index] = speller.spell(string)
    for token in added:
        if token["special"]:
            spelled[token["id"]] = None
        elif token["content"] not in of_model:
            # Else it stands for what the model makes it from, as Gemma's "▁▁" for two spaces.
            spelled[token["id"]] = token["content"].encode()
    return spelled


class _Speller:
    """Spells token strings of one definition, which is looked at once."""

    def __init__(self, definition: Definition) -> None:
        self.is_byte_level = definitions.is_byte_level(definition)
        self._has_byte_fallback = bool(definition["model"].get("byte_fallback"))
        self._prefix, self._suffix = definitions.word_markers(definition)
        self._replaced = definitions.replaced_strings(definition)
        if marker := definitions.space_marker(definition):
            self._replaced.append((marker, " "))

    def spell(self, token: str) -> bytes:
        if len(token) > len(self._prefix):
            token = token.removeprefix(self._prefix)
        if len(token) > len(self._suffix):
            token = token.removesuffix(self._suffix)
        if self.is_byte_level:
            letters = [LETTER_TO_BYTE.get(letter) for letter in token]
            return token.encode() if None in letters else bytes(b for b in letters if b is not None)
        if self._has_byte_fallback and _BYTE_TOKEN.fullmatch(token):
            return bytes.fromhex(token[3:5])
        for in_token, in_text in self._replaced:
            token = token.replace(in_token, in_text)
        return token.encode()


def word_starts(definition: Definition) -> frozenset[int]:
    """Ids of the tokens that begin a word, of a model that marks those inside one ("##ing"); without signs and
    ideographs, which are words of their own and mostly stand without a space."""
    prefix, _ = definitions.word_markers(definition)
    words = definitions.model_vocabulary(definition).items() if prefix else ()
    return frozenset(index for word, index in words if not word.startswith(prefix) and is_spaced(word))


def word_ends(definition: Definition) -> list[int]:
    """Ids of the tokens that end a word, of a model that marks them ("the</w>")."""
    _, suffix = definitions.word_markers(definition)
    words = definitions.model_vocabulary(definition).items() if suffix else ()
    return [index for word, index in words if word.endswith(suffix)]


def is_spaced(word: str) -> bool:
    """Whether a word of this kind usually stands after a space: letters and digits, but no ideographs."""
    return word[:1].isalnum() and not name(word[0], "").startswith("CJK ")


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
