"""What later steps and people need to know of a shard without opening it: counts and sums per domain, which add up.

Coverage and the trainer's index of documents are read from these alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np

from fusery.core import coverage
from fusery.core.coverage import BINS, Counts, Image, TokenImages
from fusery.core.tokens import ByteTokenizer, TokenizedText
from fusery.core.topk import TopK, VocabularyMap
from fusery.hops.plan import Plan
from fusery.hops.store.shards import FusedDocument

Facts = dict[str, Any]

_MASSES = {image: image.name.lower() for image in Image}
_PLAIN = ("documents", "positions", "with_evidence", "source_rows", "source_astray", "target_astray")


@lru_cache(maxsize=16)
def token_images(vocabulary: VocabularyMap, source: ByteTokenizer, target: ByteTokenizer) -> TokenImages:
    """The images of the source's tokens; found once per map, for `hops` keeps its maps and tokenizers."""
    return coverage.images_of(vocabulary, source.token_bytes, target.token_bytes)


@dataclass(slots=True)
class Tally:
    """Counts the documents of one aligned shard, one by one."""

    images: TokenImages
    drops_duplicates: bool = False
    """As the projection of `reference` does."""
    _domains: dict[str, Counts] = field(default_factory=dict)
    _tokens: int = 0

    def add(self, domain: str, source: TokenizedText, target: TokenizedText, used: TopK) -> None:
        """One document; `used`: the source's captured rows that are evidence, before any fallback."""
        counts = replace(
            coverage.masses(used, self.images, self.drops_duplicates),
            documents=1,
            positions=max(len(target.ids_T) - 1, 0),
            source_rows=len(source.ids_T),
            source_astray=_astray(source),
            target_astray=_astray(target),
        )
        before = self._domains.get(domain)
        self._domains[domain] = counts if before is None else before.plus(counts)
        self._tokens += len(target.ids_T)

    def facts(self) -> Facts:
        """`tokens`, and by domain what `counts_of` reads back."""
        domains = {domain: _numbers(counts) for domain, counts in self._domains.items()}
        return {"tokens": self._tokens, "domains": domains}


def counts_of(facts: Mapping[str, Any]) -> dict[str, Counts]:
    """Domain → counts, of an aligned shard's facts."""
    return {domain: _counts(numbers) for domain, numbers in facts["domains"].items()}


def of_fused(fused: Sequence[FusedDocument], plan: Plan) -> Facts:
    """By domain: target positions, those with evidence of any source, and the weight that each source has in it.

    Under MinCE a source's weight is the number of positions that it won. `fused`: before rows of several sources are
    merged into one, which would stand for the first of them.
    """
    domains: dict[str, Any] = {}
    for document in fused:
        evidence = document.evidence
        weights = np.bincount(evidence.sources_R, evidence.weights_R, len(plan.sources))
        nothing = {"positions": 0, "with_evidence": 0, "weights": {source.name: 0.0 for source in plan.sources}}
        counts = domains.setdefault(document.domain, nothing)
        counts["positions"] += max(len(document.token_ids_N) - 1, 0)
        counts["with_evidence"] += int(np.count_nonzero(np.diff(evidence.positions_R, prepend=-1)))
        for source, weight in zip(plan.sources, weights.tolist(), strict=True):
            counts["weights"][source.name] += round(weight, 4)
    return {"tokens": sum(len(document.token_ids_N) for document in fused), "domains": domains}


def _astray(text: TokenizedText) -> int:
    return 0 if text.stands_T is None else int((~text.stands_T).sum())


def _numbers(counts: Counts) -> dict[str, Any]:
    plain = {name: getattr(counts, name) for name in _PLAIN}
    masses = {name: round(float(counts.mass_I[image]), 6) for image, name in _MASSES.items()}
    histogram = counts.kept_B.tolist()
    return {**plain, **masses, "cell_tokens": round(counts.cell_tokens, 6), "kept_histogram": histogram}


def _counts(numbers: Mapping[str, Any]) -> Counts:
    histogram = np.asarray(numbers["kept_histogram"], np.int64)
    if len(histogram) != BINS:
        raise ValueError(f"kept_histogram: {len(histogram)} bins, expected {BINS}")
    return Counts(
        **{name: numbers[name] for name in _PLAIN},
        mass_I=np.asarray([numbers[name] for name in _MASSES.values()], np.float64),
        cell_tokens=numbers["cell_tokens"],
        kept_B=histogram,
    )
