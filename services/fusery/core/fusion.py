"""Fusion: the aligned distributions of several sources become the evidence that the target is trained on.

MinCE takes, at each position, the source that predicts this document best among those that have evidence
there; AvgCE keeps all of them, weighted. Their partitions of the target's vocabulary differ, so AvgCE is a
weighted set of rows and not one row: the losses add. Rows that speak of the same cells become one (`merged`).

To add a rule: its name in `rules.FusionRule`, and here a function with a line in `_RULES`. The function gets all rows
of a document, ordered by position, then by source: target positions, source numbers, costs of the sources, τ. It gives
the indices of the rows to keep, ascending, and a weight for every row; kept weights add up to 1 at each position. YAML,
schema, digests and property tests follow from the name (docs/how-to-add.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fusery.core.projection import sum_duplicates
from fusery.core.rules import Cost, FusionRule
from fusery.core.topk import PAD, DoubleArray, FloatArray, IntArray, TopK, empty


@dataclass(frozen=True, slots=True, eq=False)
class AlignedSource:
    """One source's evidence for a document: target positions int64 [R], cells, and its cost (low is good)."""

    positions_R: IntArray
    top: TopK
    cost: float


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


def cost_of(rule: Cost, next_log_probs_T: FloatArray, predicted_bytes_T: IntArray) -> float:
    """How badly a source predicts a document; infinite if it predicts nothing of it.

    `next_log_probs_T[i]` belongs to token i+1, the last entry to none; `predicted_bytes_T`, int64 [T − 1], as in
    `TokenizedText`. Bits per byte compare across tokenizers; token cross-entropy (nats) is the paper's and does not.
    Bits of all tokens count, bytes only where a token spells them, so that a source gains nothing by text that its
    tokenizer drops.

    >>> log_probs, size = np.log(np.float32([0.5, 0.25, 1])), np.array([2, 4])
    >>> f"{cost_of(Cost.BITS_PER_BYTE, log_probs, size):.3f} {cost_of(Cost.TOKEN_CE, log_probs, size):.3f}"
    '0.500 1.040'
    """
    nats = -next_log_probs_T[:-1].astype(np.float64)
    sizes = np.ones(len(nats)) if rule is Cost.TOKEN_CE else predicted_bytes_T * np.log(2)
    # Added one after the other; sum() adds in pairs, which gives other last bits.
    total, size = (0.0 + float(values.cumsum()[-1]) if len(values) else 0.0 for values in (nats, sizes))
    return total / size if size > 0 else math.inf


def fuse(rule: FusionRule, sources: Sequence[AlignedSource], temperature: float = 1.0) -> Evidence:
    """The evidence of all `sources` for one document under `rule`.

    Positions where only some sources have evidence use those; where none has, there is no row.

    >>> at_0 = AlignedSource(np.array([0]), TopK(np.array([[7]]), np.float32([[-0.1]])), cost=1.0)
    >>> at_0_and_1 = AlignedSource(np.array([0, 1]), TopK(np.array([[8], [9]]), np.float32([[-0.1], [-0.2]])), cost=2.0)
    >>> fused = fuse(FusionRule.MIN_CE, [at_0, at_0_and_1])
    >>> fused.positions_R.tolist(), fused.sources_R.tolist(), fused.top.ids_RK.tolist()
    ([0, 1], [0, 1], [[7], [9]])
    >>> print(fuse(FusionRule.AVG_CE, [at_0, at_0_and_1]).weights_R.round(2))  # position 0 twice, position 1
    [0.73 0.27 1.  ]
    """
    stacked = _stack(sources)
    cost_R = np.asarray([source.cost for source in sources])[stacked.sources_R]
    keep, weights = _RULES[rule](stacked.positions_R, stacked.sources_R, cost_R, temperature)
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


def _stack(sources: Sequence[AlignedSource]) -> Evidence:
    """All rows of all sources, ordered by position, then by source, padded to one K."""
    k = max(source.top.k for source in sources)
    tops = [_widened(source.top, k) for source in sources]
    positions = np.concatenate([source.positions_R for source in sources])
    owners = np.concatenate([np.full(len(s.positions_R), i, np.int64) for i, s in enumerate(sources)])
    order = np.lexsort((owners, positions))
    top = TopK(np.concatenate([t.ids_RK for t in tops]), np.concatenate([t.log_probs_RK for t in tops])).take(order)
    return Evidence(positions[order], owners[order], np.ones(len(order), np.float32), top)


def _widened(top: TopK, k: int) -> TopK:
    if top.k == k:
        return top
    wide = empty(top.rows, k)
    wide.ids_RK[:, : top.k], wide.log_probs_RK[:, : top.k] = top.ids_RK, top.log_probs_RK
    return wide


Weights = tuple[IntArray, DoubleArray]


def _min_ce(positions: IntArray, owners: IntArray, cost: DoubleArray, _: float) -> Weights:
    """Per position the row of the best source; ties go to the source that the run names first."""
    order = np.lexsort((owners, cost, positions))
    is_best = np.diff(positions[order], prepend=PAD) != 0
    return np.sort(order[is_best]), np.ones(len(positions))


def _avg_ce(positions: IntArray, _: IntArray, cost: DoubleArray, temperature: float) -> Weights:
    """All rows, weighted softmax(−c/τ) over the sources that have evidence at the position."""
    return np.arange(len(positions)), _softmax(positions, cost / temperature)


def _avg_ce_exp(positions: IntArray, _: IntArray, cost: DoubleArray, temperature: float) -> Weights:
    """All rows, weighted softmax(exp(−c)/τ)."""
    return np.arange(len(positions)), _softmax(positions, -np.exp(-cost) / temperature)


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
