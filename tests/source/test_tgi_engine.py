"""The TGI engine against a stand-in that speaks TGI's API over HTTP: what it says equals what transformers says."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

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
from fusery.source.api import Document
from fusery.source.engines import tgi as tgi_engine
from fusery.source.engines.by_name import load_engine as load_any
from fusery.source.engines.tgi import TgiEngine, TgiServer, open_tgi, readable_prefixes
from fusery.source.engines.transformers import load_engine
from support.models.pico_models import TEXTS, build_model, pico_byte_tokenizer, pico_model
from support.source.stand_ins import PicoModel, StandIn
from support.source.tgi_stand_in import tgi

torch.set_num_threads(1)

KINDS = [("llama", "sentencepiece"), ("gpt2", "byte_level"), ("llama", "unigram")]
DOCUMENTS = [Document(f"d{i}", text) for i, text in enumerate((TEXTS[0][:40], TEXTS[4][:60]))]


@functools.cache
def pico(architecture: str = "gpt2", tokenizer: str = "byte_level") -> PicoModel:
    folder = pico_model(architecture, tokenizer)
    return PicoModel(load_engine(str(folder), device="cpu"), folder)


def opened(server: StandIn, model: PicoModel | None = None, **options: Any) -> TgiEngine:
    return open_tgi(server.url, str((model or pico()).folder), **options)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fusery.runtime.retry.time.sleep", lambda _: None)


@pytest.mark.parametrize("kind", KINDS)
def test_what_tgi_says_of_a_model_is_what_transformers_says(kind: tuple[str, str]) -> None:
    model = pico(*kind)
    expected = model.engine.compute(DOCUMENTS, 12)
    with tgi(model, max_top_n_tokens=12) as server:
        engine = opened(server, model)
        found = engine.compute(DOCUMENTS, 12)
    assert engine.model.vocabulary_size == model.engine.model.vocabulary_size
    assert engine.model.prefix_ids == model.engine.model.prefix_ids
    for ours, theirs, document in zip(found, expected, DOCUMENTS, strict=True):
        assert ours.document_id == theirs.document_id
        assert np.array_equal(ours.token_ids_T, theirs.token_ids_T)
        assert np.array_equal(ours.byte_ends_T, theirs.byte_ends_T)
        np.testing.assert_allclose(ours.next_log_probs_T, theirs.next_log_probs_T, atol=1e-4)
        asked = readable_prefixes(engine.tokenizer, document.text, engine.tokenizer.tokenize(document.text))
        rows = [*asked, len(ours.token_ids_T) - 1]
        assert len(rows) > len(ours.token_ids_T) // 2
        np.testing.assert_allclose(ours.top.log_probs_RK[rows], theirs.top.log_probs_RK[rows], atol=1e-4)
        assert np.array_equal(ours.top.ids_RK[rows], theirs.top.ids_RK[rows])
        others = np.setdiff1d(np.arange(len(ours.token_ids_T)), rows)
        assert (ours.top.mass_R[others] == 0).all()


def test_the_tokenizer_is_the_one_that_transformers_reads_from_the_folder() -> None:
    for kind in KINDS:
        model = pico(*kind)
        with tgi(model) as server:
            assert opened(server, model).tokenizer.fingerprint == model.engine.tokenizer.fingerprint


def test_only_log_probabilities_of_the_plain_model_are_asked_for() -> None:
    with tgi(pico()) as server:
        engine = opened(server)
        server.requests.clear()
        [answer] = engine.compute(DOCUMENTS[:1], 5)
    assert server.requests.pop() == ("/info", None)
    assert len(server.requests) == len(answer.token_ids_T)
    for path, body in server.requests:
        assert path == "/"
        parameters = body["parameters"]
        is_whole = body["inputs"] == DOCUMENTS[0].text
        assert parameters.pop("decoder_input_details") == is_whole
        assert parameters == {"details": True, "max_new_tokens": 1, "top_n_tokens": 5}


def test_ties_at_the_end_of_the_list_are_cut_by_id(tmp_path: Path) -> None:
    folder = build_model(tmp_path / "flat", "llama", "byte_level", tie_word_embeddings=False)
    loaded = load_engine(str(folder), device="cpu")
    with torch.no_grad():
        loaded.network.model.get_output_embeddings().weight.zero_()
    with tgi(PicoModel(loaded, folder), max_top_n_tokens=9) as server:
        [answer] = open_tgi(server.url, str(folder)).compute(DOCUMENTS[:1], 9)
    assert (answer.top.ids_RK == np.arange(9)).all()


def test_the_limits_are_the_servers_own() -> None:
    with tgi(pico(), max_top_n_tokens=5, max_input_tokens=40) as server:
        engine = opened(server)
        assert (engine.model.limits.max_top_k, engine.model.context_length) == (5, 40)
        with pytest.raises(TooLarge, match="top_k: got 6, this server gives at most 5"):
            engine.compute(DOCUMENTS, 6)
        with pytest.raises(InvalidInput, match="the context of served holds 40"):
            engine.compute([Document("long", "Zq! " * 60)], 5)


def test_the_description_covers_all_that_the_server_tells() -> None:
    with tgi(pico()) as server, tgi(pico(), version="3.3.7") as newer, tgi(pico(), model_sha="0") as other:
        first, again, *changed = (opened(s).model for s in (server, server, newer, other))
    assert first == again
    assert (first.name, first.revision, first.architecture) == ("served", "e985a63c", "tgi 3.3.6-dev0")
    assert first.dtype == "unknown"
    assert len({model.fingerprint for model in (first, *changed)}) == 3


@pytest.mark.parametrize("key", ["model_id", "model_sha", "model_dtype", "version", "sha"])
def test_a_server_that_comes_back_changed_is_found_out(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with tgi(pico()) as server:
        engine = opened(server)
        told = engine.server.info()
        monkeypatch.setattr(TgiServer, "info", lambda _: {**told, key: "another"})
        with pytest.raises(Mismatch, match=f"its {key} is now 'another'"):
            engine.compute(DOCUMENTS[:1], 3)


def test_a_user_may_say_that_two_servers_are_the_same() -> None:
    with tgi(pico()) as server, tgi(pico(), model_sha="0badcafe") as other:
        first = opened(server).model
        assert opened(other).model.fingerprint != first.fingerprint
        assert opened(other, same_as=first.weights_fingerprint).model.fingerprint == first.fingerprint


def test_of_an_answer_without_an_end_only_a_bounded_part_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    with tgi(pico()) as server:
        engine = opened(server)
        monkeypatch.setattr(tgi_engine, "_MAX_ANSWER_BYTES", 1000)
        server.broken[:] = [(200, b"x" * 1001)] * 5
        with pytest.raises(AddressError, match="its answer to / has more than the 1,000 bytes that one can have"):
            engine.compute(DOCUMENTS[:1], 3)
    assert all(headers["accept-encoding"] == "identity" for headers in server.headers)


def test_a_server_without_prompt_log_probabilities_is_refused_at_the_start() -> None:
    with tgi(pico(), prefill=False) as server, pytest.raises(ModelError, match="--enable-prefill-logprobs"):
        opened(server)


def test_a_server_without_top_tokens_is_refused_at_the_start() -> None:
    with tgi(pico(), max_top_n_tokens=0) as server, pytest.raises(FuseryError, match="top_n_tokens"):
        opened(server)


def test_another_models_tokenizer_is_refused_at_the_start() -> None:
    with (
        tgi(pico()) as server,
        pytest.raises(Mismatch, match="reads a probe text as tokens"),
    ):
        opened(server, pico("llama", "sentencepiece"))


def test_a_text_that_tgi_reads_with_a_special_token_is_refused() -> None:
    with tgi(pico()) as server:
        engine = opened(server)
        with pytest.raises(InvalidInput, match="document 'd': TGI reads it with other tokens, from token"):
            engine.compute([Document("d", "a <|endoftext|> b")], 3)


def test_a_folder_without_the_width_of_the_model_is_refused_once_it_shows(tmp_path: Path) -> None:
    model = pico()
    (tmp_path / "tokenizer.json").write_bytes((model.folder / "tokenizer.json").read_bytes())
    width = model.engine.model.vocabulary_size
    with tgi(model, max_top_n_tokens=width) as server:
        engine = open_tgi(server.url, str(tmp_path))
        with pytest.raises(Mismatch, match="of the tokenizer's folder; put the served model's config"):
            engine.compute(DOCUMENTS[:1], engine.model.limits.max_top_k)


@pytest.mark.parametrize(
    ("status", "kind", "calls"),
    [
        (429, Unavailable, 5),
        (503, Unavailable, 5),
        (424, Unavailable, 5),
        (500, Unavailable, 5),
        (422, InvalidInput, 1),
        (401, ConfigError, 1),
        (404, AddressError, 1),
    ],
)
def test_a_status_is_an_error_of_our_own_tree(status: int, kind: type[FuseryError], calls: int) -> None:
    with tgi(pico()) as server:
        engine = opened(server)
        server.requests.clear()
        server.broken[:] = [(status, {"error": "what\nwas\x1b wrong", "error_type": "validation"})] * 5
        with pytest.raises(kind, match=f"tgi:http://127.0.0.1:.*HTTP {status}: what was wrong") as caught:
            engine.compute(DOCUMENTS[:1], 3)
    assert type(caught.value) is kind
    assert len(server.requests) == calls


def test_a_passing_failure_is_tried_again() -> None:
    with tgi(pico()) as server:
        engine = opened(server)
        before = engine.compute(DOCUMENTS[:1], 3)[0]
        server.broken[:] = [(429, {"error": "Model is overloaded", "error_type": "overloaded"}), (503, b"upstream")]
        after = engine.compute(DOCUMENTS[:1], 3)[0]
    assert before.top.log_probs_RK.tobytes() == after.top.log_probs_RK.tobytes()


def test_a_long_body_is_cut_short() -> None:
    with tgi(pico()) as server:
        engine = opened(server)
        server.broken[:] = [(422, b"<html>" + b"x" * 9000)]
        with pytest.raises(InvalidInput) as caught:
            engine.compute(DOCUMENTS[:1], 3)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("answer", [b"no JSON", [], {"generated_text": "x"}, [{"generated_text": "x"}], "text", 7])
def test_something_that_is_no_tgi_server_is_found_out(answer: Any) -> None:
    with tgi(pico()) as server:
        engine = opened(server)
        server.broken[:] = [(200, answer)] * 9
        with pytest.raises(AddressError, match=r"is this a text-generation-inference server|/ gives no JSON"):
            engine.compute(DOCUMENTS[:1], 3)


@pytest.mark.parametrize("lacks", ["model_id", "version", "max_total_tokens", "max_concurrent_requests"])
def test_a_server_that_does_not_tell_its_model_and_limits_is_refused(lacks: str) -> None:
    with tgi(pico(), **{lacks: None}) as server, pytest.raises(AddressError, match=f"/info lacks {lacks}; is this"):
        opened(server)


def test_the_machines_hub_token_goes_to_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert huggingface_hub.get_token() == "hf_secret"
    with tgi(pico()) as server:
        opened(server).compute(DOCUMENTS[:1], 3)
    assert not [headers for headers in server.headers if "authorization" in headers]


def test_the_bearer_token_comes_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tgi(pico(), token="s3cret") as server:
        name = f"tgi:{server.url}"
        with pytest.raises(ConfigError, match="HTTP 401: Unauthorized; set FUSERY_ENGINE_TOKEN_FILE"):
            load_any(name, tokenizer=str(pico().folder))
        monkeypatch.setenv("FUSERY_ENGINE_TOKEN_FILE", str(tmp_path / "token"))
        with pytest.raises(ConfigError, match="check FUSERY_ENGINE_TOKEN_FILE"):
            load_any(name, tokenizer=str(pico().folder))
        (tmp_path / "token").write_text("s3cret\n")
        engine = load_any(name, tokenizer=str(pico().folder))
        engine.compute(DOCUMENTS[:1], 3)
    assert {headers["authorization"] for headers in server.headers[1:]} == {"Bearer s3cret"}


@given(st.text(alphabet="ab 1\n\té東😀'", min_size=1, max_size=30), st.sampled_from(["byte_level", "sentencepiece"]))
def test_a_prefix_that_is_asked_for_reads_as_the_tokens_so_far(text: str, kind: str) -> None:
    tokenizer = pico_byte_tokenizer(kind)
    tokens = tokenizer.tokenize(text)
    for position, prefix in readable_prefixes(tokenizer, text, tokens).items():
        assert text.startswith(prefix)
        assert len(prefix.encode()) == tokens.byte_ends_T[position] > 0
        assert tokenizer.tokenize(prefix).ids_T.tolist() == tokens.ids_T[: position + 1].tolist()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("tgi:localhost:8080", r"expected http\(s\)://host:port"),
        ("vllm:ftp://host", r"expected http\(s\)://host:port"),
        ("tgi:", r"expected http\(s\)://host:port"),
        ("vllm:http://host:port", r"expected http\(s\)://host:port"),
        ("tgi:http://user:s3cret@host:80", "user names, passwords and queries stand in no address"),
        ("vllm:http://host/?key=s3cret", "user names, passwords and queries stand in no address"),
    ],
)
def test_what_is_no_address_of_a_server_is_refused_without_its_secrets(name: str, says: str) -> None:
    with pytest.raises(AddressError, match=says) as caught:
        load_any(name)
    assert "s3cret" not in str(caught.value)


def test_a_server_that_is_not_there_is_unavailable() -> None:
    with tgi(pico()) as server:
        gone = server.url
    with pytest.raises(Unavailable, match=re.escape(f"tgi:{gone}: no answer")):
        open_tgi(gone, str(pico().folder))


def test_a_redirect_of_a_generation_is_not_followed_with_the_text() -> None:
    with tgi(pico()) as server:
        engine = opened(server)
        server.broken[:] = [(307, b"")]
        with pytest.raises(AddressError, match="HTTP 307; is this the server's base address"):
            engine.compute(DOCUMENTS[:1], 3)
