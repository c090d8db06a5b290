from __future__ import annotations

from pathlib import Path

import pytest

from fusery.config.file import read_run_file
from fusery.runtime.errors import ConfigError

GOOD = """\
name: tiny
target: {model: models/docs}
sources:
  - {name: docs, model: models/docs}
  - {name: python, model: models/python}
corpus:
  train: [{path: train.jsonl}]
  held_out: [{path: held_out.jsonl}]
training:
  clm_weight: 0.5
"""


def refused(tmp_path: Path, text: str) -> str:
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        read_run_file(path)
    return str(caught.value).replace(str(path), "run.yaml")


def test_a_good_file_is_read_with_defaults(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(GOOD)
    run = read_run_file(path)
    assert run.config.training.clm_weight == 0.5
    assert run.config.registered_name == "tiny"
    assert run.store == str(tmp_path / "fusery-store")


def test_the_digest_covers_the_experiment_and_not_the_place(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(GOOD)
    one = read_run_file(path).config.digest()
    path.write_text(GOOD + "services: {store: elsewhere, workers: 7}\n")
    assert read_run_file(path).config.digest() == one
    path.write_text(GOOD + "coverage: {positions_floor: 0.9, mass_floor: 0.1}\n")
    assert read_run_file(path).config.digest() == one
    path.write_text(GOOD.replace("0.5", "0.6"))
    assert read_run_file(path).config.digest() != one


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("clm_weight", "clm_weigth", "run.yaml:10: training.clm_weigth: unknown key; did you mean 'clm_weight'?"),
        ("0.5", "1.5", "run.yaml:10: training.clm_weight: Input should be less than or equal to 1, got 1.5"),
        ("0.5", "much", "run.yaml:10: training.clm_weight: Input should be a valid number"),
        ("path: train", "pth: train", "run.yaml:7: corpus.train.0.pth: unknown key; did you mean 'path'?"),
        ("name: python", "name: docs", "the name 'docs' stands twice"),
        ("name: tiny", "name: Tiny!", "run.yaml:1: name: String should match pattern"),
        ("target:", "taget:", "run.yaml:2: taget: unknown key; did you mean 'target'?"),
    ],
)
def test_a_mistake_is_named_with_line_key_and_nearest_key(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert says in refused(tmp_path, GOOD.replace(old, new))


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ("capture: {top_k: 0}", "capture.top_k: Input should be greater than or equal to 1, got 0"),
        ("capture: {top_k: 5000}", "capture.top_k: Input should be less than or equal to 4096"),
        ("alignment: {positions: boundry}", "did you mean 'boundary'?"),
        ("fusion: {temperature: 0}", "fusion.temperature: Input should be greater than 0"),
        (
            "coverage: {positions_floor: 1.5}",
            "coverage.positions_floor: Input should be less than or equal to 1, got 1.5",
        ),
        ("coverage: {mass_floor: much}", "coverage.mass_floor: Input should be a valid number"),
    ],
)
def test_values_out_of_range_are_refused(tmp_path: Path, section: str, says: str) -> None:
    assert says in refused(tmp_path, GOOD + section + "\n")


def test_an_empty_list_of_sources_is_refused(tmp_path: Path) -> None:
    start, end = GOOD.index("sources:"), GOOD.index("corpus:")
    assert "run.yaml:3: sources:" in refused(tmp_path, GOOD[:start] + "sources: []\n" + GOOD[end:])


def test_missing_keys_wrong_yaml_and_missing_files_are_refused(tmp_path: Path) -> None:
    assert "corpus: missing; this key is required" in refused(tmp_path, GOOD[: GOOD.index("corpus:")])
    assert "run.yaml:2: not YAML" in refused(tmp_path, "name: x\n  bad: [\n")
    assert "expected a mapping" in refused(tmp_path, "- a\n")
    with pytest.raises(ConfigError, match="No such file"):
        read_run_file(tmp_path / "nowhere.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8 text"):
        read_run_file(tmp_path / "binary.yaml")


def test_a_model_is_a_folder_beside_the_file_or_a_hub_id(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(GOOD)
    run = read_run_file(path)
    (tmp_path / "models/docs").mkdir(parents=True)
    assert run.model("models/docs") == str(tmp_path / "models/docs")
    assert run.model("meta-llama/Llama-2-7b-hf") == "meta-llama/Llama-2-7b-hf"
    for name in ("./models/nowhere", "a/b/c", "/nowhere"):
        with pytest.raises(ConfigError, match="there is no folder"):
            run.model(name)


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ("fusion: {temperature: .inf}", "fusion.temperature: Input should be a finite number"),
        ("coverage: {mass_floor: .nan}", "coverage.mass_floor: Input should be a finite number"),
        ("seed: 18446744073709551616", "seed: Input should be less than 9223372036854775808"),
        ("2024-13-45: x", "2024-13-45: unknown key"),
        ("1: x", "run.yaml"),
        ("true: x", "run.yaml"),
        ("? [a, b]\n: x", "run.yaml:"),
        ("null: x", "run.yaml"),
    ],
)
def test_numbers_without_end_and_keys_that_are_no_words_are_refused(tmp_path: Path, section: str, says: str) -> None:
    assert says in refused(tmp_path, f"{GOOD}\n{section}\n")
