"""tokenizer.json decides how a text is read, whatever class of transformers is named beside it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer

from fusery.core.definition import MOST_IDS
from fusery.core.tokens import ByteTokenizer
from fusery.models.inspect import inspect_checkpoint
from fusery.models.tokenizer import first_difference, read_tokenizer, settle, transformers_tokenizer
from fusery.runtime.errors import ModelError
from fusery.source.engines.remote import read_tokenizer_folder
from support.models.pico_models import pico_model, pico_tokenizer

TEXTS = ["2023 and 1234567", "    if x:\n\t\treturn  y\n\n", "Grüße, ÉCOLE ﬁ 東京", " Hello", "don't I'LL", "a/b_c"]


def byte_level(split: str) -> Tokenizer:
    tokenizer = Tokenizer.from_str(pico_tokenizer("byte_level").to_str())
    steps = [
        pre_tokenizers.Split(Regex(split), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    return tokenizer


def sentencepiece(scheme: str = "first", lower: bool = False) -> Tokenizer:
    tokenizer = Tokenizer.from_str(pico_tokenizer("sentencepiece").to_str())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme)
    if lower:
        tokenizer.normalizer = normalizers.Lowercase()
    return tokenizer


def with_prefix_space() -> Tokenizer:
    tokenizer = Tokenizer.from_str(pico_tokenizer("byte_level").to_str())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return tokenizer


def with_bos() -> Tokenizer:
    tokenizer = byte_level(r"\d{1,3}|[^\d]+")
    tokenizer.post_processor = processors.TemplateProcessing("<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)])
    return tokenizer


FILES: dict[str, Callable[[], Tokenizer]] = {
    "digits by three": lambda: byte_level(r"\d{1,3}|[^\d]+"),
    "every character": lambda: byte_level("."),
    "lines": lambda: byte_level(r"\n+|[^\n]+"),
    "never a space": lambda: sentencepiece("never"),
    "lower case": lambda: sentencepiece("always", lower=True),
    "sentencepiece": sentencepiece,
    "unigram": lambda: pico_tokenizer("unigram"),
    "with a space before": with_prefix_space,
    "with BOS": with_bos,
}
CLASSES = (
    *("GPT2TokenizerFast", "GPT2Tokenizer", "GPTNeoXTokenizerFast", "CodeGenTokenizerFast", "Qwen2TokenizerFast"),
    *("CohereTokenizerFast", "GemmaTokenizerFast", "LlamaTokenizerFast", "PreTrainedTokenizerFast", None),
)


def folder_of(place: Path, tokenizer: Tokenizer, cls: str | None, model_type: str = "llama", **settings: Any) -> Path:
    """A folder with the tokenizer's file, and a class that it names."""
    place.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(place / "tokenizer.json"))
    (place / "config.json").write_text(json.dumps({"model_type": model_type}))
    named = {} if cls is None else {"tokenizer_class": cls}
    (place / "tokenizer_config.json").write_text(json.dumps({**named, **settings}))
    return place


def read_by(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(text).ids)


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("kind", FILES)
def test_the_file_decides_under_every_class(kind: str, cls: str | None, tmp_path: Path) -> None:
    tokenizer = FILES[kind]()
    folder = folder_of(tmp_path, tokenizer, cls, bos_token="<|endoftext|>")
    read, for_tasks = read_tokenizer(folder, "model"), transformers_tokenizer(folder, "model")
    for text in TEXTS:
        plain = tokenizer.encode(text, add_special_tokens=False).ids
        assert [*read.prefix_ids, *plain] == read_by(tokenizer, text)
        assert (
            read._backend.encode(text, add_special_tokens=False).ids
            == tokenizer.encode(text, add_special_tokens=False).ids
        )
        assert for_tasks(text)["input_ids"] == read_by(tokenizer, text)


@pytest.mark.parametrize(
    "model_type", ["qwen2", "gpt2", "gpt_neox", "gemma3_text", "llama", "mpt", "codegen", "cohere"]
)
def test_the_file_decides_under_every_model_type(model_type: str, tmp_path: Path) -> None:
    tokenizer = FILES["digits by three"]()
    folder = folder_of(tmp_path, tokenizer, None, model_type)
    for text in TEXTS:
        assert transformers_tokenizer(folder, "model")(text)["input_ids"] == read_by(tokenizer, text)
        assert read_tokenizer(folder, "model")._backend.encode(text).ids == read_by(tokenizer, text)


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("kind", FILES)
def test_an_exported_model_carries_the_file_for_transformers_too(kind: str, cls: str | None, tmp_path: Path) -> None:
    tokenizer = FILES[kind]()
    folder = folder_of(tmp_path, tokenizer, cls, chat_template="{{ x }}", eos_token="</s>", pad_token="<gone>")
    settle(folder, "model")
    again = AutoTokenizer.from_pretrained(folder)
    assert first_difference(tokenizer, again) is None
    assert again.chat_template == "{{ x }}"
    assert all(again(text)["input_ids"] == read_by(tokenizer, text) for text in TEXTS)


def test_a_class_that_agrees_with_the_file_stays(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, pico_tokenizer("byte_level"), "PreTrainedTokenizerFast", eos_token="<|endoftext|>")
    before = (folder / "tokenizer_config.json").read_bytes()
    assert settle(folder, "model") is None
    assert (folder / "tokenizer_config.json").read_bytes() == before


def test_source_and_worker_read_with_the_same_object(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(pico_model("gpt2"), tmp_path / "model"))
    FILES["digits by three"]().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2TokenizerFast"}')
    source = inspect_checkpoint(str(folder)).tokenizer
    worker = ByteTokenizer.from_definition(source.definition())
    assert worker.fingerprint == source.fingerprint
    assert worker.fingerprint == ByteTokenizer(read_tokenizer_folder(str(folder)).backend).fingerprint
    assert all(worker.tokenize(text).ids_T.tolist() == source.tokenize(text).ids_T.tolist() for text in TEXTS)


ADDED: dict[str, tuple[str, dict[str, Any]]] = {
    "added_tokens.json": ("added_tokens.json", {"<tool>": 900}),
    "added_tokens_decoder": (
        "tokenizer_config.json", {"added_tokens_decoder": {"900": {"content": "<tool>", "special": False}}},
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", ADDED)
def test_ordinary_tokens_that_only_a_file_beside_knows_are_refused(kind: str, tmp_path: Path) -> None:
    name, content = ADDED[kind]
    folder = folder_of(tmp_path, pico_tokenizer("byte_level"), None)
    (folder / name).write_text(json.dumps(content))
    with pytest.raises(ModelError, match=rf"{name} adds the token '<tool>', which tokenizer\.json does not have"):
        read_tokenizer(folder, "model")


def test_added_tokens_that_the_file_has_and_special_ones_are_no_fault(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_str(pico_tokenizer("byte_level").to_str())
    tokenizer.add_tokens([AddedToken("<tool>")])
    folder = folder_of(tmp_path, tokenizer, None, pad_token="[PAD]", extra_special_tokens=["<im>"])
    (folder / "added_tokens.json").write_text(json.dumps({"<tool>": 3, "[PAD]": 901, "<im>": 902, "<s>": 903}))
    (folder / "special_tokens_map.json").write_text('{"bos_token": {"content": "<s>"}}')
    (folder / "vocab.json").write_text('{"other": 0}')
    (folder / "merges.txt").write_text("o t\n")
    assert read_tokenizer(folder, "model").tokenize("a<tool>b").ids_T.tolist() == read_by(tokenizer, "a<tool>b")


def test_a_file_for_other_versions_is_refused(tmp_path: Path) -> None:
    files = ["tokenizer.json", "tokenizer.4.0.0.json"]
    folder = folder_of(tmp_path, pico_tokenizer("byte_level"), None, fast_tokenizer_files=files)
    pico_tokenizer("unigram").save(str(folder / files[1]))
    with pytest.raises(ModelError, match=r"tokenizer\.4\.0\.0\.json"):
        read_tokenizer(folder, "model")


@pytest.mark.parametrize("dropout", [0.1, 0.5, 1.0])
def test_dropout_is_off_everywhere(dropout: float, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_str(pico_tokenizer("byte_level").to_str())
    steady = [tokenizer.encode(text).ids for text in TEXTS]
    tokenizer.model.dropout = dropout
    folder = folder_of(tmp_path, tokenizer, None)
    plain = ByteTokenizer(pico_tokenizer("byte_level"))
    for read in (
        read_tokenizer(folder, "model"),
        ByteTokenizer(tokenizer),
        ByteTokenizer(read_tokenizer_folder(str(folder)).backend),
    ):
        assert read.fingerprint == plain.fingerprint
        assert [text.ids_T.tolist() for text in read.tokenize_batch(TEXTS)] == steady
    assert [transformers_tokenizer(folder, "model")(text)["input_ids"] for text in TEXTS] == steady
    fields = {**json.loads(plain.definition()), "backend": json.loads(tokenizer.to_str())}
    assert [
        text.ids_T.tolist() for text in ByteTokenizer.from_definition(json.dumps(fields)).tokenize_batch(TEXTS)
    ] == steady
    settle(folder, "model")
    assert [AutoTokenizer.from_pretrained(folder)(text)["input_ids"] for text in TEXTS] == steady


@given(
    st.one_of(st.integers(max_value=-1), st.integers(min_value=MOST_IDS), st.floats(), st.text(), st.none()),
    st.booleans(),
)
def test_an_id_that_no_model_has_is_refused_before_it_costs_anything(index: Any, is_added: bool) -> None:
    definition = json.loads(pico_tokenizer("byte_level").to_str())
    if is_added:
        definition["added_tokens"].append({**definition["added_tokens"][0], "content": "<far>", "id": index})
    else:
        definition["model"]["vocab"]["far"] = index
    fields = {"backend": definition, "prefix_ids": [], "name": "model"}
    with pytest.raises(ModelError, match=r"model: (token '<?far>?' has the id|its definition)"):
        ByteTokenizer.from_definition(json.dumps(fields))


@pytest.mark.parametrize("prefix", [[-1], [MOST_IDS], [1, 3 * 10**8]])
def test_prefix_ids_that_no_model_has_are_refused(prefix: list[int]) -> None:
    with pytest.raises(ModelError, match="prefix ids"):
        ByteTokenizer(pico_tokenizer("byte_level"), prefix)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{}",
        "[]",
        '{"model": 3}',
        '{"model": {"vocab": []}}',
        "\x00",
        '{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["b c"]}}',
    ],
)
def test_a_file_that_is_no_tokenizer_is_an_error_of_the_model(content: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ModelError, match=r"tokenizer|definition"):
        read_tokenizer(tmp_path, "model")


@pytest.mark.parametrize(("cls", "habit"), [("CodeLlamaTokenizerFast", [1]), ("LlamaTokenizerFast", []), (None, [])])
def test_a_bos_habit_that_only_the_class_has_goes_on_in_an_exported_model(
    cls: str | None, habit: list[int], tmp_path: Path
) -> None:
    tokenizer = sentencepiece()
    tokenizer.post_processor = None
    folder = folder_of(tmp_path, tokenizer, cls, bos_token="<s>", unk_token="<unk>")
    assert read_tokenizer(folder, "model").prefix_ids.tolist() == habit
    assert transformers_tokenizer(folder, "model")("fuse")["input_ids"] == [*habit, *read_by(tokenizer, "fuse")]
    settle(folder, "model")
    assert AutoTokenizer.from_pretrained(folder)("fuse")["input_ids"] == [*habit, *read_by(tokenizer, "fuse")]
    assert read_tokenizer(folder, "model").prefix_ids.tolist() == habit
