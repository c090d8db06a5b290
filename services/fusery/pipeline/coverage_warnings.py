"""Where a source's coverage is under a floor of the run's YAML: the figure, the floor, and what is likely the cause.

A warning, never a refusal: low coverage is an honest result too, and only people know what they hoped for. Causes
are read off the counts and the tokenizers' own definitions, the most telling one first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fusery.core.coverage import Counts, Image
from fusery.core.rules import Positions, Vocabulary
from fusery.core.tokens import ByteTokenizer
from fusery.formats.store import Store
from fusery.json_text import parse_json
from fusery.pipeline.coverage import Found, aligned_counts
from fusery.run_sections import CoverageSpec
from fusery.worker.hops import load_tokenizer
from fusery.worker.plan import Plan, PlannedSource

_MOST_OF_IT = 0.5
"""Share of what is missing, or of a side's rows, that a cause must explain to be named."""


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


def warnings_of(store: Store, plan: Plan, floors: CoverageSpec) -> list[CoverageWarning]:
    """One warning for each source, domain and figure under its floor, in the order of the run."""
    return under_floors(store, plan, floors, aligned_counts(store, plan))


def under_floors(store: Store, plan: Plan, floors: CoverageSpec, found: dict[str, Found]) -> list[CoverageWarning]:
    """As `warnings_of`, of counts that are read already."""
    return [
        warning
        for source in plan.sources
        for domain, counts in found[source.name].domains.items()
        for warning in _of_domain(store, plan, floors, source, domain, counts)
    ]


def _of_domain(
    store: Store, plan: Plan, floors: CoverageSpec, source: PlannedSource, domain: str, counts: Counts
) -> Iterator[CoverageWarning]:
    if counts.positions and counts.with_evidence < floors.positions_floor * counts.positions:
        sides = [load_tokenizer(store, of) for of in (source.tokenizer_fingerprint, plan.target_tokenizer_fingerprint)]
        cause = why_few_positions(counts, plan.alignment.positions, floors.positions_floor, *sides)
        value = counts.with_evidence / counts.positions
        yield CoverageWarning(source.name, domain, "positions", value, floors.positions_floor, cause)
    if counts.kept_mass < floors.mass_floor * counts.with_evidence:
        k = min(plan.capture.top_k, source.vocabulary_size)
        cause = why_little_mass(counts, plan.alignment.vocabulary, k)
        value = counts.kept_mass / counts.with_evidence
        yield CoverageWarning(source.name, domain, "kept_mass", value, floors.mass_floor, cause)


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
        return f"the vocabulary map ({rule.value}) has no cell for {share:.1%} of the captured mass; {_MENDS_MAP[rule]}"
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
