"""An ablation's figures by hand: gains, spread, order, and the same in JSON, CSV, a terminal, a picture and MLflow."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from fusery.run.ablation.record import record
from fusery.run.ablation.results import CLM, Figures
from fusery.run.ablation.tables import lines, plot_gains, render
from support.runs.ablation_tables import DOMAINS, flat, scores, table


def test_cases_stand_by_their_gain_over_clm_and_failures_last() -> None:
    assert [row.name for row in table().sorted_rows()] == ["better", "worse", "gone"]


def test_a_gain_compares_the_means_over_seeds_with_the_same_documents() -> None:
    found = table()
    better, worse, _ = found.sorted_rows()
    gain, other = found.gain(better, CLM), found.gain(worse, CLM)
    assert gain is not None
    assert other is not None
    assert gain.relative.value == pytest.approx(-0.1)
    # All documents have the same bits, so every draw of them gives the same.
    assert (gain.relative.low, gain.relative.high) == (pytest.approx(-0.1), pytest.approx(-0.1))
    assert other.relative.value == pytest.approx(0.1)
    before = found.gain(better, "target before")
    assert before is not None
    assert before.relative.value == pytest.approx(0.9 / 2 - 1)


def test_the_spread_is_the_deviation_over_seeds_and_nothing_of_one_seed() -> None:
    better = table().sorted_rows()[0]
    assert better.fused is not None
    assert better.fused.spread()["mean"] == pytest.approx(0.1)
    assert better.gains_of_seeds() == [pytest.approx(-0.2), pytest.approx(-0.1), pytest.approx(0.0)]
    assert flat(1.0).spread() == {"prose": None, "code": None, "mean": None}


@given(st.lists(st.lists(st.floats(0.1, 8.0), min_size=4, max_size=4), min_size=1, max_size=5))
def test_bits_per_byte_over_seeds_are_the_mean_of_those_of_each_seed(bits: list[list[float]]) -> None:
    found = Figures.of([scores(*of_seed) for of_seed in bits])
    means = [scores(*of_seed).mean_bits_per_byte for of_seed in bits]
    assert found.bits_per_byte()["mean"] == pytest.approx(sum(means) / len(means))
    assert list(found.bits_per_byte()) == [*dict.fromkeys(DOMAINS), "mean"]


def test_clm_of_other_settings_is_not_compared_with_a_case() -> None:
    found = table()
    worse, gone, better = found.rows
    other = "CLM (worse)"
    beside = {**found.beside, other: flat(3.0, 3.0, 3.0)}
    found = replace(found, rows=(replace(worse, clm_name=other), gone, better), beside=beside)
    assert found.others_of(better) == ["target before", CLM]
    assert found.others_of(found.rows[0]) == ["target before", other]
    assert found.metrics(found.rows[0])["gain/CLM"] == pytest.approx(1.1 / 3 - 1)


def test_json_has_every_figure_and_the_reason_of_a_failure() -> None:
    content = json.loads(json.dumps(table().to_json()))
    better, worse, gone = content["cases"]
    assert (content["seeds"], content["domains"], content["axes"]) == ([0, 1, 2], ["prose", "code"], [*gone["labels"]])
    assert better["bits_per_byte"] == pytest.approx({"prose": 0.9, "code": 0.9, "mean": 0.9})
    assert better["of_seeds"] == pytest.approx([0.8, 0.9, 1.0])
    assert better["gains"]["CLM"]["relative"]["value"] == pytest.approx(-0.1)
    assert (better["positions"], better["kept_mass"], worse["clm"]) == (0.9, 0.75, "CLM")
    assert gone == {
        **{"name": "gone", "settings": {"training.clm_weight": 0.7}, "labels": {"training.clm_weight": "0.7"}},
        "failure": "no room",
    }
    assert content["beside"]["target before"]["bits_per_byte"]["mean"] == pytest.approx(2.0)


def test_csv_has_a_line_for_each_case_and_a_column_for_each_axis() -> None:
    better, worse, gone = csv.DictReader(io.StringIO(table().to_csv()))
    assert float(better["gain over CLM"]) == pytest.approx(-0.1)
    assert float(better["bits_per_byte mean"]) == pytest.approx(0.9)
    assert (worse["case"], worse["training.clm_weight"], worse["positions"]) == ("worse", "0.5", "0.9")
    assert (gone["failure"], gone["gain over CLM"], gone["bits_per_byte mean"]) == ("no room", "", "")


def test_a_terminal_shows_cases_models_beside_them_and_failures() -> None:
    console = Console(width=160, record=True, file=io.StringIO())
    for part in render(replace(table(), remarks={"ensemble": "not measured: no"}, lost={"weight merging": "broken"})):
        console.print(part)
    shown = console.export_text()
    lines = [line.strip() for line in shown.splitlines()]
    assert next(line for line in lines if line.startswith("better")).split() == [
        *("better", "0.9000", "0.9000", "0.9000", "0.1000", "−10.0", "%", "[−10.0", "%,", "−10.0", "%]"),
        *("10.0", "%", "−55.0", "%", "90.0%", "75.0%"),
    ]
    assert any(line.startswith("target before") for line in lines)
    assert "ensemble: not measured: no" in lines
    assert lines[-2:] == ["failed: gone: no room", "failed: weight merging: broken"]


def test_the_plot_is_a_picture_even_with_names_that_matplotlib_would_read(tmp_path: Path) -> None:
    found = table()
    odd = replace(found.rows[0], name="$" + "x" * 90)
    path = plot_gains(replace(found, rows=(odd, *found.rows[1:])), tmp_path / "plot.png")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_mlflow_has_a_parent_with_a_run_for_each_case_and_a_second_call_adds_nothing(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    (tmp_path / "ablation.json").write_text("{}")

    def logged() -> list[tuple[object, ...]]:
        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name("pico")
        assert experiment is not None
        return sorted(
            (
                run.info.run_name,
                run.info.status,
                run.data.params,
                sum(len(client.get_metric_history(run.info.run_id, name)) for name in run.data.metrics),
                run.data.tags.get("mlflow.parentRunId"),
            )
            for run in client.search_runs([experiment.experiment_id])
        )

    parent = record(table(), "pico", uri, tmp_path / "files", [tmp_path / "ablation.json"], "again")
    once = logged()
    assert [(name, status) for name, status, *_ in once] == [
        *(("ablation pico", "FINISHED"), ("better", "FINISHED"), ("worse", "FINISHED")),
    ]
    assert once[1][2] == {"training.clm_weight": "0.9"}
    assert {run[-1] for run in once[1:]} == {parent}
    assert record(table(), "pico", uri, tmp_path / "files", [tmp_path / "ablation.json"], "again") == parent
    assert logged() == once
    client = MlflowClient(uri)
    assert [file.path for file in client.list_artifacts(parent)] == ["ablation.json"]
    metrics = client.get_run(parent).data.metrics
    assert metrics["best/gain/CLM"] == pytest.approx(-0.1)


def test_a_model_that_is_measured_on_fewer_bytes_is_marked_beside_the_cases() -> None:
    half = replace(scores(2.0, 2.0, 2.0, 2.0), unspelled_bytes=(100,) * 4)
    found = replace(table(), beside={**table().beside, "source x": Figures.of([half])})
    says = "source x †: its tokenizer drops or changes 50.0% of the text"
    assert any(line.startswith(says) for line in lines(found))
    assert not any("†" in line for line in lines(table()))
