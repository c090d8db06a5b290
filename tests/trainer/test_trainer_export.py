"""An exported model reads texts as its training did, with transformers alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tokenizers import Regex, Tokenizer, pre_tokenizers
from transformers import AutoTokenizer

from fusery.models.loading import load_model
from fusery.models.tokenizer import read_tokenizer
from fusery.registry.model_card import TrainedModel
from fusery.trainer.export import export
from support.models.pico_models import pico_model, pico_tokenizer

TEXT = "In 1974 2023\n    return  x"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A GPT-2 whose class splits digits in another way than its file, which has dropout left in it."""
    folder = Path(shutil.copytree(pico_model("gpt2"), tmp_path / "target"))
    tokenizer = Tokenizer.from_str(pico_tokenizer("byte_level").to_str())
    split = pre_tokenizers.Split(Regex(r"\d|\s|[^\d\s]+"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.model.dropout = 0.5
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "GPT2TokenizerFast", "eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "tokenizer.py").write_text("raise SystemExit('this code was run')")
    return folder


def test_an_exported_model_reads_as_its_training_did(target: Path, tmp_path: Path) -> None:
    model = load_model(str(target))
    trained = TrainedModel(str(target), None, False, 0.5, "one outcome", 10, 1, None)
    digest = export(model, model.state_dict(), trained, tmp_path / "model")
    assert len(digest) == 64
    read = read_tokenizer(target, "m")
    assert AutoTokenizer.from_pretrained(tmp_path / "model")(TEXT)["input_ids"] == read.tokenize(TEXT).ids_T.tolist()
    assert read_tokenizer(tmp_path / "model", "m").fingerprint == read.fingerprint
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert {"chat_template.jinja", "README.md", "tokenizer.json"} <= names
    assert "tokenizer.py" not in names
