"""What the shards say of themselves: how much of the target's text has evidence, from whom, and the mass it keeps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from fusery.core.rules import FusionRule
from fusery.formats.store import Store
from fusery.worker.plan import Hop, Plan, ShardTask

Coverage = dict[str, dict[str, dict[str, float]]]


def coverage_of(store: Store, plan: Plan) -> Coverage:
    """Source → domain → share of target positions with evidence, and mean mass kept there."""
    found: Coverage = {}
    for source in plan.sources:
        totals = _sums(store, plan, Hop.ALIGN, source.name)
        found[source.name] = {
            domain: {
                "positions": counts["with_evidence"] / max(counts["positions"], 1),
                "kept_mass": counts["kept_mass"] / max(counts["with_evidence"], 1),
            }
            for domain, counts in totals.items()
        }
    return found


def shares_of(store: Store, plan: Plan) -> dict[str, dict[str, float]]:
    """Domain → source → share of the positions with evidence at which MinCE chose it; empty under another rule."""
    if plan.fusion.rule is not FusionRule.MIN_CE:
        return {}
    shares = {}
    for domain, weights in _sums(store, plan, Hop.FUSE, "").items():
        total = sum(weights.values())
        shares[domain] = {source: weight / total if total else 0.0 for source, weight in weights.items()}
    return shares


def _sums(store: Store, plan: Plan, hop: Hop, source: str) -> dict[str, dict[str, float]]:
    """The numbers of all shards of a hop, added up by domain."""
    totals: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for domains in _facts(store, plan, hop, source):
        for domain, counts in domains.items():
            for key, value in counts.items():
                totals[domain][key] += value
    return totals


def _facts(store: Store, plan: Plan, hop: Hop, source: str) -> Iterator[dict[str, dict[str, float]]]:
    for shard in range(plan.corpus_shards):
        entry = store.find(plan.artefact(ShardTask(hop, source, shard)))
        if entry is not None:
            yield entry.facts["domains"]
