"""Which domains the pictures show: all, or of many those in which fused gained most and least.

A picture of hundreds is too wide to be drawn, and too large for a page that holds it.
"""

from __future__ import annotations

from collections.abc import Collection

from fusery.evaluation.report import Report

MOST_DOMAINS = 24


def shown_domains(report: Report, named: Collection[str] | None = None) -> list[str]:
    """Of the domains in `named` (None: those with held-out text) what a picture shows, at most `MOST_DOMAINS`.

    In the order of the report; domains without held-out text, whose gain nobody knows, come last.
    """
    changes = _changes(report)
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
        f"{_baseline(report)}. All stand in evaluation.json."
    )


def _baseline(report: Report) -> str:
    return "target before" if report.clm is None else "CLM"


def _changes(report: Report) -> dict[str, float]:
    """Of each domain the share by which fused needs more bits than CLM, or than the target before."""
    before, fused = report.models[_baseline(report)].domains, report.fused.domains
    return {domain: score.bits_per_byte / before[domain].bits_per_byte - 1 for domain, score in fused.items()}
