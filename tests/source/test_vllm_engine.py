"""The vLLM engine against a stand-in that speaks vLLM's API over HTTP: what it says equals what transformers says."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch

from fusery.runtime.errors import (
    AddressError,
    ConfigError,
    FuseryError,
    InvalidInput,
    Mismatch,
    ModelError,
    TooLarge,
    Unavailable,
)
from fusery.source.api import Document, Limits
from fusery.source.engines import http_calls
from fusery.source.engines.by_name import check_engine
from fusery.source.engines.transformers import load_engine
from fusery.source.engines.vllm import VllmEngine, open_vllm
from support.models.pico_models import TEXTS, pico_model
from support.source.source_servers import running
from support.source.stand_ins import PicoModel, StandIn
from support.source.vllm_stand_in import vllm

torch.set_num_threads(1)

KINDS = [("llama", "sentencepiece"), ("gpt2", "byte_level"), ("llama", "unigram")]
DOCUMENTS = [Document(f"d{i}", text) for i, text in enumerate(TEXTS)]


@functools.cache
def pico(architecture: str = "gpt2", tokenizer: str = "byte_level") -> PicoModel:
    folder = pico_model(architecture, tokenizer)
    return PicoModel(load_engine(str(folder), device="cpu"), folder)


def opened(server: StandIn, model: PicoModel | None = None, **options: Any) -> VllmEngine:
    return open_vllm(server.url, str((model or pico()).folder), **options)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fusery.runtime.retry.time.sleep", lambda _: None)


@pytest.mark.parametrize("kind", KINDS)
def test_what_vllm_says_of_a_model_is_what_transformers_says(kind: tuple[str, str]) -> None:
    model = pico(*kind)
    expected = model.engine.compute(DOCUMENTS, 20)
    with vllm(model) as server:
        engine = opened(server, model)
        found = engine.compute(DOCUMENTS, 20)
    assert engine.model.vocabulary_size == model.engine.model.vocabulary_size
    assert engine.model.prefix_ids == model.engine.model.prefix_ids
    assert engine.tokenizer.fingerprint == model.engine.tokenizer.fingerprint
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.document_id == theirs.document_id
        assert np.array_equal(ours.token_ids_T, theirs.token_ids_T)
        assert np.array_equal(ours.byte_ends_T, theirs.byte_ends_T)
        np.testing.assert_allclose(ours.next_log_probs_T, theirs.next_log_probs_T, atol=1e-4)
        np.testing.assert_allclose(ours.top.log_probs_RK, theirs.top.log_probs_RK, atol=1e-4)
        differs = ours.top.ids_RK != theirs.top.ids_RK
        assert differs.mean() < 0.01  # neighbours closer to each other than rounding


def test_a_workers_view_through_grpc_is_the_same() -> None:
    from fusery.source.client import SourceClient

    with vllm(pico()) as server:
        engine = opened(server)
        with running(engine) as front, SourceClient(front.address) as client:
            assert client.model() == engine.model
            assert client.tokenizer().fingerprint == engine.tokenizer.fingerprint
            [answer] = client.compute(DOCUMENTS[:1], 4, "float32", engine.model.fingerprint)
        [own] = engine.compute(DOCUMENTS[:1], 4)
    assert answer.top.log_probs_RK.tobytes() == own.top.log_probs_RK.tobytes()


def test_one_request_a_document_is_sent_as_ids() -> None:
    with vllm(pico()) as server:
        engine = opened(server)
        server.requests.clear()
        engine.compute(DOCUMENTS, 7)
    bodies = [body for path, body in server.requests if path == "/v1/completions"]
    assert len(bodies) == len(server.requests) == len(DOCUMENTS)
    sent = {tuple(body["prompt"]) for body in bodies}
    assert sent == {tuple(engine.tokenizer.tokenize(document.text).ids_T.tolist()) for document in DOCUMENTS}
    for body in bodies:
        assert (body["prompt_logprobs"], body["logprobs"], body["max_tokens"], body["top_k"]) == (7, 7, 1, 0)
        assert body["return_tokens_as_token_ids"]
        assert not body["add_special_tokens"]


def test_nothing_is_sent_that_a_real_server_chokes_on() -> None:
    """A seed ends CPU servers of vLLM 0.32 when a prompt is prefilled in pieces; the rest is sent for a reason each."""
    with vllm(pico()) as server:
        opened(server).compute(DOCUMENTS, 7)
    sent = {key for path, body in server.requests if path == "/v1/completions" for key in body}
    asked_for = {"model", "prompt", "max_tokens", "prompt_logprobs", "logprobs", "add_special_tokens"}
    told_of = {"return_tokens_as_token_ids", "return_token_ids"}
    kept_from_generation_config = {"temperature", "top_p", "top_k", "min_p", "repetition_penalty"}
    assert sent == asked_for | told_of | kept_from_generation_config


@pytest.mark.parametrize(("before", "after"), [("a", "b"), ("a", None), (None, "b")])
def test_a_server_that_comes_back_changed_is_found_out_at_its_next_answer(
    before: str | None, after: str | None
) -> None:
    with vllm(pico(), setup=before) as server:
        engine = opened(server)
        engine.compute(DOCUMENTS, 3)
        server.setup = after
        with pytest.raises(Mismatch, match=rf"system_fingerprint is now {after!r}, it was {before!r}.*same_as"):
            engine.compute(DOCUMENTS, 3)
        server.setup = before
        engine.compute(DOCUMENTS, 3)


def test_another_setup_is_another_source_unless_its_user_says_that_they_are_the_same() -> None:
    with vllm(pico()) as server:
        first = opened(server).model
        server.setup = "vllm-0.33.0-other"
        other, stated = opened(server).model, opened(server, same_as=first.weights_fingerprint)
        assert other.fingerprint != first.fingerprint
        assert stated.model.fingerprint == first.fingerprint
        stated.compute(DOCUMENTS, 3)


@pytest.mark.parametrize(
    ("model", "same_as", "says"),
    [
        ("vllm:http://host", "abc", "same_as is 'abc', expected the 64 hex digits"),
        ("tgi:http://host", "G" * 64, "expected the 64 hex digits"),
        (".", "a" * 64, "its weights tell what it is"),
    ],
)
def test_what_is_no_statement_about_a_server_is_refused(model: str, same_as: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        check_engine(model, same_as=same_as)


def test_of_an_answer_without_an_end_only_what_was_asked_for_is_read() -> None:
    with vllm(pico()) as server:
        engine = opened(server)
        server.broken[:] = [(200, b'{"a": "' + b"x" * (3 << 20) + b'"}')]
        with pytest.raises(AddressError, match=r"has more than the .* bytes that one can have"):
            engine.compute(DOCUMENTS[:1], 3)
        server.broken[:] = [(200, b"[" * 100_000)]
        with pytest.raises(AddressError, match="gives no JSON"):
            engine.compute(DOCUMENTS[:1], 3)


def test_the_whole_vocabulary_adds_up_to_one() -> None:
    model = pico()
    with vllm(model, max_logprobs=5000) as server:
        engine = opened(server)
        assert engine.model.limits.max_top_k == model.engine.model.vocabulary_size
        [answer] = engine.compute(DOCUMENTS[:1], engine.model.vocabulary_size)
    np.testing.assert_allclose(answer.top.mass_R, 1, atol=1e-4)


def test_the_limits_are_the_servers_own() -> None:
    with vllm(pico(), max_logprobs=20, max_model_len=50) as server:
        engine = opened(server)
        assert (engine.model.limits.max_top_k, engine.model.context_length) == (20, 49)
        assert opened(server, limits=Limits(max_top_k=3)).model.limits.max_top_k == 3
        with pytest.raises(TooLarge, match="top_k: got 21, this server gives at most 20"):
            engine.compute(DOCUMENTS, 21)
        with pytest.raises(InvalidInput, match="the context of pico-served holds 49"):
            engine.compute([Document("long", "Zq! " * 60)], 5)


def test_a_text_that_spells_a_special_token_is_read_as_its_characters() -> None:
    document = Document("d", "a <|endoftext|> b")
    model = pico()
    with vllm(model) as server:
        [answer] = opened(server).compute([document], 3)
    assert np.array_equal(answer.token_ids_T, model.engine.compute([document], 3)[0].token_ids_T)


def test_the_description_covers_all_that_the_server_tells() -> None:
    with vllm(pico()) as server, vllm(pico(), root="elsewhere") as other:
        first, again, changed = (opened(s).model for s in (server, server, other))
    assert first == again
    assert first.fingerprint != changed.fingerprint
    assert (first.name, first.architecture, first.dtype) == ("pico-served", "vllm 0.33.0", "unknown")


def test_without_a_tokenizer_the_model_that_the_server_names_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    model = pico()
    monkeypatch.chdir(model.folder.parent)
    with vllm(model, root=model.folder.name) as server:
        assert open_vllm(server.url).tokenizer.fingerprint == model.engine.tokenizer.fingerprint


@pytest.mark.parametrize("named", ["/etc", "~/models", "../models", "C:\\models"])
def test_a_path_that_the_server_names_is_never_opened_here(named: str) -> None:
    with vllm(pico(), root=named) as server, pytest.raises(ModelError, match="name its tokenizer: --tokenizer FOLDER"):
        open_vllm(server.url)


def test_another_models_tokenizer_is_refused_at_the_start() -> None:
    with vllm(pico()) as server, pytest.raises(Mismatch, match="reads a probe text as tokens"):
        opened(server, pico("llama", "sentencepiece"))


def test_a_server_that_gives_logits_is_found_out() -> None:
    with vllm(pico(), logits=True) as server:
        engine = opened(server)
        with pytest.raises(
            ModelError, match="expected at most 0; serve log-probabilities at temperature 1, not logits"
        ):
            engine.compute(DOCUMENTS[:1], 3)


def test_a_server_without_log_probabilities_is_refused_at_the_start() -> None:
    with vllm(pico(), max_logprobs=0) as server, pytest.raises(ModelError, match="--max-logprobs 64"):
        opened(server)


@pytest.mark.parametrize(
    ("status", "kind", "calls"),
    [
        (503, Unavailable, 5),
        (429, Unavailable, 5),
        (400, InvalidInput, 1),
        (401, ConfigError, 1),
        (404, AddressError, 1),
    ],
)
def test_a_status_is_an_error_of_our_own_tree(status: int, kind: type[FuseryError], calls: int) -> None:
    with vllm(pico()) as server:
        engine = opened(server)
        server.requests.clear()
        body = {"error": {"message": "what\nwas wrong", "type": "x", "param": None, "code": status}}
        server.broken[:] = [(status, body)] * 5
        with pytest.raises(kind, match=f"vllm:http://127.0.0.1:.*HTTP {status}: what was wrong") as caught:
            engine.compute(DOCUMENTS[:1], 3)
    assert type(caught.value) is kind
    assert len(server.requests) == calls


def test_a_token_is_in_no_repr_and_no_message() -> None:
    with vllm(pico(), token="s3cret") as server:
        opened(server, token="s3cret").compute(DOCUMENTS[:1], 3)
        with pytest.raises(ConfigError) as caught:
            opened(server, token="wr0ng")
    assert "wr0ng" not in str(caught.value)
    assert "s3cret" not in repr(http_calls.HttpServer("vllm", "http://host", "s3cret"))


def test_a_redirect_is_not_followed() -> None:
    with vllm(pico()) as server:
        server.broken[:] = [(307, b"")]
        with pytest.raises(AddressError, match="HTTP 307; is this the server's base address"):
            opened(server)


@pytest.mark.parametrize("answer", [b"no JSON", [], {"choices": []}, {"choices": [{}]}])
def test_something_that_is_no_vllm_server_is_found_out(answer: Any) -> None:
    with vllm(pico()) as server:
        engine = opened(server)
        server.broken[:] = [(200, answer)] * 9
        with pytest.raises((AddressError, ModelError), match=r"vLLM|gives no JSON"):
            engine.compute(DOCUMENTS[:1], 3)
