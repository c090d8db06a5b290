"""Is a source what fusery takes it for? Checks of one source by itself, and of two against each other.

An engine that is one position off, has another BOS habit or gives logits for log-probabilities breaks no format: a
run ends well and the fused model is worse. The checks ask only through the interface that a run uses, so they hold
for any engine, in this process or behind a server.

Dimensions: T tokens of a document, K entries kept per token, V the model's logits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from fusery.core.tokens import TokenizedText
from fusery.runtime.errors import ModelError
from fusery.source.api import Distributions, Document, Engine
from fusery.source.conformance.rows import Row, apart, row_of

TEXTS: Mapping[str, str] = {
    "english": "The quick brown fox jumps over the lazy dog, and the dog does not mind. It was a warm day in June.\n",
    "code": "def total(prices):\n    result = 0\n    for price in prices:\n        result += price\n    return result",
    "cjk": "東京は日本の首都です。今日はとても良い天気です。\n",
    "emoji": "Well done 🎉👍🏽 — see you soon 😀!\n",
    "whitespace": "one  two\t\tthree\n\n\n    four \r\n  five",
}
ENDINGS: Mapping[str, str] = {"a": "The quick brown fox jumps over", "b": "The quick brown fox thinks over"}
"""Two texts that are the same up to a word: rows before it must not know which comes, the row at it must."""

_TOLERANCES = {"float32": 1e-3, "float16": 0.05, "bfloat16": 0.3}
"""bfloat16 logits from 16 to 32 lie 0.125 apart; two kernels differ by one such step or two."""

_MASS_ROUNDING = {"float32": 2e-3}
_COARSE_MASS_ROUNDING = 1e-2
_CLEAR_NATS, _FEWEST_ROWS = 0.5, 10
_MOST_COPIED = 0.5
"""Tied random weights prefer the token just read too, but give it far less."""
_QUICK_K = 8


class Status(StrEnum):
    """`unsure`: the source gives no means to tell, or the deviation is one that its engine can't avoid."""

    PASSED = "passed"
    UNSURE = "unsure"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Check:
    """The outcome of one check; `detail` is a sentence with numbers."""

    name: str
    status: Status
    detail: str


def tolerance_of(*dtypes: str) -> float:
    """How far log-probabilities (nats) of two computations may differ; servers that tell no dtype count as bfloat16."""
    return max(_TOLERANCES.get(dtype, _TOLERANCES["bfloat16"]) for dtype in dtypes)


def _mass_rounding(source: Engine) -> float:
    return _MASS_ROUNDING.get(source.model.dtype, _COARSE_MASS_ROUNDING)


def _check(name: str, is_right: bool, right: str, wrong: str) -> Check:
    return Check(name, Status.PASSED if is_right else Status.FAILED, right if is_right else wrong)


@dataclass(frozen=True, slots=True, eq=False)
class Answered:
    """A text with a source's answer and its own tokenizer's reading of it."""

    name: str
    text: str
    answer: Distributions
    tokens: TokenizedText

    @property
    def rows(self) -> list[Row | None]:
        return [row_of(self.answer, i) for i in range(len(self.answer.token_ids_T))]


def readable(texts: Mapping[str, str], sources: Sequence[Engine]) -> dict[str, str]:
    """The texts that every source's tokenizer spells and that its context holds."""
    return {name: text for name, text in texts.items() if all(_reads(source, text) for source in sources)}


def _reads(source: Engine, text: str) -> bool:
    try:
        return 1 <= len(source.tokenizer.tokenize(text).ids_T) <= source.model.context_length
    except ModelError:
        return False


def answered(source: Engine, texts: Mapping[str, str], top_k: int) -> list[Answered]:
    """The source's answers, each text a request of its own."""
    return [_answered(source, {name: text}, top_k)[0] for name, text in texts.items()]


def _answered(source: Engine, texts: Mapping[str, str], top_k: int) -> list[Answered]:
    """All texts in one request."""
    answers = source.compute([Document(name, text) for name, text in texts.items()], top_k)
    read = source.tokenizer.tokenize_batch(list(texts.values()))
    return [Answered(*item, answer, tokens) for item, answer, tokens in zip(texts.items(), answers, read, strict=True)]


def quick_test(source: Engine) -> list[Check]:
    """What one request of two short texts tells; no check of it depends on how good the model is."""
    k = min(_QUICK_K, source.model.vocabulary_size, source.model.limits.max_top_k)
    pair = _answered(source, ENDINGS, k)
    return [*_checks_of_answers(source, pair), check_endings(source, *pair), check_copies(pair)]


def refuse_failed(checks: Sequence[Check], name: str) -> None:
    """Returns if no check failed.

    Raises:
        ModelError: one did; the message says which.
    """
    if failed := [check for check in checks if check.status is Status.FAILED]:
        shown = "; ".join(f"{check.name}: {check.detail}" for check in failed)
        raise ModelError(f"{name}: it does not answer as a source must: {shown}; see `fusery conformance`")


def self_test(source: Engine, texts: Mapping[str, str], top_k: int) -> list[Check]:
    """Every check of one source by itself; `texts` are ones that it reads."""
    found = answered(source, texts, top_k)
    pair = _answered(source, ENDINGS, top_k)
    return [
        *_checks_of_answers(source, [*found, *pair]),
        _check_whole_vocabulary(source),
        _check_repeats(source, found[0], top_k),
        check_endings(source, *pair),
        check_copies(found),
        check_likelihoods(found),
    ]


def _checks_of_answers(source: Engine, found: Sequence[Answered]) -> list[Check]:
    return [
        _check_tokens(found),
        _check_prefix(source, found),
        _check_width(source, found),
        _check_log_probs(found),
        _check_mass(source, found),
        _check_next(source, found),
    ]


def _check_tokens(found: Sequence[Answered]) -> Check:
    wrong = [f.name for f in found if not np.array_equal(f.answer.token_ids_T, f.tokens.ids_T)]
    ends = [f.name for f in found if not np.array_equal(f.answer.byte_ends_T, f.tokens.byte_ends_T)]
    count = sum(len(f.tokens.ids_T) for f in found)
    detail = f"token ids differ in {', '.join(wrong) or 'none'}, byte ends in {', '.join(ends) or 'none'}"
    return _check("tokens", not wrong and not ends, f"ids and byte ends of {count} tokens are its tokenizer's", detail)


def _check_prefix(source: Engine, found: Sequence[Answered]) -> Check:
    declared = list(source.model.prefix_ids)
    own = source.tokenizer.prefix_ids.tolist()
    seen = [f.answer.token_ids_T[: len(declared)].tolist() for f in found]
    at_0 = all((f.answer.byte_ends_T[: len(declared)] == 0).all() for f in found)
    is_right = own == declared and at_0 and all(ids == declared for ids in seen)
    shown = f"every text begins with {declared}" if declared else "no text begins with a special token"
    return _check("bos", is_right, shown, f"declared {declared}, its tokenizer has {own}, an answer begins {seen[:1]}")


def _check_width(source: Engine, found: Sequence[Answered]) -> Check:
    width = source.model.vocabulary_size
    largest = max(int(max(f.answer.top.ids_RK.max(), f.answer.token_ids_T.max())) for f in found)
    smallest = min(int(f.answer.top.ids_RK.min()) for f in found)
    is_right = smallest >= 0 and largest < width
    return _check("ids", is_right, f"all under the {width} logits", f"from {smallest} to {largest}, logits {width}")


def _check_log_probs(found: Sequence[Answered]) -> Check:
    tops = [f.answer.top.log_probs_RK for f in found]
    is_number = not any(np.isnan(values).any() for values in [*tops, *(f.answer.next_log_probs_T for f in found)])
    largest = max(float(max(t.max(), f.answer.next_log_probs_T.max())) for t, f in zip(tops, found, strict=True))
    is_ordered = all((t[:, 1:] <= t[:, :-1]).all() for t in tops)
    ids_twice = sum(len(row.log_probs) < f.answer.top.k for f in found for row in f.rows if row is not None)
    is_right = is_number and largest <= 0 and is_ordered and not ids_twice
    wrong = f"NaN: {not is_number}, largest {largest:.4g}, best first: {is_ordered}, rows with an id twice: {ids_twice}"
    return _check("log-probabilities", is_right, "no NaN, none positive, best first, no id twice", wrong)


def _check_mass(source: Engine, found: Sequence[Answered]) -> Check:
    masses = np.concatenate([_masses(f.answer) for f in found])
    detail = f"rows add up to {masses.min():.4f} to {masses.max():.4f}"
    return _check("mass", bool(masses.max() <= 1 + _mass_rounding(source)), detail, f"{detail}, expected at most 1")


def _masses(answer: Distributions) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.asarray(np.exp(answer.top.log_probs_RK.astype(np.float64)).sum(axis=1))


def _check_next(source: Engine, found: Sequence[Answered]) -> Check:
    """`next_log_probs` are of the very rows: equal to the row's own entry for the next token, or under all of them."""
    worst, seen = 0.0, 0
    for f in found:
        for i, row in enumerate(f.rows[:-1]):
            if row is not None:
                own, said = row.log_probs.get(int(f.answer.token_ids_T[i + 1])), float(f.answer.next_log_probs_T[i])
                worst = max(worst, abs(said - own) if own is not None else said - row.least)
                seen += own is not None
    right = f"{seen} next tokens are among their row's entries, with the same log-probability within {worst:.2g}"
    is_right = worst <= tolerance_of(source.model.dtype)
    return _check("next token", is_right, right, f"its log-probability is up to {worst:.3g} off the row's own entry")


def _check_whole_vocabulary(source: Engine) -> Check:
    model, name = source.model, "whole vocabulary"
    width, text = model.vocabulary_size, "a"
    tokens = len(source.tokenizer.tokenize(text).ids_T)
    if width > model.limits.max_top_k or tokens * (12 + 8 * width) > model.limits.max_reply_bytes:
        return Check(name, Status.UNSURE, f"{width} entries can't be asked for, at most {model.limits.max_top_k}")
    masses = _masses(source.compute([Document("whole", text)], width)[0])
    masses = masses[masses > 0]
    worst = float(np.abs(masses - 1).max()) if len(masses) else 1.0
    wrong = f"all {width} entries add up to {1 - worst:.4f} or {1 + worst:.4f}, expected 1: is the temperature 1?"
    return _check(name, worst <= _mass_rounding(source), f"all {width} entries add up to 1 within {worst:.1g}", wrong)


def _check_repeats(source: Engine, first: Answered, top_k: int) -> Check:
    again = answered(source, {first.name: first.text}, top_k)[0]
    name = "same request twice"
    if _bytes_of(first.answer) == _bytes_of(again.answer):
        return Check(name, Status.PASSED, "the same bytes")
    pairs = ((a, b) for a, b in zip(first.rows, again.rows, strict=True) if a is not None and b is not None)
    worst = max((apart(a, b) for a, b in pairs), default=0.0)
    detail = f"other bytes, log-probabilities up to {worst:.2g} apart"
    is_server = source.model.architecture.startswith(("tgi ", "vllm "))
    if is_server and worst <= tolerance_of(source.model.dtype):
        return Check(name, Status.UNSURE, f"{detail}: the server makes up its batches as requests come")
    return Check(name, Status.FAILED, detail)


def _bytes_of(answer: Distributions) -> bytes:
    return b"".join(a.tobytes() for a in (answer.top.ids_RK, answer.top.log_probs_RK, answer.next_log_probs_T))


def check_endings(source: Engine, a: Answered, b: Answered) -> Check:
    """Rows before two texts part know nothing of it, the rows where they part do: nothing is a position off."""
    name, tolerance = "position", tolerance_of(source.model.dtype)
    ids_a, ids_b = a.answer.token_ids_T, b.answer.token_ids_T
    parted = next((i for i, (x, y) in enumerate(zip(ids_a, ids_b, strict=False)) if x != y), 0)
    pairs = [(x, y) for x, y in zip(a.rows[:parted], b.rows[:parted], strict=True) if x is not None and y is not None]
    before, (row_a, row_b) = max((apart(x, y) for x, y in pairs), default=0.0), (a.rows[parted], b.rows[parted])
    if before > tolerance:
        return Check(name, Status.FAILED, f"rows know a later token: {before:.2g} apart before the texts part")
    if row_a is None or row_b is None or not pairs:
        return Check(name, Status.UNSURE, "no rows where the two texts part")
    if apart(row_a, row_b) > tolerance:
        return Check(name, Status.PASSED, f"a row knows its own token and those before it ({parted} tokens shared)")
    if all(apart(x, row_a) <= tolerance for x, _ in pairs):
        return Check(name, Status.UNSURE, "all rows are the same, whatever the text")
    return Check(name, Status.FAILED, "a row does not know its own token: rows are one position late")


def check_copies(found: Sequence[Answered]) -> Check:
    """Rows do not give most of their mass to the token that has just been read, as those of an unshifted model do."""
    own, following = [], []
    for f in found:
        ids, first = f.answer.token_ids_T.tolist(), int((f.tokens.byte_ends_T == 0).sum())
        for i, row in enumerate(f.rows[:-1]):
            if row is not None and i >= first and ids[i] != ids[i + 1]:
                own.append(np.exp(row.log_probs.get(ids[i], -np.inf)))
                following.append(np.exp(row.log_probs.get(ids[i + 1], -np.inf)))
    if not own:
        return Check("shift", Status.UNSURE, "no rows that tell")
    mean, next_mean = float(np.mean(own)), float(np.mean(following))
    detail = f"rows give {mean:.2f} to the token just read, {next_mean:.2f} to the next"
    wrong = f"{detail}: row i must predict token i+1; the model was trained on labels that were not shifted"
    return _check("shift", mean <= _MOST_COPIED or next_mean >= mean, detail, wrong)


def check_likelihoods(found: Sequence[Answered]) -> Check:
    """The row at i finds token i+1 far likelier than token i, as any trained model does.

    Both by the row's own entries, and by the same bound where they are not among them: a model may know little of a
    text, and only rows that keep one of the two can tell.
    """
    following, current = [], []
    for f in found:
        ids, first = f.answer.token_ids_T.tolist(), int((f.tokens.byte_ends_T == 0).sum())
        for i, row in enumerate(f.rows[:-1]):
            if row is not None and i >= first and (ids[i] in row.log_probs) != (ids[i + 1] in row.log_probs):
                following.append(row.log_probs.get(ids[i + 1], row.bound))
                current.append(row.log_probs.get(ids[i], row.bound))
    name = "likelihood"
    if len(following) < _FEWEST_ROWS:
        return Check(name, Status.UNSURE, f"{len(following)} rows tell, at least {_FEWEST_ROWS} are needed")
    next_nats, own_nats = float(np.mean(following)), float(np.mean(current))
    detail = f"{next_nats:.2f} nats for the next token, {own_nats:.2f} for the one before it ({len(following)} rows)"
    if next_nats - own_nats >= _CLEAR_NATS:
        return Check(name, Status.PASSED, detail)
    if own_nats - next_nats >= _CLEAR_NATS:
        return Check(name, Status.FAILED, f"{detail}: off by one, or an untrained model")
    return Check(name, Status.UNSURE, f"{detail}: too close to tell")
