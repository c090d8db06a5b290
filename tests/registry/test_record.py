"""What is refused before MLflow is asked, and what the card says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from fusery.registry.model_card import description, model_card
from fusery.registry.record import FusionRecord, Registered, requirements
from fusery.runtime.errors import InvalidInput, ModelError

Make = Callable[..., FusionRecord]


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (folder / name).write_text('{"model_type": "llama"}')
    return folder


def test_a_folder_without_tokenizer_or_config_is_refused(make_record: Make, tmp_path: Path, model_folder: Path) -> None:
    (model_folder / "tokenizer.json").unlink()
    (model_folder / "config.json").unlink()
    with pytest.raises(
        ModelError, match=r"no config\.json and no tokenizer\.json; expected a Hugging Face model folder"
    ):
        make_record(tmp_path, model_folder)


def test_weights_must_be_safetensors(make_record: Make, tmp_path: Path, model_folder: Path) -> None:
    (model_folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no model\.safetensors in it"):
        make_record(tmp_path, model_folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "optimizer.pt", "modeling_x.py", "deep/data.pkl"])
def test_what_could_run_code_when_loaded_is_refused(
    name: str, make_record: Make, tmp_path: Path, model_folder: Path
) -> None:
    (model_folder / name).parent.mkdir(exist_ok=True)
    (model_folder / name).touch()
    with pytest.raises(ModelError, match=f"holds {Path(name).name}, which can run code"):
        make_record(tmp_path, model_folder)


def test_a_missing_file_is_named(make_record: Make, tmp_path: Path, model_folder: Path) -> None:
    with pytest.raises(InvalidInput, match=r"absent\.jsonl: no such file, nothing was registered"):
        make_record(tmp_path, model_folder, metrics_files={"fused": tmp_path / "absent.jsonl", "clm": None})


@pytest.mark.parametrize("alias", ["latest", "v1", "V12"])
def test_aliases_that_mlflow_keeps_for_itself_are_refused(
    alias: str, make_record: Make, tmp_path: Path, model_folder: Path
) -> None:
    with pytest.raises(InvalidInput, match="keeps 'latest' and 'v1' for itself"):
        make_record(tmp_path, model_folder, alias=alias)


def test_the_card_has_a_header_the_report_the_lineage_and_the_way_to_use_it(
    make_record: Make, tmp_path: Path, model_folder: Path
) -> None:
    card = model_card(make_record(tmp_path, model_folder, lineage={"rule": "a|b\nc"}))
    header = yaml.safe_load(card.split("---")[1])
    assert header["pipeline_tag"] == "text-generation"
    assert header["base_model"] == ["docs", "owner/coder"]
    assert (header["license"], header["datasets"]) == ("gemma", ["owner/texts"])
    assert "gate-passed" in header["tags"]
    assert "````yaml\nname: tiny\n````" in card
    assert "- source coder, `owner/coder`: gemma (its card on the Hub); goes on under its terms; accepted today" in card
    assert "| fused | **2.2** |" in card
    assert r"| rule | a\|b\\nc |" in card
    assert '("models:/tiny@candidate")' in card
    assert 'generate("def fuse(", max_new_tokens=50)' in card
    assert str(tmp_path) not in card


def test_the_card_of_a_model_that_failed_names_no_alias(make_record: Make, tmp_path: Path, model_folder: Path) -> None:
    evaluation = dict(make_record(tmp_path, model_folder).evaluation)
    del evaluation["verdict"]
    card = model_card(make_record(tmp_path, model_folder, evaluation=evaluation))
    assert '("models:/tiny/VERSION")' in card
    assert "gate-failed" in card


def test_the_description_tells_what_the_version_gained(make_record: Make, tmp_path: Path, model_folder: Path) -> None:
    text = description(make_record(tmp_path, model_folder))
    assert "Fusion run `tiny-0123456789`" in text
    assert "fused 2.2000, before fusion 2.5000, plain continual training 2.3000." in text
    assert "−4.35 % bits per byte, 95 % interval [−5.00 %, −3.00 %]" in text


def test_a_description_without_baseline_says_nothing_of_it(
    make_record: Make, tmp_path: Path, model_folder: Path
) -> None:
    evaluation = dict(make_record(tmp_path, model_folder).evaluation)
    evaluation["models"] = {role: scores for role, scores in evaluation["models"].items() if role != "clm"}
    evaluation["gains"] = {}
    assert "continual" not in description(make_record(tmp_path, model_folder, evaluation=evaluation))


def test_other_weights_have_another_digest_whatever_else_is_alike(
    make_record: Make, tmp_path: Path, model_folder: Path
) -> None:
    record = make_record(tmp_path, model_folder)
    before = record.weights_digest()
    (model_folder / "README.md").write_text("a card")
    assert record.weights_digest() == before
    (model_folder / "model.safetensors").write_text("{ }")
    assert record.weights_digest() != before


def test_another_alias_is_another_proof_to_register(make_record: Make, tmp_path: Path, model_folder: Path) -> None:
    records = [make_record(tmp_path, model_folder, alias=alias) for alias in ("candidate", "candidate", "prod")]
    one, same, other = (record.proof_digest for record in records)
    assert one == same != other


def test_requirements_name_versions_that_an_index_has() -> None:
    assert [line.partition("==")[0] for line in requirements()] == ["torch", "transformers", "safetensors"]
    assert not any("+" in line for line in requirements())


def test_a_registered_version_knows_both_of_its_addresses() -> None:
    registered = Registered("tiny", "3", "run", "models:/tiny/3", "candidate", True)
    assert registered.alias_uri == "models:/tiny@candidate"
