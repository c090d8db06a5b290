"""`fusery align`: how target and sources read a text, and what of the sources' distributions reaches the target."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fusery.core.rules import Dtype
from fusery.core.tokens import TokenizedText
from fusery.core.topk import TopK
from fusery.run.inspect.align.html import page
from fusery.run.inspect.align.show import show, show_summary
from fusery.run.inspect.align.text import Token
from fusery.run.inspect.align.view import Match, Modes, Reading, SourceView, View, view
from fusery.run.open_model import Kind, Named, Opened, knock, named, opened
from fusery.runtime import output
from fusery.runtime.errors import AddressError, ConfigError, InvalidInput, Mismatch, ModelError, Unavailable
from fusery.source.api import Document, check_ids

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Request:
    """Who reads what, under which rules. `top_k` entries of each distribution are asked for, `modes.top` are shown.

    `tokenizer`: of the models behind tgi:URL and vllm:URL; None: what each server names.
    """

    text: str
    target: str
    sources: tuple[str, ...]
    modes: Modes
    top_k: int = 64
    dtype: Dtype = Dtype.FLOAT32
    tokenizer: str | None = None


def text_of(text: str | None, file: Path | None) -> str:
    """The text of the command line: as it stands there, from standard input for "-", or from `file`, unchanged.

    Raises:
        InvalidInput: none or two are given, or it is empty, unreadable or not UTF-8.
    """
    if (text is None) == (file is None):
        raise InvalidInput(f"got {'no text' if text is None else 'TEXT and --file'}; give TEXT, or - , or --file FILE")
    try:
        if file is not None:
            content = file.read_bytes().decode("utf-8-sig")
        elif text == "-":
            content = sys.stdin.buffer.read().decode()
        else:
            content = str(text)
            content.encode()
    except OSError as error:
        raise InvalidInput(f"--file {file}: {error.strerror}; expected a UTF-8 text file") from error
    except UnicodeError as error:
        raise InvalidInput(f"the text is not UTF-8: {error}; re-encode it, or check the terminal's encoding") from error
    if not content:
        raise InvalidInput("the text is empty; give at least two tokens of text")
    return content


def align(request: Request, as_json: bool, html: Path | None) -> None:
    """Prints the comparison; with `html` writes it there as a page and prints the summary alone.

    Raises:
        InvalidInput: something given is wrong; found out before any weights are read.
        ConfigError: the page can't be written.
    """
    if html is not None and not html.absolute().parent.is_dir():
        raise ConfigError(f"--html {html}: there is no folder {html.absolute().parent}; make it first")
    seen = compare(request)
    if html is not None:
        try:
            html.write_text(page(seen), encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"--html {html}: can't be written: {error.strerror}") from error
    if as_json:
        print(output.to_json(document(seen), indent=1))
        return
    console = output.console(highlight=False)
    if html is None:
        show(seen, console)
        return
    show_summary(seen, console)
    console.print(f"page: {html}", markup=False, soft_wrap=True)


def compare(request: Request) -> View:
    """The comparison that `request` asks for.

    Raises:
        InvalidInput: as `align`.
    """
    given = [("--target", request.target), *(("--source", source) for source in request.sources)]
    names = [named(option, what, request.tokenizer) for option, what in given]
    for each in names:
        with _naming(each):
            knock(each)
    with ExitStack() as open_models:
        with _waiting("reading tokenizers"):
            participants = []
            for each in names:
                with _naming(each):
                    participants.append(open_models.enter_context(opened(each, request.dtype)))
            target, *sources = participants
            of_target, *texts = [tokens_of(each, request.text) for each in (target, *sources)]
        for source, tokenized in zip(sources, texts, strict=True):
            count, limit = len(tokenized.ids_T), source.context_length
            if limit is not None and count > limit:
                problem = f"the text has {count} tokens, the model's context holds {limit}; give a shorter text"
                raise source.named.error(InvalidInput, problem)
        readings = []
        twice = {name for name, count in Counter(source.name for source in sources).items() if count > 1}
        for source, tokenized in zip(sources, texts, strict=True):
            name = f"{source.name} ({source.named.given})" if source.name in twice else source.name
            with _waiting(f"asking {name}"):
                top = _distributions(source, request, tokenized)
            readings.append(Reading(name, source.named.given, source.tokenizer, tokenized, top))
    with _waiting("aligning"):
        shown = Reading(target.name, target.named.given, target.tokenizer, of_target)
        return view(request.text, request.modes, shown, readings)


@contextmanager
def _naming(participant: Named) -> Iterator[None]:
    """Says of a server that does not answer which option named it."""
    try:
        yield
    except (Unavailable, AddressError) as error:
        if participant.kind is Kind.SERVED:
            problem = f"no source server answers: {participant.why_silent(error)}; start one with fusery serve-source"
        elif isinstance(error, Unavailable):
            problem = f"no inference server answers: {error}"
        else:
            raise
        raise participant.error(AddressError, problem) from error


def tokens_of(opened: Opened, text: str) -> TokenizedText:
    """The participant's tokens of `text`.

    Raises:
        InvalidInput: the tokenizer makes no token of the text.
        ModelError: the tokenizer does not spell the text.
    """
    try:
        tokenized = opened.tokenizer.tokenize(text)
    except ModelError as error:
        raise opened.named.error(ModelError, error) from error
    if not len(tokenized.ids_T):
        raise opened.named.error(InvalidInput, "it reads the text as no token at all; give another text")
    return tokenized


def _distributions(opened: Opened, request: Request, tokenized: TokenizedText) -> TopK | None:
    """The source's entries after each of its tokens; None if it has no distributions.

    Raises:
        Mismatch: it tokenised the text in another way than its tokenizer does here.
    """
    if opened.load is None:
        return None
    with _naming(opened.named):
        source = opened.source()
    entries = max(request.top_k, request.modes.top)
    k = min(entries, source.model.vocabulary_size, source.model.limits.max_top_k)
    [answer] = source.compute([Document("text", request.text)], k)
    check_ids(answer, source.model.vocabulary_size, opened.named.given)
    if not np.array_equal(answer.token_ids_T, tokenized.ids_T):
        raise opened.named.error(
            Mismatch, "it tokenises the text differently there; install the same version of tokenizers on both sides"
        )
    return answer.top


@contextmanager
def _waiting(what: str) -> Iterator[None]:
    """Says on a terminal what takes its time."""
    console = output.console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status(what):
        yield


def document(view: View) -> dict[str, Any]:
    """The comparison as JSON; docs/align.md documents the keys.

    Tokens stand once, with their text: everything else names them by position or row.
    """
    return {
        "format": _FORMAT,
        "text": view.text,
        "bytes": len(view.text.encode()),
        "positions": view.modes.positions.value,
        "vocabulary": view.modes.vocabulary.value,
        "target": {
            "name": view.target_name,
            "given": view.target_given,
            "tokenizer_fingerprint": view.target_fingerprint,
            "tokens": [_token(token) for token in view.target],
        },
        "sources": [_source(source, view) for source in view.sources],
    }


def _source(source: SourceView, view: View) -> dict[str, Any]:
    matched = {match.row for match in source.matches}
    tokens = [_token(token) | {"matched": row in matched} for row, token in enumerate(source.tokens)]
    if source.guesses is not None:
        for token, guesses in zip(tokens, source.guesses, strict=True):
            token["top"] = [{"id": g.id, "shown": g.shown, "probability": _rounded(g.probability)} for g in guesses]
    return {
        "name": source.name,
        "given": source.given,
        "tokenizer_fingerprint": source.fingerprint,
        "has_distributions": source.guesses is not None,
        "top_k": source.top_k,
        "cells": source.cells,
        "summary": {
            "positions": view.positions,
            "with_evidence": len(source.matches),
            "share": len(source.matches) / view.positions if view.positions else None,
            "kept_mass": _rounded(source.kept_mass),
            "same_cell": _rounded(source.same_cell),
            "next_in_best_cell": _rounded(source.next_is_best),
            "nothing_because": source.nothing_because,
        },
        "tokens": tokens,
        "matches": [_match(match, source, view) for match in source.matches],
    }


def _token(token: Token) -> dict[str, Any]:
    return {
        "id": token.id,
        "shown": token.shown,
        "hex": None if token.spelled is None else token.spelled.hex(),
        "byte_start": token.start,
        "byte_end": token.end,
    }


def _match(match: Match, source: SourceView, view: View) -> dict[str, Any]:
    return {
        "position": match.position,
        "row": match.row,
        "byte_end": view.target[match.position].end,
        "source_byte_end": source.tokens[match.row].end,
        "same_cell": match.same_cell,
        "next_in_best_cell": None if match.kept_mass is None else match.next_is_best,
        "next_mass": _rounded(match.next_mass),
        "kept_mass": _rounded(match.kept_mass),
        "cells": [
            {
                "cell": cell.number,
                "size": cell.size,
                "tokens": [{"id": index, "shown": shown} for index, shown in cell.tokens],
                "mass": _rounded(cell.mass),
                "has_next": cell.has_next,
            }
            for cell in match.cells
        ],
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
