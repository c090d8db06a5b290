"""An ablation's table for a terminal, and its plot: cases by gain over CLM, then the models beside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from fusery.evaluation.gain import Gain
from fusery.evaluation.report.tables import gain_figures, marked, percent, unspelled_remarks
from fusery.run.ablation.results import Figures, Row, Table
from fusery.runtime.text.domain_names import mean_label
from fusery.runtime.text.shown import shown


def render(table: Table) -> Iterator[RenderableType]:
    """Two tables, the best case against every other model, and what could not be made."""
    seeds = f"{len(table.seeds)} seeds" if len(table.seeds) > 1 else f"seed {table.seeds[0]}"
    rows = table.sorted_rows()
    yield Text(f"\n{len(rows)} cases, {seeds}, best gain over CLM first; bits per byte (lower is better)", "italic")
    groups = [*table.domains, mean_label(table.domains), "±"]
    heads = ["case", *groups, "over CLM", "95 % interval", "±", "over target", "positions", "mass"]
    yield _rich(heads, [_cells(table, row) for row in rows if row.fused is not None])
    yield Text("Beside them", "italic")
    beside = [[marked(name, figures.scores), *_figures(figures)] for name, figures in table.beside.items()]
    yield _rich(["model", *groups], beside)
    for line in lines(table):
        yield Text(shown(line))


def lines(table: Table) -> list[str]:
    """'best case against CLM: −2.6 % …' for every model beside the cases, remarks, and failures with their reasons."""
    rows = table.sorted_rows()
    best = rows[0] if rows and rows[0].fused is not None else None
    found = []
    for name in table.others_of(best) if best is not None else ():
        gain = table.gain(best, name) if best is not None else None
        if gain is not None and best is not None:
            found.append(f"{best.name} against {name}: {gain_figures(gain)}")
    models = {name: figures.scores for name, figures in table.beside.items()}
    found += [f"{name}: {remark}" for name, remark in {**table.remarks, **unspelled_remarks(models)}.items()]
    return found + [f"failed: {name}: {reason}" for name, reason in table.failures().items()]


def _cells(table: Table, row: Row) -> list[str]:
    assert row.fused is not None, "rows without figures are listed apart"
    clm, before = table.gain(row, row.clm_name), table.gain(row, "target before")
    spread = gain_spread(row)
    shares = ["–" if share is None else f"{share:.1%}" for share in (row.evidence.positions, row.evidence.kept_mass)]
    return [row.name, *_figures(row.fused), *_gain(clm), spread, _gain(before)[0], *shares]


def gain_spread(row: Row) -> str:
    """'0.3 %': how much the gain over CLM differs between seeds; '' with one seed."""
    values = row.gains_of_seeds()
    if len(values) < 2:
        return ""
    mean = sum(values) / len(values)
    return f"{100 * (sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5:.1f} %"


def _figures(figures: Figures) -> list[str]:
    spread = figures.spread()[mean_label(figures.scores.domains)]
    return [*(f"{value:.4f}" for value in figures.bits_per_byte().values()), "" if spread is None else f"{spread:.4f}"]


def _gain(gain: Gain | None) -> list[str]:
    if gain is None:
        return ["–", ""]
    change = gain.relative
    return [percent(change.value), f"[{percent(change.low)}, {percent(change.high)}]"]


def _rich(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> RichTable:
    table = RichTable(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for index, head in enumerate(heads):
        # A name may be folded, a figure never.
        table.add_column(
            Text(shown(head)),
            justify="left" if index == 0 else "right",
            overflow="fold" if index == 0 else "ellipsis",
            no_wrap=index > 0,
            min_width=24 if index == 0 else None,
        )
    for row in rows:
        table.add_row(*(Text(shown(cell)) for cell in row))
    return table


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
