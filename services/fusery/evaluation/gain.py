"""Gain: by how much one model beats another on the same documents, and how sure that is.

Documents differ far more from each other than two models do on one document, so both are compared document by
document: a bootstrap draws documents, of each domain as many as it has, and both models are scored on the same
draw. The interval speaks of the choice of held-out documents; not of the seed of the training.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fusery.evaluation.scores import Scores
from fusery.runtime.errors import CorpusError, Mismatch

FloatArray = npt.NDArray[np.float64]
_DRAWS_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with the bounds of its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def is_sure(self) -> bool:
        """Whether the interval does not hold 0."""
        return self.high < 0 or self.low > 0

    def to_json(self) -> dict[str, float]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Gain:
    """Change from a baseline to a model, of the mean over domains of bits per byte; below 0 the model is better.

    `bits_per_byte` is the difference, `relative` the difference divided by the baseline (−0.026: 2.6 % less).
    `fewest_documents`: of the smallest domain; with a handful the intervals are too narrow.
    """

    bits_per_byte: Interval
    relative: Interval
    documents: int
    fewest_documents: int
    resamples: int

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; the keys are documented in docs/evaluation-json.md."""
        return asdict(self)


def paired_gain(baseline: Scores, model: Scores, seed: int, resamples: int = 2000) -> Gain:
    """Gain of `model` over `baseline` with 95 % percentile intervals, by bootstrap over documents within domains.

    Documents in which either model predicts no byte (a single token, no BOS) are left out of the comparison.

    Raises:
        Mismatch: the two were measured on different documents.
        CorpusError: a domain has no document in which both predict a byte.
    """
    return _gain(list(_paired_domains(baseline, model).values()), seed, resamples)


def domain_gains(baseline: Scores, model: Scores, seed: int, resamples: int = 2000) -> dict[str, Gain]:
    """As `paired_gain`, of each domain by itself.

    Raises:
        Mismatch, CorpusError: as `paired_gain`.
    """
    pairs = _paired_domains(baseline, model)
    return {domain: _gain([pair], seed, resamples) for domain, pair in pairs.items()}


def intervals(scores: Scores, seed: int, resamples: int = 2000) -> dict[str, Interval]:
    """Bits per byte of each domain with its 95 % interval.

    Two models' intervals may overlap though one is surely better document by document: compare with `domain_gains`.
    """
    found = {}
    for domain, (bits_D2, bytes_D2) in _paired_domains(scores, scores).items():
        draws_R2 = _bootstrap(bits_D2, bytes_D2, resamples, np.random.default_rng(seed))
        found[domain] = _interval(bits_D2[:, 0].sum() / bytes_D2[:, 0].sum(), draws_R2[:, 0])
    return found


def _gain(domains: list[tuple[FloatArray, FloatArray]], seed: int, resamples: int) -> Gain:
    """Of the mean over `domains`, each bits and bytes [D, 2] of its documents."""
    rng = np.random.default_rng(seed)
    point_2 = np.zeros((1, 2))
    draws_R2 = np.zeros((resamples, 2))
    for bits_D2, bytes_D2 in domains:
        point_2 += (bits_D2.sum(axis=0) / bytes_D2.sum(axis=0)) / len(domains)
        draws_R2 += _bootstrap(bits_D2, bytes_D2, resamples, rng) / len(domains)
    documents = [len(bits_D2) for bits_D2, _ in domains]
    difference_R = draws_R2[:, 1] - draws_R2[:, 0]
    difference = point_2[0, 1] - point_2[0, 0]
    return Gain(
        _interval(difference, difference_R),
        _interval(difference / point_2[0, 0], difference_R / draws_R2[:, 0]),
        sum(documents),
        min(documents),
        resamples,
    )


def _paired_domains(baseline: Scores, model: Scores) -> dict[str, tuple[FloatArray, FloatArray]]:
    """By domain, bits [D, 2] and predicted bytes [D, 2] of its documents under (baseline, model)."""
    if (baseline.doc_ids, baseline.doc_domains) != (model.doc_ids, model.doc_domains):
        raise Mismatch(
            f"the two models were measured on different documents ({len(baseline.doc_ids)} and {len(model.doc_ids)}, "
            "or in another order); measure both on the same held-out documents"
        )
    bits_N2 = np.asarray([baseline.bits, model.bits], np.float64).T
    bytes_N2 = np.asarray([baseline.predicted_bytes, model.predicted_bytes], np.float64).T
    in_both_N: npt.NDArray[np.bool_] = np.all(bytes_N2 > 0, axis=1)
    # numpy takes a text for equal to one with NUL behind it, so texts are compared by Python.
    members: dict[str, list[int]] = {domain: [] for domain in baseline.doc_domains}
    for row, domain in enumerate(baseline.doc_domains):
        if in_both_N[row]:
            members[domain].append(row)
    for domain, rows in members.items():
        if not rows:
            raise CorpusError(f"domain {domain!r}: no document has a byte that both models predict; use longer ones")
    return {domain: (bits_N2[rows], bytes_N2[rows]) for domain, rows in members.items()}


def _bootstrap(bits_D2: FloatArray, bytes_D2: FloatArray, resamples: int, rng: np.random.Generator) -> FloatArray:
    """Bits per byte [resamples, 2] of (baseline, model), each on D documents drawn with replacement."""
    documents = len(bits_D2)
    parts = []
    for start in range(0, resamples, _DRAWS_AT_ONCE):
        drawn_RD = rng.integers(0, documents, (min(_DRAWS_AT_ONCE, resamples - start), documents))
        parts.append(bits_D2[drawn_RD].sum(axis=1) / bytes_D2[drawn_RD].sum(axis=1))
    return np.concatenate(parts)


def _interval(value: float, draws_R: FloatArray) -> Interval:
    low, high = np.percentile(draws_R, [2.5, 97.5])
    return Interval(float(value), float(low), float(high))
