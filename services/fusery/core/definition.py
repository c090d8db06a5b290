"""A tokenizer's definition, the JSON form of `tokenizers.Tokenizer`: what it says, and the library that reads it.

What a token spells is read off the definition, never off a table of model families. The library is written in Rust, and
what its authors did not expect (a pattern that needs too many steps on a text, say) is a panic: a `BaseException` that
no `except Exception` catches, so that it ends a task, an answer or a process without a word. What it does expect comes
as a bare `Exception`. Both become a ModelError here, with the document.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tokenizers import Encoding, Tokenizer

from fusery.runtime.errors import ModelError

Definition = dict[str, Any]

MOST_IDS = 1 << 22
"""Every id has a place in lists: sixteen times the largest vocabularies, and no gigabytes for one stray id."""
_SHOWN_CHARACTERS = 40


@contextmanager
def calls(name: str, doing: str, through_others: bool = False) -> Iterator[None]:
    """Turns errors and panics of the library into a ModelError: "NAME: the tokenizers library fails DOING: …".

    `through_others`: round code of others that calls the library; bare exceptions may be theirs, so they pass.

    Raises:
        ModelError: instead of them. All other errors pass.
    """
    try:
        yield
    except BaseException as error:
        if not (_is_panic(error) if through_others else _is_of_library(error)):
            raise
        raise ModelError(f"{name}: the tokenizers library fails {doing}: {_first_line(error)}") from error


def _is_panic(error: BaseException) -> bool:
    # Its class can't be imported, and each library has its own.
    return type(error).__name__ == "PanicException"


def _is_of_library(error: BaseException) -> bool:
    """Whether `error` is a panic, or the bare Exception that the library raises."""
    return type(error) is Exception or _is_panic(error)


def encoded(
    backend: Tokenizer, texts: Sequence[str], name: str, documents: Sequence[str] | None = None, fast: bool = False
) -> list[Encoding]:
    """The library's encodings of `texts`, without special tokens; `fast`: without offsets.

    Raises:
        ModelError: the library can't read one of them, which is named as in `documents`, or shown.
    """
    encode = backend.encode_batch_fast if fast else backend.encode_batch
    try:
        return list(encode(list(texts), add_special_tokens=False))
    except BaseException as error:
        if not _is_of_library(error):
            raise
        at = next((i for i, text in enumerate(texts) if not _is_read(backend, text)), None)
        doing = "at a batch of texts" if at is None else f"at {_shown(texts[at], documents[at] if documents else None)}"
        raise ModelError(
            f"{name}: the tokenizers library fails {doing}: {_first_line(error)}; leave this document out, or use a "
            "tokenizer with another pre-tokenizer"
        ) from error


def _is_read(backend: Tokenizer, text: str) -> bool:
    try:
        backend.encode(text, add_special_tokens=False)
    except BaseException as error:
        if not _is_of_library(error):
            raise
        return False
    return True


def _shown(text: str, document: str | None) -> str:
    begin = repr(text[:_SHOWN_CHARACTERS]) + ("…" if len(text) > _SHOWN_CHARACTERS else "")
    return f"the text {begin}" if document is None else f"document {document!r} ({begin})"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def built(definition: Definition, name: str) -> Tokenizer:
    """The library's tokenizer of a definition.

    Raises:
        ModelError: an id is too large, or the library can't read the definition.
    """
    check_ids(definition, name)
    with calls(name, "to read its definition"):
        return Tokenizer.from_str(json.dumps(definition))


def check_ids(definition: Definition, name: str) -> None:
    """Returns if all ids of a definition are under MOST_IDS, so that lists by id stay small.

    Raises:
        ModelError: one is not, or the definition has no vocabulary.
    """
    try:
        if not (vocabulary := definition["model"]["vocab"]):
            raise KeyError("vocab")
        added = {token["content"]: token["id"] for token in definition.get("added_tokens") or ()}
        by_token = vocabulary if isinstance(vocabulary, dict) else {}
        ids = [*by_token.values(), *added.values(), len(vocabulary)]
        # Their sum is quick, and wrong types end it.
        is_wrong = not isinstance(sum(ids), int) or min(ids) < 0 or max(ids) >= MOST_IDS
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{name}: its definition has no readable vocabulary ({error!r}); expected a tokenizer.json"
        ) from error
    if is_wrong:
        pairs = [*by_token.items(), *added.items(), ("its last one", len(vocabulary))]
        token, index = next(pair for pair in pairs if not isinstance(pair[1], int) or pair[1] not in range(MOST_IDS))
        raise ModelError(
            f"{name}: token {token!r} has the id {index}, expected 0 to {MOST_IDS - 1}; give the tokens of "
            "tokenizer.json the ids that the model's embeddings have"
        )


def prefix_ids(definition: Definition, name: str) -> list[int]:
    """What the post-processor of a definition puts before a text: its BOS habit. Takes milliseconds.

    Raises:
        ModelError: the library can't read it, or it changes the text's own tokens, so that this can't be told.
    """
    # Without the vocabulary, which takes seconds to build and which no post-processor looks at.
    model = {"type": "WordLevel", "vocab": {"a": MOST_IDS - 1}, "unk_token": "a"}
    parts: Definition = {"model": model, "added_tokens": [], "normalizer": None, "pre_tokenizer": None, "decoder": None}
    backend = built({**definition, **parts, "truncation": None, "padding": None}, name)
    with calls(name, "at the text 'a'"):
        return prefix_of(backend.encode("a", add_special_tokens=False).ids, backend.encode("a").ids, name)


def prefix_of(plain: list[int], whole: list[int], name: str) -> list[int]:
    """The ids of `whole` before those of `plain`.

    Raises:
        ModelError: `plain` is no part of `whole`.
    """
    for start in range(len(whole) - len(plain) + 1):
        if whole[start : start + len(plain)] == plain:
            return whole[:start]
    raise ModelError(f"{name}: its tokenizer gives {plain} for 'a' but {whole} by default; can't tell BOS")


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
