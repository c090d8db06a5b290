"""`fusery coverage`: how much of the target's text has evidence, from which source, and what becomes of the mass.

Read from the notes beside the shards, so it costs a small read per shard, and half a run shows half of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from fusery.config.sections import CoverageSpec
from fusery.core.rules import FusionRule, Vocabulary
from fusery.hops.plan import Plan
from fusery.run.coverage import (
    CoverageWarning,
    Found,
    Joined,
    aligned_counts,
    fused_counts,
    has_fallback,
    shares,
    warnings_of,
    weight_shares,
)
from fusery.run.open_run import open_run
from fusery.run.steps.steps import load_plan
from fusery.runtime import output
from fusery.runtime.errors import Unavailable
from fusery.runtime.text.shown import shown

_WIDE = 100
"""Columns of a terminal from which all deciles that matter are shown; --json always has all nine."""

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class CoverageView:
    """All that is shown: the plan, counts of what is aligned and fused so far, warnings."""

    plan: Plan
    sources: dict[str, Found]
    fused_shards: int
    joined: dict[str, Joined]
    floors: CoverageSpec
    warnings: list[CoverageWarning]

    @property
    def is_whole(self) -> bool:
        found = [self.fused_shards, *(of.shards for of in self.sources.values())]
        return all(shards == self.plan.corpus_shards for shards in found)

    def rows(self, source: str) -> dict[str, Row]:
        """Domain → shares, and "evidence_share", the source's share of the evidence's weight."""
        given = {domain: weight_shares(joined)[source] for domain, joined in self.joined.items()}
        counts = self.sources[source].domains
        return {domain: {**shares(of, self.plan), "evidence_share": given.get(domain)} for domain, of in counts.items()}

    def together(self) -> dict[str, float | None]:
        """Domain → share of target positions with evidence of any source (a fallback is evidence here)."""
        return {d: j.with_evidence / j.positions if j.positions else None for d, j in self.joined.items()}


def show_coverage(path: Path, as_json: bool) -> None:
    """Prints the coverage of the run of `path`, as far as its shards are there.

    Raises:
        ConfigError: the run has not begun.
        Unavailable: it has, and no shard is aligned yet.
    """
    run = open_run(path)
    plan = load_plan(run)
    sources = aligned_counts(run.store, plan)
    if not any(of.shards for of in sources.values()):
        raise Unavailable(
            f"run {run.run_id} has no aligned shard yet, of {plan.corpus_shards} for each of {len(plan.sources)} "
            f"sources; see how far it is with: fusery status {path}, go on with: fusery run {path}"
        )
    floors = run.config.coverage
    warnings = warnings_of(run.store, plan, floors, sources)
    view = CoverageView(plan, sources, *fused_counts(run.store, plan), floors, warnings)
    if as_json:
        print(output.to_json(to_json(view), indent=1))
        return
    console, total = output.console(), plan.corpus_shards
    rules = f"positions {plan.alignment.positions.value}, vocabulary {plan.alignment.vocabulary.value}"
    console.print(Text(f"run {plan.run_id}: {rules}, top-k {plan.capture.top_k}"), soft_wrap=True)
    if not view.is_whole:
        console.print(Text(f"not all is there yet: {view.fused_shards} of {total} shards are fused", "yellow"))
    for name, of in view.sources.items():
        console.print(Text(f"\nsource {name}, {of.shards} of {total} shards aligned", "bold"), soft_wrap=True)
        if of.domains:
            console.print(_table(view, name, console.width >= _WIDE))
    if len(view.sources) > 1 and view.joined:
        parts = ", ".join(f"{domain} {_percent(share)}" for domain, share in view.together().items())
        console.print(Text(f"\npositions with evidence of any source: {shown(parts)}"))
    for warning in view.warnings:
        console.print(Text(f"\nwarning: {shown(warning.text)}", "yellow"), soft_wrap=not console.is_terminal)


def to_json(view: CoverageView) -> dict[str, Any]:
    """JSON values; the shares are those of evaluation.json, and "evidence_share" beside them."""
    plan = view.plan
    return {
        "run_id": plan.run_id,
        "rules": {**plan.alignment.model_dump(mode="json"), "rule": plan.fusion.rule.value},
        "shards": {
            "total": plan.corpus_shards,
            "aligned": {name: of.shards for name, of in view.sources.items()},
            "fused": view.fused_shards,
        },
        "sources": {name: view.rows(name) for name in view.sources},
        "any_source": view.together(),
        "floors": view.floors.model_dump(mode="json"),
        "warnings": [{**asdict(warning), "text": warning.text} for warning in view.warnings],
    }


def _table(view: CoverageView, source: str, is_wide: bool) -> Table:
    """Domains as rows; figures under a floor stand out."""
    columns = _columns(view.plan, is_wide)
    low = {(w.domain, w.figure) for w in view.warnings if w.source == source}
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("domain", overflow="fold", vertical="bottom")
    for heading, _, _ in columns:
        table.add_column(heading, justify="right", vertical="bottom", no_wrap=True)
    for domain, row in view.rows(source).items():
        cells = (Text(show(row[key]), "yellow" if (domain, key) in low else "") for _, key, show in columns)
        table.add_row(Text(shown(domain)), *cells)
    return table


def _columns(plan: Plan, is_wide: bool) -> list[tuple[str, str, Callable[[Any], str]]]:
    """Heading, key of the row, and how its value is shown; columns that the rules leave empty are left out."""
    rule = plan.alignment.vocabulary
    other = "nearest" if rule is Vocabulary.MIN_ED else "other\nbytes"
    columns: list[tuple[str, str, Callable[[Any], str]]] = [("with\nevidence", "positions", _percent)]
    columns += [("falls\nback", "falls_back", _percent)] * has_fallback(plan)
    columns += [("kept\nmass", "kept_mass", _percent)]
    for n in (1, 5, 9) if is_wide else (1,):
        columns.append((f"kept\np{n}0", "kept_mass_deciles", partial(_decile, n)))
    columns += [("same\nbytes", "same_bytes", _percent)]
    columns += [(other, "other_bytes", _percent)] * (rule is not Vocabulary.EXACT)
    if rule is Vocabulary.PARTITION:
        columns += [("larger\ncells", "larger_cell", _percent), ("their\ntokens", "larger_cell_tokens", _number)]
    columns += [("no\ncell", "no_cell", _percent)]
    return [*columns, ("won" if plan.fusion.rule is FusionRule.MIN_CE else "weight", "evidence_share", _percent)]


def _percent(share: float | None) -> str:
    if share is None:
        return "–"
    return "100%" if share >= 0.9995 else f"{share:.1%}"


def _decile(n: int, deciles: list[float] | None) -> str:
    # They come from bins of 1 %.
    return "–" if deciles is None else f"{deciles[n - 1]:.0%}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}" if value < 100 else f"{value:.0f}"
