"""The comparison as one JSON document; its keys are documented in docs/align.md and stay as they are.

Tokens stand once, with their text: everything else names them by position or row.
"""

from __future__ import annotations

from typing import Any

from fusery.pipeline.align_view import Cell, Guess, Match, SourceView, Token, View

FORMAT = 1


def document(view: View) -> dict[str, Any]:
    """Everything that `fusery align` knows of the text."""
    return {
        "format": FORMAT,
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
            token["top"] = [_guess(guess) for guess in guesses]
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


def _guess(guess: Guess) -> dict[str, Any]:
    return {"id": guess.id, "shown": guess.shown, "probability": _rounded(guess.probability)}


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
        "cells": [_cell(cell) for cell in match.cells],
    }


def _cell(cell: Cell) -> dict[str, Any]:
    return {
        "cell": cell.number,
        "size": cell.size,
        "tokens": [{"id": index, "shown": shown} for index, shown in cell.tokens],
        "mass": _rounded(cell.mass),
        "has_next": cell.has_next,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
