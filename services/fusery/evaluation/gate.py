"""The gate: whether the measures of a run are proof enough to offer its fused model to others.

It judges what is measured and decides nothing about training. A measure that is missing (no CLM baseline) is a check
that does not hold: a model without its proof is kept and registered, but gets no alias.
"""

from __future__ import annotations

from collections.abc import Iterator

from fusery.evaluation.gain import Gain
from fusery.evaluation.report import Report
from fusery.evaluation.tables import gain_figures, percent
from fusery.evaluation.verdict import Check, Verdict
from fusery.run_sections import Baseline, GateSpec

_NAMES = {
    Baseline.TARGET_BEFORE: "target before",
    Baseline.CLM: "CLM",
    Baseline.SOURCE: "source",
    Baseline.ENSEMBLE: "ensemble",
    Baseline.WEIGHT_MERGING: "weight merging",
    Baseline.SINGLE_SOURCE: "single source",
}


def judge(report: Report, rule: GateSpec) -> Verdict:
    """The verdict of `rule` on the models of `report`."""
    gains = report.gains()
    names = [name for baseline in rule.better_than for name in _models(report, baseline)]
    checks = [
        _better(name, gains.get(name), rule.least_gain, report.remarks.get(name, "")) for name in dict.fromkeys(names)
    ]
    if rule.domain_tolerance is not None:
        checks.append(_no_domain_lost(report, rule.domain_tolerance))
    return Verdict(tuple(checks), rule.model_dump(mode="json"))


def _models(report: Report, baseline: str) -> Iterator[str]:
    """The names, in the report's tables, of the models that `baseline` of the rule means."""
    kind, _, source = baseline.partition(":")
    if kind == Baseline.SOURCES:
        yield from (f"source {name}" for name in report.sources)
    else:
        yield f"{_NAMES[Baseline(kind)]} {source}".strip()


def _better(name: str, gain: Gain | None, least: float, remark: str) -> Check:
    """Whether the whole interval lies below −least. `remark`: what the report says of a model that is not there."""
    asked = f"fewer bits per byte than {name}" + (f", by {least:.1%} at least" if least else "")
    if gain is None:
        why = remark.removeprefix("not measured: ") or "the run has no such model"
        return Check(asked, False, f"{name} was not measured: {why}")
    return Check(asked, gain.relative.high < -least, gain_figures(gain))


def _no_domain_lost(report: Report, tolerance: float) -> Check:
    asked = f"no domain worse than before by over {tolerance:.1%}"
    before, fused = report.target_before.domains, report.fused.domains
    change = {domain: fused[domain].bits_per_byte / before[domain].bits_per_byte - 1 for domain in fused}
    lost = {domain: value for domain, value in change.items() if value > tolerance}
    if lost:
        return Check(asked, False, ", ".join(f"{domain} {percent(value)}" for domain, value in lost.items()))
    worst = max(change, key=lambda domain: change[domain])
    return Check(asked, True, f"the least gain is {percent(change[worst])}, {worst}")
