"""Plots: drawn without a display, with what they must show, whatever the names."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from fusery.evaluation.report.html import Provenance, page
from fusery.evaluation.report.plots import (
    left_out,
    plot_bits_per_byte,
    plot_coverage,
    plot_gains,
    plot_training,
    plot_wins,
    shown_domains,
)
from fusery.evaluation.report.report import Report
from fusery.evaluation.scores import Scores
from fusery.registry.training_metrics import Step


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved meanwhile."""
    figures: list[Figure] = []
    save = Figure.savefig

    def save_and_keep(figure: Figure, *place: Any, **options: Any) -> None:
        figures.append(figure)
        save(figure, *place, **options)

    monkeypatch.setattr(Figure, "savefig", save_and_keep)
    return figures


def steps_of(count: int, **values: float) -> list[Step]:
    return [Step(step, 0.0, {name: value / step for name, value in values.items()}) for step in range(1, count + 1)]


def report_of(domains: list[str], sources: list[str], clm: float | None = 2.2, evidence: bool = False) -> Report:
    """Four documents of each domain around the model's mean: 2.5 before, 3.0 sources, 2.0 fused."""

    def scores(mean: float) -> Scores:
        names = [domain for domain in domains for _ in range(4)]
        bits = [mean * (80 + 20 * (i % 3)) for i in range(len(names))]
        scaled = [value * 4 * 100 * mean / sum(bits[i // 4 * 4 : i // 4 * 4 + 4]) for i, value in enumerate(bits)]
        return Scores(tuple(f"d{i}" for i in range(len(names))), tuple(names), tuple(scaled), (100,) * len(names))

    shares = {"positions": 0.5, "kept_mass": 0.9}, {"positions": 0.0, "kept_mass": None}
    covered = {name: dict.fromkeys(reversed(domains), shares[i % 2]) for i, name in enumerate(sources)}
    won = {name: 0.75 if i == 0 else 0.25 for i, name in enumerate(sources)}
    return Report(
        run_id="tiny-0123456789",
        target_before=scores(2.5),
        fused=scores(2.0),
        clm=None if clm is None else scores(clm),
        sources={name: scores(3.0) for name in sources},
        coverage=covered if evidence else {},
        wins=dict.fromkeys(reversed(domains), won) if evidence else {},
        resamples=100,
    )


def with_gains(count: int, sources: int = 1) -> Report:
    """Domain i gains more than domain i + 1; chance is in the bits, so that pictures are as large as real ones."""
    names = [f"domain {i}" for i in range(count)]
    report = report_of(names, [f"source-{i}" for i in range(sources)], evidence=True)
    chance = np.random.default_rng(0).uniform(0.7, 1.3, len(report.fused.bits))
    change = np.repeat(1 - 0.3 * (1 - np.arange(count) / count), 4)

    def scaled(scores: Scores, by: Any) -> Scores:
        return replace(scores, bits=tuple(float(value) for value in np.asarray(scores.bits) * by))

    clm = scaled(report.target_before, chance)
    others = {name: scaled(scores, chance * (1 + 0.1 * i)) for i, (name, scores) in enumerate(report.sources.items())}
    return replace(report, target_before=clm, clm=clm, sources=others, fused=scaled(clm, change), resamples=20)


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
    plot_bits_per_byte(report_of(["code", "prose"], ["gemma"]), tmp_path / "bars.png")
    (axes,) = drawn[0].axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["code", "prose", "mean"]
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["target before", "source gemma", "CLM", "fused"]
    heights = [bar.get_height() for bar in axes.patches[-3:] if isinstance(bar, Rectangle)]
    assert heights == pytest.approx([2.0, 2.0, 2.0])
    assert axes.get_ylim()[0] == 0
    assert "bits per byte" in axes.get_ylabel()


def test_bars_have_whiskers_where_documents_differ(tmp_path: Path, drawn: list[Figure]) -> None:
    plot_bits_per_byte(report_of(["code"], []), tmp_path / "bars.png")
    segments = [line.get_segments() for line in drawn[0].axes[0].collections if isinstance(line, LineCollection)]
    (low, high), (mean_low, mean_high) = ([point[1] for point in segment] for segment in segments[-1])
    assert low < 2.0 < high
    assert mean_low == mean_high


def test_many_domains_wrap_into_rows_and_keep_the_picture_readable(tmp_path: Path, drawn: list[Figure]) -> None:
    plot_bits_per_byte(report_of([f"domain {i}" for i in range(22)], ["a", "b"]), tmp_path / "bars.png")
    assert [len(axes.get_xticks()) for axes in drawn[0].axes] == [6, 6, 6, 5]
    width, height = size_of(tmp_path / "bars.png")
    assert 0.6 < width / height < 1.7


def test_rows_of_gains_are_told_apart_by_the_ends_of_their_names(tmp_path: Path, drawn: list[Figure]) -> None:
    plot_gains(report_of(["prose"], ["a long name", "a long namesake"]), tmp_path / "gains.png")
    rows = [label.get_text() for label in drawn[0].axes[0].get_yticklabels()]
    assert rows[-3:] == ["source a long\nname", "source a long\nnamesake", "CLM"]


def test_names_that_look_like_mathematics_or_are_long_are_drawn(tmp_path: Path, drawn: list[Figure]) -> None:
    report = report_of(["$\\frac{$", "a very long name of a domain"], ["$x"], evidence=True)
    for plot in (plot_bits_per_byte, plot_gains, plot_coverage, plot_wins):
        plot(report, tmp_path / "plot.png")
    labels = [label.get_text() for label in drawn[0].axes[0].get_xticklabels()]
    assert labels == ["\\$\\frac{\\$", "a very …a domain", "mean"]


def test_gains_are_of_fused_over_every_other_model_and_mark_what_may_be_nothing(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    plot_gains(report_of(["code", "prose"], ["gemma"], clm=2.0), tmp_path / "gains.png")
    axes = drawn[0].axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["target before", "source gemma", "CLM"]
    texts = [text.get_text() for text in axes.texts]
    assert texts[:3] == ["−20.0 %"] * 3
    assert texts[-3:] == ["0.00 %\n(may be 0)"] * 3


def test_shares_of_the_evidence_fill_each_domains_bar(tmp_path: Path, drawn: list[Figure]) -> None:
    plot_wins(report_of(["code", "prose"], ["gemma", "other"], evidence=True), tmp_path / "wins.png")
    axes = drawn[0].axes[0]
    bars = [bar for bar in axes.patches if isinstance(bar, Rectangle)]
    assert [(bar.get_x(), bar.get_width()) for bar in bars] == [(0.0, 0.75)] * 2 + [(0.75, 0.25)] * 2


def test_of_many_domains_the_pictures_show_those_with_most_and_least_gain(tmp_path: Path, drawn: list[Figure]) -> None:
    report = with_gains(60)
    expected = [f"domain {i}" for i in range(60) if i < 12 or i >= 48]
    for plot in (plot_bits_per_byte, plot_gains, plot_coverage, plot_wins):
        plot(report, tmp_path / "plot.png")
    bars, gains, coverage, wins = drawn
    ticks = [label.get_text() for axes in bars.axes for label in axes.get_xticklabels()]
    assert ticks == [*expected, "mean"]
    assert [label.get_text() for label in gains.axes[0].get_xticklabels()] == [*expected, "mean"]
    assert [label.get_text() for label in coverage.axes[0].get_xticklabels()] == expected
    assert [label.get_text() for label in wins.axes[0].get_yticklabels()] == expected


def test_domains_without_held_out_text_fill_what_room_is_left() -> None:
    report = with_gains(10)
    assert shown_domains(report, ["z", "domain 3", "a"]) == ["domain 3", "a", "z"]
    many = [f"unknown {i:02}" for i in range(30)]
    assert shown_domains(report, [*many, *report.domains]) == [*report.domains, *many[:14]]
    assert shown_domains(with_gains(60), [*many, *with_gains(60).domains]) == shown_domains(with_gains(60))


def test_the_caption_says_which_domains_are_left_out() -> None:
    assert left_out(with_gains(24)) == ""
    assert "24 of 60 domains: those in which fused gained most and least against CLM." in left_out(with_gains(60))
    without_clm = replace(with_gains(60), clm=None)
    assert "against target before" in left_out(without_clm)
    assert left_out(with_gains(60), ["domain 1"]) == ""


def test_a_report_of_300_domains_stays_small_and_its_tables_whole(tmp_path: Path) -> None:
    report = with_gains(300, sources=3)
    plots_by_name = {
        "gains": plot_gains,
        "coverage": plot_coverage,
        "wins": plot_wins,
        "bits_per_byte": plot_bits_per_byte,
    }
    pictures = {name: plot(report, tmp_path / f"{name}.png").read_bytes() for name, plot in plots_by_name.items()}
    content = page(report, Provenance("tiny", "", {}, {}, ""), pictures, [])
    assert len(content.encode()) < 5_000_000
    assert content.count("Shown are 24 of 300 domains") == 2 * len(pictures)
    # Bits per byte, positions, mass, and what the sources gave.
    assert content.count("<td>domain 150</td>") == 4


def test_coverage_has_a_dash_where_nothing_was_measured(tmp_path: Path, drawn: list[Figure]) -> None:
    plot_coverage(report_of(["code", "prose"], ["gemma", "other"], evidence=True), tmp_path / "coverage.png")
    positions, mass = drawn[0].axes
    assert [text.get_text() for text in positions.texts] == ["50.0%", "50.0%", "0.0%", "0.0%"]
    assert [text.get_text() for text in mass.texts] == ["90.0%", "90.0%", "–", "–"]
    assert [label.get_text() for label in positions.get_xticklabels()] == ["code", "prose"]


@pytest.mark.parametrize("fused", [0.5, 1.0, 1.57, 1.99, 2.499, 2.6])
def test_the_scale_of_the_gains_holds_every_value_and_its_ticks_have_one_form(
    tmp_path: Path, drawn: list[Figure], fused: float
) -> None:
    report = report_of(["code", "prose"], ["gemma"])
    bits = tuple(value * fused / 2 for value in report.fused.bits)
    plot_gains(replace(report, fused=replace(report.fused, bits=bits)), tmp_path / "gains.png")
    axes, bar = drawn[0].axes
    [image] = axes.images
    low, high = image.get_clim()
    largest = float(np.abs(np.asarray(image.get_array())).max())
    assert -low == high == pytest.approx(largest)
    ticks = [label.get_text() for label in bar.get_yticklabels()]
    assert len(ticks) == len(set(ticks)) == 5
    assert len({len(tick.lstrip("−+").partition(".")[2]) for tick in ticks}) == 1
    assert (ticks[0][0], ticks[2][0], ticks[-1][0]) == ("−", "0", "+")


def test_a_large_change_leaves_small_ones_their_colour(tmp_path: Path, drawn: list[Figure]) -> None:
    plot_gains(report_of(["a"], ["own"]), tmp_path / "gains.png")
    [scale] = [image.norm for image in drawn[0].axes[0].images]
    most = float(scale.vmax or 0)
    assert [float(scale(value)) for value in (-most, 0.0, most)] == pytest.approx([0, 0.5, 1])
    assert float(scale(-most / 16)) < 0.4


def test_domains_of_any_name_are_drawn_and_told_apart(tmp_path: Path, drawn: list[Figure]) -> None:
    urls = [f"https://example.org/{name}" for name in "ab"]
    report = report_of([*urls, "mean", "$a$_{", "\x1b[31m\n\x00", "a\x00"], ["own"], evidence=True)
    for plot in (plot_bits_per_byte, plot_gains, plot_coverage, plot_wins):
        plot(report, tmp_path / "plot.png")
    labels = [label.get_text() for axes in drawn[0].axes for label in axes.get_xticklabels()]
    assert labels == [
        "https:/…le.org/a",
        "https:/…le.org/b",
        "mean",
        "\\$a\\$_{",
        "\\x1b[31m\\n\\x00",
        "a\\x00",
        "mean of domains",
    ]
