"""Plots: drawn without a display, with what they must show, whatever the names."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from fusery.registry import plots
from fusery.registry.plots import models_of, plot_bits_per_byte, plot_training
from fusery.registry.training_metrics import Step


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved meanwhile."""
    figures: list[Figure] = []
    save = plots._save

    def save_and_keep(figure: Figure, path: Path) -> Path:
        figures.append(figure)
        return save(figure, path)

    monkeypatch.setattr(plots, "_save", save_and_keep)
    return figures


def steps_of(count: int, **values: float) -> list[Step]:
    return [Step(step, 0.0, {name: value / step for name, value in values.items()}) for step in range(1, count + 1)]


def evaluation_of(domains: list[str], sources: list[str], clm: bool = True) -> dict[str, Any]:
    def scores(mean: float) -> dict[str, Any]:
        return {"mean_bits_per_byte": mean, "domains": {domain: {"bits_per_byte": mean} for domain in domains}}

    models = {"target_before": scores(2.5), "fused": scores(2.0), "sources": {name: scores(3.0) for name in sources}}
    return {"models": models | ({"clm": scores(2.2)} if clm else {})}


def size_of(png: Path) -> tuple[int, int]:
    data = png.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def test_both_parts_of_the_loss_have_a_panel_with_axes_named(tmp_path: Path, drawn: list[Figure]) -> None:
    runs = {"fused": steps_of(5, clm_nats=3.0, fusion_nats=2.0), "clm": steps_of(5, clm_nats=3.5)}
    plot_training(runs, tmp_path / "training.png")
    left, right = drawn[0].axes
    assert (left.get_title(), right.get_title()) == ("CLM loss", "fusion loss")
    assert (left.get_xlabel(), left.get_ylabel()) == ("optimizer step", "nats per position")
    assert [line.get_label() for line in left.lines] == ["fused", "CLM"]
    assert [line.get_label() for line in right.lines] == ["fused"]
    assert size_of(tmp_path / "training.png")[0] > 800


def test_a_long_training_is_drawn_with_its_running_mean(tmp_path: Path, drawn: list[Figure]) -> None:
    plot_training({"fused": steps_of(600, clm_nats=3.0)}, tmp_path / "training.png")
    every_step, mean = drawn[0].axes[0].lines
    assert len(np.asarray(every_step.get_xdata())) == 600
    assert mean.get_label() == "fused (mean of 10 steps)"
    assert np.asarray(mean.get_ydata())[0] == pytest.approx(sum(3.0 / step for step in range(1, 11)) / 10)
    assert np.asarray(mean.get_xdata())[0] == 10


def test_a_panel_without_numbers_says_so(tmp_path: Path, drawn: list[Figure]) -> None:
    plot_training({"clm": steps_of(1, clm_nats=3.5)}, tmp_path / "training.png")
    assert [text.get_text() for text in drawn[0].axes[1].texts] == ["not logged"]
    assert drawn[0].axes[0].lines[0].get_marker() == "o"


def test_bars_are_models_in_groups_of_domains_with_the_mean_last(tmp_path: Path, drawn: list[Figure]) -> None:
    plot_bits_per_byte(evaluation_of(["code", "prose"], ["gemma"]), tmp_path / "bars.png")
    (axes,) = drawn[0].axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["code", "prose", "mean"]
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["target before", "source gemma", "CLM", "fused"]
    assert [bar.get_height() for bar in axes.patches[-3:] if isinstance(bar, Rectangle)] == [2.0, 2.0, 2.0]
    assert axes.get_ylim()[0] == 0
    assert "bits per byte" in axes.get_ylabel()


def test_many_domains_wrap_into_rows_and_keep_the_picture_readable(tmp_path: Path, drawn: list[Figure]) -> None:
    plot_bits_per_byte(evaluation_of([f"domain {i}" for i in range(22)], ["a", "b"]), tmp_path / "bars.png")
    assert [len(axes.get_xticks()) for axes in drawn[0].axes] == [8, 8, 7]
    width, height = size_of(tmp_path / "bars.png")
    assert math.isclose(width / height, 1.2, abs_tol=0.5)


def test_names_that_look_like_mathematics_or_are_long_are_drawn(tmp_path: Path, drawn: list[Figure]) -> None:
    plot_bits_per_byte(evaluation_of(["$\\frac{$", "a very long name of a domain"], []), tmp_path / "bars.png")
    labels = [label.get_text() for label in drawn[0].axes[0].get_xticklabels()]
    assert labels == ["\\$\\frac{\\$", "a very long nam…", "mean"]


def test_models_stand_in_the_order_of_the_tables() -> None:
    assert list(models_of(evaluation_of(["x"], ["b", "a"]))) == [
        "target before",
        "source b",
        "source a",
        "CLM",
        "fused",
    ]
    assert list(models_of(evaluation_of(["x"], [], clm=False))) == ["target before", "fused"]
