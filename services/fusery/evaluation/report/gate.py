"""The gate: whether the measures of a run are proof enough to offer its fused model to others.

It judges what is measured and decides nothing about training. A measure that is missing (no CLM baseline) is a check
that does not hold: a model without its proof is kept and registered, but gets no alias.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from fusery.config.sections import Baseline, GateSpec
from fusery.evaluation.gain import Gain
from fusery.evaluation.report.report import Check, Report, Verdict
from fusery.evaluation.report.tables import gain_figures, percent, unspelled

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
    names = dict.fromkeys(name for baseline in rule.better_than for name in _models(report, baseline))
    checks = [_better(report, name, gains.get(name)) for name in names]
    if names:
        checks.append(_enough_documents(report, [name for name in names if name in gains], rule.least_documents))
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


def _better(report: Report, name: str, gain: Gain | None) -> Check:
    """Whether the whole interval lies below 0, and both models are measured on the same bytes."""
    asked = f"fewer bits per byte than {name}"
    if gain is None:
        why = report.remarks.get(name, "").removeprefix("not measured: ") or "the run has no such model"
        return Check(asked, False, f"{name} was not measured: {why}")
    if not report.is_comparable(name):
        lossy = max((name, "fused"), key=lambda model: report.models[model].unspelled_share)
        return Check(asked, False, f"not measured on the same bytes: {lossy}: {unspelled(report.models[lossy])}")
    return Check(asked, gain.relative.high < 0, gain_figures(gain))


def _enough_documents(report: Report, compared: Sequence[str], least: int) -> Check:
    """Whether the intervals say something: a bootstrap of one document has the width 0, of a handful hardly more.

    A document counts where fused and all models `compared` predict a byte of it, as in their gains.
    """
    asked = f"at least {least} held-out documents in every domain"
    models = [report.fused, *(report.models[name] for name in compared)]
    rows = zip(report.fused.doc_domains, *(model.predicted_bytes for model in models), strict=True)
    documents = Counter(domain for domain, *predicted_bytes in rows if all(predicted_bytes))
    few = {domain: count for domain, count in documents.items() if count < least}
    if few:
        shown = ", ".join(f"{domain} {count}" for domain, count in few.items())
        return Check(asked, False, f"{shown}: intervals of so few are too narrow")
    domain, count = min(documents.items(), key=lambda item: item[1])
    return Check(asked, True, f"the fewest are {count}, {domain}")


def _no_domain_lost(report: Report, tolerance: float) -> Check:
    asked = f"no domain worse than before by over {100 * tolerance:g}%"
    before, fused = report.target_before.domains, report.fused.domains
    change = {domain: fused[domain].bits_per_byte / before[domain].bits_per_byte - 1 for domain in fused}
    lost = {domain: value for domain, value in change.items() if value > tolerance}
    if lost:
        return Check(asked, False, ", ".join(f"{domain} {percent(value)}" for domain, value in lost.items()))
    worst = max(change, key=lambda domain: change[domain])
    return Check(asked, True, f"the worst change is {percent(change[worst])}, {worst}")
