"""Fusion: the aligned distributions of several sources become the evidence that the target is trained on.

MinCE takes, at each position, the source that predicts this document best among those that have evidence
there; AvgCE keeps all of them, weighted. Their partitions of the target's vocabulary differ, so AvgCE is a
weighted set of rows and not one row: the losses add. Rows that speak of the same cells become one (`merged`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from fusery.core.projection import sum_duplicates
from fusery.core.rules import FusionRule, Quality
from fusery.core.topk import PAD, DoubleArray, FloatArray, IntArray, TopK, empty


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """What a source said of its own tokens: log-probability of the next one float32 [T], byte ends int64 [T].

    `next_log_probs_T[i]` belongs to token i+1; the last entry belongs to nothing. `unspelled_T`: as in `TokenizedText`.
    """

    next_log_probs_T: FloatArray
    byte_ends_T: IntArray
    unspelled_T: IntArray | None = None

    @property
    def predicted_bytes_T(self) -> IntArray:
        """The bytes that every token but the first spells, int64 [T − 1]."""
        whole: IntArray = np.diff(self.byte_ends_T)
        return whole if self.unspelled_T is None else whole - self.unspelled_T[1:]


@dataclass(frozen=True, slots=True, eq=False)
class AlignedSource:
    """One source's evidence for a document: target positions int64 [R], cells, quality (low is good).

    `predictions`: kept where the scope of fusion asks for the quality of parts of the document.
    """

    positions_R: IntArray
    top: TopK
    quality: float
    predictions: Predictions | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """What the target is trained on besides the labels, ordered by position, then by source.

    positions int64 [R]; sources int64 [R], index of the source whose cells the row's ids are; weights
    float32 [R], adding up to 1 over the rows of one position.
    """

    positions_R: IntArray
    sources_R: IntArray
    weights_R: FloatArray
    top: TopK


def quality_of(rule: Quality, predictions: Predictions) -> float:
    """How badly a source predicts a document; infinite if it predicts nothing of it.

    Bits per byte compare across tokenizers; token cross-entropy (nats) is the paper's and does not. Bits of all tokens
    count, bytes only where a token spells them, so that a source gains nothing by text that its tokenizer drops.
    """
    everything = np.zeros(max(len(predictions.next_log_probs_T) - 1, 0), np.int64)
    return float(_quality_by_span(rule, predictions, everything, 1)[0])


def span_qualities(rule: Quality, sources: Sequence[AlignedSource], target_ends_N: IntArray) -> list[DoubleArray]:
    """For each source the quality at each of its rows: of the span that begins or goes on after the row's position.

    Spans lie between the byte boundaries that all sources have in common, so each source predicted the same bytes.

    Raises:
        ValueError: a source has no predictions.
    """
    predictions = [source.predictions for source in sources if source.predictions is not None]
    if len(predictions) < len(sources):
        raise ValueError("fusion by spans needs every source's predictions; align again with scope: span")
    common = reduce(np.intersect1d, [p.byte_ends_T for p in predictions])
    qualities = []
    for source, predicted in zip(sources, predictions, strict=True):
        # The spans' ends are ends of every source's tokens, so a token lies in the span in which it ends; by its end,
        # because the pieces of a character may all end where it does.
        spans = np.searchsorted(common, predicted.byte_ends_T[1:], side="left")
        by_span = _quality_by_span(rule, predicted, spans, len(common) + 1)
        qualities.append(by_span[np.searchsorted(common, target_ends_N[source.positions_R], side="right")])
    return qualities


def _quality_by_span(rule: Quality, predictions: Predictions, spans: IntArray, count: int) -> DoubleArray:
    """Quality of each span; `spans` says to which each predicted token belongs."""
    nats = np.bincount(spans, weights=-predictions.next_log_probs_T[:-1].astype(np.float64), minlength=count)
    by_token = rule is Quality.TOKEN_CE
    sizes = np.ones(len(spans)) if by_token else predictions.predicted_bytes_T * np.log(2)
    size = np.bincount(spans, weights=sizes, minlength=count)
    quality = np.full(count, np.inf)
    np.divide(nats, size, out=quality, where=size > 0)
    return quality


def fuse(
    rule: FusionRule,
    sources: Sequence[AlignedSource],
    temperature: float = 1.0,
    qualities: Sequence[DoubleArray] | None = None,
) -> Evidence:
    """The evidence of all `sources` for one document under `rule`.

    Positions where only some sources have evidence use those; where none has, there is no row. `qualities`: of every
    source at each of its rows; without it a source's quality is that of the document.
    """
    if qualities is None:
        qualities = [np.full(len(source.positions_R), source.quality) for source in sources]
    stacked, order = _stack(sources)
    quality_R = np.concatenate(qualities)[order]
    keep, weights = _RULES[rule](stacked.positions_R, stacked.sources_R, quality_R, temperature)
    return Evidence(
        stacked.positions_R[keep], stacked.sources_R[keep], weights[keep].astype(np.float32), stacked.top.take(keep)
    )


def merged(evidence: Evidence, spaces: Sequence[int]) -> Evidence:
    """The rows of one position that speak of the same cells as one row: Σ w P / Σ w, with the weight Σ w.

    `spaces`: for each source the first source whose cells are the same. That source stands for rows that were merged.
    """
    owners = np.asarray(spaces, np.int64)[evidence.sources_R]
    key = evidence.positions_R * len(spaces) + owners
    order = np.argsort(key, kind="stable")
    _, first, counts = np.unique(key[order], return_index=True, return_counts=True)
    if len(first) == len(key):
        return evidence
    group = np.repeat(np.arange(len(first)), counts)
    weight = np.bincount(group, weights=evidence.weights_R[order])
    # A source that predicts nothing (c = ∞) has weight 0 beside others, and so may all of a group.
    share = evidence.weights_R[order] / np.where(weight > 0, weight, 1.0)[group]
    width, k = int(counts.max()), evidence.top.k
    at = np.arange(len(key)) - first[group]
    ids, mass = np.full((len(first), width, k), PAD, np.int64), np.zeros((len(first), width, k))
    ids[group, at] = evidence.top.ids_RK[order]
    mass[group, at] = share[:, None] * np.exp(evidence.top.log_probs_RK[order].astype(np.float64))
    top = sum_duplicates(ids.reshape(len(first), -1), mass.reshape(len(first), -1))
    rows = order[first]
    positions_R, sources_R = evidence.positions_R[rows], np.where(counts > 1, owners[rows], evidence.sources_R[rows])
    by_source = np.lexsort((sources_R, positions_R))
    return Evidence(
        positions_R[by_source], sources_R[by_source], weight[by_source].astype(np.float32), top.take(by_source)
    )


def _stack(sources: Sequence[AlignedSource]) -> tuple[Evidence, IntArray]:
    """All rows of all sources, ordered by position, then by source, padded to one K; and where each row was."""
    k = max(source.top.k for source in sources)
    tops = [_widened(source.top, k) for source in sources]
    positions = np.concatenate([source.positions_R for source in sources])
    owners = np.concatenate([np.full(len(s.positions_R), i, np.int64) for i, s in enumerate(sources)])
    order = np.lexsort((owners, positions))
    top = TopK(np.concatenate([t.ids_RK for t in tops]), np.concatenate([t.log_probs_RK for t in tops])).take(order)
    return Evidence(positions[order], owners[order], np.ones(len(order), np.float32), top), order


def _widened(top: TopK, k: int) -> TopK:
    if top.k == k:
        return top
    wide = empty(top.rows, k)
    wide.ids_RK[:, : top.k], wide.log_probs_RK[:, : top.k] = top.ids_RK, top.log_probs_RK
    return wide


Weights = tuple[IntArray, DoubleArray]


def _min_ce(positions: IntArray, owners: IntArray, quality: DoubleArray, _: float) -> Weights:
    """Per position the row of the best source; ties go to the source that the run names first."""
    order = np.lexsort((owners, quality, positions))
    is_best = np.diff(positions[order], prepend=PAD) != 0
    return np.sort(order[is_best]), np.ones(len(positions))


def _avg_ce(positions: IntArray, _: IntArray, quality: DoubleArray, temperature: float) -> Weights:
    """All rows, weighted softmax(−c/τ) over the sources that have evidence at the position."""
    return np.arange(len(positions)), _softmax(positions, quality / temperature)


def _avg_ce_exp(positions: IntArray, _: IntArray, quality: DoubleArray, temperature: float) -> Weights:
    """All rows, weighted softmax(exp(−c)/τ)."""
    return np.arange(len(positions)), _softmax(positions, -np.exp(-quality) / temperature)


def _softmax(positions: IntArray, cost: DoubleArray) -> DoubleArray:
    """exp(−cost), normalised over the rows of each position; `positions` ascending."""
    starts = np.flatnonzero(np.diff(positions, prepend=PAD) != 0)
    group = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(positions)))
    best = np.minimum.reduceat(cost, starts)[group] if len(starts) else cost
    # Sources that predict nothing (c = ∞) share a position that only they have.
    score = np.exp(-np.where(np.isinf(best), 0.0, cost - np.where(np.isinf(best), 0.0, best)))
    return score / np.bincount(group, weights=score)[group]


_RULES: dict[FusionRule, Callable[[IntArray, IntArray, DoubleArray, float], Weights]] = {
    FusionRule.MIN_CE: _min_ce,
    FusionRule.AVG_CE: _avg_ce,
    FusionRule.AVG_CE_EXP: _avg_ce_exp,
}
