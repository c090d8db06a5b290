"""A panic of the tokenizers library, a BaseException, is an error that names the document, wherever it is called."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from fusery.core import vocab
from fusery.core.definition import built, calls, encoded
from fusery.core.tokens import ByteTokenizer
from fusery.run.inspect.align.command import tokens_of
from fusery.run.open_model import named, opened
from fusery.runtime.errors import FuseryError, ModelError
from fusery.source.api import Distributions, Document
from fusery.source.client import SourceClient
from support.models.pico_models import pico_byte_tokenizer, pico_tokenizer
from support.source.front_servers import fronted
from support.source.source_servers import UniformEngine

LONG = "x" * 400 + "!"
DOCUMENTS = {"first": "a plain text", "second": f"then {LONG}", "third": "another"}


def of_byte_level(change: Callable[[Tokenizer], None]) -> Tokenizer:
    tokenizer = Tokenizer.from_str(pico_tokenizer("byte_level").to_str())
    change(tokenizer)
    return tokenizer


def slow_split(tokenizer: Tokenizer) -> None:
    split = pre_tokenizers.Split(Regex("(x+x+)+y"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])


def slow_replace(tokenizer: Tokenizer) -> None:
    tokenizer.normalizer = normalizers.Replace(Regex("(x+x+)+y"), "y")


def without_unknown() -> Tokenizer:
    """Of words alone: a bare Exception at a word that it does not have."""
    words = sorted({word for text in DOCUMENTS.values() for word in text.split() if "xxx" not in word})
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


BREAKING: dict[str, Callable[[], Tokenizer]] = {
    "a split": lambda: of_byte_level(slow_split),
    "a replacement": lambda: of_byte_level(slow_replace),
    "no unknown token": without_unknown,
}


@pytest.mark.parametrize("kind", BREAKING)
def test_the_document_is_named(kind: str) -> None:
    tokenizer = ByteTokenizer(built(json.loads(BREAKING[kind]().to_str()), "file"), name="model")
    with pytest.raises(ModelError, match=r"model: the tokenizers library fails at document 'second' \('then xxx"):
        tokenizer.tokenize_batch(list(DOCUMENTS.values()), list(DOCUMENTS))
    with pytest.raises(ModelError, match=r"fails at the text 'then xxx.*leave this document out"):
        tokenizer.tokenize(DOCUMENTS["second"])
    assert len(tokenizer.tokenize(DOCUMENTS["first"]).ids_T)


def test_a_token_that_breaks_the_other_sides_library_is_an_error() -> None:
    words = {LONG: 0, "a": 1}
    source = Tokenizer(models.WordLevel(words, unk_token="a"))
    source.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    with pytest.raises(ModelError, match="tokenizers library fails at the text 'xxx"):
        vocab.first_piece(ByteTokenizer(source), ByteTokenizer(BREAKING["a split"]()))


def test_a_server_answers_with_the_error_and_goes_on() -> None:
    class Engine(UniformEngine):
        def compute(self, documents: Any, top_k: int) -> list[Distributions]:
            breaking = ByteTokenizer(BREAKING["a split"](), name="model")
            breaking.tokenize_batch([document.text for document in documents], [document.id for document in documents])
            return super().compute(documents, top_k)

    with fronted(Engine()) as server, SourceClient(server.address, retry_for_s=0.0) as client:
        with pytest.raises(ModelError, match="document 'second'"):
            client.compute([Document(name, text) for name, text in DOCUMENTS.items()], 2)
        assert len(client.compute([Document("first", DOCUMENTS["first"])], 2)) == 1


class Broken(BaseException):
    pass


@pytest.mark.parametrize("raised", [Broken, MemoryError])
def test_a_call_that_anything_ends_is_answered(raised: type[BaseException]) -> None:
    def end(_: Any) -> None:
        raise raised("a panic")

    with fronted(UniformEngine(before=end)) as server, SourceClient(server.address, retry_for_s=0.0) as client:
        with pytest.raises(FuseryError, match="internal error"):
            client.compute([Document("a", "text")], 2)
        assert client.model().name == "uniform"


def test_the_alignment_viewer_names_the_text(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    BREAKING["a split"]().save(str(path))
    with (
        opened(named("--target", str(path))) as participant,
        pytest.raises(ModelError, match="tokenizers library fails at the text"),
    ):
        tokens_of(participant, DOCUMENTS["second"])


def test_errors_of_others_pass() -> None:
    class PanicException(BaseException):
        """What such a class is called in every library."""

    for catcher in (calls, partial(calls, through_others=True)):
        with pytest.raises(KeyboardInterrupt), catcher("model", "at it"):
            raise KeyboardInterrupt
        with pytest.raises(ValueError, match="ours"), catcher("model", "at it"):
            raise ValueError("ours")
        with (
            pytest.raises(ModelError, match="model: the tokenizers library fails at it: one line"),
            catcher("model", "at it"),
        ):
            raise PanicException("one line\nand another")
    with pytest.raises(Exception, match="a bare one") as caught, calls("model", "at it", through_others=True):
        raise Exception("a bare one")
    assert not isinstance(caught.value, ModelError)


def test_texts_that_are_read_come_back_in_order() -> None:
    backend = pico_tokenizer("byte_level")
    texts = list(DOCUMENTS.values())
    assert [encoding.ids for encoding in encoded(backend, texts, "model")] == [
        backend.encode(text).ids for text in texts
    ]
    assert pico_byte_tokenizer("byte_level").tokenize_batch([]) == []
