"""Everything that can be wrong with a run's files is found out before any work, in words that say what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from fusery.run.corpus.scan import Removed, likely_tokens
from fusery.run.open_run import open_run
from fusery.run.preflight.checks import check_run
from fusery.runtime.errors import ConfigError, CorpusError, ModelError
from support.core.strategies import texts
from support.models.pico_models import CONTEXT_LENGTH, pico_byte_tokenizer
from support.runs.pico_run import HELD_OUT_DOCUMENTS, MAX_DOCUMENT_BYTES, TRAIN_DOCUMENTS, write_run
from support.runs.refusals import assert_nothing_was_done, refused


def rewrite(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_good_run_passes_and_its_target_comes_back(tmp_path: Path) -> None:
    run = open_run(write_run(tmp_path, registry={"enabled": True}))
    assert run.corpora.train.documents == TRAIN_DOCUMENTS
    assert run.corpora.held_out.documents == HELD_OUT_DOCUMENTS
    assert list(run.corpora.held_out.domains) == ["prose", "code"]
    assert run.corpora.removed == Removed(0, 0, 0, 0)
    target = check_run(run)
    assert target.folder == tmp_path / "models/target"
    assert_nothing_was_done(run.file.path)


def test_the_run_id_is_of_the_content_and_not_of_the_place(tmp_path: Path) -> None:
    one = open_run(write_run(tmp_path / "one"))
    elsewhere = open_run(write_run(tmp_path / "other", services={"store": "another", "workers": 7}))
    assert one.run_id == elsewhere.run_id
    assert one.run_id != open_run(write_run(tmp_path / "seed", seed=1)).run_id
    assert one.run_id.startswith("pico-")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("models/code/model.safetensors", lambda content: content[:-1] + bytes([content[-1] ^ 1])),
        ("models/target/config.json", lambda content: content + b"\n"),
        ("corpus/train.jsonl", lambda content: content.partition(b"\n")[2]),
        ("corpus/held_out.jsonl", lambda content: content.partition(b"\n")[2]),
    ],
)
def test_another_content_of_any_input_is_another_run(
    tmp_path: Path, name: str, change: Callable[[bytes], bytes]
) -> None:
    file = write_run(tmp_path)
    before = open_run(file).run_id
    path = tmp_path / name
    path.write_bytes(change(path.read_bytes()))
    assert open_run(file).run_id != before


def test_another_vocabulary_beside_the_weights_is_another_run(tmp_path: Path) -> None:
    file = write_run(tmp_path)
    before = open_run(file).run_id
    (tmp_path / "models/code/merges.txt").write_text("a b\n")
    assert open_run(file).run_id != before
    again = open_run(file).run_id
    (tmp_path / "models/code/README.md").write_text("not part of the model")
    assert open_run(file).run_id == again


def test_a_served_source_has_one_identity_wherever_the_command_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_run(tmp_path, sources=[{"name": "far", "model": "models/target", "address": "127.0.0.1:1"}])
    monkeypatch.chdir(tmp_path)
    here = open_run(file).run_id
    monkeypatch.chdir("/")
    assert open_run(file).run_id == here


def test_the_environment_overrides_store_broker_and_tracking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = open_run(write_run(tmp_path))
    assert run.broker_url is None
    assert run.tracking_uri == f"sqlite:///{tmp_path}/store/mlflow/mlflow.db"
    monkeypatch.setenv("FUSERY_BROKER_URL", "redis://elsewhere/0")
    monkeypatch.setenv("FUSERY_TRACKING_URI", "http://elsewhere")
    monkeypatch.setenv("FUSERY_STORE", str(tmp_path / "other"))
    again = open_run(run.file.path)
    assert (again.broker_url, again.tracking_uri) == ("redis://elsewhere/0", "http://elsewhere")
    assert again.folder == tmp_path / f"other/runs/{run.run_id}"


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"training": {"clm_weight": 1.5}}, r"run.yaml:\d+: training.clm_weight: .* less than or equal to 1, got 1.5"),
        ({"training": {"clm_weight": -0.1}}, r"training.clm_weight: .* greater than or equal to 0, got -0.1"),
        ({"capture": {"top_k": 0}}, r"capture.top_k: .* greater than or equal to 1, got 0"),
        ({"capture": {"top_k": 9999}}, r"capture.top_k: .* less than or equal to 4096, got 9999"),
        ({"capture": {"topk": 3}}, r"capture.topk: unknown key; did you mean 'top_k'\?"),
        ({"fusion": {"rule": "mince"}}, r"fusion.rule: .*; did you mean 'min_ce'\?"),
        ({"sources": []}, r"run.yaml:\d+: sources: "),
    ],
)
def test_a_value_that_can_not_be_is_named_with_its_line(tmp_path: Path, sections: dict[str, Any], says: str) -> None:
    refused(write_run(tmp_path, **sections), ConfigError, says)


def test_no_yaml_and_half_a_yaml_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file or directory; expected a run's YAML"):
        open_run(tmp_path / "nowhere.yaml")
    file = write_run(tmp_path)
    file.write_text(file.read_text() + "training: {clm_weight: [\n")
    refused(file, ConfigError, r"run.yaml:\d+: not YAML: ")
    file.write_text("name: pico\n")
    assert refused(file, ConfigError, "target: missing; this key is required").count("\n") == 2


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    file = write_run(tmp_path)
    file.write_text(file.read_text().replace("models/code", "./models/nowhere"))
    refused(
        file, ConfigError, r"run.yaml: model './models/nowhere': there is no folder .*/models/nowhere; make it first"
    )


def test_a_folder_that_reads_like_a_hub_id_is_told_both_ways(tmp_path: Path) -> None:
    file = write_run(tmp_path)
    file.write_text(file.read_text().replace("models/code", "models/nowhere"))
    message = refused(file, ModelError, "source code: model models/nowhere: can't be had from the Hub")
    assert message.endswith(f"And there is no folder {tmp_path}/models/nowhere.")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"model_type": "nonsense"},
            r"target: model .*/models/target: transformers has no architecture 'nonsense'; use",
        ),
        (
            {"model_type": "nonsense", "auto_map": {"AutoModelForCausalLM": "own.Model"}},
            r"no architecture 'nonsense' \(it brings code of its own, which is never run\)",
        ),
        ({"model_type": "vit"}, "target: .* 'vit' is no causal language model"),
    ],
)
def test_an_unknown_architecture_is_named_and_its_code_is_never_run(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    file = write_run(tmp_path)
    (tmp_path / "models/target/own.py").write_text("raise SystemExit('this code was run')")
    rewrite(tmp_path / "models/target/config.json", **changes)
    refused(file, ModelError, says)


def test_a_tokenizer_without_a_fast_form_is_refused(tmp_path: Path) -> None:
    file = write_run(tmp_path)
    folder = tmp_path / "models/code"
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "ByT5Tokenizer"}')
    refused(file, ModelError, "source code: model .*/models/code: ByT5Tokenizer has no fast form")


@pytest.mark.parametrize("role", ["target", "code"])
def test_weights_that_are_only_pickled_are_refused_unopened(tmp_path: Path, role: str) -> None:
    file = write_run(tmp_path)
    (tmp_path / f"models/{role}/model.safetensors").unlink()
    (tmp_path / f"models/{role}/pytorch_model.bin").write_bytes(b"never opened")
    refused(
        file,
        ModelError,
        rf"model .*/models/{role}: .*only pickled weights \(pytorch_model.bin\).* never opened; convert",
    )


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, r"corpus/train.jsonl: no such file; expected JSON \(\.jsonl, "),
        ("", r"corpus/train.jsonl: no text in it; expected documents with text \(column 'text'\)"),
        ('{"text": "  \\n"}\n', r"corpus/train.jsonl: no text in it"),
        (
            '{"body": "a"}\n{"body": "b"}\n',
            r"corpus/train.jsonl:1: expected a JSON object with text in 'text', got the keys 'body'",
        ),
        ('{"text": \n', r"corpus/train.jsonl:1: expected JSON lines, or one list of JSON objects"),
    ],
)
def test_a_corpus_without_text_is_named_with_file_and_line(tmp_path: Path, content: str | None, says: str) -> None:
    file = write_run(tmp_path)
    if content is None:
        (tmp_path / "corpus/train.jsonl").unlink()
    else:
        (tmp_path / "corpus/train.jsonl").write_text(content)
    refused(file, CorpusError, says)


def test_a_corpus_that_is_held_out_whole_leaves_nothing_to_train_on(tmp_path: Path) -> None:
    file = write_run(tmp_path)
    shutil.copy(tmp_path / "corpus/held_out.jsonl", tmp_path / "corpus/train.jsonl")
    refused(file, CorpusError, "every document is held out too")


def test_a_document_that_no_training_sequence_holds_is_named(tmp_path: Path) -> None:
    file = write_run(tmp_path, training={"sequence_length": 40})
    message = refused(
        file, CorpusError, r"document [01]-\w+.jsonl:\d+ has \d+ tokens, a training sequence holds at most 40"
    )
    assert message.endswith(f"lower corpus.max_document_bytes (now {MAX_DOCUMENT_BYTES})")


def test_a_document_that_is_longer_than_a_sources_context_is_named(tmp_path: Path) -> None:
    file = write_run(tmp_path)
    rewrite(tmp_path / "models/code/config.json", max_position_embeddings=32)
    refused(file, CorpusError, r"document \S+ has \d+ tokens, source code holds at most 32; lower")


def test_text_of_many_tokens_but_few_bytes_is_found_among_longer_documents(tmp_path: Path) -> None:
    file = write_run(tmp_path, training={"sequence_length": 150})
    # Plain text of 230 bytes has about 110 tokens, this one of 180 bytes has more than 180.
    rows = [{"text": f"{i:03d} " + "The lazy dog jumps over the quick brown fox. " * 5} for i in range(100)]
    rows.insert(70, {"text": "щ" * 90})
    (tmp_path / "corpus/train.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    refused(file, CorpusError, "document 0-train.jsonl:71 has .* tokens, a training sequence")


@given(text=texts)
def test_likely_tokens_are_bytes_with_those_of_other_scripts_three_times(text: str) -> None:
    data = text.encode()
    assert likely_tokens(text) == len(data) + 2 * sum(byte >= 0x80 for byte in data)


def test_a_document_that_the_tokenizer_can_not_spell_is_named(tmp_path: Path) -> None:
    file = write_run(tmp_path)
    dropping = {"type": "Replace", "pattern": {"String": "e"}, "content": ""}
    rewrite(tmp_path / "models/code/tokenizer.json", normalizer=dropping)
    refused(file, ModelError, r"document \S+, source code: .*: its tokens do not spell the text")


def test_a_sequence_longer_than_the_targets_context_is_refused(tmp_path: Path) -> None:
    file = write_run(tmp_path, training={"sequence_length": CONTEXT_LENGTH + 1})
    says = f"training.sequence_length is {CONTEXT_LENGTH + 1}, the target's context holds {CONTEXT_LENGTH} tokens"
    refused(file, ConfigError, says)


def test_a_k_over_the_vocabulary_of_a_source_is_refused(tmp_path: Path) -> None:
    size = pico_byte_tokenizer("byte_level").size + 7
    refused(
        write_run(tmp_path, capture={"top_k": size + 1}),
        ConfigError,
        f"run.yaml: capture.top_k is {size + 1}, source code gives at most {size} entries",
    )
