"""What a tokenizer's own definition says: its kind, its word-start marker, and variants of it.

The definition is the JSON form of `tokenizers.Tokenizer`. What a token spells is read off it, never off a table of
model families.
"""

from __future__ import annotations

import json

from tokenizers import Tokenizer

from fusery.core.library import Definition as Definition
from fusery.core.library import built, calls


def settled(given: Tokenizer | Definition, name: str = "tokenizer") -> Definition:
    """The definition in the form that reading and writing leave as it is, without what is for training alone.

    The library reads some numbers one bit off from how it writes them, which would change a fingerprint. Truncation
    and padding are off, and so is `dropout`, which would read the same text in another way each time.

    Raises:
        ModelError: the library can't read it, or an id is too large.
    """
    definition = steady(json.loads(given.to_str()) if isinstance(given, Tokenizer) else given)
    for _ in range(8):
        with calls(name, "to write its definition"):
            again = json.loads(built(definition, name).to_str())
        if again == definition:
            break
        definition = again
    return dict(definition)


def steady(definition: Definition) -> Definition:
    """The definition of a tokenizer that reads the whole of a text, and in the same way each time."""
    model = definition.get("model")
    if isinstance(model, dict) and model.get("dropout") is not None:
        definition = {**definition, "model": {**model, "dropout": None}}
    return {**definition, "truncation": None, "padding": None}


def without_special_tokens(definition: Definition, name: str = "tokenizer") -> Tokenizer:
    """The tokenizer, reading "<s>" in a text as the characters that it is made of and not as the special token."""
    special = {token["content"] for token in definition["added_tokens"] if token["special"]}
    if definition["model"]["type"] == "Unigram":
        # Its special tokens are pieces like any other and would be found: give them names that no text has.
        pieces = [[f"\0{p}" if p in special else p, score] for p, score in definition["model"]["vocab"]]
        ordinary = [token for token in definition["added_tokens"] if not token["special"]]
        model = {**definition["model"], "vocab": pieces}
        definition = {**definition, "model": model, "added_tokens": ordinary, "post_processor": None}
    backend = built(definition, name)
    backend.encode_special_tokens = True
    return backend


def mid_text(definition: Definition, name: str = "tokenizer") -> Tokenizer:
    """The same tokenizer as it acts in the middle of a text: without the space it puts before a text."""
    definition = json.loads(json.dumps(definition))
    for part in _parts(definition.get("pre_tokenizer")):
        if part["type"] == "Metaspace":
            part["prepend_scheme"] = "never"
        if "add_prefix_space" in part:
            part["add_prefix_space"] = False
    normalizer = definition.get("normalizer")
    kept = [part for part in _parts(normalizer) if part["type"] != "Prepend"]
    if normalizer is not None:
        definition["normalizer"] = {"type": "Sequence", "normalizers": kept} if kept else None
    return without_special_tokens(definition, name)


def is_byte_level(definition: Definition) -> bool:
    """Whether a token string has one letter per byte (GPT-2's alphabet)."""
    parts = [*_parts(definition.get("decoder")), *_parts(definition.get("pre_tokenizer"))]
    return any(part["type"] == "ByteLevel" for part in parts)


def space_marker(definition: Definition) -> str | None:
    """The character that stands for a space in the token strings of a tokenizer that is not byte-level ("▁")."""
    for section in ("decoder", "pre_tokenizer", "normalizer"):
        for part in _parts(definition.get(section)):
            if part["type"] == "Metaspace":
                return str(part["replacement"])
            pattern = part.get("pattern", {}).get("String") if part["type"] == "Replace" else None
            if pattern is not None and " " in (pattern, part["content"]):
                return str(part["content"] if pattern == " " else pattern)
    return None


def word_markers(definition: Definition) -> tuple[str, str]:
    """What the model adds to tokens that continue a word ("##") and to those that end one ("</w>"); "" for none."""
    model = definition["model"]
    return model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""


def replaced_strings(definition: Definition) -> list[tuple[str, str]]:
    """(in a token, in the text) of strings that the normaliser replaces and the decoder puts back, such as "<n>"."""
    before, after = (
        [
            (part["pattern"]["String"], part["content"])
            for part in _parts(definition.get(section))
            if part["type"] == "Replace" and "String" in part["pattern"]
        ]
        for section in ("normalizer", "decoder")
    )
    return [(token, text) for token, text in after if token and (text, token) in before]


def model_vocabulary(definition: Definition) -> dict[str, int]:
    """Token → id of the tokenizer's model, without the tokens that were added to it."""
    vocabulary = definition["model"]["vocab"]
    if isinstance(vocabulary, dict):
        return vocabulary
    return {piece: i for i, (piece, _) in enumerate(vocabulary)}


def unknown_token(definition: Definition) -> str | None:
    """The token that stands for what the vocabulary does not have."""
    if isinstance(unknown_id := definition["model"].get("unk_id"), int):
        return str(definition["model"]["vocab"][unknown_id][0])
    unknown = definition["model"].get("unk_token")
    return None if unknown is None else str(unknown)


def _parts(component: Definition | None) -> list[Definition]:
    """The steps of a tokenizer component, a Sequence flattened."""
    if component is None:
        return []
    inner = next((component[key] for key in ("normalizers", "pretokenizers", "decoders") if key in component), None)
    return [component] if inner is None else [part for item in inner for part in _parts(item)]


def _byte_level_alphabet() -> dict[int, str]:
    """Byte → letter of byte-level BPE (GPT-2): printable Latin-1 stands for itself, the rest from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


BYTE_TO_LETTER = _byte_level_alphabet()
LETTER_TO_BYTE = {letter: byte for byte, letter in BYTE_TO_LETTER.items()}
