"""Fusion: the aligned distributions of several sources become the evidence that the target is trained on.

MinCE takes, at each position, the source that predicts this document best among those that have evidence
there; AvgCE keeps all of them, weighted. Their partitions of the target's vocabulary differ, so AvgCE is a
weighted set of rows and not one row: the losses add.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fusery.core.rules import FusionRule, Quality
from fusery.core.topk import PAD, FloatArray, IntArray, TopK, empty


@dataclass(frozen=True, slots=True, eq=False)
class AlignedSource:
    """One source's evidence for a document: target positions int64 [R] ascending, cells, quality (low is good)."""

    positions_R: IntArray
    top: TopK
    quality: float


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


def quality_of(rule: Quality, next_log_probs_T: FloatArray, byte_ends_T: IntArray) -> float:
    """How badly a source predicts a document, from the log-probabilities of the tokens that did follow.

    `next_log_probs_T[i]` belongs to token i+1; the last entry belongs to nothing. Bits per byte compare
    across tokenizers; token cross-entropy (nats) is the paper's and does not. Infinite if nothing is predicted.
    """
    predicted = next_log_probs_T[:-1].astype(np.float64)
    if rule is Quality.TOKEN_CE:
        return float(-predicted.mean()) if len(predicted) else np.inf
    predicted_bytes = int(byte_ends_T[-1] - byte_ends_T[0]) if len(byte_ends_T) else 0
    return float(-predicted.sum() / np.log(2) / predicted_bytes) if predicted_bytes else np.inf


def fuse(rule: FusionRule, sources: Sequence[AlignedSource], temperature: float = 1.0) -> Evidence:
    """The evidence of all `sources` for one document under `rule`.

    Positions where only some sources have evidence use those; where none has, there is no row.
    """
    stacked = _stack(sources)
    quality = np.asarray([source.quality for source in sources], np.float64)
    keep, weights = _RULES[rule](stacked.positions_R, stacked.sources_R, quality, temperature)
    return Evidence(
        stacked.positions_R[keep], stacked.sources_R[keep], weights[keep].astype(np.float32), stacked.top.take(keep)
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


Weights = tuple[IntArray, npt.NDArray[np.float64]]


def _min_ce(positions: IntArray, owners: IntArray, quality: npt.NDArray[np.float64], _: float) -> Weights:
    """Per position the row of the best source; ties go to the source that the run names first."""
    order = np.lexsort((owners, quality[owners], positions))
    is_best = np.diff(positions[order], prepend=PAD) != 0
    return np.sort(order[is_best]), np.ones(len(positions))


def _avg_ce(positions: IntArray, owners: IntArray, quality: npt.NDArray[np.float64], temperature: float) -> Weights:
    """All rows, weighted softmax(−c/τ) over the sources that have evidence at the position."""
    _, group = np.unique(positions, return_inverse=True)
    best = np.full(len(positions), np.inf)
    np.minimum.at(best, group, quality[owners])
    best = best[group]
    # Sources that predict nothing (c = ∞) share a position that only they have.
    behind = np.where(np.isinf(best), 0.0, quality[owners] - np.where(np.isinf(best), 0.0, best))
    score = np.exp(-behind / temperature)
    return np.arange(len(positions)), score / np.bincount(group, weights=score)[group]


_RULES: dict[FusionRule, Callable[[IntArray, IntArray, npt.NDArray[np.float64], float], Weights]] = {
    FusionRule.MIN_CE: _min_ce,
    FusionRule.AVG_CE: _avg_ce,
}
