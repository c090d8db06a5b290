"""Text that a tokenizer drops or changes is predicted by nobody: it makes no model look better."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusery.config.sections import GateSpec
from fusery.core.fusion import cost_of
from fusery.core.rules import Cost
from fusery.core.tokens import ByteTokenizer
from fusery.core.topk import empty
from fusery.evaluation.bits_per_byte import HeldOutDocument, measure
from fusery.evaluation.report.gate import judge
from fusery.evaluation.report.report import Report, read, write
from fusery.evaluation.report.tables import bits_per_byte_cells, gain_lines, to_markdown
from fusery.evaluation.scores import Scores
from fusery.evaluation.windows import Reading
from fusery.hops.store.shards import CorpusDocument
from fusery.run.corpus.corpora import check_documents
from fusery.runtime.errors import Mismatch, ModelError
from fusery.source.api import Distributions, Document
from support.models.lossy_tokenizers import KINDS, Kind, tokenizer_of
from support.models.pico_models import TEXTS, TOKENIZERS, pico_byte_tokenizer

if TYPE_CHECKING:
    from fusery.config.file import RunFile
    from fusery.run.corpus.scan import Corpora

kinds = pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))


class Uniform:
    """Gives every token the probability 1/100, whatever the text."""

    def __init__(self, tokenizer: ByteTokenizer) -> None:
        self.tokenizer = tokenizer

    def compute(self, documents: list[Document], top_k: int) -> list[Distributions]:
        return [self._read(document) for document in documents]

    def _read(self, document: Document) -> Distributions:
        text = self.tokenizer.tokenize(document.text)
        log_probs = np.full(len(text.ids_T), -math.log(100), np.float32)
        return Distributions(document.id, text.ids_T, text.byte_ends_T, empty(len(text.ids_T), 1), log_probs)


def measured(tokenizer: ByteTokenizer, text: str, window_tokens: int = 10_000) -> Scores:
    documents = [HeldOutDocument("a", "all", text)]
    return measure(Uniform(tokenizer), documents, reading=Reading(tokenizer, window_tokens))


def mince_cost(tokenizer: ByteTokenizer, text: str) -> float:
    read = tokenizer.tokenize(text)
    log_probs = np.full(len(read.ids_T), -math.log(100), np.float32)
    return cost_of(Cost.BITS_PER_BYTE, log_probs, read.predicted_bytes_T)


@kinds
def test_what_a_tokenizer_loses_makes_no_model_better(kind: Kind) -> None:
    tokenizer = tokenizer_of(kind)
    exact, lossy = measured(tokenizer, kind.exact), measured(tokenizer, kind.lossy)
    assert lossy.mean_bits_per_byte >= exact.mean_bits_per_byte - 1e-9
    assert lossy.unspelled_share > 0.05


@kinds
def test_the_evaluation_and_mince_count_the_same_bytes(kind: Kind) -> None:
    tokenizer = tokenizer_of(kind)
    for text in (kind.exact, kind.lossy):
        assert mince_cost(tokenizer, text) == pytest.approx(measured(tokenizer, text).mean_bits_per_byte, rel=1e-6)


@pytest.mark.parametrize(
    "name", ["WordPiece drops indentation", "words and signs", "end-of-word tokens drop indentation"]
)
def test_indented_code_is_as_hard_as_the_same_code_flat(name: str) -> None:
    tokenizer = tokenizer_of(KINDS[name])
    exact, lossy = measured(tokenizer, KINDS[name].exact), measured(tokenizer, KINDS[name].lossy)
    assert lossy.bits == exact.bits
    assert lossy.predicted_bytes == exact.predicted_bytes


@given(runs=st.lists(st.sampled_from([" ", "\n", "\t", "   ", "\n\n    ", "\r\n"]), min_size=8, max_size=8))
def test_white_space_that_is_dropped_never_counts(runs: list[str]) -> None:
    words = ["play", "the", "games", "of", "return", "(", ")", "go"]
    text = "".join(word + run for word, run in zip(words, runs, strict=True))
    scores = measured(tokenizer_of(KINDS["WordPiece drops indentation"]), text)
    assert scores.predicted_bytes == (sum(map(len, words[1:])),)
    assert scores.unspelled_bytes == (len(text) - sum(map(len, words)),)


@kinds
def test_windows_count_the_bytes_of_the_whole_text(kind: Kind) -> None:
    tokenizer, text = tokenizer_of(kind), " ".join([kind.lossy, kind.exact] * 40)
    whole, cut = measured(tokenizer, text), measured(tokenizer, text, 64)
    assert cut.mean_bits_per_byte == pytest.approx(whole.mean_bits_per_byte, rel=0.05)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_tokenizer_that_spells_the_text_is_measured_on_all_of_it(kind: str) -> None:
    tokenizer = pico_byte_tokenizer(kind)
    texts = [text for text in TEXTS if tokenizer.tokenize(text).unspelled_T is None]
    assert texts
    for text in texts:
        first = int(tokenizer.tokenize(text).byte_ends_T[0])
        scores = measured(tokenizer, text)
        assert (scores.predicted_bytes, scores.unspelled_bytes) == ((len(text.encode()) - first,), ())


def test_the_first_word_counts_though_the_tokenizer_puts_a_space_before_it() -> None:
    read = tokenizer_of(KINDS["a long unknown run"]).tokenize("the 東京 of")
    assert read.unspelled_T is not None
    assert read.unspelled_T.tolist()[0] == 0
    assert int(read.unspelled_T.sum()) == len(" 東京".encode()) or int(read.unspelled_T.sum()) == len("東京".encode())


def test_an_answer_of_another_tokenizer_is_refused() -> None:
    other = tokenizer_of(KINDS["capitals become small"])
    reading = Reading(tokenizer_of(KINDS["words and signs"]), 100)
    with pytest.raises(Mismatch, match="same version of tokenizers"):
        measure(Uniform(other), [HeldOutDocument("a", "all", "the games")], reading=reading)


def report_with(lossy: str) -> Report:
    """Twenty documents; the model `lossy` ("source code" or "fused") spells half of them."""
    rows = tuple(f"d{i}" for i in range(20)), ("all",) * 20
    whole, half = Scores(*rows, (80.0,) * 20, (40,) * 20), Scores(*rows, (80.0,) * 20, (20,) * 20, (20,) * 20)
    fused = Scores(*rows, (70.0,) * 20, (40,) * 20)
    if lossy == "fused":
        return Report("run", whole, Scores(*rows, (10.0,) * 20, (20,) * 20, (20,) * 20), {"code": whole}, whole)
    return Report("run", whole, fused, {"code": half}, whole)


@pytest.mark.parametrize("lossy", ["source code", "fused"])
def test_tables_mark_a_model_that_is_measured_on_fewer_bytes(lossy: str) -> None:
    report = report_with(lossy)
    names = [row[0] for row in bits_per_byte_cells(report).rows]
    assert [name for name in names if name.endswith("†")] == [f"{lossy} †"]
    assert f"{lossy} †: its tokenizer drops or changes 50.0% of the text" in to_markdown(report)


def test_a_gain_over_other_bytes_says_so_and_is_no_proof() -> None:
    lines = {line.partition(":")[0]: line for line in gain_lines(report_with("source code"))}
    assert "not on the same bytes" in lines["fused against source code"]
    assert "not on the same bytes" not in lines["fused against CLM"]
    rule = GateSpec(better_than=("source:code", "clm"), domain_tolerance=None)
    source, clm, *_ = judge(report_with("source code"), rule).checks
    assert (source.passed, clm.passed) == (False, True)
    assert "not measured on the same bytes: source code" in source.reason
    source, clm, *_ = judge(report_with("fused"), rule).checks
    assert (source.passed, clm.passed) == (False, False)


def test_the_report_keeps_the_bytes_that_are_not_spelled(tmp_path) -> None:  # type: ignore[no-untyped-def]
    report = report_with("source code")
    write(report, tmp_path / "evaluation.json")
    again = read(tmp_path / "evaluation.json")
    assert again.sources["code"].unspelled_bytes == (20,) * 20
    assert again.fused.unspelled_bytes == ()


def test_pieces_add_up_with_what_is_not_spelled() -> None:
    pieces = Scores(("a#0", "a#1"), ("x", "x"), (1.0, 2.0), (3, 5), (4, 0))
    assert pieces.of_whole_documents() == Scores(("a#0",), ("x",), (3.0,), (8,), (4,))


@pytest.mark.parametrize("kind", [kind for name, kind in KINDS.items() if "indentation" in name or "words" in name])
def test_a_domain_of_which_nothing_is_spelled_is_refused_before_work(kind: Kind) -> None:
    longest = (CorpusDocument("a", "good", kind.exact), CorpusDocument("b", "lost", "\u4eac\u90fd \u4eac\u90fd \u4eac"))
    corpora = cast("Corpora", SimpleNamespace(longest=longest))
    with pytest.raises(ModelError, match="source s: its tokenizer spells nothing of the documents of domain 'lost'"):
        check_documents(cast("RunFile", None), corpora, "source s", tokenizer_of(kind), 1000)
