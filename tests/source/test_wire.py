"""Values survive the messages, and messages that lie are found out."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterator
from itertools import chain
from typing import TypeVar

import numpy as np
import pytest

from fusery.core.topk import TopK
from fusery.runtime.errors import Corrupt, InvalidInput, ModelError, Overloaded
from fusery.source import wire
from fusery.source.api import Document, Limits, check_ids
from fusery.source.packing import LogProbs
from fusery.source.pb import distributions_pb2 as pb
from support.models.pico_models import TEXTS, TOKENIZERS, pico_byte_tokenizer
from support.source.source_servers import UniformEngine

Message = TypeVar("Message", pb.GetTokenizerResponse, pb.ComputeDistributionsResponse)
DOCUMENTS = [Document(f"d{i}", text) for i, text in enumerate(TEXTS)]


@pytest.mark.parametrize("revision", [None, "abc123"])
def test_a_model_description_survives(revision: str | None) -> None:
    model = dataclasses.replace(UniformEngine().model, revision=revision, prefix_ids=(1, 7), limits=Limits(5, 6, 7, 8))
    assert wire.read_model(wire.write_model(model)) == model


def test_a_description_of_another_version_is_refused() -> None:
    message = wire.write_model(UniformEngine().model)
    message.weights_fingerprint = "1" * 64
    with pytest.raises(Corrupt, match="same version of fusery"):
        wire.read_model(message)
    with pytest.raises(Corrupt, match="limits"):
        wire.read_model(pb.GetModelResponse(name="old"))


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("chunk_bytes", [100, 1 << 20])
def test_a_tokenizer_survives_in_chunks(kind: str, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "_CHUNK_BYTES", chunk_bytes)
    tokenizer = pico_byte_tokenizer(kind)
    messages = list(wire.write_tokenizer(tokenizer))
    assert (len(messages) > 1) == (chunk_bytes == 100)
    back = wire.read_tokenizer(messages)
    assert back.fingerprint == tokenizer.fingerprint
    assert back.definition() == tokenizer.definition()


def test_a_damaged_or_cut_tokenizer_is_refused() -> None:
    content = b"".join(message.chunk for message in wire.write_tokenizer(pico_byte_tokenizer("byte_level")))
    for broken in (b"", content[:-10], b"not zlib at all", content[:50] + b"\0" + content[51:]):
        with pytest.raises(Corrupt, match="tokenizer"):
            wire.read_tokenizer([pb.GetTokenizerResponse(chunk=broken)])


def endless(message: Message, taken: list[int]) -> Iterator[Message]:
    while True:
        taken.append(message.ByteSize())
        yield message


@pytest.mark.parametrize("chunk", [b"", zlib.compress(b"x"), zlib.compress(bytes(1 << 20))])
def test_of_a_tokenizer_without_an_end_little_is_taken(chunk: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "_MAX_DEFINITION_BYTES", 1 << 16)
    taken: list[int] = []
    with pytest.raises(Corrupt, match="tokenizer"):
        wire.read_tokenizer(endless(pb.GetTokenizerResponse(chunk=chunk), taken))
    assert len(taken) <= 2


def test_a_tokenizer_that_unpacks_to_too_much_is_refused_where_it_becomes_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "_MAX_DEFINITION_BYTES", 1 << 16)
    bomb = zlib.compress(bytes(64 << 20))
    taken: list[int] = []
    stream = endless(pb.GetTokenizerResponse(chunk=bomb[:200]), taken)
    with pytest.raises(Corrupt, match="more than 65,536 bytes"):
        wire.read_tokenizer(stream)
    assert len(taken) == 1


def test_a_description_that_is_far_too_long_is_refused() -> None:
    message = wire.write_model(UniformEngine().model)
    message.prefix_ids.extend([1 << 30] * 100_000)
    with pytest.raises(Corrupt, match="is this a fusery source server"):
        wire.read_model(message)


def test_of_answers_without_an_end_one_too_many_is_taken() -> None:
    engine = UniformEngine()
    messages = [
        wire.write_answer(a, d, "float32") for a, d in zip(engine.compute(DOCUMENTS, 3), DOCUMENTS, strict=True)
    ]
    taken: list[int] = []
    stream = chain(messages, endless(messages[-1], taken))
    with pytest.raises(Corrupt, match=f"more answers than {len(DOCUMENTS)} documents"):
        wire.read_answers("a:1", stream, DOCUMENTS, 3, "float32")
    assert len(taken) == 1
    with pytest.raises(Corrupt, match="1 answers to"):
        wire.read_answers("a:1", messages[:1], DOCUMENTS, 3, "float32")


def test_a_first_answer_that_lies_is_found_out_before_the_second_is_taken() -> None:
    taken: list[int] = []
    lie = pb.ComputeDistributionsResponse(document_id="d0", top_k=3, top_ids=bytes(1 << 20))
    with pytest.raises(Corrupt):
        wire.read_answers("a:1", endless(lie, taken), DOCUMENTS, 3, "float32")
    assert len(taken) == 1


def test_answers_larger_than_any_server_sends_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_REPLIES_BYTES", 1000)
    [answer] = UniformEngine().compute(DOCUMENTS[:1], 50)
    message = wire.write_answer(answer, DOCUMENTS[0], "float32")
    with pytest.raises(Corrupt, match="more than 1,000 bytes"):
        wire.read_answers("a:1", [message], DOCUMENTS[:1], 50, "float32")


@pytest.mark.parametrize("ids", [[5, 5, 6], [5, 6, 5], [0, 1, 1]])
def test_a_token_twice_in_a_row_is_refused(ids: list[int]) -> None:
    [answer] = UniformEngine().compute(DOCUMENTS[:1], 3)
    doubled = TopK(np.tile(np.array(ids), (len(answer.token_ids_T), 1)), answer.top.log_probs_RK)
    message = wire.write_answer(dataclasses.replace(answer, top=doubled), DOCUMENTS[0], "float32")
    with pytest.raises(Corrupt, match="a token stands twice"):
        wire.read_answer(message, DOCUMENTS[0], 3, "float32")


@pytest.mark.parametrize("place", ["token", "entry"])
def test_an_id_past_the_vocabulary_is_refused(place: str) -> None:
    engine = UniformEngine()
    [answer] = engine.compute(DOCUMENTS[:1], 3)
    check_ids(answer, engine.model.vocabulary_size, "s")
    ids = answer.token_ids_T.copy() if place == "token" else answer.top.ids_RK.copy()
    ids.flat[-1] = engine.model.vocabulary_size
    top = answer.top if place == "token" else TopK(ids, answer.top.log_probs_RK)
    wrong = dataclasses.replace(answer, top=top, token_ids_T=ids if place == "token" else answer.token_ids_T)
    with pytest.raises(ModelError, match=f"source s gives token {engine.model.vocabulary_size}, past its vocabulary"):
        check_ids(wrong, engine.model.vocabulary_size, "s")


def test_documents_survive_as_bytes() -> None:
    message = wire.write_request(DOCUMENTS, 3, "float16", None)
    assert wire.read_documents(message) == DOCUMENTS
    assert message.expected_fingerprint == ""


def test_text_that_is_no_utf8_is_refused_on_both_sides() -> None:
    with pytest.raises(InvalidInput, match="document 'a': not encodable as UTF-8"):
        wire.write_request([Document("a", "half \ud800")], 1, "float16", None)
    message = pb.ComputeDistributionsRequest(documents=[pb.Document(id="a", text=b"abc\xff")])
    with pytest.raises(InvalidInput, match="document 'a': its text is not UTF-8 at byte 3"):
        wire.read_documents(message)


@pytest.mark.parametrize("value", [0, 3])
def test_an_unknown_number_format_is_refused(value: int) -> None:
    with pytest.raises(InvalidInput, match=f"log_probs: got {value}"):
        wire.read_log_probs(value)


@pytest.mark.parametrize("log_probs", ["float16", "float32"])
def test_an_answer_survives(log_probs: LogProbs) -> None:
    assert wire.read_log_probs({"float16": 1, "float32": 2}[log_probs]) == log_probs
    for document, answer in zip(DOCUMENTS, UniformEngine().compute(DOCUMENTS, 4), strict=True):
        back = wire.read_answer(wire.write_answer(answer, document, log_probs), document, 4, log_probs)
        assert np.array_equal(back.token_ids_T, answer.token_ids_T)
        assert np.array_equal(back.byte_ends_T, answer.byte_ends_T)
        assert np.array_equal(back.top.ids_RK, answer.top.ids_RK)
        assert np.array_equal(back.next_log_probs_T, answer.next_log_probs_T)


def test_an_answer_to_another_question_is_refused() -> None:
    message = wire.write_answer(UniformEngine().compute(DOCUMENTS[:1], 4)[0], DOCUMENTS[0], "float16")
    asked: list[tuple[Document, int, LogProbs]] = [
        (DOCUMENTS[1], 4, "float16"),
        (DOCUMENTS[0], 5, "float16"),
        (DOCUMENTS[0], 4, "float32"),
    ]
    for document, k, log_probs in asked:
        with pytest.raises(Corrupt, match="expected"):
            wire.read_answer(message, document, k, log_probs)


def test_an_answer_to_a_text_that_was_damaged_on_its_way_is_refused() -> None:
    message = wire.write_answer(UniformEngine().compute(DOCUMENTS[:1], 4)[0], DOCUMENTS[0], "float16")
    asked = Document(DOCUMENTS[0].id, "X" + DOCUMENTS[0].text[1:])
    with pytest.raises(Corrupt, match="CRC-32"):
        wire.read_answer(message, asked, 4, "float16")


def test_an_answer_that_does_not_reach_the_end_of_the_text_is_refused() -> None:
    longer = Document("d0", TEXTS[0] + "more")
    message = wire.write_answer(UniformEngine().compute(DOCUMENTS[:1], 4)[0], longer, "float16")
    with pytest.raises(Corrupt, match="its last token ends at byte"):
        wire.read_answer(message, longer, 4, "float16")


@pytest.mark.parametrize(("end", "is_whole"), [(" \n\n", True), ("\u3000\u0301", True), (" x", False)])
def test_white_space_at_the_end_of_a_text_may_be_in_no_token(end: str, is_whole: bool) -> None:
    longer = Document("d0", TEXTS[0] + end)
    message = wire.write_answer(UniformEngine().compute(DOCUMENTS[:1], 4)[0], longer, "float16")
    if is_whole:
        assert wire.read_answer(message, longer, 4, "float16").byte_ends_T[-1] == len(TEXTS[0].encode())
        return
    with pytest.raises(Corrupt, match="its last token ends at byte"):
        wire.read_answer(message, longer, 4, "float16")


def test_every_error_class_is_known_by_its_name() -> None:
    classes = wire.error_classes()
    assert classes["Overloaded"] is Overloaded
    assert {"FuseryError", "InvalidInput", "Mismatch", "TooLarge", "Unavailable", "Corrupt"} <= set(classes)
