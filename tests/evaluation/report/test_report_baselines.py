"""Further baselines, remarks and tasks in the report: kept whole, and shown to people."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fusery.evaluation.report import report as reports
from fusery.evaluation.report.report import Report
from fusery.evaluation.report.tables import remark_lines, task_cells, task_lines, to_markdown
from fusery.evaluation.scores import Scores
from fusery.evaluation.tasks.scores import TaskScores
from fusery.evaluation.tasks.suites import SUITES
from fusery.runtime.errors import Mismatch


def scores_of(mean: float, seed: int = 0) -> Scores:
    bits = np.random.default_rng(seed).normal(mean, 5, 20).tolist()
    return Scores(tuple(map(str, range(20))), ("a",) * 10 + ("b",) * 10, tuple(bits), (100,) * 20)


def task_of(name: str, share: float) -> TaskScores:
    right = round(share * 40)
    return TaskScores(name, "acc", 0, tuple(map(str, range(40))), (1.0,) * right + (0.0,) * (40 - right))


@pytest.fixture
def report() -> Report:
    shares = {"target before": 0.25, "CLM": 0.5, "fused": 0.75}
    tasks = {model: {name: task_of(name, share) for name in SUITES["commonsense"]} for model, share in shares.items()}
    return Report(
        "run",
        scores_of(110),
        scores_of(90),
        {"x": scores_of(100)},
        clm=scores_of(95),
        baselines={"ensemble": scores_of(80), "single source x": scores_of(93)},
        remarks={"weight merging": "not measured: x is 'gpt2', the target is 'llama'"},
        tasks=tasks,
        resamples=200,
    )


def test_baselines_stand_between_the_sources_and_the_trained_models(report: Report) -> None:
    assert list(report.models) == ["target before", "source x", "ensemble", "single source x", "CLM", "fused"]
    assert report.gains()["ensemble"].relative.low > 0
    assert report.domain_gains()["CLM"]["a"].relative.value < 0


def test_a_report_survives_its_file(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json"
    reports.write(report, path)
    assert reports.read(path) == report
    lines = path.read_text().splitlines()
    assert [line.split('"')[1] for line in lines[-3:-1]] == ["task_items", "documents"]
    content = json.loads(path.read_text())
    assert content["models"]["baselines"]["ensemble"]["mean_bits_per_byte"] == pytest.approx(0.8, rel=0.05)
    assert content["domain_gains"]["clm"]["a"]["documents"] == 10
    assert content["tasks"]["fused"]["suites"]["commonsense"] == 0.75


def test_a_baseline_of_other_documents_is_refused(report: Report) -> None:
    other = Scores(("z",), ("a",), (1.0,), (1,))
    with pytest.raises(Mismatch, match="ensemble was measured on 1 documents"):
        replace(report, baselines={"ensemble": other})


def test_what_is_missing_is_said_where_people_look(report: Report) -> None:
    line = "weight merging: not measured: x is 'gpt2', the target is 'llama'"
    assert remark_lines(report) == [line]
    assert f"- {line}" in to_markdown(report)


def test_the_table_of_tasks_has_a_suite_as_its_mean(report: Report) -> None:
    (cells,) = task_cells(report)
    headings, *rows = zip(cells.headings, *cells.rows, strict=True)
    assert headings == ("model", "target before", "CLM", "fused")
    assert rows[0] == ("arc_easy", "25.0%", "50.0%", "75.0%")
    assert rows[-1] == ("commonsense", "25.0%", "50.0%", "75.0%")
    assert task_cells(replace(report, tasks={})) == []


def test_a_suite_of_many_tasks_is_one_column() -> None:
    found = {name: task_of(name, 0.5) for name in SUITES["reasoning"]}
    report = Report("run", scores_of(1.0e2), scores_of(1.0e2), {}, tasks={"fused": found})
    (cells,) = task_cells(report)
    assert cells.headings == ("model", "reasoning")


def test_tasks_are_compared_in_points_with_an_interval(report: Report) -> None:
    before, clm = task_lines(report)
    assert before.startswith("fused against target before in 5 tasks: +50.0 points, 95 % interval [+")
    assert clm.startswith("fused against CLM in 5 tasks: +25.0 points")
    same = replace(report, tasks={"CLM": report.tasks["fused"], "fused": report.tasks["fused"]})
    assert task_lines(same)[0].endswith("[+0.0, +0.0]; the interval holds 0: no difference shown")
