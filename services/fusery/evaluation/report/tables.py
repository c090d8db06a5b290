"""The report as tables, for a terminal and as Markdown.

Names of domains and sources come from users: they go into cells as `Text`, never as mark-up strings, so that
"[/]" in a name neither vanishes nor fails. Without colours (a pipe, a log) Rich leaves the styles out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from fusery.evaluation.gain import Gain
from fusery.evaluation.report.report import Report
from fusery.evaluation.scores import Scores
from fusery.evaluation.tasks.scores import difference
from fusery.evaluation.tasks.suites import SUITES
from fusery.runtime.text.domain_names import mean_label
from fusery.runtime.text.shown import in_markdown, shown

_MAX_DOMAIN_COLUMNS = 6
_FEW_DOCUMENTS = 10
_MINUS = "−"

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Cells:
    """A table as strings: a title, column headings, rows; and the (row, column) of cells to emphasise."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    best: frozenset[tuple[int, int]] = frozenset()

    def transposed(self) -> Cells:
        """Rows become columns; the first heading stays in its corner."""
        corner, *headings = self.headings
        columns = tuple(zip(*self.rows, strict=True))
        rows = tuple((heading, *column) for heading, column in zip(headings, columns[1:], strict=True))
        best = frozenset((column - 1, row + 1) for row, column in self.best)
        return Cells(self.title, (corner, *columns[0]), rows, best)


def render_tables(report: Report) -> list[RenderableType]:
    """Bits per byte with the best model of each column in bold, the gains, coverage, and what each source gave."""
    lines = [Text(shown(line), style="bold" if "CLM" in line else "") for line in gain_lines(report)]
    parts = [*_titled(bits_per_byte_cells(report)), *lines]
    warnings = [Text(shown(f"warning: {line}"), style="yellow") for line in report.warnings]
    remarks = [Text(shown(line)) for line in remark_lines(report)]
    tables = [part for cells in (*task_cells(report), *evidence_cells(report)) for part in _titled(cells)]
    tasks = [Text(shown(line)) for line in task_lines(report)]
    head, *reasons = verdict_lines(report) or [""]
    style = "bold green" if report.verdict is not None and report.verdict.passed else "bold red"
    verdict = [Text(f"\n{head}", style=style), *(Text(shown(f"  {line}")) for line in reasons)] if head else []
    return [*parts, *remarks, *tables, *tasks, *warnings, *verdict]


def to_markdown(report: Report) -> str:
    """The same as `render_tables`, for a document."""
    evidence = [_markdown(cells) for cells in (*task_cells(report), *evidence_cells(report))]
    lines = [*gain_lines(report), *task_lines(report), *remark_lines(report)]
    gains = "\n".join(f"- {in_markdown(line)}" for line in lines)
    warnings = ["\n".join(f"- warning: {in_markdown(line)}" for line in report.warnings)] if report.warnings else []
    head, *reasons = verdict_lines(report) or [""]
    verdict = [f"**{head}**\n\n" + "\n".join(f"- {in_markdown(line)}" for line in reasons)] if head else []
    return "\n\n".join([*verdict, _markdown(bits_per_byte_cells(report)), gains, *evidence, *warnings]) + "\n"


def bits_per_byte_cells(report: Report) -> Cells:
    """Models in rows, domains and their mean in columns; the other way round where domains are many."""
    values = [
        [*(score.bits_per_byte for score in scores.domains.values()), scores.mean_bits_per_byte]
        for scores in report.models.values()
    ]
    best = frozenset(
        (row, column + 1)
        for column, column_values in enumerate(zip(*values, strict=True))
        for row, value in enumerate(column_values)
        if value == min(column_values)
    )
    names = [marked(name, scores) for name, scores in report.models.items()]
    rows = tuple((name, *(f"{value:.4f}" for value in row)) for name, row in zip(names, values, strict=True))
    documents = len(report.fused.doc_ids)
    title = f"Bits per byte on {documents} held-out documents (lower is better)"
    return _fitted(Cells(title, ("model", *report.domains, mean_label(report.domains)), rows, best))


def is_own(heading: str) -> bool:
    """Whether a row or column with this heading is the run's own model."""
    return heading.removesuffix(" †") == "fused"


def gain_lines(report: Report) -> list[str]:
    """'fused against CLM: −2.6 % bits per byte, …' for each model that fused is compared with, CLM first."""
    gains = report.gains()
    ordered = sorted(gains, key=lambda name: name != "CLM")
    return [
        f"fused against {name}: {gain_figures(gains[name])}"
        + ("" if report.is_comparable(name) else " (not on the same bytes, see †)")
        for name in ordered
    ]


def remark_lines(report: Report) -> list[str]:
    """'weight merging: not measured: …': what is not there, or not whole, and why; and what † in the table means."""
    return [f"{name}: {remark}" for name, remark in {**report.remarks, **unspelled_remarks(report.models)}.items()]


def unspelled_remarks(models: Mapping[str, Scores]) -> dict[str, str]:
    """What † says of the models that have it, by their marked names."""
    return {marked(name, scores): unspelled(scores) for name, scores in models.items() if scores.unspelled_bytes}


def marked(name: str, scores: Scores) -> str:
    """The name in a table, with † where not all of the text counts."""
    return f"{name} †" if scores.unspelled_bytes else name


def unspelled(scores: Scores) -> str:
    """'its tokenizer drops or changes 23.1 % of the text, …', of a model that does."""
    share = scores.unspelled_share
    shown = f"{share:.1%}" if share >= 0.0005 else "under 0.1%"
    return f"its tokenizer drops or changes {shown} of the text, whose bytes do not count in its bits per byte"


def task_cells(report: Report) -> list[Cells]:
    """One table, or none: models in rows; tasks in columns, whole suites as their mean."""
    if not report.tasks:
        return []
    tasks = list(dict.fromkeys(task for found in report.tasks.values() for task in found))
    whole = {suite: members for suite, members in SUITES.items() if all(task in tasks for task in members)}
    # A suite of many tasks is one column; of a few, each is shown beside the mean.
    hidden = {task for members in whole.values() if len(members) > _MAX_DOMAIN_COLUMNS for task in members}
    columns = {task: (task,) for task in tasks if task not in hidden} | whole
    rows = []
    for model in (name for name in report.models if name in report.tasks):
        found = report.tasks[model]
        means = [[found[task].mean for task in members if task in found] for members in columns.values()]
        rows.append((model, *(_shown(sum(mean) / len(mean) if mean else None) for mean in means)))
    items = max(len(scores.items) for found in report.tasks.values() for scores in found.values())
    return [
        _fitted(
            Cells(f"Tasks, share of at most {items:,} items each (higher is better)", ("model", *columns), tuple(rows))
        )
    ]


def task_lines(report: Report) -> list[str]:
    """'fused against CLM in 5 tasks: +1.2 points, 95 % interval [+0.3, +2.0]', for each model but fused."""
    fused, lines = report.tasks.get("fused", {}), []
    for model in (name for name in report.models if name in report.tasks and name != "fused"):
        common = [task for task in report.tasks[model] if task in fused]
        if common:
            baseline = [report.tasks[model][task] for task in common]
            gain = difference(baseline, [fused[task] for task in common], report.seed)
            value, low, high = (
                f"{100 * share:+.1f}".replace("-", _MINUS) for share in (gain.value, gain.low, gain.high)
            )
            sure = "" if gain.is_sure else "; the interval holds 0: no difference shown"
            lines.append(
                f"fused against {model} in {len(common)} tasks: {value} points, 95 % interval [{low}, {high}]{sure}"
            )
    return lines


def verdict_lines(report: Report) -> list[str]:
    """'gate passed' or 'gate failed', and a line for each check; nothing where the gate has not judged."""
    if report.verdict is None:
        return []
    return [f"gate {report.verdict.word}", *report.verdict.reasons]


def gain_figures(gain: Gain) -> str:
    """'−2.6 % bits per byte, 95 % interval [−3.1 %, −2.0 %]', and what weakens it."""
    change = gain.relative
    sure = "" if change.is_sure else "; the interval holds 0: no difference shown"
    if gain.fewest_documents < _FEW_DOCUMENTS:
        sure += f" (too narrow: a domain has only {gain.fewest_documents} documents)"
    return f"{percent(change.value)} bits per byte, 95 % interval [{percent(change.low)}, {percent(change.high)}]{sure}"


def percent(share: float) -> str:
    """A signed percentage: '−2.6 %', '+0.4 %'; two digits after the point where one would say 0."""
    digits = 1 if abs(share) >= 0.0005 else 2
    rounded = f"{abs(share) * 100:.{digits}f} %"
    sign = "" if rounded == f"{0:.{digits}f} %" else _MINUS if share < 0 else "+"
    return sign + rounded


def evidence_cells(report: Report) -> list[Cells]:
    """Tables of coverage and of what each source gave, those there are."""
    coverage = [
        _share_cells("Target positions with evidence", "source", report.coverage, lambda value: value["positions"]),
        _share_cells("Probability mass kept at them", "source", report.coverage, lambda value: value["kept_mass"]),
    ]
    by_source: dict[str, dict[str, float]] = {}
    for domain, shares in report.wins.items():
        for source, share in shares.items():
            by_source.setdefault(source, {})[domain] = share
    title = "Weight that AvgCE gave the source" if report.averages else "Positions at which MinCE chose the source"
    wins = _share_cells(title, "source", by_source, lambda value: value)
    return [cells for cells in (*coverage, wins) if cells.rows]


def _share_cells(
    title: str, corner: str, rows: Mapping[str, Mapping[str, Value]], share: Callable[[Value], float | None]
) -> Cells:
    domains = list(dict.fromkeys(domain for row in rows.values() for domain in row))
    cells = tuple(
        (name, *(_shown(share(row[domain]) if domain in row else None) for domain in domains))
        for name, row in rows.items()
    )
    return _fitted(Cells(title, (corner, *domains), cells))


def _shown(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def _fitted(cells: Cells) -> Cells:
    return cells.transposed() if len(cells.headings) > _MAX_DOMAIN_COLUMNS + 2 and cells.rows else cells


def _titled(cells: Cells) -> list[RenderableType]:
    table = Table()
    for column, heading in enumerate(cells.headings):
        style = "bold cyan" if is_own(heading) else ""
        table.add_column(Text(shown(heading), style), justify="right" if column else "left", overflow="fold")
    for row, values in enumerate(cells.rows):
        own = {0: "bold cyan"} if is_own(values[0]) else {}
        styles = ("bold" if (row, column) in cells.best else own.get(column, "") for column in range(len(values)))
        table.add_row(*(Text(shown(value), style) for value, style in zip(values, styles, strict=True)))
    # Not the table's own title: that wraps at the width of a narrow table.
    return [Text(f"\n{cells.title}", style="italic"), table]


def _markdown(cells: Cells) -> str:
    def line(values: Sequence[str]) -> str:
        return "| " + " | ".join(values) + " |"

    rule = "|" + "|".join(["---", *["---:"] * (len(cells.headings) - 1)]) + "|"
    rows = [
        line(
            [
                f"**{text}**" if (row, column) in cells.best else text
                for column, text in enumerate(map(in_markdown, values))
            ]
        )
        for row, values in enumerate(cells.rows)
    ]
    return "\n".join([f"{in_markdown(cells.title)}:", "", line([*map(in_markdown, cells.headings)]), rule, *rows])
