"""Plots of a run as PNG: what the trainings did, and what came of it."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fusery.evaluation.gain import Interval, intervals
from fusery.evaluation.report.report import Report
from fusery.evaluation.report.tables import percent
from fusery.registry.training_metrics import Step, series
from fusery.runtime.text.domain_names import mean_label
from fusery.runtime.text.shown import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

MOST_DOMAINS = 24
"""A picture of hundreds is too wide to be drawn, and too large for a page that holds it."""
_SMOOTHED_POINTS = 60
_BARS_IN_A_ROW = 36
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
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_ylabel("nats per position")
        axes.grid(alpha=0.3)
        if any(drawn):
            axes.legend(frameon=False)
        else:
            axes.text(0.5, 0.5, "not logged", ha="center", va="center", transform=axes.transAxes)
    figure.suptitle("Training loss")
    return _save(figure, path)


def plot_bits_per_byte(report: Report, path: Path) -> Path:
    """Bits per byte of every model with 95 % intervals, by domain, the mean last; a few groups in a row; `path`."""
    mean = mean_label(report.domains)
    values = {name: intervals(scores, report.seed, report.resamples) for name, scores in report.models.items()}
    for name, scores in report.models.items():
        # Without an interval of its own: models are compared by their gains.
        values[name][mean] = Interval(*[scores.mean_bits_per_byte] * 3)
    groups = [*shown_domains(report), mean]
    in_a_row = max(1, _BARS_IN_A_ROW // (len(values) + 1))
    rows = [groups[start : start + in_a_row] for start in range(0, len(groups), in_a_row)]
    figure = _figure(2.6 + 0.26 * min(in_a_row, len(groups)) * (len(values) + 1), 1.0 + 3.0 * len(rows))
    panels = figure.subplots(len(rows), 1, sharey=True, squeeze=False)[:, 0]
    for axes, row in zip(panels, rows, strict=True):
        _plot_groups(axes, row, values, len(rows[0]))
    panels[0].legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.suptitle("Bits per byte on held-out documents")
    return _save(figure, path)


def plot_gains(report: Report, path: Path) -> Path:
    """Change of bits per byte from every other model to fused, by domain; faded where the interval holds 0; `path`."""
    from matplotlib.colors import FuncNorm, LinearSegmentedColormap

    domains, by_domain = shown_domains(report), report.domain_gains()
    cells = {name: [*(by_domain[name][d] for d in domains), mean] for name, mean in report.gains().items()}
    values = [[gain.relative.value for gain in row] for row in cells.values()]
    texts = [
        [percent(gain.relative.value) + ("" if gain.relative.is_sure else "\n(may be 0)") for gain in row]
        for row in cells.values()
    ]
    columns = [*domains, mean_label(report.domains)]
    figure = _figure(2.8 + 1.15 * len(columns), 1.5 + 0.55 * len(cells))
    axes = figure.subplots()
    most = max((abs(value) for row in values for value in row), default=0.0) or 0.01
    colours = LinearSegmentedColormap.from_list("change", ["#0072B2", "#ffffff", "#D55E00"])
    # Colours by the root of the change, to the largest there is: one that is large leaves the others not pale.
    by_root = FuncNorm((lambda x: np.sign(x) * np.sqrt(np.abs(x)), lambda x: np.sign(x) * x**2), -most, most)
    image = _heatmap(axes, values, texts, (list(cells), columns), colours, by_root)
    digits = 0 if most >= 0.08 else 1 if most >= 0.008 else 2
    ticks = [-most, -most / 4, 0.0, most / 4, most]
    bar = figure.colorbar(image, ax=axes, ticks=ticks, format=lambda share, _: _signed(share, digits))
    bar.set_label("blue: fused is better")
    axes.set_title("Bits per byte, fused against …")
    return _save(figure, path)


def plot_wins(report: Report, path: Path) -> Path:
    """Of each domain, the share of the evidence that comes from each source, as one bar; `path`, written."""
    domains, sources = shown_domains(report, report.wins), list(report.sources)
    figure = _figure(8.0, 1.6 + 0.45 * len(domains))
    axes = figure.subplots()
    lefts = [0.0] * len(domains)
    for index, source in enumerate(sources):
        shares = [report.wins[domain].get(source, 0.0) for domain in domains]
        bars = axes.barh(
            range(len(domains)), shares, left=lefts, label=_shortened(source), color=_colour("", index + 1)
        )
        axes.bar_label(bars, [f"{share:.0%}" if share >= 0.05 else "" for share in shares], label_type="center")
        lefts = [left + share for left, share in zip(lefts, shares, strict=True)]
    axes.set_yticks(range(len(domains)), [_shortened(domain) for domain in domains])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), title="source")
    axes.set_title("Whose evidence the fused text holds")
    return _save(figure, path)


def plot_coverage(report: Report, path: Path) -> Path:
    """Of each source and domain, target positions with evidence, and the mass kept there; `path`, written."""
    sources = list(report.coverage)
    domains = shown_domains(report, {domain for of_source in report.coverage.values() for domain in of_source})
    figure = _figure(3.4 + 1.9 * len(domains), 1.5 + 0.5 * len(sources))
    from matplotlib.colors import Normalize

    panels = figure.subplots(1, 2, squeeze=False)[0]
    titles = {"positions": "positions with evidence", "kept_mass": "mass kept at them"}
    for axes, (key, title) in zip(panels, titles.items(), strict=True):
        shares = [[report.coverage[source].get(domain, {}).get(key) for domain in domains] for source in sources]
        values = [[math.nan if share is None else share for share in row] for row in shares]
        texts = [["–" if share is None else f"{share:.1%}" for share in row] for row in shares]
        _heatmap(axes, values, texts, (sources, domains), "Greens", Normalize(0.0, 1.25))
        axes.set_title(title)
        axes.set_xlabel("domain")
    panels[0].set_ylabel("source")
    panels[1].set_yticks([])
    return _save(figure, path)


def shown_domains(report: Report, named: Collection[str] | None = None) -> list[str]:
    """Of the domains in `named` (None: those with held-out text) what a picture shows, at most `MOST_DOMAINS`.

    In the order of the report; domains without held-out text, whose gain is not known, come last.
    """
    # By what share fused needs more bits than CLM, or than the target before.
    before, fused = (report.clm or report.target_before).domains, report.fused.domains
    changes = {domain: score.bits_per_byte / before[domain].bits_per_byte - 1 for domain, score in fused.items()}
    given = changes if named is None else named
    known = [domain for domain in changes if domain in given]
    ordered = [*known, *sorted(set(given) - set(known))]
    if len(ordered) <= MOST_DOMAINS:
        return ordered
    ranked = sorted(known, key=lambda domain: changes[domain])
    if len(ranked) > MOST_DOMAINS:
        ranked = [*ranked[: MOST_DOMAINS // 2], *ranked[-MOST_DOMAINS // 2 :]]
    kept = {*ranked, *ordered[len(known) :][: MOST_DOMAINS - len(ranked)]}
    return [domain for domain in ordered if domain in kept]


def left_out(report: Report, named: Collection[str] | None = None) -> str:
    """A sentence for a caption: which domains are not in the picture; empty where all are."""
    shown, there = shown_domains(report, named), len(report.domains if named is None else set(named))
    if len(shown) == there:
        return ""
    return (
        f" Shown are {len(shown)} of {there} domains: those in which fused gained most and least against "
        f"{'target before' if report.clm is None else 'CLM'}. All stand in evaluation.json."
    )


def _signed(share: float, digits: int) -> str:
    """'−20 %', '0 %', '+5 %': one form for all ticks of a scale."""
    shown = f"{100 * share:+.{digits}f} %".replace("-", "−")
    return shown if float(f"{100 * share:.{digits}f}") else f"{0:.{digits}f} %"


def _heatmap(
    axes: Axes,
    values: Sequence[Sequence[float]],
    texts: Sequence[Sequence[str]],
    names: tuple[Sequence[str], Sequence[str]],
    colours: Colormap | str,
    scale: Normalize,
) -> AxesImage:
    """Cells with their text; `names` of rows and columns; `scale` says which colour a value has, from 0 to 1."""
    image = axes.imshow(values, cmap=colours, norm=scale, aspect="auto")
    for row, cells in enumerate(texts):
        for column, text in enumerate(cells):
            place = float(scale(values[row][column]))
            is_dark = place > 0.65 if isinstance(colours, str) else abs(place - 0.5) > 0.375
            colour = "#ffffff" if is_dark else "#000000"
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
    rows, columns = names
    # "single source NAME": what tells one row from another stands at the end.
    lines = [textwrap.wrap(name, 16, break_long_words=False) for name in rows]
    axes.set_yticks(range(len(rows)), ["\n".join(_shortened(line) for line in of_row) for of_row in lines])
    axes.set_xticks(range(len(columns)), [_shortened(name) for name in columns])
    axes.tick_params(length=0)
    return image


def _plot_groups(axes: Axes, groups: Sequence[str], values: Mapping[str, Mapping[str, Interval]], slots: int) -> None:
    """Bars of `groups`; a row that is not full leaves room, so that bars are as wide as in the others."""
    width = 0.84 / len(values)
    for index, (name, of_model) in enumerate(values.items()):
        places = [place + (index - (len(values) - 1) / 2) * width for place in range(len(groups))]
        found = [of_model[group] for group in groups]
        heights = [interval.value for interval in found]
        reach = [[i.value - i.low for i in found], [i.high - i.value for i in found]]
        style = {"ecolor": "#555555", "elinewidth": 0.8, "capsize": 1.5}
        label, colour = _shortened(name, 24), _colour(name, index)
        bars = axes.bar(places, heights, width, yerr=reach, label=label, color=colour, error_kw=style)
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


def _shortened(name: str, most: int = 16) -> str:
    # What tells two names apart stands at either end; "$" starts mathematics in matplotlib's texts.
    end = most // 2
    short = name if len(name) <= most else f"{name[: most - end - 1]}…{name[-end:]}"
    return shown(short).replace("$", "\\$")


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
