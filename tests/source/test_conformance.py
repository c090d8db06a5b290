"""The checks find the defects that they are for, and only those."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fusery.core.topk import TopK
from fusery.runtime.errors import ModelError
from fusery.source.api import Distributions, Document, Engine, Limits
from fusery.source.conformance.checks import (
    TEXTS,
    Check,
    Status,
    answered,
    check_likelihoods,
    quick_test,
    readable,
    refuse_failed,
    self_test,
    tolerance_of,
)
from fusery.source.conformance.comparison import compare
from fusery.source.conformance.rows import Row, apart
from fusery.source.engines.tgi import open_tgi
from fusery.source.engines.transformers import load_engine
from fusery.source.engines.vllm import open_vllm
from support.models.pico_models import pico_byte_tokenizer, pico_model
from support.source.source_servers import UniformEngine
from support.source.stand_ins import PicoModel
from support.source.tgi_stand_in import tgi
from support.source.vllm_stand_in import vllm

torch.set_num_threads(1)

SHORT = {"english": "The quick brown fox jumps.", "code": "def fuse(a):\n    return a", "accents": "déjà vu — 東京"}


@functools.cache
def pico(architecture: str = "gpt2", tokenizer: str | None = "byte_level", seed: int = 0) -> PicoModel:
    folder = pico_model(architecture, tokenizer, seed)
    return PicoModel(load_engine(str(folder), device="cpu"), folder)


Change = Callable[[Distributions], Distributions]


@dataclass
class Changed:
    """A good engine whose answers are changed on their way."""

    engine: Engine
    change: Change
    calls: int = 0

    def __post_init__(self) -> None:
        self.model, self.tokenizer = self.engine.model, self.engine.tokenizer

    def compute(self, documents: Sequence[Document], top_k: int) -> list[Distributions]:
        self.calls += 1
        return [self.change(answer) for answer in self.engine.compute(documents, top_k)]


def rows_of(answer: Distributions, order: Sequence[int] | np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> TopK:
    return answer.top.take(np.asarray(order, np.int64))


def late(answer: Distributions) -> Distributions:
    """Row i is the one for position i − 1, next-token log-probabilities and all."""
    order = np.maximum(np.arange(len(answer.token_ids_T)) - 1, 0)
    return dataclasses.replace(answer, top=rows_of(answer, order))


def early(answer: Distributions) -> Distributions:
    order = np.minimum(np.arange(len(answer.token_ids_T)) + 1, len(answer.token_ids_T) - 1)
    return dataclasses.replace(answer, top=rows_of(answer, order))


def with_log_probs(answer: Distributions, change: Callable[[np.ndarray], np.ndarray]) -> Distributions:  # type: ignore[type-arg]
    top = object.__new__(TopK)  # what a careless engine may make: unchecked
    object.__setattr__(top, "ids_RK", answer.top.ids_RK)
    object.__setattr__(top, "log_probs_RK", change(answer.top.log_probs_RK.copy()).astype(np.float32))
    return dataclasses.replace(answer, top=top)


def with_nan(values: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    values[0, 0] = np.nan
    return values


DEFECTS: dict[str, tuple[Change, str]] = {
    "rows one position late": (late, "position"),
    "rows one position early": (early, "position"),
    "NaN": (lambda a: with_log_probs(a, with_nan), "log-probabilities"),
    "logits": (lambda a: with_log_probs(a, lambda v: v + 30), "log-probabilities"),
    "worst first": (lambda a: with_log_probs(a, lambda v: v[:, ::-1]), "log-probabilities"),
    "temperature": (lambda a: with_log_probs(a, lambda v: v / 4), "mass"),
    "an id past the width": (
        lambda a: dataclasses.replace(a, top=TopK(a.top.ids_RK + 10_000, a.top.log_probs_RK)),
        "ids",
    ),
    "an id twice": (
        lambda a: dataclasses.replace(a, top=TopK(a.top.ids_RK * 0, a.top.log_probs_RK)),
        "log-probabilities",
    ),
    "other tokens": (lambda a: dataclasses.replace(a, token_ids_T=a.token_ids_T[::-1].copy()), "tokens"),
    "ends in characters": (lambda a: dataclasses.replace(a, byte_ends_T=a.byte_ends_T // 2), "tokens"),
    "next tokens of other rows": (
        lambda a: dataclasses.replace(a, next_log_probs_T=np.roll(a.next_log_probs_T, 1)),
        "next token",
    ),
}


def failed(checks: Sequence[Check]) -> set[str]:
    return {check.name for check in checks if check.status is Status.FAILED}


def status(checks: Sequence[Check], name: str) -> Status:
    return next(check.status for check in checks if check.name == name)


@pytest.mark.parametrize("kind", [("gpt2", "byte_level"), ("llama", "sentencepiece"), ("gpt_neox", "unigram")])
def test_a_good_source_conforms(kind: tuple[str, str]) -> None:
    engine = pico(*kind).engine
    checks = self_test(engine, readable(TEXTS, [engine]), 20)
    assert failed(checks) - {"likelihood"} == set(), (
        checks
    )  # untrained models may find the token they stand at likelier
    for name in ("tokens", "bos", "ids", "log-probabilities", "mass", "next token", "whole vocabulary", "position"):
        assert status(checks, name) is Status.PASSED, checks
    assert status(checks, "same request twice") is Status.PASSED


@pytest.mark.parametrize("name", DEFECTS)
def test_a_defect_is_found(name: str) -> None:
    change, check = DEFECTS[name]
    engine = pico().engine
    assert check in failed(self_test(Changed(engine, change), SHORT, 20))


@pytest.mark.parametrize("name", DEFECTS)
def test_one_short_request_finds_it_too(name: str) -> None:
    change, check = DEFECTS[name]
    # With few entries a temperature need not show in their sum.
    source = Changed(pico().engine, change)
    found = failed(quick_test(source))
    assert source.calls == 1
    assert check in found or name == "temperature"


def test_a_failed_check_is_an_error_that_names_it() -> None:
    checks = quick_test(Changed(pico().engine, late))
    with pytest.raises(ModelError, match=r"run\.yaml: source far: it does not answer .*position late"):
        refuse_failed(checks, "run.yaml: source far")
    refuse_failed(quick_test(pico().engine), "source")


def test_a_source_with_another_bos_habit_than_it_declares_is_found() -> None:
    source = Changed(pico("llama", "sentencepiece").engine, lambda answer: answer)
    source.model = dataclasses.replace(source.model, prefix_ids=())
    assert failed(quick_test(source)) == {"bos"}


def test_a_source_that_is_not_the_same_twice_is_found() -> None:
    noise = np.random.default_rng(0)

    def change(answer: Distributions) -> Distributions:
        return with_log_probs(answer, lambda v: np.sort(v - noise.uniform(0, 1e-4, v.shape))[:, ::-1])

    source = Changed(pico().engine, change)
    assert "same request twice" in failed(self_test(source, SHORT, 20))
    source.model = dataclasses.replace(source.model, architecture="vllm 0.33.0", dtype="bfloat16")
    checks = self_test(source, SHORT, 20)
    assert status(checks, "same request twice") is Status.UNSURE


def test_a_source_that_hides_its_input_can_not_be_told() -> None:
    checks = self_test(UniformEngine(), SHORT, 20)
    assert failed(checks) == set()
    assert status(checks, "position") is Status.UNSURE
    assert status(checks, "likelihood") is Status.UNSURE


def test_a_limit_under_the_vocabulary_leaves_its_sum_open() -> None:
    checks = self_test(UniformEngine(limits=Limits(max_top_k=20)), SHORT, 20)
    assert status(checks, "whole vocabulary") is Status.UNSURE


@pytest.mark.parametrize(("shift", "expected"), [(0, Status.PASSED), (-1, Status.FAILED), (None, Status.UNSURE)])
def test_likelihood_tells_a_trained_model_from_one_that_is_off_by_one(shift: int | None, expected: Status) -> None:
    """A source that gives the right token 0.9, or the one it stands at, or all the same."""
    tokenizer = pico_byte_tokenizer("byte_level")

    class Skilled(UniformEngine):
        def compute(self, documents: Sequence[Document], top_k: int) -> list[Distributions]:
            return [self._skilled(answer, top_k) for answer in super().compute(documents, top_k)]

        def _skilled(self, answer: Distributions, top_k: int) -> Distributions:
            if shift is None:
                return answer
            following = np.append(answer.token_ids_T[1:], 0)
            best = following if shift == 0 else answer.token_ids_T
            ids = (best[:, None] + np.arange(top_k)) % tokenizer.size
            values = np.log(np.array([0.9, *[0.05 / (top_k - 1)] * (top_k - 1)], np.float32))
            said = np.full(len(best), np.log(0.9 if shift == 0 else 1e-4), np.float32)
            top = TopK(ids, np.tile(values, (len(best), 1)))
            return dataclasses.replace(answer, top=top, next_log_probs_T=said)

    assert check_likelihoods(answered(Skilled(), SHORT, 8)).status is expected


@pytest.mark.parametrize("kind", [("gpt2", "byte_level"), ("llama", "sentencepiece")])
def test_a_model_behind_either_server_conforms_and_equals_the_model_here(kind: tuple[str, str]) -> None:
    model = pico(*kind)
    texts = {"english": SHORT["english"], "accents": SHORT["accents"]}
    with tgi(model, max_top_n_tokens=8) as one, vllm(model) as other:
        sources: list[Engine] = [open_tgi(one.url, str(model.folder)), open_vllm(other.url, str(model.folder))]
        for source in sources:
            assert failed(self_test(source, texts, 8)) - {"likelihood"} == set()
            checks = compare(source, model.engine, texts, 8, 1e-3)
            assert [check.status for check in checks] == [Status.PASSED] * 4, checks


def test_a_server_that_is_one_position_off_is_found() -> None:
    with tgi(pico(), shift=1) as server:
        source = open_tgi(server.url, str(pico().folder))
        assert "position" in failed(quick_test(source))


def test_another_model_is_told_from_the_same_one() -> None:
    a, b = pico().engine, pico("gpt2", "byte_level", 1).engine
    assert failed(compare(a, a, SHORT, 20, 1e-6)) == set()
    assert failed(compare(a, b, SHORT, 20, tolerance_of("bfloat16"))) == {f"distributions of {n}" for n in SHORT}


def test_another_tokenizer_or_width_is_told() -> None:
    checks = compare(pico().engine, pico("llama", "sentencepiece").engine, SHORT, 5, 1e-3)
    assert failed(checks) == {"tokens", "vocabulary width"}


def test_a_text_that_a_tokenizer_does_not_spell_or_hold_is_left_out() -> None:
    source = UniformEngine()
    assert list(readable({"short": "a", "long": "Zq! " * 900, "empty": ""}, [source])) == ["short"]


log_probs = st.floats(-20, -0.01)
rows = st.dictionaries(st.integers(0, 30), log_probs, min_size=1, max_size=8).map(Row)


@given(rows, rows)
def test_how_far_two_rows_are_apart_is_the_same_either_way_and_0_for_the_same_row(a: Row, b: Row) -> None:
    assert apart(a, b) == apart(b, a) >= 0
    assert apart(a, a) == 0


@given(st.lists(log_probs, min_size=3, max_size=8), st.floats(0, 0.5))
def test_a_change_of_one_entry_shows_and_one_of_equals_at_the_cut_does_not(values: list[float], by: float) -> None:
    ordered = sorted(values, reverse=True)
    row = dict(enumerate(ordered))
    assert apart(Row(row), Row({**row, 0: ordered[0] - by})) == pytest.approx(by, rel=3, abs=1e-9)
    last = len(ordered) - 1
    swapped = {index: value for index, value in row.items() if index != last} | {99: ordered[-1]}
    assert apart(Row(row), Row(swapped)) == 0


def test_the_tolerance_is_that_of_the_coarser_dtype() -> None:
    assert tolerance_of("float32", "float32") < tolerance_of("float32", "float16") < tolerance_of("float16", "bfloat16")
    assert tolerance_of("unknown") == tolerance_of("bfloat16")
