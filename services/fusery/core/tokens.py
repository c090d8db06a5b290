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
from typing import Any

import numpy as np
from tokenizers import Encoding, Tokenizer

from fusery.core.topk import IntArray
from fusery.errors import ModelError

_PROBE = "The 12 quick foxes\tjump() over\r\n   «naïve» 東京 😀 </s>  \n\n<0x41> don't"
"""Tokenised into the fingerprint, so that it covers behaviour and not the definition alone."""


@dataclass(frozen=True, slots=True, eq=False)
class TokenizedText:
    """A document's tokens, int64 [T], with the byte offset at which each ends, int64 [T], never decreasing.

    Prefix tokens (BOS) end at 0. `has_prefix_space`: the tokenizer put a space before the text that is not
    in it, so at byte 0 its tokens spell something else than the text.
    """

    ids_T: IntArray
    byte_ends_T: IntArray
    has_prefix_space: bool = False


class ByteTokenizer:
    """A fast tokenizer, seen through bytes.

    `definition` is JSON: the serialised `tokenizers.Tokenizer` ("backend"), the ids that its model expects
    before every text ("prefix_ids", the BOS habit) and a name for messages. It is all that a worker needs
    of a source: it travels over gRPC and lies in the store, so both sides use the same object.
    """

    def __init__(self, backend: Tokenizer, prefix_ids: Sequence[int] = (), name: str = "tokenizer") -> None:
        self.name = name
        self.prefix_ids = np.asarray(list(prefix_ids), dtype=np.int64)
        self._json = _settled(backend)
        self._backend = _without_special_tokens(self._json)

    @classmethod
    def from_definition(cls, definition: str) -> ByteTokenizer:
        fields = json.loads(definition)
        return cls(Tokenizer.from_str(json.dumps(fields["backend"])), fields["prefix_ids"], fields["name"])

    def definition(self) -> str:
        """Canonical JSON from which `from_definition` makes an equal tokenizer."""
        fields = {"backend": self._json, "name": self.name, "prefix_ids": self.prefix_ids.tolist()}
        return json.dumps(fields, sort_keys=True, ensure_ascii=False)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of definition and behaviour; the name is not part of it."""
        probe = self._backend.encode(_PROBE, add_special_tokens=False)
        content = [self._json, self.prefix_ids.tolist(), probe.ids, probe.offsets]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @cached_property
    def token_bytes(self) -> list[bytes | None]:
        """For each id what it spells in the middle of a text; None for special tokens and unused ids."""
        whole = Tokenizer.from_str(json.dumps(self._json))
        vocabulary = whole.get_vocab(with_added_tokens=True)
        spelled: list[bytes | None] = [None] * (max(vocabulary.values(), default=-1) + 1)
        added = whole.get_added_tokens_decoder()
        unknown = self._json["model"].get("unk_token")
        if isinstance(unknown_id := self._json["model"].get("unk_id"), int):
            unknown = whole.id_to_token(unknown_id)
        for token, index in vocabulary.items():
            if index in added:
                spelled[index] = None if added[index].special else added[index].content.encode()
            elif token != unknown or self._alphabet is not None:
                spelled[index] = self._spell(token)
        return spelled

    @cached_property
    def byte_fallback_ids(self) -> frozenset[int]:
        """Ids of the tokens that stand for one raw byte where no ordinary token fits ("<0x0A>")."""
        if not self._json["model"].get("byte_fallback"):
            return frozenset()
        ids = (self._backend.token_to_id(f"<0x{byte:02X}>") for byte in range(256))
        return frozenset(index for index in ids if index is not None)

    @property
    def size(self) -> int:
        """One more than the largest id."""
        return len(self.token_bytes)

    def tokenize(self, text: str) -> TokenizedText:
        """The document's tokens, prefix tokens included, and their byte ends.

        Raises:
            ModelError: the tokens do not spell the text and their offsets do not cover it either.
        """
        return self.tokenize_batch([text])[0]

    def tokenize_batch(self, texts: Sequence[str]) -> list[TokenizedText]:
        """As `tokenize`, for several documents at once (the library uses all cores)."""
        encodings = self._backend.encode_batch(list(texts), add_special_tokens=False)
        return [self._with_ends(text, encoding) for text, encoding in zip(texts, encodings, strict=True)]

    def first_tokens(self, strings: Sequence[bytes]) -> IntArray:
        """For each byte string the first token of its own tokenisation in the middle of a text, −1 if none, int64 [n].

        Real tokenisation, never a greedy longest prefix: that one loses badly. A string that is not UTF-8
        (part of a character) is tokenised by the bare model of a byte-level tokenizer; another kind reads
        its whole characters, or its first byte.
        """
        whole = [_whole_characters(string) for string in strings]
        encodings = self._mid_text.encode_batch_fast(whole, add_special_tokens=False)
        first = np.full(len(strings), -1, np.int64)
        for row, (string, text, encoding) in enumerate(zip(strings, whole, encodings, strict=True)):
            if self._alphabet is not None and len(text.encode()) < len(string):
                tokens = self._backend.model.tokenize("".join(map(_BYTE_TO_LETTER.__getitem__, string)))
                index = tokens[0].id if tokens else -1
            elif text:
                index = encoding.ids[0] if encoding.ids else -1
            else:
                index = self._backend.token_to_id(f"<0x{string[0]:02X}>") if string else -1
            spelled = self.token_bytes[index] if index is not None and index >= 0 else None
            if spelled and string.startswith(spelled):
                first[row] = index
        return first

    def _with_ends(self, text: str, encoding: Encoding) -> TokenizedText:
        data = text.encode()
        pieces = [self.token_bytes[index] for index in encoding.ids]
        spelled = b"".join(piece or b"" for piece in pieces)
        has_prefix_space = spelled == b" " + data and data != spelled
        if spelled == data or has_prefix_space:
            lengths = np.fromiter((len(piece or b"") for piece in pieces), np.int64, len(pieces))
            ends = np.maximum(np.cumsum(lengths) - has_prefix_space, 0)
        else:
            ends = self._ends_from_offsets(text, encoding, spelled)
        zeros = np.zeros(len(self.prefix_ids), np.int64)
        ids = np.concatenate([self.prefix_ids, np.asarray(encoding.ids, np.int64)])
        return TokenizedText(ids, np.concatenate([zeros, ends]), has_prefix_space)

    def _ends_from_offsets(self, text: str, encoding: Encoding, spelled: bytes) -> IntArray:
        """Byte ends by character offsets; all pieces of one character get its end (the last one is the boundary)."""
        byte_end_of_character = np.cumsum([0] + [len(character.encode()) for character in text])
        ends = np.asarray([end for _, end in encoding.offsets], np.int64)
        covers = len(ends) > 0 and ends[-1] == len(text) and bool((np.diff(ends) >= 0).all())
        if not covers:
            data = text.encode()
            differs = next((i for i, (a, b) in enumerate(zip(data, spelled, strict=False)) if a != b), None)
            at = min(len(data), len(spelled)) if differs is None else differs
            raise ModelError(
                f"{self.name}: its tokens do not spell the text: byte {at} is {data[at : at + 1]!r}, the tokens "
                f"say {spelled[at : at + 1]!r}; use a tokenizer that does not normalise, or normalise the corpus first"
            )
        return np.asarray(byte_end_of_character[ends], np.int64)

    def _spell(self, token: str) -> bytes:
        if self._alphabet is not None:
            letters = [self._alphabet.get(letter) for letter in token]
            return token.encode() if None in letters else bytes(b for b in letters if b is not None)
        if len(token) == 6 and token.startswith("<0x") and self._json["model"].get("byte_fallback"):
            return bytes.fromhex(token[3:5])
        return token.replace(self._marker, " ").encode() if self._marker else token.encode()

    @cached_property
    def _alphabet(self) -> dict[str, int] | None:
        """Letter → byte of a byte-level tokenizer; None for other kinds."""
        parts = [*_parts(self._json.get("decoder")), *_parts(self._json.get("pre_tokenizer"))]
        return _LETTER_TO_BYTE if any(part["type"] == "ByteLevel" for part in parts) else None

    @cached_property
    def _marker(self) -> str | None:
        """The character that stands for a space in token strings ("▁"); None if there is none."""
        for section in ("decoder", "pre_tokenizer", "normalizer"):
            for part in _parts(self._json.get(section)):
                if part["type"] == "Metaspace":
                    return str(part["replacement"])
                pattern = part.get("pattern", {}).get("String") if part["type"] == "Replace" else None
                if pattern is not None and " " in (pattern, part["content"]):
                    return str(part["content"] if pattern == " " else pattern)
        return None

    @cached_property
    def _mid_text(self) -> Tokenizer:
        """The same tokenizer as it acts in the middle of a text: without the space it puts before a text."""
        definition = json.loads(json.dumps(self._json))
        for part in _parts(definition.get("pre_tokenizer")):
            if part["type"] == "Metaspace":
                part["prepend_scheme"] = "never"
            if "add_prefix_space" in part:
                part["add_prefix_space"] = False
        normalizer = definition.get("normalizer")
        kept = [part for part in _parts(normalizer) if part["type"] != "Prepend"]
        if normalizer is not None:
            definition["normalizer"] = {"type": "Sequence", "normalizers": kept} if kept else None
        return _without_special_tokens(definition)


def _settled(backend: Tokenizer) -> dict[str, Any]:
    """The definition in the form that reading and writing leave as it is.

    The library reads some numbers one bit off from how it writes them, which would change a fingerprint.
    """
    definition = json.loads(backend.to_str())
    definition.update(truncation=None, padding=None)
    for _ in range(8):
        again = json.loads(Tokenizer.from_str(json.dumps(definition)).to_str())
        if again == definition:
            break
        definition = again
    return dict(definition)


def _without_special_tokens(definition: dict[str, Any]) -> Tokenizer:
    """The tokenizer, reading "<s>" in a text as the characters that it is made of and not as the special token."""
    special = {token["content"] for token in definition["added_tokens"] if token["special"]}
    if definition["model"]["type"] == "Unigram":
        # Its special tokens are pieces like any other and would be found: give them names that no text has.
        pieces = [[f"\0{p}" if p in special else p, score] for p, score in definition["model"]["vocab"]]
        ordinary = [token for token in definition["added_tokens"] if not token["special"]]
        model = {**definition["model"], "vocab": pieces}
        definition = {**definition, "model": model, "added_tokens": ordinary, "post_processor": None}
    backend = Tokenizer.from_str(json.dumps(definition))
    backend.encode_special_tokens = True
    return backend


def _parts(component: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The steps of a tokenizer component, a Sequence flattened."""
    if component is None:
        return []
    inner = next((component[key] for key in ("normalizers", "pretokenizers", "decoders") if key in component), None)
    return [component] if inner is None else [part for item in inner for part in _parts(item)]


def _whole_characters(string: bytes) -> str:
    """The text of `string` up to the first byte that is not UTF-8."""
    try:
        return string.decode()
    except UnicodeDecodeError as error:
        return string[: error.start].decode()


def _byte_level_alphabet() -> dict[int, str]:
    """Byte → letter of byte-level BPE (GPT-2): printable Latin-1 stands for itself, the rest from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


_BYTE_TO_LETTER = _byte_level_alphabet()
_LETTER_TO_BYTE = {letter: byte for byte, letter in _BYTE_TO_LETTER.items()}
