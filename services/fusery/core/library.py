"""The tokenizers library, called so that whatever goes wrong in it is an error of ours.

It is written in Rust, and what its authors did not expect (a pattern that needs too many steps on a text, say) is a
panic: a `BaseException` that no `except Exception` catches, so that it would end a task, an answer or a process without
a word. What it does expect comes as a bare `Exception`. Both become a ModelError here, with the document.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tokenizers import Encoding, Tokenizer

from fusery.errors import ModelError

Definition = dict[str, Any]

MOST_IDS = 1 << 22
"""Every id has a place in lists: sixteen times the largest vocabularies, and no gigabytes for one stray id."""
_SHOWN_CHARACTERS = 40


@contextmanager
def calls(name: str, doing: str) -> Iterator[None]:
    """Turns errors and panics of the library into a ModelError: "NAME: the tokenizers library fails DOING: …".

    Raises:
        ModelError: instead of them. All other errors pass.
    """
    try:
        yield
    except BaseException as error:
        if not _is_of_library(error):
            raise
        raise ModelError(f"{name}: the tokenizers library fails {doing}: {_first_line(error)}") from error


@contextmanager
def panics(name: str, doing: str) -> Iterator[None]:
    """As `calls`, round code of others that calls the library: bare exceptions may be theirs, so they pass.

    Raises:
        ModelError: instead of a panic.
    """
    try:
        yield
    except BaseException as error:
        if not _is_panic(error):
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
