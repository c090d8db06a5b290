"""Plots of a run as PNG: what the trainings did, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusery.registry.training_metrics import Step, series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SMOOTHED_POINTS = 60
_GROUPS_IN_A_ROW = 8
_LABELS = {"clm": "CLM"}
_DPI = 120
# Okabe and Ito's colours, which people with colour blindness can tell apart.
_COLOURS = ("#9a9a9a", "#E69F00", "#56B4E9", "#CC79A7", "#D55E00", "#F0E442", "#0072B2")
_CLM, _FUSED = "#000000", "#009E73"


def plot_training(runs: Mapping[str, Sequence[Step]], path: Path) -> Path:
    """CLM part and fusion part of the loss against the step, a line for each training; `path`, written."""
    figure = _figure(9.0, 3.8)
    panels = (("clm_nats", "CLM loss"), ("fusion_nats", "fusion loss"))
    left, right = figure.subplots(1, 2)
    for axes, (metric, title) in zip((left, right), panels, strict=True):
        drawn = [
            _plot_series(axes, _LABELS.get(name, name), *series(list(steps), metric)) for name, steps in runs.items()
        ]
        axes.set_title(title)
        axes.set_xlabel("optimizer step")
        axes.set_ylabel("nats per position")
        axes.grid(alpha=0.3)
        if any(drawn):
            axes.legend(frameon=False)
        else:
            axes.text(0.5, 0.5, "not logged", ha="center", va="center", transform=axes.transAxes)
    figure.suptitle("Training loss")
    return _save(figure, path)


def plot_bits_per_byte(evaluation: Mapping[str, Any], path: Path) -> Path:
    """Bits per byte of every model, grouped by domain, the mean last; eight groups in a row; `path`, written."""
    models = models_of(evaluation)
    heights = {name: {**_by_domain(scores), "mean": scores["mean_bits_per_byte"]} for name, scores in models.items()}
    groups = list(heights["fused"])
    rows = [groups[start : start + _GROUPS_IN_A_ROW] for start in range(0, len(groups), _GROUPS_IN_A_ROW)]
    figure = _figure(3.0 + 0.22 * len(rows[0]) * (len(models) + 1), 1.0 + 3.0 * len(rows))
    panels = figure.subplots(len(rows), 1, sharey=True, squeeze=False)[:, 0]
    for axes, row in zip(panels, rows, strict=True):
        _plot_groups(axes, row, heights, len(rows[0]))
    panels[0].legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.suptitle("Bits per byte on held-out documents")
    return _save(figure, path)


def models_of(evaluation: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The models of an evaluation.json by the names of its tables, the baseline first and fused last."""
    models = evaluation["models"]
    sources = {f"source {name}": scores for name, scores in models["sources"].items()}
    clm = {"CLM": models["clm"]} if "clm" in models else {}
    return {"target before": models["target_before"], **sources, **clm, "fused": models["fused"]}


def _by_domain(scores: Mapping[str, Any]) -> dict[str, float]:
    return {domain: score["bits_per_byte"] for domain, score in scores["domains"].items()}


def _plot_groups(axes: Axes, groups: Sequence[str], heights: Mapping[str, Mapping[str, float]], slots: int) -> None:
    """Bars of `groups`; a row that is not full leaves room, so that bars are as wide as in the others."""
    width = 0.84 / len(heights)
    for index, (name, of_model) in enumerate(heights.items()):
        places = [place + (index - (len(heights) - 1) / 2) * width for place in range(len(groups))]
        bars = axes.bar(places, [of_model[group] for group in groups], width, label=name, color=_colour(name, index))
        axes.bar_label(bars, fmt="%.2f", fontsize=6, rotation=90, padding=2)
    axes.set_xticks(range(len(groups)), [_shortened(group) for group in groups])
    axes.set_xlim(-0.6, slots - 0.4)
    axes.set_ylabel("bits per byte (lower is better)")
    axes.margins(y=0.15)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)


def _plot_series(axes: Axes, name: str, steps: list[int], values: list[float]) -> bool:
    """Every step thin, a running mean thick; whether there was anything to draw."""
    if not steps:
        return False
    colour = _FUSED if name == "fused" else _CLM
    style = "-" if name == "fused" else "--"
    window = max(1, len(values) // _SMOOTHED_POINTS)
    label = name if window == 1 else f"{name} (mean of {window} steps)"
    if window > 1:
        axes.plot(steps, values, color=colour, alpha=0.2, linewidth=0.8)
    means = [sum(values[i : i + window]) / window for i in range(len(values) - window + 1)]
    marker = "o" if len(values) == 1 else ""
    axes.plot(steps[window - 1 :], means, style, marker=marker, color=colour, linewidth=1.6, label=label)
    return True


def _colour(name: str, index: int) -> str:
    return {"CLM": _CLM, "fused": _FUSED}.get(name, _COLOURS[index % len(_COLOURS)])


def _shortened(name: str) -> str:
    # "$" starts mathematics in matplotlib's texts.
    short = name if len(name) <= 16 else name[:15] + "…"
    return short.replace("$", "\\$")


def _figure(width: float, height: float) -> Figure:
    """A figure outside pyplot's global state, so that plots can be drawn in any thread, without a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, dpi=_DPI)
    return path
