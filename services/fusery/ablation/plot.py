"""An ablation's plot: the gain over CLM of every case, with its interval, and of every seed."""

from __future__ import annotations

from pathlib import Path

from fusery.ablation.results import Row, Table
from fusery.evaluation.tables import percent
from fusery.shown_text import shown

_DPI = 120
_MOST_CHARACTERS = 64
_BETTER, _WORSE, _UNSURE = "#009E73", "#D55E00", "#9a9a9a"


def plot_gains(table: Table, path: Path) -> Path:
    """Cases from best to worst; green where the whole interval is better than CLM, red where it is worse; `path`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [row for row in table.sorted_rows() if row.fused is not None]
    figure = Figure(figsize=(9.5, 1.6 + 0.26 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for place, row in enumerate(rows):
        gain = table.gain(row, row.clm_name)
        if gain is None:
            continue
        change = gain.relative
        colour = _BETTER if change.high < 0 else _WORSE if change.low > 0 else _UNSURE
        reach = [[change.value - change.low], [change.high - change.value]]
        axes.errorbar(change.value, place, xerr=reach, fmt="o", markersize=5, capsize=2.5, color=colour)
        if len(table.seeds) > 1:
            seeds = row.gains_of_seeds()
            axes.plot(seeds, [place] * len(seeds), "|", color="#000000", markersize=8, alpha=0.6)
    axes.axvline(0, color="#000000", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [_label(row) for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(lambda share, _: percent(share))
    axes.grid(axis="x", alpha=0.3)
    seeds_shown = f"; ticks: each of {len(table.seeds)} seeds" if len(table.seeds) > 1 else ""
    axes.set_xlabel(f"bits per byte, mean over domains, against CLM (left is better){seeds_shown}")
    axes.set_title(f"{table.name}: gain over CLM with 95 % intervals over documents")
    figure.savefig(path, dpi=_DPI)
    return path


def _label(row: Row) -> str:
    name = row.name if len(row.name) <= _MOST_CHARACTERS else row.name[: _MOST_CHARACTERS - 1] + "…"
    # "$" starts mathematics in matplotlib's texts.
    return shown(name).replace("$", "\\$")
