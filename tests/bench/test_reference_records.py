"""`bench/reference_records.py`: on made records, and on those of the paper's implementation where they are at hand."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from support.core.oracles import plain_kept, plain_path, plain_reference

ROOT = Path(__file__).parent.parent.parent
GOLDEN = Path(os.environ.get("REFERENCE_RECORDS", ROOT.parent / "shared" / "golden"))
RECORDS = sorted(GOLDEN.glob("smollm2-llama2_*.json.gz"))

SOURCE = ["the", "Ġfox", "Ġthe", "Ċ", "Ġfo", "x", "▁the"]
TARGET = ["<unk>", "▁the", "▁fox", "x", "<0x0A>", "▁f"]


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference_records", ROOT / "bench" / "reference_records.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


script = _load()


def record(name: str, source: list[int], target: list[int]) -> dict[str, Any]:
    return {
        "name": name,
        "space_marker": {"blending": "Ġ", "base": "▁"},
        "blending_input_ids": source,
        "blending_tokens": [SOURCE[i] for i in source],
        "base_input_ids": target,
        "base_tokens": [TARGET[i] for i in target],
        "blending_per_step_indices": [
            [(row + entry) % len(SOURCE) for entry in range(5)] for row in range(len(source))
        ],
        "blending_per_step_logits": [[5.0 - entry / 2 for entry in range(5)] for _ in source],
    }


MADE = [record("one", [0, 1, 2, 3], [1, 2, 1, 4]), record("two", [2, 4, 5, 0], [1, 2, 3, 1])]


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    for made in MADE:
        (tmp_path / f"{made['name']}.json.gz").write_bytes(gzip.compress(json.dumps(made).encode()))
    (tmp_path / "source.json").write_text(json.dumps(SOURCE))
    (tmp_path / "target.json.gz").write_bytes(gzip.compress(json.dumps(TARGET).encode()))
    vocabularies = ["--source-vocab", str(tmp_path / "source.json"), "--target-vocab", str(tmp_path / "target.json.gz")]
    return [*(str(tmp_path / f"{made['name']}.json.gz") for made in MADE), *vocabularies]


def printed(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> list[dict[str, Any]]:
    assert script.main(arguments) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_made_records_equal_the_plain_statement(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    first, *answers = printed(capsys, [*files, "--print-mapping"])
    mapping = first["mapping"]
    assert mapping["▁fox"] == "▁fox"
    assert mapping["the"] == "▁the"
    for made, answer in zip(MADE, answers, strict=True):
        source, target = made["blending_tokens"], made["base_tokens"]
        stripped = [s.replace("Ġ", "") for s in source], [t.replace("▁", "") for t in target]
        cost, path = plain_path(*stripped, "diagonal_source_target")
        assert answer["name"] == made["name"]
        assert answer["dtw"]["cost"] == cost
        assert answer["dtw"]["base_to_blending"] == [[r for r, p in path if p == i] for i in range(len(target))]
        assert answer["dtw"]["blending_to_base"] == [[p for r, p in path if r == i] for i in range(len(source))]
        for mode, images in (("hard", None), ("soft", mapping)):
            assert answer[mode] == expected_rows(made, images)


def expected_rows(made: dict[str, Any], mapping: dict[str, str] | None) -> dict[str, list[list[float]]]:
    taken = plain_reference(made["blending_tokens"], made["base_tokens"], ("Ġ", "▁"), mapping)
    keys = [token.replace("Ġ", "▁") for token in SOURCE]
    strings = keys if mapping is None else [mapping[key] for key in keys]
    image = [TARGET.index(string) if string in TARGET else -1 for string in strings]
    ids: list[list[float]] = []
    logits: list[list[float]] = []
    for target_id, row in zip(made["base_input_ids"], taken, strict=True):
        steps = [] if row is None else made["blending_per_step_indices"][row]
        kept = plain_kept([image[i] for i in steps])
        ids.append([target_id] if row is None else [image[steps[entry]] for entry in kept])
        logits.append([1.0] if row is None else [made["blending_per_step_logits"][row][entry] for entry in kept])
    return {"per_step_aligned_indices": ids, "per_step_aligned_logits": logits}


def test_a_given_mapping_is_used(files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mapping = {token.replace("Ġ", "▁"): "x" for token in SOURCE}
    (tmp_path / "mapping.json").write_text(json.dumps(mapping))
    answers = printed(capsys, [*files, "--mapping", str(tmp_path / "mapping.json")])
    assert [answer["soft"] for answer in answers] == [expected_rows(made, mapping) for made in MADE]


def test_the_other_order_of_ties_can_be_asked_for(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    answers = printed(capsys, [*files, "--ties", "diagonal_target_source"])
    for made, answer in zip(MADE, answers, strict=True):
        stripped = [
            [token.replace(marker, "") for token in made[tokens]]
            for tokens, marker in (("blending_tokens", "Ġ"), ("base_tokens", "▁"))
        ]
        _, path = plain_path(*stripped, "diagonal_target_source")
        assert answer["dtw"]["base_to_blending"] == [
            [r for r, p in path if p == i] for i in range(len(made["base_tokens"]))
        ]


def test_bad_files_are_named(files: list[str], tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(SystemExit, match=r"broken\.json: not a JSON file"):
        script.main([str(tmp_path / "broken.json"), *files[-4:]])
    (tmp_path / "mapping.json").write_text(json.dumps({"the": "nowhere"}))
    with pytest.raises(SystemExit, match="the mapping has no target token for 'the'"):
        script.main([*files, "--mapping", str(tmp_path / "mapping.json")])


def test_records_of_two_pairs_of_markers_are_refused(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = MADE[0] | {"space_marker": {"blending": "▁", "base": "▁"}}
    (tmp_path / "other.json").write_text(json.dumps(other))
    with pytest.raises(SystemExit):
        script.main([str(tmp_path / "other.json"), *files])
    assert "2 pairs of markers" in capsys.readouterr().err


@pytest.mark.skipif(not RECORDS, reason="no records of the paper's implementation (set REFERENCE_RECORDS)")
@pytest.mark.parametrize("mapping_is_given", [False, True])
def test_every_record_of_the_papers_implementation_is_equal(
    mapping_is_given: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    given_mapping = GOLDEN / "vocab_mapping_smollm2-llama2.json.gz"
    vocabularies = ["--source-vocab", str(GOLDEN / "vocab_smollm2.json.gz")]
    vocabularies += ["--target-vocab", str(GOLDEN / "vocab_llama2.json.gz")]
    arguments = [*map(str, RECORDS), *vocabularies, "--print-mapping"]
    first, *answers = printed(capsys, [*arguments, *(["--mapping", str(given_mapping)] if mapping_is_given else [])])
    assert first["mapping"] == script.read_json(given_mapping)
    for path, answer in zip(RECORDS, answers, strict=True):
        expected = script.read_json(path)
        assert answer == {key: expected[key] for key in ("name", "dtw", "hard", "soft")}
