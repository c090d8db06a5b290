"""The gate: what it asks by default, what the YAML may ask, and what its verdict says."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fusery.config.file import read_run_file
from fusery.config.sections import GateSpec, baseline_names
from fusery.evaluation.report.gate import judge
from fusery.evaluation.report.report import Check, Report, Verdict
from fusery.evaluation.report.tables import render_tables, to_markdown, verdict_lines
from fusery.evaluation.scores import Scores
from fusery.runtime.errors import ConfigError

DOCUMENTS = 12
DOMAINS = ("code", "prose")


def scores_of(code: float, prose: float, noise: float = 0.0, documents: int = DOCUMENTS) -> Scores:
    """Bits per byte of two domains; each second document is `noise` above, the others as much below."""
    ids = tuple(f"d{i}" for i in range(2 * documents))
    domains = tuple(DOMAINS[i % 2] for i in range(2 * documents))
    bits = tuple((prose if i % 2 else code) * 100 + (noise if i % 4 < 2 else -noise) for i in range(2 * documents))
    return Scores(ids, domains, bits, (100,) * (2 * documents))


def small_report(documents: int) -> Report:
    """As `report_of`, a clear gain, on so many documents a domain."""
    bits = {"target_before": 2.0, "clm": 1.8, "fused": 1.7}
    scores = {name: scores_of(value, value, documents=documents) for name, value in bits.items()}
    return report_of(scores["fused"], target_before=scores["target_before"], clm=scores["clm"], sources={})


def report_of(fused: Scores, **changes: Any) -> Report:
    content: dict[str, Any] = {
        "run_id": "tiny-0123456789",
        "target_before": scores_of(2.0, 2.0),
        "clm": scores_of(1.8, 1.8),
        "sources": {"coder": scores_of(1.0, 3.0)},
        "fused": fused,
        "resamples": 200,
    }
    return Report(**(content | changes))


def failed(verdict: Verdict) -> list[str]:
    return [check.name for check in verdict.checks if not check.passed]


def test_a_model_better_than_before_and_than_clm_in_every_domain_passes() -> None:
    verdict = judge(report_of(scores_of(1.7, 1.7)), GateSpec())
    assert verdict.passed
    assert [check.name for check in verdict.checks] == [
        "fewer bits per byte than target before",
        "fewer bits per byte than CLM",
        "at least 10 held-out documents in every domain",
        "no domain worse than before by over 1%",
    ]
    assert verdict.rule["better_than"] == ["target_before", "clm"]


def test_a_gain_over_clm_that_chance_explains_fails() -> None:
    verdict = judge(report_of(scores_of(1.79, 1.79, noise=20.0)), GateSpec())
    assert failed(verdict) == ["fewer bits per byte than CLM"]
    assert "the interval holds 0" in verdict.reasons[0]


def test_a_domain_that_got_worse_fails_though_the_mean_is_better() -> None:
    verdict = judge(report_of(scores_of(2.03, 1.0)), GateSpec())
    assert failed(verdict) == ["no domain worse than before by over 1%"]
    assert verdict.reasons[0] == "not held: no domain worse than before by over 1% (code +1.5 %)"


@pytest.mark.parametrize(("tolerance", "passes"), [(0.02, True), (0.0, False), (None, True)])
def test_the_tolerance_for_a_domain_is_the_rules(tolerance: float | None, passes: bool) -> None:
    report = report_of(scores_of(2.03, 1.0))
    assert judge(report, GateSpec(domain_tolerance=tolerance)).passed is passes


def test_without_a_clm_baseline_the_default_has_no_proof() -> None:
    verdict = judge(report_of(scores_of(1.0, 1.0), clm=None), GateSpec())
    assert failed(verdict) == ["fewer bits per byte than CLM"]
    assert "CLM was not measured" in verdict.reasons[0]
    assert judge(report_of(scores_of(1.0, 1.0), clm=None), GateSpec.model_validate({"better_than": []})).passed


def test_every_source_may_be_asked_for() -> None:
    rule = GateSpec.model_validate({"better_than": ["sources"]})
    assert judge(report_of(scores_of(1.7, 1.7)), rule).passed
    assert failed(judge(report_of(scores_of(1.9, 2.5)), rule))[0] == "fewer bits per byte than source coder"


@pytest.mark.parametrize(
    ("baseline", "row"),
    [
        ("target_before", "target before"),
        ("clm", "CLM"),
        ("source:coder", "source coder"),
        ("ensemble", "ensemble"),
        ("weight_merging", "weight merging"),
        ("single_source:coder", "single source coder"),
    ],
)
def test_every_row_of_the_report_can_be_asked_for_by_its_name(baseline: str, row: str) -> None:
    rule = GateSpec.model_validate({"better_than": [baseline], "domain_tolerance": None})
    further = {name: scores_of(1.8, 1.8) for name in ("ensemble", "weight merging", "single source coder")}
    better, worse = (report_of(scores_of(bits, bits), baselines=further) for bits in (1.7, 2.1))
    assert judge(better, rule).passed
    assert failed(judge(worse, rule)) == [f"fewer bits per byte than {row}"]
    assert set(better.models) - {"fused"} >= {row}


def test_the_gate_s_names_are_those_that_a_run_may_use() -> None:
    known = baseline_names(["coder"])
    assert known == [
        *("target_before", "clm", "sources", "ensemble", "weight_merging"),
        *("source:coder", "single_source:coder"),
    ]
    verdict = judge(report_of(scores_of(1.7, 1.7)), GateSpec(better_than=tuple(known)))
    assert len(verdict.checks) == 8


def test_a_baseline_that_is_not_there_fails_with_the_reason_of_the_report() -> None:
    remarks = {"weight merging": "not measured: source coder is 'gpt_neox', the target is 'llama'"}
    rule = GateSpec(better_than=("weight_merging", "ensemble"), domain_tolerance=None)
    verdict = judge(report_of(scores_of(1.7, 1.7), remarks=remarks), rule)
    assert [check.reason for check in verdict.checks] == [
        "weight merging was not measured: source coder is 'gpt_neox', the target is 'llama'",
        "ensemble was not measured: the run has no such model",
        "the fewest are 12, code",
    ]


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("weight_merge", "did you mean 'weight_merging'?"),
        ("source:codr", "did you mean 'source:code'"),
        ("single_source:prosa", "did you mean 'single_source:prose'"),
        ("yesterday", "expected target_before, clm, sources, ensemble, weight_merging, source:prose, source:code, "),
    ],
)
def test_a_name_that_the_run_does_not_have_is_refused_at_the_start(tmp_path: Path, given: str, hint: str) -> None:
    file = tmp_path / "run.yaml"
    content = {
        "name": "tiny",
        "target": {"model": "m"},
        "sources": [{"name": name, "model": "m"} for name in ("prose", "code")],
        "corpus": {"train": [{"path": "a"}], "held_out": [{"path": "b"}]},
        "gate": {"better_than": ["clm", given]},
    }
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match=re.escape(f"gate.better_than: no baseline {given!r} in this run; {hint}")):
        read_run_file(file)


@pytest.mark.parametrize(
    ("section", "key", "advice"),
    [
        ("gate", "least_gain", "leave it out: the whole interval must lie below 0"),
        ("evaluation", "code_samples", "leave it out: one program is written for each item"),
    ],
)
def test_a_key_that_is_no_more_is_refused_with_what_to_do(section: str, key: str, advice: str, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    content = {
        "name": "tiny",
        "target": {"model": "m"},
        "sources": [{"name": "code", "model": "m"}],
        "corpus": {"train": [{"path": "a"}], "held_out": [{"path": "b"}]},
        section: {key: 1},
    }
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match=rf"{section}\.{key}: the key was removed; {advice}"):
        read_run_file(file)


def test_a_gain_on_one_document_a_domain_is_no_proof() -> None:
    verdict = judge(small_report(documents=1), GateSpec())
    assert failed(verdict) == ["at least 10 held-out documents in every domain"]
    assert verdict.reasons[0].endswith("(code 1, prose 1: intervals of so few are too narrow)")


@pytest.mark.parametrize(("documents", "least", "passes"), [(9, 10, False), (10, 10, True), (9, 9, True), (1, 1, True)])
def test_how_many_documents_a_domain_must_have_is_the_rules(documents: int, least: int, passes: bool) -> None:
    assert judge(small_report(documents), GateSpec(least_documents=least)).passed is passes


def test_a_document_counts_only_where_all_that_are_compared_predict_a_byte_of_it() -> None:
    report = small_report(documents=10)
    assert report.clm is not None
    lost = replace(report.clm, bits=(0.0, *report.clm.bits[1:]), predicted_bytes=(0, *report.clm.predicted_bytes[1:]))
    verdict = judge(replace(report, clm=lost), GateSpec())
    assert verdict.reasons[0].endswith("(code 9: intervals of so few are too narrow)")
    assert judge(replace(report, clm=lost), GateSpec(better_than=("target_before",))).passed


def test_without_a_comparison_no_interval_needs_documents() -> None:
    rule = GateSpec(better_than=(), domain_tolerance=0.01)
    assert [check.name for check in judge(small_report(documents=1), rule).checks] == [
        "no domain worse than before by over 1%"
    ]


def test_a_rule_s_shares_are_said_with_all_their_digits() -> None:
    names = [check.name for check in judge(small_report(10), GateSpec(domain_tolerance=0.0025)).checks]
    assert names[-1] == "no domain worse than before by over 0.25%"


def test_a_gate_that_asks_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match="a gate must ask for something"):
        GateSpec.model_validate({"better_than": [], "domain_tolerance": None})


def test_a_verdict_without_checks_is_no_proof() -> None:
    assert not Verdict(()).passed


@given(st.lists(st.booleans()))
def test_a_verdict_reads_back_equal_and_passes_only_if_every_check_holds(held: list[bool]) -> None:
    verdict = Verdict(tuple(Check(f"c{i}", passed, "why") for i, passed in enumerate(held)), {"domain_tolerance": 0.0})
    assert Verdict.from_json(verdict.to_json()) == verdict
    assert verdict.to_json()["passed"] is (bool(held) and all(held))
    assert [line.startswith("not held") for line in verdict.reasons] == sorted((not x for x in held), reverse=True)


def test_tables_and_markdown_say_the_verdict_with_its_reasons() -> None:
    report = report_of(scores_of(1.7, 1.7))
    assert verdict_lines(report) == []
    judged = report_of(scores_of(1.7, 1.7), verdict=judge(report, GateSpec()))
    assert verdict_lines(judged)[0] == "gate passed"
    assert to_markdown(judged).startswith("**gate passed**\n\n- held: fewer bits per byte than target before (")
    assert [str(part).strip() for part in render_tables(judged)][-5] == "gate passed"
