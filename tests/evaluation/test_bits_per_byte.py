"""Bits per byte against values that can be computed by hand, and against a real pico model."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusery.core.topk import empty
from fusery.evaluation.bits_per_byte import HeldOutDocument, measure
from fusery.evaluation.scores import Scores
from fusery.runtime.errors import CorpusError, InvalidInput, Mismatch, ModelError
from fusery.source.api import Distributions, Document


@dataclass
class HalfModel:
    """Finds every next token half as likely as not. One token a character; with or without BOS."""

    bos: bool = True
    log_prob: float = math.log(0.5)
    requests: list[list[str]] = field(default_factory=list)

    def compute(self, documents: Sequence[Document], top_k: int) -> list[Distributions]:
        self.requests.append([document.id for document in documents])
        return [self._read(document) for document in documents]

    def _read(self, document: Document) -> Distributions:
        ends = np.cumsum([0] * self.bos + [len(character.encode()) for character in document.text])
        log_probs = np.full(len(ends), self.log_prob, np.float32)
        log_probs[-1] = 0.0
        tokens = np.zeros(len(ends), np.int64)
        return Distributions(document.id, tokens, ends.astype(np.int64), empty(len(ends), 1), log_probs)


def documents_of(*texts: str, domain: str = "all") -> list[HeldOutDocument]:
    return [HeldOutDocument(f"{domain}-{place}", domain, text) for place, text in enumerate(texts)]


def test_a_coin_toss_per_character_is_one_bit_per_byte_of_ascii() -> None:
    scores = measure(HalfModel(), documents_of("abcd", "abcdefgh"))
    assert scores.predicted_bytes == (4, 8)
    assert scores.bits == pytest.approx((4.0, 8.0))
    assert scores.mean_bits_per_byte == pytest.approx(1.0)


def test_bytes_count_and_not_characters() -> None:
    scores = measure(HalfModel(), documents_of("東京"))
    assert scores.predicted_bytes == (6,)
    assert scores.domains["all"].bits_per_byte == pytest.approx(2 / 6)


def test_a_model_without_bos_leaves_out_the_bytes_of_its_first_token() -> None:
    scores = measure(HalfModel(bos=False), documents_of("東abc"))
    assert scores.predicted_bytes == (3,)
    assert scores.bits == pytest.approx((3.0,))


def test_a_domain_is_its_total_bits_by_its_total_bytes_and_the_mean_weighs_domains_alike() -> None:
    scores = Scores(("a", "b", "c"), ("prose", "prose", "code"), (10.0, 2.0, 6.0), (10, 10, 2))
    assert scores.domains["prose"].bits_per_byte == pytest.approx(0.6)
    assert scores.domains["prose"].documents == 2
    assert scores.domains["code"].bits_per_byte == pytest.approx(3.0)
    assert scores.mean_bits_per_byte == pytest.approx(1.8)


def test_results_come_in_corpus_order_whatever_the_batches() -> None:
    documents = documents_of("abcdefgh", "a" * 3, "abcde", "ab")
    model = HalfModel()
    scores = measure(model, documents, batch_bytes=10)
    assert scores.doc_ids == tuple(document.doc_id for document in documents)
    assert scores.predicted_bytes == (8, 3, 5, 2)
    assert model.requests == [["all-3", "all-1"], ["all-2"], ["all-0"]]


def test_progress_counts_documents_up_to_all_of_them() -> None:
    seen: list[tuple[int, int]] = []
    measure(HalfModel(), documents_of("abcdefgh", "abc", "ab"), 8, lambda done, total: seen.append((done, total)))
    assert seen == [(2, 3), (3, 3)]


def test_the_batch_size_changes_nothing_for_a_model_that_reads_documents_alone() -> None:
    documents = documents_of("abc", "defgh", "ij" * 40, "k")
    assert measure(HalfModel(), documents, 1) == measure(HalfModel(), documents, 10_000)


@pytest.mark.parametrize("bad", [float("nan"), float("-inf")])
def test_a_broken_model_is_named_with_its_document(bad: float) -> None:
    with pytest.raises(ModelError, match="document all-0: the log-probability after token 0"):
        measure(HalfModel(log_prob=bad), documents_of("abc"))


def test_answers_about_other_documents_are_refused() -> None:
    class Confused(HalfModel):
        def compute(self, documents: Sequence[Document], top_k: int) -> list[Distributions]:
            return super().compute(documents, top_k)[::-1]

    with pytest.raises(Mismatch, match="answered about documents"):
        measure(Confused(), documents_of("abc", "abc"))


def test_an_id_that_stands_twice_is_refused_before_the_model_is_asked() -> None:
    model = HalfModel()
    with pytest.raises(CorpusError, match="'all-0' stands twice"):
        measure(model, [*documents_of("abc"), *documents_of("def")])
    assert model.requests == []


def test_no_documents_and_domains_without_predicted_bytes_are_refused() -> None:
    with pytest.raises(CorpusError, match="no held-out documents"):
        measure(HalfModel(), [])
    with pytest.raises(CorpusError, match="domain 'short': the model predicts no byte"):
        measure(HalfModel(bos=False), [*documents_of("abc"), *documents_of("a", domain="short")])


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b[/]"]), st.floats(0, 1e6), st.integers(1, 10_000)), min_size=1, max_size=20
    )
)
def test_scores_survive_json_bit_for_bit(rows: list[tuple[str, float, int]]) -> None:
    domains, bits, predicted = zip(*rows, strict=True)
    scores = Scores(tuple(f"d{i}" for i in range(len(rows))), tuple(domains), tuple(bits), tuple(predicted))
    content = json.loads(json.dumps(scores.to_json()))
    assert Scores.from_json(content) == scores
    assert list(content) == ["mean_bits_per_byte", "domains", "documents"]


def test_scores_with_a_lost_column_entry_are_refused() -> None:
    with pytest.raises(Mismatch, match=r"\[1, 1, 2, 1\] rows"):
        Scores(("a",), ("x",), (1.0, 2.0), (3,))


def test_a_real_model_scores_what_transformers_says_of_it() -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from fusery.source.engines.transformers import load_engine
    from support.models.pico_models import TEXTS, pico_model

    torch.set_num_threads(1)
    folder = pico_model("llama")
    text = TEXTS[0].strip()
    scores = measure(load_engine(str(folder)), documents_of(text))

    network, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = torch.tensor([[1, *tokenizer(text, add_special_tokens=False)["input_ids"]]])
    with torch.no_grad():
        log_probs = network(ids).logits[0, :-1].double().log_softmax(-1)
    expected = -log_probs.gather(1, ids[0, 1:, None]).sum().item() / math.log(2)
    assert scores.predicted_bytes == (len(text.encode()),)
    assert scores.bits[0] == pytest.approx(expected, rel=1e-5)


def test_a_uniform_model_needs_log2_of_its_vocabulary_for_each_token_windows_or_not(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    from fusery.evaluation.windows import Reading
    from fusery.source.engines.transformers import load_engine
    from support.models.pico_models import TEXTS, build_model

    torch.set_num_threads(1)
    folder = build_model(tmp_path / "uniform", "llama")
    weights = load_file(folder / "model.safetensors")
    # Without a norm every hidden state is 0, and so is every logit.
    weights["model.norm.weight"] = torch.zeros_like(weights["model.norm.weight"])
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    engine = load_engine(str(folder))
    text = "".join(TEXTS) * 3
    tokens = len(engine.tokenizer.tokenize(text).ids_T) - 1
    documents = documents_of(text)
    with pytest.raises(InvalidInput, match="the context of uniform holds 256"):
        measure(engine, documents)
    cut = measure(engine, documents, reading=Reading(engine.tokenizer, 256))
    expected = math.log2(engine.model.vocabulary_size) * tokens
    assert cut.bits[0] == pytest.approx(expected, rel=0.01)
    assert cut.predicted_bytes == (len(text.encode()),)
    short = documents_of(TEXTS[0])
    assert measure(engine, short).bits[0] == pytest.approx(
        math.log2(engine.model.vocabulary_size) * (len(engine.tokenizer.tokenize(TEXTS[0]).ids_T) - 1), rel=1e-5
    )
