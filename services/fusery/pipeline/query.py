"""`fusery query`: a source's next-token candidates at every position of a text."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fusery.core.tokens import ByteTokenizer
from fusery.errors import InvalidInput
from fusery.settings import settings
from fusery.source.api import Distributions, Document
from fusery.source.client import SourceClient, read_token


def query(address: str, text: str, top_k: int, as_json: bool) -> None:
    """Prints what the source at `address` expects after every token of `text`.

    Raises:
        InvalidInput: the text is not one that the source can read, or `top_k` is more than it gives.
        Unavailable: no source answers.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"TEXT is not UTF-8: {error}; check the terminal's encoding") from error
    token = read_token(settings().source_token_file)
    with SourceClient(address, token=token, timeout_s=60.0, retry_for_s=10.0) as client:
        model, tokenizer = client.model(), client.tokenizer()
        [answer] = client.compute([Document("query", text)], top_k, "float32", model.fingerprint)
    rows = _rows(answer, tokenizer)
    if as_json:
        print(json.dumps({"model": model.name, "fingerprint": model.fingerprint, "rows": rows}, indent=1))
        return
    table = Table(title=Text(f"{model.name} ({model.architecture}, {model.vocabulary_size} tokens)"), box=None)
    table.add_column("byte", justify="right")
    table.add_column("token")
    table.add_column("p(next)", justify="right")
    table.add_column("candidates for the next token")
    table.add_column("tail", justify="right")
    for row in rows:
        candidates = Text("  ").join(
            Text.assemble(_shown(c["text"]), " ", (f"{c['probability']:.2f}", "dim")) for c in row["candidates"]
        )
        follows = "" if row["next_probability"] is None else f"{row['next_probability']:.3f}"
        table.add_row(str(row["byte_end"]), _shown(row["token"]), follows, candidates, f"{row['tail']:.2f}")
    Console().print(table)


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


def _shown(text: str) -> Text:
    """Spaces and line ends made visible."""
    return Text(text.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥") or "∅", style="bold")
