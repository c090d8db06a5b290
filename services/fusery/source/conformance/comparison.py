"""Two sources against each other: is what one engine says of a model what another says of it?"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fusery.source.api import Engine
from fusery.source.conformance.checks import Answered, Check, Status, answered
from fusery.source.conformance.rows import apart


def compare(a: Engine, b: Engine, texts: Mapping[str, str], top_k: int, tolerance: float) -> list[Check]:
    """Tokens, entries up to ties, log-probabilities and tails, within `tolerance` nats; `texts` that both read."""
    ours, theirs = a.model.vocabulary_size, b.model.vocabulary_size
    width = (Status.PASSED, f"{ours}") if ours == theirs else (Status.FAILED, f"{ours} against {theirs}")
    checks = [Check("vocabulary width", *width)]
    pairs = list(zip(answered(a, texts, top_k), answered(b, texts, top_k), strict=True))
    tokens = _compare_tokens(pairs)
    if tokens.status is Status.FAILED:
        return [*checks, tokens]
    return [*checks, tokens, *(_compare_rows(f, g, tolerance) for f, g in pairs)]


def _compare_tokens(pairs: list[tuple[Answered, Answered]]) -> Check:
    for f, g in pairs:
        for what, ours, theirs in (
            ("token ids", f.answer.token_ids_T, g.answer.token_ids_T),
            ("byte ends", f.answer.byte_ends_T, g.answer.byte_ends_T),
        ):
            if not np.array_equal(ours, theirs):
                detail = f"{what} of {f.name} differ: {ours.tolist()[:6]}… against {theirs.tolist()[:6]}…"
                return Check("tokens", Status.FAILED, f"{detail} ({len(ours)} and {len(theirs)} tokens)")
    count = sum(len(f.answer.token_ids_T) for f, _ in pairs)
    return Check("tokens", Status.PASSED, f"the same ids and byte ends, {count} tokens in {len(pairs)} texts")


def _compare_rows(f: Answered, g: Answered, tolerance: float) -> Check:
    rows = [(i, x, y) for i, (x, y) in enumerate(zip(f.rows, g.rows, strict=True)) if x is not None and y is not None]
    name = f"distributions of {f.name}"
    if not rows:
        return Check(name, Status.UNSURE, "no position for which both give a distribution")
    entries = [apart(x, y) for _, x, y in rows]
    tails = max(abs(x.mass - y.mass) for _, x, y in rows)
    ours, theirs = (np.maximum(side.answer.next_log_probs_T.astype(np.float64), -50.0) for side in (f, g))
    following = float((np.abs(ours - theirs) / (1 + np.abs(ours) / 10)).max())
    worst = max(entries)
    skipped = len(f.rows) - len(rows)
    detail = (
        f"{len(rows)} positions{f', {skipped} without a distribution' if skipped else ''}; apart at most: entries "
        f"{worst:.2g} nats (at token {rows[int(np.argmax(entries))][0]}), next token {following:.2g}, tail {tails:.2g}"
    )
    is_right = max(worst, following, tails) <= tolerance
    return Check(name, Status.PASSED if is_right else Status.FAILED, f"{detail}; allowed {tolerance:g}")
