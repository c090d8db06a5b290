"""`fusery query`: a source's next-token candidates at every position of a text.

The table is cut by hand and not by rich: a token and its probability stay together, a token that a terminal would act
on is shown and not obeyed, and what goes to a file or a pipe has one line a position, whatever its width.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from rich.cells import cell_len
from rich.text import Text

from fusery.core.tokens import ByteTokenizer
from fusery.run.inspect.align.text import TokenNames, clipped, probability
from fusery.runtime import output
from fusery.runtime.errors import InvalidInput
from fusery.source.api import Distributions, Document, ModelDescription, check_ids
from fusery.source.client import client_from_settings

_WIDEST_TOKEN, _NARROWEST_ROOM = 24, 12


def query(address: str, text: str, top_k: int, as_json: bool) -> None:
    """Prints what the source at `address` expects after every token of `text`.

    Raises:
        InvalidInput: the text is not one that the source can read, or `top_k` is more than it gives.
        Unavailable: no source answers.
    """
    if not text:
        raise InvalidInput("TEXT is empty; give at least one character")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"TEXT is not UTF-8: {error}; check the terminal's encoding") from error
    with client_from_settings(address, timeout_s=60.0, retry_for_s=10.0) as client:
        model, tokenizer = client.model(), client.tokenizer()
        [answer] = client.compute([Document("query", text)], top_k, "float32", model.fingerprint)
        check_ids(answer, model.vocabulary_size, address)
    rows = _rows(answer, tokenizer)
    if as_json:
        print(json.dumps({"model": model.name, "fingerprint": model.fingerprint, "rows": rows}, indent=1))
        return
    console = output.console(highlight=False)
    width = console.width if console.is_terminal else None
    for line in table(model, TokenNames(tokenizer), rows, width):
        console.print(line, soft_wrap=True)


def table(
    model: ModelDescription, names: TokenNames, rows: Sequence[dict[str, Any]], width: int | None
) -> Iterator[Text]:
    """The lines of the table for people, at most `width` columns where that can be done; None: one line a row."""
    shown = [clipped(names.shown(row["token_id"]), _WIDEST_TOKEN) for row in rows]
    token = max(5, *(cell_len(name) for name in shown))
    room = None if width is None else max(width - token - 24, _NARROWEST_ROOM)
    cut = [_lines([_candidate(names, candidate) for candidate in row["candidates"]], room) for row in rows]
    heading = "candidates for the next token"
    heading = heading if room is None or room >= len(heading) else "candidates"
    across = max(len(heading), *(line.cell_len for lines in cut for line in lines))
    title = f"{model.name} ({model.architecture}, vocabulary {model.vocabulary_size}, context {model.context_length})"
    yield Text(title if width is None else clipped(title, width), "italic")
    yield Text(f" byte  {_filled('token', token)}  p(next)  {_filled(heading, across)}  tail", "bold")
    for row, name, (first, *more) in zip(rows, shown, cut, strict=True):
        follows = "" if row["next_probability"] is None else probability(row["next_probability"], 3)
        start = Text.assemble(f"{row['byte_end']:>5}  ", (_filled(name, token), "bold"), f"  {follows:>7}  ")
        yield start + first + Text(" " * (across - first.cell_len) + f"  {row['tail']:.2f}")
        for line in more:
            yield Text(" " * (token + 18)) + line


def _lines(candidates: Sequence[Text], room: int | None) -> list[Text]:
    """The candidates two blanks apart, as many in a line as fit; at least one line."""
    lines = [candidates[0]]
    for candidate in candidates[1:]:
        if room is None or lines[-1].cell_len + 2 + candidate.cell_len <= room:
            lines[-1] = Text("  ").join([lines[-1], candidate])
        else:
            lines.append(candidate)
    return lines


def _candidate(names: TokenNames, candidate: dict[str, Any]) -> Text:
    name = clipped(names.shown(candidate["token_id"]), _WIDEST_TOKEN)
    return Text.assemble((name, "bold"), " ", (probability(candidate["probability"], 2), "dim"))


def _filled(shown: str, width: int) -> str:
    return shown + " " * (width - cell_len(shown))


def _rows(answer: Distributions, tokenizer: ByteTokenizer) -> list[dict[str, Any]]:
    rows = []
    for i, index in enumerate(answer.token_ids_T.tolist()):
        log_probs = answer.top.log_probs_RK[i].tolist()
        candidates = zip(answer.top.ids_RK[i].tolist(), log_probs, strict=True)
        is_last = i + 1 == len(answer.token_ids_T)
        rows.append(
            {
                "token_id": index,
                "token": _text_of(tokenizer, index),
                "byte_end": int(answer.byte_ends_T[i]),
                "next_probability": None if is_last else float(np.exp(answer.next_log_probs_T[i])),
                "candidates": [
                    {"token_id": c, "text": _text_of(tokenizer, c), "probability": float(np.exp(p))}
                    for c, p in candidates
                ],
                "tail": max(0.0, 1.0 - float(answer.top.mass_R[i])),
            }
        )
    return rows


def _text_of(tokenizer: ByteTokenizer, index: int) -> str:
    """What a token spells; a special token or an id without a token as <id>."""
    spelled = tokenizer.token_bytes[index] if 0 <= index < tokenizer.size else None
    return f"<{index}>" if spelled is None else spelled.decode(errors="backslashreplace")
