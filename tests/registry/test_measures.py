"""What of an evaluation becomes numbers and a table, whichever models it has."""

from __future__ import annotations

from typing import Any

from fusery.registry.measures import coverage_line, evaluation_table, final_metrics, is_measure, models_of


def evaluation_of() -> dict[str, Any]:
    def scores(mean: float) -> dict[str, Any]:
        return {"mean_bits_per_byte": mean, "domains": {"code": {"bits_per_byte": mean}}}

    models = {"target_before": scores(2.5), "fused": scores(2.0), "clm": scores(2.2)}
    models["sources"] = {name: scores(3.0) for name in ("b", "a")}
    return {
        "models": models,
        "gains": {},
        "coverage": {},
        "wins": {},
    }


def test_models_go_by_the_names_of_the_tables_with_fused_last() -> None:
    assert list(models_of(evaluation_of())) == ["target before", "CLM", "source b", "source a", "fused"]


def test_a_model_that_is_new_here_is_recorded_too() -> None:
    evaluation = evaluation_of()
    evaluation["models"]["baselines"] = {"ensemble": evaluation["models"]["clm"]}
    metrics = final_metrics(evaluation)
    assert metrics["bits_per_byte/ensemble/mean"] == 2.2


def test_scores_of_tasks_are_numbers_by_model_and_task() -> None:
    tasks = {"fused": {"tasks": {"boolq": {"value": 0.6, "low": 0.5, "high": 0.7}}, "suites": {}}}
    assert final_metrics(evaluation_of() | {"tasks": tasks})["task/fused/boolq"] == 0.6


def test_the_verdict_is_a_number_only_where_there_is_one() -> None:
    assert "gate/passed" not in final_metrics(evaluation_of())
    assert final_metrics(evaluation_of() | {"verdict": {"passed": False}})["gate/passed"] == 0.0


def test_measures_are_told_from_metrics_of_trainings_and_of_people() -> None:
    evaluation = evaluation_of() | {
        "gains": {"clm": {"relative": {"value": -0.1}}},
        "verdict": {"passed": True},
        "tasks": {"fused": {"tasks": {"boolq": {"value": 0.6}}}},
        "coverage": {"a": {"code": {"positions": 0.5}}},
        "wins": {"code": {"a": 1.0}},
    }
    assert all(is_measure(name) for name in final_metrics(evaluation))
    assert not any(is_measure(name) for name in ("train/fused/loss", "of a person", "gains"))


def test_the_table_has_a_row_for_every_model_and_group() -> None:
    table = evaluation_table(evaluation_of())
    rows = list(zip(*table.values(), strict=True))
    assert rows[:2] == [("target before", "code", 2.5), ("target before", "mean", 2.5)]
    assert len(rows) == 10


def test_the_coverage_of_a_source_is_its_mean_over_domains() -> None:
    coverage = {"a": {"x": {"positions": 0.5}, "y": {"positions": 1.0}}, "b": {"x": {"positions": None}}}
    assert coverage_line({"coverage": coverage}) == "a 75.0% of positions"
