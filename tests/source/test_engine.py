"""The engine's answer is the dense log-softmax of the same batch, and nothing but it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fusery.core.rules import Dtype
from fusery.runtime.errors import InvalidInput, ModelError, TooLarge
from fusery.source.api import Distributions, Document, Limits
from fusery.source.engines import transformers as engine_module
from fusery.source.engines.transformers import TransformersEngine, load_engine, top_ids
from support.models.pico_models import ARCHITECTURES, CONTEXT_LENGTH, TEXTS, build_model, pico_model

torch.set_num_threads(1)

DOCUMENTS = [Document(f"d{i}", text) for i, text in enumerate(TEXTS)]
_LOADED: dict[tuple[str, str | None], TransformersEngine] = {}


def engine_of(architecture: str, tokenizer: str | None = None) -> TransformersEngine:
    key = (architecture, tokenizer)
    if key not in _LOADED:
        _LOADED[key] = load_engine(str(pico_model(*key)), device="cpu")
    return _LOADED[key]


def with_limits(engine: TransformersEngine, **limits: int) -> TransformersEngine:
    model = dataclasses.replace(engine.model, limits=Limits(**limits))
    return TransformersEngine(model, engine.tokenizer, engine.network)


def same(ours: list[Distributions], others: list[Distributions]) -> bool:
    return len(ours) == len(others) and all(
        a.document_id == b.document_id
        and np.array_equal(a.token_ids_T, b.token_ids_T)
        and np.array_equal(a.top.ids_RK, b.top.ids_RK)
        and a.top.log_probs_RK.tobytes() == b.top.log_probs_RK.tobytes()
        and a.next_log_probs_T.tobytes() == b.next_log_probs_T.tobytes()
        for a, b in zip(ours, others, strict=True)
    )


def dense_log_probs(engine: TransformersEngine, documents: list[Document]) -> list[np.ndarray[Any, Any]]:
    """Log-softmax [T, V] per document, from the model's own logits of the padded batch."""
    texts = engine.tokenizer.tokenize_batch([document.text for document in documents])
    longest = max(len(text.ids_T) for text in texts)
    ids = torch.tensor([text.ids_T.tolist() + [0] * (longest - len(text.ids_T)) for text in texts])
    mask = torch.tensor([[1] * len(text.ids_T) + [0] * (longest - len(text.ids_T)) for text in texts])
    with torch.no_grad():
        logits = engine.network.model(input_ids=ids, attention_mask=mask).logits
    dense = logits.double().log_softmax(dim=2).numpy()
    return [rows[: len(text.ids_T)] for rows, text in zip(dense, texts, strict=True)]


@pytest.mark.parametrize("count", [1, len(DOCUMENTS)])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_answer_is_the_dense_log_softmax(architecture: str, count: int) -> None:
    engine, documents = engine_of(architecture), DOCUMENTS[:count]
    answers = engine.compute(documents, 9)
    for answer, document, dense in zip(answers, documents, dense_log_probs(engine, documents), strict=True):
        assert answer.document_id == document.id
        expected = -np.sort(-dense, axis=1)[:, :9]
        np.testing.assert_allclose(answer.top.log_probs_RK, expected, atol=2e-5, rtol=1e-5)
        given_ids = np.take_along_axis(dense, answer.top.ids_RK, 1)
        np.testing.assert_allclose(given_ids, expected, atol=2e-5, rtol=1e-5)
        rows = np.arange(len(answer.token_ids_T) - 1)
        np.testing.assert_allclose(answer.next_log_probs_T[:-1], dense[rows, answer.token_ids_T[1:]], atol=2e-5)
        assert answer.next_log_probs_T[-1] == 0.0


@pytest.mark.parametrize(("architecture", "tokenizer"), [("llama", None), ("llama", "unigram"), ("gpt2", None)])
def test_tokens_and_ends_are_the_tokenizers_own(architecture: str, tokenizer: str | None) -> None:
    engine = engine_of(architecture, tokenizer)
    for answer, document in zip(engine.compute(DOCUMENTS, 1), DOCUMENTS, strict=True):
        text = engine.tokenizer.tokenize(document.text)
        assert np.array_equal(answer.token_ids_T, text.ids_T)
        assert np.array_equal(answer.byte_ends_T, text.byte_ends_T)
        assert answer.byte_ends_T[-1] == len(document.text.encode())


def test_the_whole_vocabulary_adds_up_to_one() -> None:
    engine = engine_of("llama")
    answer = engine.compute(DOCUMENTS[:1], engine.model.vocabulary_size)[0]
    np.testing.assert_allclose(np.exp(answer.top.log_probs_RK.astype(np.float64)).sum(axis=1), 1.0, atol=1e-5)
    assert (np.sort(answer.top.ids_RK, axis=1) == np.arange(engine.model.vocabulary_size)).all()


def test_a_smaller_k_is_a_prefix_of_a_larger_one() -> None:
    engine = engine_of("mpt")
    small, large = engine.compute(DOCUMENTS, 3), engine.compute(DOCUMENTS, 30)
    for a, b in zip(small, large, strict=True):
        assert np.array_equal(a.top.ids_RK, b.top.ids_RK[:, :3])
        assert np.array_equal(a.top.log_probs_RK, b.top.log_probs_RK[:, :3])


def test_the_same_request_gives_the_same_bytes() -> None:
    engine = engine_of("gemma3")
    assert same(engine.compute(DOCUMENTS, 8), engine.compute(DOCUMENTS, 8))


def test_row_chunks_change_nothing_beyond_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of("llama")
    whole = engine.compute(DOCUMENTS, 4)
    monkeypatch.setattr(engine_module, "_CHUNK_LOGITS", 7 * engine.model.vocabulary_size)
    for a, b in zip(whole, engine.compute(DOCUMENTS, 4), strict=True):
        np.testing.assert_allclose(a.top.log_probs_RK, b.top.log_probs_RK, atol=1e-5)
        np.testing.assert_allclose(a.next_log_probs_T, b.next_log_probs_T, atol=1e-5)


def test_a_model_that_can_not_be_split_gives_the_same_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    from fusery.models.head import SplitModel

    engine = engine_of("llama")
    network = engine.network.model
    whole = TransformersEngine(engine.model, engine.tokenizer, SplitModel(network, network, None))
    for a, b in zip(engine.compute(DOCUMENTS, 4), whole.compute(DOCUMENTS, 4), strict=True):
        np.testing.assert_allclose(a.top.log_probs_RK, b.top.log_probs_RK, atol=1e-5)


def test_half_precision_answers_are_ordered_and_valid() -> None:
    engine = load_engine(str(pico_model("llama")), dtype=Dtype.BFLOAT16, device="cpu")
    answer = engine.compute(DOCUMENTS[:2], 40)[0]
    log_probs, ids = answer.top.log_probs_RK, answer.top.ids_RK
    tied = log_probs[:, 1:] == log_probs[:, :-1]
    assert tied.any(), "bfloat16 logits should tie; the rule for ties is not tested otherwise"
    assert (ids[:, 1:] > ids[:, :-1])[tied].all()
    assert engine.model.dtype == "bfloat16"
    assert engine.model.weights_fingerprint != engine_of("llama").model.weights_fingerprint


@given(
    rows=st.lists(
        st.lists(st.sampled_from([-1e30, -2.5, -1.0, -0.0, 0.0, 1e-30, 3.25, 7.0]), min_size=9, max_size=9),
        min_size=1,
        max_size=4,
    ),
    k=st.integers(1, 9),
)
def test_top_ids_are_ordered_by_logit_then_by_id(rows: list[list[float]], k: int) -> None:
    logits = torch.tensor(rows, dtype=torch.float32)
    expected = [sorted(range(9), key=lambda i: (-row[i], i))[:k] for row in logits.tolist()]
    assert top_ids(logits, k).tolist() == expected


def test_top_ids_take_infinite_logits() -> None:
    logits = torch.tensor([[-torch.inf, 1.0, torch.inf, -torch.inf]])
    assert top_ids(logits, 4).tolist() == [[2, 1, 0, 3]]


@pytest.mark.parametrize(
    ("documents", "k", "kind", "message"),
    [
        ([], 1, InvalidInput, "got none"),
        ([Document("a", "")], 1, InvalidInput, "document 'a': its text is empty"),
        ([Document("a", "x"), Document("a", "y")], 1, InvalidInput, "'a': the id stands twice"),
        ([Document("a", "x")], 0, InvalidInput, "top_k: got 0, expected 1 to 567"),
        ([Document("a", "x")], 568, InvalidInput, "top_k: got 568, expected 1 to 567"),
        ([Document("long", "word " * 400)], 1, InvalidInput, rf"'long': \d+ tokens, .* holds {CONTEXT_LENGTH}"),
    ],
)
def test_requests_that_can_never_be_answered_are_refused(
    documents: list[Document], k: int, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        engine_of("llama").compute(documents, k)


@pytest.mark.parametrize(
    ("limits", "k", "message"),
    [
        ({"max_documents": 2}, 1, "documents: got 6, at most 2"),
        ({"max_tokens": 100}, 1, r"request: \d+ tokens with padding, at most 100"),
        ({"max_top_k": 3}, 4, "top_k: got 4, this server gives at most 3"),
        ({"max_reply_bytes": 1000}, 9, r"its answer takes \d+ bytes, at most 1000"),
    ],
)
def test_requests_over_a_limit_name_it(limits: dict[str, int], k: int, message: str) -> None:
    with pytest.raises(TooLarge, match=message):
        with_limits(engine_of("llama"), **limits).compute(DOCUMENTS, k)


def test_limits_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InvalidInput, match="at least 1"):
        Limits(max_documents=0)
    with pytest.raises(InvalidInput, match="replies under"):
        Limits(max_reply_bytes=1 << 40)


def test_a_document_as_long_as_the_context_is_answered() -> None:
    engine = engine_of("gpt2")
    text = "a" * CONTEXT_LENGTH
    while len(engine.tokenizer.tokenize(text).ids_T) < CONTEXT_LENGTH:
        text += "a"
    assert len(engine.compute([Document("full", text)], 1)[0].token_ids_T) == CONTEXT_LENGTH


def test_a_token_past_the_embeddings_is_refused_by_name(tmp_path: Any) -> None:
    engine = engine_of("gpt2")
    narrow = dataclasses.replace(engine.model, vocabulary_size=300)
    with pytest.raises(InvalidInput, match=r"document 'd2': token .* past the 300 embeddings"):
        TransformersEngine(narrow, engine.tokenizer, engine.network).compute(DOCUMENTS[2:3], 1)


def test_logits_that_are_not_finite_are_an_error_of_the_model(tmp_path: Any) -> None:
    engine = load_engine(str(build_model(tmp_path / "m", "gpt2")), device="cpu")
    with torch.no_grad():
        engine.network.model.get_output_embeddings().weight.fill_(torch.nan)
    with pytest.raises(ModelError, match="not finite in float32; serve it with another dtype"):
        engine.compute(DOCUMENTS[:1], 1)


def test_the_description_says_what_answers_depend_on() -> None:
    llama, gpt2 = engine_of("llama").model, engine_of("gpt2").model
    assert llama.architecture == "LlamaForCausalLM"
    assert llama.context_length == CONTEXT_LENGTH
    assert llama.prefix_ids == (1,)
    assert gpt2.prefix_ids == ()
    assert llama.fingerprint != gpt2.fingerprint
    assert dataclasses.replace(llama, name="other").fingerprint == llama.fingerprint
    assert dataclasses.replace(llama, tokenizer_fingerprint="0").fingerprint != llama.fingerprint


def test_a_model_placed_over_all_devices_answers_the_same_bytes() -> None:
    placed = load_engine(str(pico_model("llama")), device="auto")
    assert same(placed.compute(DOCUMENTS, 7), engine_of("llama").compute(DOCUMENTS, 7))


@given(
    logits=st.lists(st.lists(st.integers(-2, 2), min_size=9, max_size=9), min_size=1, max_size=4),
    top_k=st.integers(1, 9),
)
def test_of_few_different_logits_the_smallest_ids_of_the_largest_come_first(
    logits: list[list[int]], top_k: int
) -> None:
    ids = top_ids(torch.tensor(logits, dtype=torch.float32), top_k).tolist()
    assert ids == [sorted(range(9), key=lambda i: (-row[i], i))[:top_k] for row in logits]
