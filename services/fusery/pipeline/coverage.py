"""What the shards say of themselves: how much of the target's text has evidence, from whom, and the mass it keeps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from fusery.core.coverage import Counts, Image, deciles
from fusery.core.rules import Fallback, Positions
from fusery.formats.store import Store
from fusery.worker import facts
from fusery.worker.plan import Hop, Plan, ShardTask

Coverage = dict[str, dict[str, dict[str, Any]]]


@dataclass(slots=True)
class Found:
    """Counts by domain, and the number of the shards that they are of."""

    shards: int = 0
    domains: dict[str, Counts] = field(default_factory=dict)


@dataclass(slots=True)
class Joined:
    """Of one domain, all sources together: target positions, those with any evidence, and its weight by source."""

    positions: int = 0
    with_evidence: int = 0
    weights: dict[str, float] = field(default_factory=dict)


def aligned_counts(store: Store, plan: Plan) -> dict[str, Found]:
    """Source → counts of its aligned shards, as far as they are there."""
    found = {source.name: Found() for source in plan.sources}
    for name, of_source in found.items():
        for noted in _facts(store, plan, Hop.ALIGN, name):
            of_source.shards += 1
            for domain, counts in facts.counts_of(noted).items():
                before = of_source.domains.get(domain)
                of_source.domains[domain] = counts if before is None else before.plus(counts)
    return found


def fused_counts(store: Store, plan: Plan) -> tuple[int, dict[str, Joined]]:
    """The number of fused shards that are there, and their counts by domain."""
    shards, domains = 0, dict[str, Joined]()
    for noted in _facts(store, plan, Hop.FUSE, ""):
        shards += 1
        for domain, counts in noted["domains"].items():
            joined = domains.setdefault(domain, Joined())
            joined.positions += counts["positions"]
            joined.with_evidence += counts["with_evidence"]
            for source, weight in counts["weights"].items():
                joined.weights[source] = joined.weights.get(source, 0.0) + weight
    return shards, domains


def coverage_of(store: Store, plan: Plan) -> Coverage:
    """Source → domain → shares, as `shares` gives them."""
    found = aligned_counts(store, plan)
    return {name: {d: shares(counts, plan) for d, counts in of.domains.items()} for name, of in found.items()}


def shares(counts: Counts, plan: Plan) -> dict[str, Any]:
    """What evaluation.json says of one source and domain; None where there is nothing to take a share of."""
    rows, captured = counts.with_evidence, counts.captured_mass
    larger = float(counts.mass_I[Image.LARGER_CELL])
    of_mass = {image.name.lower(): _share(float(counts.mass_I[image]), captured) for image in Image}
    falls_back = {"falls_back": _share(counts.positions - rows, counts.positions)} if has_fallback(plan) else {}
    return {
        "positions": _share(rows, counts.positions),
        **falls_back,
        "kept_mass": _share(counts.kept_mass, rows),
        "kept_mass_deciles": deciles(counts.kept_B),
        "captured_mass": _share(captured, rows),
        **of_mass,
        "larger_cell_tokens": counts.cell_tokens / larger if larger > 0 else None,
    }


def has_fallback(plan: Plan) -> bool:
    """Whether a position that meets no source row is a case of its own in the run's rules."""
    return plan.alignment.positions is not Positions.BOUNDARY or plan.alignment.fallback is not Fallback.NONE


def shares_of(store: Store, plan: Plan) -> dict[str, dict[str, float]]:
    """Domain → source → its share of the evidence's weight: under MinCE the share of the positions that it won."""
    return {domain: weight_shares(joined) for domain, joined in fused_counts(store, plan)[1].items()}


def weight_shares(joined: Joined) -> dict[str, float]:
    """Source → share of the evidence's weight; 0 where there is no evidence."""
    total = sum(joined.weights.values())
    return {source: weight / total if total else 0.0 for source, weight in joined.weights.items()}


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole > 0 else None


def _facts(store: Store, plan: Plan, hop: Hop, source: str) -> Iterator[dict[str, Any]]:
    for shard in range(plan.corpus_shards):
        entry = store.find(plan.artefact(ShardTask(hop, source, shard)))
        if entry is not None:
            yield entry.facts
