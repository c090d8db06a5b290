"""A tokenizer may have more tokens than its model has embeddings: they are in no cell, and no text may need them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from fusery.core.rules import Positions, Vocabulary
from fusery.core.tokens import ByteTokenizer
from fusery.core.vocab import build
from fusery.models.inspect import inspect_checkpoint
from fusery.run.open_run import open_run
from fusery.run.preflight.checks import check_run
from fusery.runtime.errors import ModelError
from fusery.source.engines.remote import PROBE, read_tokenizer_folder, tokenizer_of
from fusery.trainer.job import train
from support.models.pico_models import pico_byte_tokenizer, pico_tokenizer
from support.models.training_data import pico_job
from support.runs.pico_run import write_run
from support.runs.refusals import assert_nothing_was_done

RULES = [
    *((rule, Positions.BOUNDARY) for rule in Vocabulary),
    (Vocabulary.EXACT, Positions.REFERENCE),
    (Vocabulary.MIN_ED, Positions.REFERENCE),
]


def larger(kind: str, *tokens: AddedToken) -> tuple[ByteTokenizer, int]:
    """A tokenizer with `tokens` past the embeddings of its model, and the number of these."""
    backend = Tokenizer.from_str(pico_tokenizer(kind).to_str())
    embeddings = backend.get_vocab_size()
    backend.add_tokens([token for token in tokens if not token.special])
    backend.add_special_tokens([token for token in tokens if token.special])
    return ByteTokenizer(backend).of_model(embeddings), embeddings


PAD, TOOL, FOX = (
    AddedToken("[PAD]", special=True),
    AddedToken("<tool>", special=False),
    AddedToken(" fox", special=False),
)


@pytest.mark.parametrize("kind", ["byte_level", "sentencepiece", "unigram"])
@pytest.mark.parametrize(("rule", "positions"), RULES)
def test_tokens_past_the_embeddings_are_in_no_cell_under_any_rule(
    rule: Vocabulary, positions: Positions, kind: str
) -> None:
    target, embeddings = larger(kind, PAD, TOOL, FOX)
    source = pico_byte_tokenizer("byte_level")
    cells = build(rule, source, target, positions)
    assert len(cells.cell_of_target_V) == embeddings
    if rule is not Vocabulary.PARTITION:
        assert cells.cell_of_source_V.max() < embeddings
    back = build(rule, target, source, positions)
    assert len(back.cell_of_source_V) == embeddings


@pytest.mark.parametrize("rule", list(Vocabulary))
def test_a_target_that_is_its_own_source_keeps_to_its_embeddings(rule: Vocabulary) -> None:
    target, embeddings = larger("byte_level", PAD, TOOL)
    cells = build(rule, target, target)
    assert len(cells.cell_of_target_V) == len(cells.cell_of_source_V) == embeddings


def test_a_tokenizer_that_its_model_holds_stays_as_it_is() -> None:
    tokenizer = pico_byte_tokenizer("byte_level")
    assert tokenizer.of_model(tokenizer.size) is tokenizer
    assert tokenizer.of_model(tokenizer.size + 7).fingerprint == tokenizer.fingerprint


def test_the_number_of_embeddings_travels_with_the_tokenizer() -> None:
    target, embeddings = larger("byte_level", PAD, TOOL)
    copy = ByteTokenizer.from_definition(target.definition())
    assert (copy.size, copy.fingerprint) == (embeddings, target.fingerprint)
    assert copy.definition() == target.definition()
    assert target.fingerprint != ByteTokenizer(Tokenizer.from_str(json.dumps(target._json))).fingerprint


def words(unknown: int, **ids: int) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({"<unk>": unknown, **ids}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


@pytest.mark.parametrize(
    ("tokenizer", "reads"),
    [
        (larger("byte_level", PAD)[0], False),
        (larger("sentencepiece", PAD)[0], False),
        (larger("unigram", PAD)[0], False),
        (larger("byte_level", TOOL)[0], True),
        (larger("unigram", PAD, TOOL)[0], True),
        (ByteTokenizer(words(0, a=1, b=2)).of_model(2), True),
        (ByteTokenizer(words(2, a=0, b=1)).of_model(2), True),
        (pico_byte_tokenizer("byte_level"), False),
    ],
)
def test_only_tokens_that_a_text_can_be_read_as_ask_for_a_look_at_all_texts(
    tokenizer: ByteTokenizer, reads: bool
) -> None:
    assert tokenizer.reads_past_model is reads


def test_an_unknown_token_past_the_embeddings_is_no_first_token() -> None:
    tokenizer = ByteTokenizer(words(2, a=0, b=1)).of_model(2)
    assert tokenizer.first_tokens([b"a", b" a", b"x", b" x"]).tolist() == [0, -1, -1, -1]


def with_tokens(folder: Path, *tokens: AddedToken) -> None:
    """Adds tokens past the embeddings of the checkpoint in `folder`."""
    path = folder / "tokenizer.json"
    backend = Tokenizer.from_file(str(path))
    config = json.loads((folder / "config.json").read_text())
    # A pico model has a few logits more than tokens: fill them first.
    fill = config["vocab_size"] - backend.get_vocab_size()
    backend.add_special_tokens([f"<fill{i}>" for i in range(fill)])
    backend.add_tokens([token for token in tokens if not token.special])
    backend.add_special_tokens([token for token in tokens if token.special])
    backend.save(str(path))


def add_text(file: Path, text: str, name: str = "held_out") -> None:
    with (file.parent / f"corpus/{name}.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(json.dumps({"text": text, "domain": "prose"}) + "\n")


@pytest.mark.parametrize("role", ["target", "prose", "code"])
def test_a_special_token_past_the_embeddings_is_no_reason_to_refuse(tmp_path: Path, role: str) -> None:
    file = write_run(tmp_path)
    with_tokens(tmp_path / "models" / role, PAD)
    add_text(file, "a text that says [PAD] is read as its characters")
    check_run(open_run(file))


@pytest.mark.parametrize("side", ["train", "held_out"])
@pytest.mark.parametrize(("role", "shown"), [("target", "a training sequence"), ("code", "source code")])
def test_a_text_that_needs_such_a_token_is_refused_before_any_work(
    tmp_path: Path, role: str, shown: str, side: str
) -> None:
    file = write_run(tmp_path)
    with_tokens(tmp_path / "models" / role, TOOL)
    check_run(open_run(file))
    add_text(file, "short <tool> text", side)
    with pytest.raises(ModelError, match=rf"document .*{side}.*, {shown}: {role}: token '<tool>' .* embeddings; leave"):
        check_run(open_run(file))
    assert_nothing_was_done(file)


@pytest.mark.parametrize(("rule", "positions"), RULES)
def test_a_training_takes_the_cells_of_such_a_target(tmp_path: Path, rule: Vocabulary, positions: Positions) -> None:
    file = write_run(tmp_path)
    folder = tmp_path / "models/target"
    with_tokens(folder, PAD, TOOL)
    target = inspect_checkpoint(str(folder)).tokenizer
    cells = build(rule, pico_byte_tokenizer("byte_level"), target, positions).cell_of_target_V
    result: Any = train(pico_job(file.parent / "out", target=str(folder), partitions=[np.minimum(cells, 30)] * 2))
    assert result.steps > 0


def test_the_tokenizer_of_an_inference_server_keeps_to_the_embeddings_that_its_config_tells(tmp_path: Path) -> None:
    file = write_run(tmp_path)
    folder = tmp_path / "models/code"
    with_tokens(folder, PAD, TOOL)
    read = read_tokenizer_folder(str(folder))
    embeddings = json.loads((folder / "config.json").read_text())["vocab_size"]
    tokenizer = tokenizer_of(read, ByteTokenizer(read.backend).tokenize(PROBE).ids_T.tolist(), "a server")
    assert (tokenizer.size, tokenizer.reads_past_model) == (embeddings, True)
    (folder / "config.json").unlink()
    read = read_tokenizer_folder(str(file.parent / "models/code"))
    assert read.embeddings == read.vocabulary_size == embeddings + 2
