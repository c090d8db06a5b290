"""evaluation.json: documented keys, whole or not at all, and back."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from fusery.evaluation.report.report import Check, Report, Verdict, read, write
from fusery.evaluation.scores import Scores
from fusery.runtime.errors import Corrupt, Mismatch

DOCS = Path(__file__).resolve().parents[3] / "docs" / "evaluation-json.md"


def scores_of(share: float, ids: tuple[str, ...] = ("a", "b", "c", "d")) -> Scores:
    domains = tuple("code" if place % 2 else "prose" for place in range(len(ids)))
    return Scores(ids, domains, tuple(share * (100.0 + place) for place in range(len(ids))), (100,) * len(ids))


def report_of(**changes: Any) -> Report:
    content: dict[str, Any] = {
        "run_id": "tiny-0123456789",
        "target_before": scores_of(2.0),
        "clm": scores_of(1.5),
        "sources": {"coder": scores_of(3.0), "clm": scores_of(1.8)},
        "fused": scores_of(1.4),
        "coverage": {
            "coder": {
                "code": {
                    "positions": 0.5,
                    "falls_back": 0.5,
                    "kept_mass": 0.9,
                    "kept_mass_deciles": [n / 10 for n in range(1, 10)],
                    "captured_mass": 0.95,
                    "same_bytes": 0.7,
                    "other_bytes": 0.1,
                    "larger_cell": 0.15,
                    "no_cell": 0.05,
                    "larger_cell_tokens": None,
                }
            }
        },
        "warnings": ("source coder, domain code: evidence at 50.0%",),
        "wins": {"code": {"coder": 0.7, "clm": 0.3}},
        "training": {"clm_weight": 0.9, "steps": 30, "dtype": "float32"},
        "seed": 4,
        "resamples": 200,
    }
    return Report(**(content | changes))


def test_a_written_report_reads_back_equal(tmp_path: Path) -> None:
    write(report_of(), tmp_path / "evaluation.json")
    assert read(tmp_path / "evaluation.json") == report_of()
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation.json"]


def test_a_report_without_clm_baseline_reads_back_equal(tmp_path: Path) -> None:
    report = report_of(clm=None, coverage={}, wins={})
    write(report, tmp_path / "evaluation.json")
    assert read(tmp_path / "evaluation.json") == report
    assert "clm" not in report.to_json()["models"]


def test_a_report_of_before_there_were_warnings_has_none(tmp_path: Path) -> None:
    content = report_of().to_json()
    del content["warnings"]
    (tmp_path / "evaluation.json").write_text(json.dumps(content), encoding="utf-8")
    assert read(tmp_path / "evaluation.json") == report_of(warnings=())


def test_a_judged_report_reads_back_with_its_verdict(tmp_path: Path) -> None:
    report = report_of(verdict=Verdict((Check("better", True, "why"),), {"least_documents": 10}))
    write(report, tmp_path / "evaluation.json")
    assert read(tmp_path / "evaluation.json") == report
    documented = set(re.findall(r"`([a-z_]+)`", DOCS.read_text(encoding="utf-8")))
    assert keys_of(report.to_json()["verdict"]) <= documented


def test_a_source_may_have_the_name_of_a_role() -> None:
    models = report_of().to_json()["models"]
    assert models["clm"]["mean_bits_per_byte"] != models["sources"]["clm"]["mean_bits_per_byte"]


def test_gains_are_those_of_fused_over_every_other_model() -> None:
    gains = report_of().gains()
    assert list(gains) == ["target before", "source coder", "source clm", "CLM"]
    assert gains["CLM"].relative.value == pytest.approx(1.4 / 1.5 - 1)


def test_the_summary_stands_first_and_the_documents_on_one_line(tmp_path: Path) -> None:
    write(report_of(), tmp_path / "evaluation.json")
    lines = (tmp_path / "evaluation.json").read_text(encoding="utf-8").splitlines()
    assert lines[1] == '  "format": 1,'
    assert [line for line in lines if '"id"' in line] == [lines[-2]]
    assert list(json.loads("\n".join(lines))) == list(report_of().to_json())


def test_every_key_is_documented() -> None:
    names = {"code", "prose", "coder", "dtype", "steps", "clm_weight"}
    documented = set(re.findall(r"`([a-z_]+)`", DOCS.read_text(encoding="utf-8")))
    assert keys_of(report_of().to_json()) - names <= documented


def test_models_measured_on_other_documents_make_no_report() -> None:
    with pytest.raises(Mismatch, match="source coder was measured on 3 documents that are not the 4 of fused"):
        report_of(sources={"coder": scores_of(2.0, ("a", "b", "c"))})


def test_another_format_is_refused_with_what_to_do(tmp_path: Path) -> None:
    content = report_of().to_json() | {"format": 9}
    (tmp_path / "evaluation.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(Mismatch, match="format 9, this version reads 1; evaluate again"):
        read(tmp_path / "evaluation.json")


@pytest.mark.parametrize("content", ["", "[]", '{"format": 1}', '{"format": 1, "documents"'])
def test_half_a_file_is_corrupt(content: str, tmp_path: Path) -> None:
    (tmp_path / "evaluation.json").write_text(content, encoding="utf-8")
    with pytest.raises(Corrupt, match=r"not a whole evaluation\.json"):
        read(tmp_path / "evaluation.json")


def keys_of(content: Any) -> set[str]:
    if isinstance(content, dict):
        return set(content) | {key for value in content.values() for key in keys_of(value)}
    return set()
