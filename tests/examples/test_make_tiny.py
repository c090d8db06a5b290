"""The demo's models and corpora, made small: what others build on must hold whatever the sizes."""

from __future__ import annotations

import hashlib
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import make_tiny
import tiny_corpus
import tiny_muon
import tiny_tokenizers
from make_tiny import Recipe
from tiny_corpus import DOMAINS, PARTS, Sizes

SIZES = Sizes(expert_bytes=40_000, fusion_chunks=3, dev_chunks=2, held_out_chunks=4, max_files=80)
RECIPE = Recipe(width=32, layers=1, heads=2, vocab_size=640, steps=2, batch=2, window_tokens=32)
SETTINGS = make_tiny.Settings(SIZES, dict.fromkeys(DOMAINS, RECIPE), tokenizer_bytes=20_000)
AWKWARD = ["\t\tint x;\n\n\n    return  ;  \n", "  leading\n", "aé€😀 b", "x <0x0A> y", "\n", "12  345\n"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tiny")
    make_tiny.make(out, SETTINGS, processes=1)
    return out


def bytes_below(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def texts_of(made: Path, name: str) -> list[tiny_corpus.Document]:
    return tiny_corpus.read_jsonl(made / "corpus" / f"{name}.jsonl")


def test_every_part_has_its_share_of_every_domain(made: Path) -> None:
    for part in PARTS[1:]:
        counts = [sum(doc.domain == domain for doc in texts_of(made, part)) for domain in DOMAINS]
        assert counts == [SIZES.chunks(part)] * len(DOMAINS)
    assert all(texts_of(made, f"expert-{domain}") for domain in DOMAINS)


def test_parts_share_no_text_and_no_file(made: Path) -> None:
    documents = {part: texts_of(made, part) for part in PARTS[1:]}
    documents["expert"] = [doc for domain in DOMAINS for doc in texts_of(made, f"expert-{domain}")]
    texts = [doc.text for docs in documents.values() for doc in docs]
    assert len(set(texts)) == len(texts)
    files = [{doc.id.split("#")[0] for doc in docs} for docs in documents.values()]
    assert len(set().union(*files)) == sum(map(len, files))


def test_too_little_text_for_equal_shares_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="this installation's text gives"):
        tiny_corpus.make_corpora(replace(SIZES, max_files=3))


def test_licence_headers_are_stripped_and_the_rest_is_kept() -> None:
    strip = tiny_corpus._without_licence
    assert strip("// Copyright X\n// All rights.\n\n/* Licensed */\n#pragma once\nint a;\n") == "#pragma once\nint a;\n"
    assert strip("# A comment that stays.\nx = 1\n") == "# A comment that stays.\nx = 1\n"


def test_docstrings_go_to_the_docs_and_not_to_the_code() -> None:
    long = "Says a lot about what it does, far more than what would fit into one line of text."
    code, prose = tiny_corpus._code_and_prose(f'def f():\n    """{long}"""\n    return 1\n')
    assert code == "def f():\n    return 1\n"
    assert prose == long + "\n"


@pytest.mark.parametrize("domain", DOMAINS)
def test_the_tokenizer_that_transformers_loads_spells_every_text(made: Path, domain: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(made / "models" / domain)
    for text in AWKWARD + [doc.text for part in PARTS[1:] for doc in texts_of(made, part)]:
        assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text
    assert tokenizer.is_fast


def test_ids_are_those_of_the_tokenizer_that_was_trained(made: Path) -> None:
    texts = {domain: [doc.text for doc in texts_of(made, f"expert-{domain}")] for domain in DOMAINS}
    for domain in DOMAINS:
        trained = tiny_tokenizers.learn(domain, texts, RECIPE.vocab_size, SETTINGS.tokenizer_bytes)
        loaded = AutoTokenizer.from_pretrained(made / "models" / domain)
        for doc in texts_of(made, "held_out"):
            assert loaded(doc.text)["input_ids"] == trained.encode(doc.text).ids


def test_only_the_docs_tokenizer_adds_a_bos(made: Path) -> None:
    added = {d: AutoTokenizer.from_pretrained(made / "models" / d)("")["input_ids"] for d in DOMAINS}
    assert added == {"docs": [1], "python": [], "cpp": []}


def test_three_architectures_load_with_the_context_and_the_vocabulary_of_the_demo(made: Path) -> None:
    models = {d: AutoModelForCausalLM.from_pretrained(made / "models" / d) for d in DOMAINS}
    assert [model.config.model_type for model in models.values()] == ["llama", "gpt_neox", "mpt"]
    for domain, model in models.items():
        tokenizer = AutoTokenizer.from_pretrained(made / "models" / domain)
        ids_BT = torch.arange(512)[None] % len(tokenizer)
        assert model(input_ids=ids_BT).logits.shape == (1, 512, len(tokenizer))


def test_the_second_call_does_nothing_and_says_so(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    make_tiny.make(made, SETTINGS, processes=1)
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*")} == before
    assert capsys.readouterr().out.count("made already, skipped") == 4


def test_the_same_settings_make_the_same_bytes(made: Path, tmp_path: Path) -> None:
    make_tiny.make(tmp_path, SETTINGS, processes=1)
    assert bytes_below(tmp_path) == bytes_below(made)


def test_other_settings_make_only_what_they_change(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    before = bytes_below(tmp_path)
    recipes = {
        **SETTINGS.recipes,
        "cpp": Recipe(width=32, layers=1, heads=2, vocab_size=600, steps=1, batch=1),
    }
    make_tiny.make(tmp_path, make_tiny.Settings(SIZES, recipes, SETTINGS.tokenizer_bytes), processes=1)
    changed = {name for name, digest in bytes_below(tmp_path).items() if before.get(name) != digest}
    assert changed
    assert all(name.startswith("models/cpp/") for name in changed)


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail(folder: Path) -> dict[str, object]:
        (folder / "half").write_text("")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_tiny._make_folder(tmp_path / "x", "digest", False, fail)
    assert list(tmp_path.iterdir()) == []


def test_muon_steps_have_singular_values_near_one() -> None:
    matrix = torch.randn(96, 32, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(tiny_muon.orthogonal(matrix))
    assert values.min() > 0.6
    assert values.max() < 1.3


@pytest.mark.parametrize("arguments", [["--seconds", "0"], ["--seconds", "x"], ["--bogus"], ["--out", __file__]])
def test_bad_usage_is_one_line_and_exit_code_two(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        make_tiny.main(arguments)
    assert exit_.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
