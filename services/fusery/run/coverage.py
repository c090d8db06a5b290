"""What the notes beside shards say: how much of a target's text has evidence, from which source, and the mass it keeps.

Where a share is under its floor of the run's YAML: a warning with the figure, the floor and the likely cause.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from fusery.config.sections import CoverageSpec
from fusery.core.coverage import Counts, Image, deciles
from fusery.core.rules import Fallback, Positions, Vocabulary
from fusery.core.tokens import ByteTokenizer
from fusery.hops import facts
from fusery.hops.plan import Hop, Plan, ShardTask
from fusery.hops.store.store import Store
from fusery.hops.tables import load_tokenizer
from fusery.runtime.text.json import parse_json

Coverage = dict[str, dict[str, dict[str, Any]]]

_MOST_OF_IT = 0.5
"""Share of what is missing, or of a side's rows, that a cause must explain to be named."""


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


@dataclass(frozen=True, slots=True)
class CoverageWarning:
    """A share under its floor; `figure` is "positions" or "kept_mass", `cause` what likely made it and what to do."""

    source: str
    domain: str
    figure: str
    value: float
    floor: float
    cause: str

    @property
    def text(self) -> str:
        if self.figure == "positions":
            found = f"evidence at {self.value:.1%} of the target's positions, under coverage.positions_floor"
        else:
            found = f"{self.value:.1%} of the mass is kept on average, under coverage.mass_floor"
        return f"source {self.source}, domain {self.domain}: {found} {self.floor:.1%}; likely: {self.cause}"


def warnings_of(
    store: Store, plan: Plan, floors: CoverageSpec, found: dict[str, Found] | None = None
) -> list[CoverageWarning]:
    """One for each source, domain and figure under its floor, in the order of the run; `found`: counts read already.

    A warning, never a refusal: low coverage is an honest result too, and only people know what they hoped for. Causes
    are read off the counts and the tokenizers' definitions, the most telling one first.
    """
    warnings = []
    for name, of in (aligned_counts(store, plan) if found is None else found).items():
        source = plan.source(name)
        for domain, counts in of.domains.items():
            if counts.positions and counts.with_evidence < floors.positions_floor * counts.positions:
                fingerprints = (source.tokenizer_fingerprint, plan.target_tokenizer_fingerprint)
                sides = [load_tokenizer(store, fingerprint) for fingerprint in fingerprints]
                cause = why_few_positions(counts, plan.alignment.positions, floors.positions_floor, *sides)
                share = counts.with_evidence / counts.positions
                warnings.append(CoverageWarning(name, domain, "positions", share, floors.positions_floor, cause))
            if counts.kept_mass < floors.mass_floor * counts.with_evidence:
                k = min(plan.capture.top_k, source.vocabulary_size)
                cause = why_little_mass(counts, plan.alignment.vocabulary, k)
                share = counts.kept_mass / counts.with_evidence
                warnings.append(CoverageWarning(name, domain, "kept_mass", share, floors.mass_floor, cause))
    return warnings


def why_few_positions(
    counts: Counts, rule: Positions, floor: float, source: ByteTokenizer, target: ByteTokenizer
) -> str:
    """The likely cause of a low share of positions, and what to do."""
    missing = counts.positions - counts.with_evidence
    astray = {"source": counts.source_astray, "target": counts.target_astray}
    worst = "source" if astray["source"] >= astray["target"] else "target"
    rows = counts.source_rows if worst == "source" else counts.positions
    if astray[worst] and astray[worst] >= _MOST_OF_IT * min(missing, rows):
        normalises = ", ".join(normalizers(source if worst == "source" else target)) or "added tokens that strip"
        return (
            f"the {worst}'s tokenizer changes the text ({normalises}), so {astray[worst]:,} of its rows do not stand "
            "where the text goes on; normalise the corpus in the same way first, or use a tokenizer that does not"
        )
    if rule is not Positions.BOUNDARY:
        return (
            f"alignment.positions is {rule.value}, which takes only positions that meet one source token in the same "
            "cell; boundary takes all at which both tokenizers end a token"
        )
    if len(target.prefix_ids) and not len(source.prefix_ids) and counts.documents >= _MOST_OF_IT * missing:
        return (
            "the target begins every text with BOS and the source does not, so the first token of each of the "
            f"{counts.documents:,} documents has no evidence, and they are short; join short documents to longer ones"
        )
    if counts.source_rows < floor * counts.positions:
        return (
            f"the source cuts the text into longer tokens, {counts.source_rows:,} for {counts.positions:,} positions "
            "of the target; no setting mends that: take a source with shorter tokens, or lower the floor"
        )
    return (
        "the tokenizers split white space, digits or words in different ways, and end few tokens at the same byte; "
        "fusery align shows where"
    )


def normalizers(tokenizer: ByteTokenizer) -> list[str]:
    """The kinds of the steps that change a text, as the tokenizer's definition names them."""
    first = parse_json(tokenizer.definition())["backend"].get("normalizer")
    steps = [] if first is None else first.get("normalizers", [first])
    # These two put the space marker in, which is taken out again where bytes are counted.
    return [step["type"] for step in steps if step["type"] != "Prepend" and step.get("pattern") != {"String": " "}]


def why_little_mass(counts: Counts, rule: Vocabulary, k: int) -> str:
    """The likely cause of a low kept mass, and what to do."""
    dropped = float(counts.mass_I[Image.NO_CELL])
    outside = counts.with_evidence - counts.captured_mass
    if dropped >= outside:
        share = dropped / counts.captured_mass
        advice = _MENDS_MAP.get(rule, _OTHER_MAP)
        return f"the vocabulary map ({rule.value}) has no cell for {share:.1%} of the captured mass; {advice}"
    return (
        f"the {k} entries captured at a position hold only {counts.captured_mass / counts.with_evidence:.1%} of the "
        "mass; raise capture.top_k, unless the source just does not know such text"
    )


_OTHER_MAP = "alignment.vocabulary: partition has one for everything that both tokenizers spell"
_NO_TOKEN = "it is on special tokens, or on what the target can't spell; fusery query shows the source's tokens"
_MENDS_MAP = {
    Vocabulary.EXACT: _OTHER_MAP,
    Vocabulary.MIN_ED: _OTHER_MAP,
    Vocabulary.PARTITION: _NO_TOKEN,
}
