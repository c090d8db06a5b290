"""The benches of the proof: what they take from a report, how they compare, and that they go on where they stopped."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

import pays_models
import real_table
import when_fusing_pays as pays

from fusery.evaluation.report.report import Report
from fusery.evaluation.scores import Scores
from fusery.evaluation.tasks.scores import TaskScores


def scores_of(german: float, python: float) -> Scores:
    return Scores(("a", "b"), ("german", "python"), (german * 100, python * 100), (100, 100))


def report_of() -> Report:
    def task(*scores: float) -> dict[str, TaskScores]:
        return {"arc_easy": TaskScores("arc_easy", "acc_norm", 0, ("q1", "q2"), scores)}

    return Report(
        run_id="small-llms-0",
        target_before=scores_of(1.8, 0.8),
        clm=scores_of(1.6, 0.7),
        fused=scores_of(1.5, 0.7),
        sources={"gemma3": scores_of(1.2, 0.9)},
        tasks={"target before": task(0.0, 1.0), "fused": task(1.0, 1.0)},
        resamples=50,
    )


def test_the_table_says_what_each_source_leads_by() -> None:
    table = real_table.bits(report_of())
    assert table["fused"] == pytest.approx({"german": 1.5, "python": 0.7, "mean": 1.1})
    assert real_table.leads(table) == {
        "source gemma3": pytest.approx({"german": 0.4, "python": -0.2, "mean": 1.15 - 1.05})
    }


def test_tasks_are_told_before_and_after() -> None:
    found = real_table.tasks(report_of())["arc_easy"]
    assert found["scores"] == {"target before": 0.5, "fused": 1.0}
    assert found["fused_minus_before"]["value"] == pytest.approx(0.5)
    assert (found["metric"], found["items"]) == ("acc_norm", 2)


def test_every_road_leads_through_the_centre_or_is_the_control() -> None:
    for road, points in pays.ROADS.items():
        changed = {key for point in points for key, value in asdict(point).items() if value != asdict(pays.CENTRE)[key]}
        assert len(set(points)) == len(points)
        if road == "lead, same tokenizer":
            assert changed == {"source_steps", "same_tokenizer"}
        else:
            assert pays.CENTRE in points
            assert len(changed) == 1


def test_scores_are_kept_and_a_call_makes_only_so_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pays, "WORK", tmp_path)
    budget = pays.Budget(1)
    first = pays.kept("clm", [1], budget, lambda: scores_of(2.0, 1.0))
    assert pays.kept("clm", [1], budget, lambda: scores_of(9.0, 9.0)) == first
    with pytest.raises(SystemExit, match="the same command goes on"):
        pays.kept("clm", [2], budget, lambda: scores_of(9.0, 9.0))
    assert len(budget.spent_s) == 1


def test_rates_are_chosen_on_other_documents_than_those_that_count(monkeypatch: pytest.MonkeyPatch) -> None:
    def scored(_point: pays_models.Point, rate: float, _clm_only: bool, _budget: pays.Budget) -> Scores:
        tuning, rest = (1.0, 5.0) if rate == 2e-3 else (2.0, 1.0)
        bits = (tuning,) * pays.TUNING_DOCUMENTS + (rest,) * 3
        return Scores(tuple(map(str, range(len(bits)))), ("cpp",) * len(bits), bits, (1,) * len(bits))

    monkeypatch.setattr(pays, "trained", scored)
    rate, scores = pays.best(pays.CENTRE, True, (1e-3, 2e-3), pays.Budget(None))
    assert (rate, scores.bits) == (2e-3, (5.0, 5.0, 5.0))


def test_the_picture_is_drawn_of_all_roads(tmp_path: Path) -> None:
    def row(point: pays_models.Point) -> dict[str, Any]:
        gain = {"value": -0.01, "low": -0.02, "high": 0.01}
        return {**asdict(point), "lead": point.source_steps / 480, "gain": gain}

    pays.plot(
        {road: [row(point) for point in points] for road, points in pays.ROADS.items()}, tmp_path / "images/a.png"
    )
    assert (tmp_path / "images/a.png").read_bytes().startswith(b"\x89PNG")
