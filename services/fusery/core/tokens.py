"""Tokens as bytes: what every token of a vocabulary spells, and where in the text every token ends.

Two tokenizers can only be compared in bytes: "Ċ", "<0x0A>" and "▁" mean nothing to each other, a byte offset
does. What a token spells is read off the tokenizer's own definition (its byte-level alphabet, its word-start
marker, its byte fallback), never off a table of model families, and every document is checked: the tokens'
bytes must spell the text, else the tokenizer's character offsets are used where they allow it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer

from fusery.core import definition as definitions
from fusery.core import spelling
from fusery.core.definition import BYTE_TO_LETTER
from fusery.core.spelling import compared, loses_text
from fusery.core.topk import IntArray
from fusery.runtime.errors import ModelError
from fusery.runtime.text.json import parse_json

_PROBE = "The 12 quick foxes\tjump() over\r\n   «naïve» 東京 😀 </s>  \n\n<0x41> don't"
"""Tokenised into the fingerprint, so that it covers behaviour and not the definition alone."""


_ANCHOR = "\x01"
"""A character that is in no longer piece of any vocabulary."""


@dataclass(frozen=True, slots=True, eq=False)
class TokenizedText:
    """A document's tokens, int64 [T], with the byte offset at which each ends, int64 [T], never decreasing.

    The first `prefix_tokens` (BOS) end at 0. `has_prefix_space`: the tokenizer put a space before the text that is not
    in it, so a prefix token stands before that space and not at the text. `stands_T`, bool [T]: after this token the
    tokenizer goes on with tokens that spell what follows in the text. None: after every token; else the tokenizer
    normalises, and where a token is lower-cased, composed or stripped the distribution before it is about another text.
    `unspelled_T`, int64 [T]: the bytes between the end before and this token's that no token spells: white space that
    the tokenizer drops, text that it changes or does not know. None: zero everywhere.
    """

    ids_T: IntArray
    byte_ends_T: IntArray
    has_prefix_space: bool = False
    prefix_tokens: int = 0
    stands_T: npt.NDArray[np.bool_] | None = None
    unspelled_T: IntArray | None = None

    @property
    def predicted_bytes_T(self) -> IntArray:
        """The bytes that every token but the first spells, which a model that reads this predicts, int64 [T − 1]."""
        whole: IntArray = np.diff(self.byte_ends_T)
        return whole if self.unspelled_T is None else whole - self.unspelled_T[1:]

    @property
    def predicted_bytes(self) -> int:
        """Their sum."""
        return int(self.predicted_bytes_T.sum())


class ByteTokenizer:
    """A fast tokenizer, seen through bytes.

    `definition` is JSON: the serialised `tokenizers.Tokenizer` ("backend"), the ids that its model expects
    before every text ("prefix_ids", the BOS habit) and a name for messages. It is all that a worker needs
    of a source: it travels over gRPC and lies in the store, so both sides use the same object.
    """

    def __init__(
        self, backend: Tokenizer | definitions.Definition, prefix_ids: Sequence[int] = (), name: str = "tokenizer"
    ) -> None:
        self._set(definitions.settled(backend, name), prefix_ids, name)

    def _set(
        self, settled: definitions.Definition, prefix_ids: Sequence[int], name: str, embeddings: int | None = None
    ) -> None:
        if not all(0 <= index < definitions.MOST_IDS for index in prefix_ids):
            raise ModelError(f"{name}: prefix ids {list(prefix_ids)[:4]}, expected 0 to {definitions.MOST_IDS - 1}")
        self.name = name
        self._embeddings = embeddings
        self.prefix_ids = np.asarray(list(prefix_ids), dtype=np.int64)
        self._json = settled
        self._backend = definitions.without_special_tokens(definitions.steady(settled), name)

    @classmethod
    def from_definition(cls, definition: str) -> ByteTokenizer:
        """The tokenizer of a text that `definition` gave; another text may give another fingerprint."""
        fields = parse_json(definition)
        tokenizer = cls.__new__(cls)
        tokenizer._set(fields["backend"], fields["prefix_ids"], fields["name"], fields.get("embeddings"))
        return tokenizer

    def of_model(self, embeddings: int) -> ByteTokenizer:
        """The tokenizer of a model with so many embeddings: tokens past them spell nothing and are in no cell."""
        if embeddings >= len(self._all_bytes):
            return self
        tokenizer = type(self).__new__(type(self))
        tokenizer._set(self._json, self.prefix_ids.tolist(), self.name, embeddings)
        return tokenizer

    def definition(self) -> str:
        """Canonical JSON from which `from_definition` makes an equal tokenizer."""
        fields = {"backend": self._json, "name": self.name, "prefix_ids": self.prefix_ids.tolist(), **self._limits}
        return json.dumps(fields, sort_keys=True, ensure_ascii=False)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of definition and behaviour; the name is not part of it."""
        [probe] = definitions.encoded(self._backend, [_PROBE], self.name)
        content = [self._json, self.prefix_ids.tolist(), probe.ids, probe.offsets, *self._limits.values()]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def _limits(self) -> dict[str, int]:
        return {} if self._embeddings is None else {"embeddings": self._embeddings}

    @cached_property
    def token_bytes(self) -> list[bytes | None]:
        """For each id what it spells in the middle of a text; None for special tokens and unused ids."""
        return self._all_bytes[: self._embeddings]

    @cached_property
    def _all_bytes(self) -> list[bytes | None]:
        """As `token_bytes`, with the tokens past the model's embeddings."""
        return spelling.spelled_tokens(self._json)

    @cached_property
    def token_strings(self) -> list[str | None]:
        """For each id the token as its vocabulary writes it, markers and letters undecoded; None for unused ids."""
        strings: list[str | None] = [None] * len(self._all_bytes)
        for string, index in definitions.model_vocabulary(self._json).items():
            strings[index] = string
        for token in self._json["added_tokens"]:
            strings[token["id"]] = token["content"]
        return strings[: self.size]

    def token_id(self, string: str) -> int | None:
        """The id of the token that its vocabulary writes as `string`."""
        index: int | None = self._backend.token_to_id(string)
        return index

    @property
    def space_marker(self) -> str:
        """The character that stands for a space in token strings: "Ġ", "▁", or a space."""
        return BYTE_TO_LETTER[0x20] if self._is_byte_level else (self._marker or " ")

    @cached_property
    def byte_fallback_ids(self) -> frozenset[int]:
        """Ids of the tokens that stand for one raw byte where no ordinary token fits ("<0x0A>")."""
        if not self._json["model"].get("byte_fallback"):
            return frozenset()
        ids = (self._backend.token_to_id(f"<0x{byte:02X}>") for byte in range(256))
        return frozenset(index for index in ids if index is not None)

    @property
    def size(self) -> int:
        """One more than the largest id, or the model's embeddings where these are fewer."""
        return len(self.token_bytes)

    def check_ids(self, text: TokenizedText) -> None:
        """Returns if the model has an embedding for every token of `text`.

        Raises:
            ModelError: the tokenizer has more tokens than the model, and the text needs one of them.
        """
        largest = int(text.ids_T.max(initial=-1))
        if largest >= self.size:
            content = self._backend.id_to_token(largest)
            raise ModelError(
                f"{self.name}: token {content!r} of its tokenizer has the id {largest}, the model has {self.size} "
                "embeddings; leave such texts out, or take the token out of tokenizer.json"
            )

    @cached_property
    def reads_past_model(self) -> bool:
        """Whether a text can be read as a token that the model has no embedding for; special tokens are never read."""
        added = {token["id"]: token["content"] for token in self._json["added_tokens"]}
        past = range(self.size, len(self._all_bytes))
        if any(self._all_bytes[index] is not None and index not in added for index in past):
            return True
        unknown = definitions.unknown_token(self._json)
        if not self._is_byte_level and unknown is not None and (self.token_id(unknown) or 0) >= self.size:
            return True
        texts = [form for index in past if index in added for form in (added[index], f"a {added[index]} a")]
        encodings = definitions.encoded(self._backend, texts, self.name)
        return any(max(encoding.ids, default=-1) >= self.size for encoding in encodings)

    def tokenize(self, text: str) -> TokenizedText:
        """The document's tokens, prefix tokens included, and their byte ends.

        Raises:
            ModelError: the tokens do not spell the text and their offsets do not cover it either, or the tokenizers
                library can't read it.
        """
        return self.tokenize_batch([text])[0]

    def tokenize_batch(self, texts: Sequence[str], documents: Sequence[str] | None = None) -> list[TokenizedText]:
        """As `tokenize`, for several documents at once (all cores are used); errors name them as `documents` does."""
        encodings = definitions.encoded(self._backend, texts, self.name, documents)
        return [self._with_ends(text, encoding) for text, encoding in zip(texts, encodings, strict=True)]

    def first_tokens(self, strings: Sequence[bytes]) -> IntArray:
        """For each byte string the first token of its own tokenisation in the middle of a text, −1 if none, int64 [n].

        Real tokenisation, never a greedy longest prefix: that one loses badly. A string that is not UTF-8
        (part of a character) is tokenised by the bare model of a byte-level tokenizer; another kind reads
        its whole characters, or its first byte.
        """
        texts = [_whole_characters(string) for string in strings]
        first = np.full(len(strings), -1, np.int64)
        encodings = definitions.encoded(self._mid_text, texts, self.name, fast=True)
        for row, (string, text, encoding) in enumerate(zip(strings, texts, encodings, strict=True)):
            if self._is_byte_level and len(text.encode()) < len(string):
                with definitions.calls(self.name, f"at the bytes {string[:40]!r}"):
                    tokens = self._backend.model.tokenize("".join(map(BYTE_TO_LETTER.__getitem__, string)))
                index = tokens[0].id if tokens else -1
            elif text:
                index = encoding.ids[0] if encoding.ids else -1
            else:
                index = self._backend.token_to_id(f"<0x{string[0]:02X}>") if string else -1
            first[row] = index if self._begins(string, index) else -1
        if self.word_start_ids:
            inside = np.flatnonzero((first < 0) | np.isin(first, list(self.word_start_ids))).tolist()
            first[inside] = [self._continuing(texts[row]) for row in inside]
        stripped = [row for row in np.flatnonzero(first < 0).tolist() if texts[row].startswith(" ")]
        first[stripped] = self._first_after_anchor([texts[row] for row in stripped])
        return first

    def _first_after_anchor(self, texts: list[str]) -> list[int]:
        """As `first_tokens`, behind a character: for tokenizers that strip the spaces at the beginning of a text."""
        encodings = definitions.encoded(self._mid_text, [_ANCHOR + text for text in texts], self.name, fast=True)
        first = []
        for text, encoding in zip(texts, encodings, strict=True):
            ids = encoding.ids
            stands_apart = len(ids) > 1 and self._all_bytes[ids[0]] == _ANCHOR.encode()
            first.append(ids[1] if stands_apart and self._begins(text.encode(), ids[1]) else -1)
        return first

    def _continuing(self, text: str) -> int:
        """The longest token that continues a word with `text`, as WordPiece takes it; −1 if there is none."""
        length = next((i for i, character in enumerate(text) if not spelling.is_spaced(character)), len(text))
        ids = (
            self._backend.token_to_id(definitions.word_markers(self._json)[0] + text[:end])
            for end in range(length, 0, -1)
        )
        return next((index for index in ids if index is not None and index < self.size), -1)

    def _begins(self, string: bytes, index: int | None) -> bool:
        spelled = None if index is None or not 0 <= index < self.size else self.token_bytes[index]
        return bool(spelled) and string.startswith(spelled or b"")

    def _with_ends(self, text: str, encoding: Encoding) -> TokenizedText:
        data, ids = text.encode(), encoding.ids
        pieces = [self._pieces[index] for index in ids]
        spelled = b"".join(pieces)
        has_prefix_space = spelled == b" " + data and data != spelled
        prefix = len(self.prefix_ids)
        ends = np.zeros(prefix + len(ids), np.int64)
        stands = unspelled = None
        if spelled == data or has_prefix_space:
            lengths = np.fromiter(map(len, pieces), np.int64, len(pieces))
            np.maximum(np.cumsum(lengths) - has_prefix_space, 0, out=ends[prefix:])
        else:
            starts, ends[prefix:] = self._spans_of_offsets(text, encoding, spelled)
            has_prefix_space = bool(pieces) and pieces[0].startswith(b" ") and not data.startswith(b" ")
            if has_prefix_space:
                pieces = [pieces[0][1:], *pieces[1:]]
            before_and_after, of_tokens = compared(data, pieces, starts, ends[prefix:])
            before_prefix = np.zeros(max(prefix - 1, 0), bool)
            stands = np.concatenate([before_prefix, before_and_after[0 if prefix else 1 :]])
            unspelled = np.concatenate([np.zeros(prefix, np.int64), of_tokens])
        ids_T = np.concatenate([self.prefix_ids, np.asarray(ids, np.int64)])
        if len(self._word_ends) and len(ids_T):
            # What follows the end of a word may come after white space, or not: such a row says neither.
            goes_on = ~np.isin(ids_T, self._word_ends)
            goes_on[-1] = True
            stands = goes_on if stands is None else stands & goes_on
        return TokenizedText(ids_T, ends, has_prefix_space, prefix, stands, unspelled)

    def _spans_of_offsets(self, text: str, encoding: Encoding, spelled: bytes) -> tuple[IntArray, IntArray]:
        """Byte starts and ends by character offsets; all pieces of one character have the same.

        Raises:
            ModelError: they go backwards, or leave out more than white space and combining marks.
        """
        byte_of_character = np.cumsum([0] + [len(character.encode()) for character in text])
        spans = np.asarray(encoding.offsets, np.int64).reshape(-1, 2)
        if loses_text(text, spans) or (np.diff(spans, axis=0) < 0).any():
            data = text.encode()
            differs = next((i for i, (a, b) in enumerate(zip(data, spelled, strict=False)) if a != b), None)
            at = min(len(data), len(spelled)) if differs is None else differs
            raise ModelError(
                f"{self.name}: its tokens do not spell the text: byte {at} is {data[at : at + 1]!r}, the tokens "
                f"say {spelled[at : at + 1]!r}; use a tokenizer that does not normalise, or normalise the corpus first"
            )
        starts_ends = byte_of_character[spans].astype(np.int64)
        return starts_ends[:, 0], starts_ends[:, 1]

    @cached_property
    def _pieces(self) -> list[bytes]:
        return [spelled or b"" for spelled in self._all_bytes]

    @cached_property
    def _is_byte_level(self) -> bool:
        return definitions.is_byte_level(self._json)

    @cached_property
    def _marker(self) -> str | None:
        return definitions.space_marker(self._json)

    @cached_property
    def _drops_spaces(self) -> bool:
        """Whether no token holds the space between two words."""
        [encoding] = definitions.encoded(self._mid_text, ["a a"], self.name)
        return not any(start <= 1 < end for start, end in encoding.offsets)

    @cached_property
    def word_start_ids(self) -> frozenset[int]:
        """Ids of the tokens that begin a word after white space or without it, which they do not tell apart.

        Only where spaces are dropped and tokens inside a word are marked ("##"). Signs and ideographs, which are words
        of their own and mostly stand without a space, are none.
        """
        starts = spelling.word_starts(self._json)
        return starts if starts and self._drops_spaces else frozenset()

    @cached_property
    def _word_ends(self) -> IntArray:
        """Ids of the tokens that end a word ("</w>"), where the space behind it is dropped."""
        ends = spelling.word_ends(self._json)
        return np.asarray(ends if ends and self._drops_spaces else [], np.int64)

    @cached_property
    def _mid_text(self) -> Tokenizer:
        return definitions.mid_text(self._json, self.name)


def _whole_characters(string: bytes) -> str:
    """The text of `string` up to the first byte that is not UTF-8."""
    try:
        return string.decode()
    except UnicodeDecodeError as error:
        return string[: error.start].decode()
