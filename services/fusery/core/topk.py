"""TopK, the one type that flows from capture through alignment to fusion, and the map that says what its ids mean.

The k most probable entries of each row, best first, and through them what is known of the rest: the
tail, 1 − Σ p. What the ids mean (tokens of which vocabulary, cells of which partition) is not in the
arrays; every shard carries the fingerprint of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

PAD = -1
"""Id of an absent entry; its log-probability is −inf. Absent entries stand last in a row."""

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]
DoubleArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class TopK:
    """ids_RK int64 and log_probs_RK float32 (natural log), best first, PAD where a row has fewer.

    Raises:
        ValueError: shapes or dtypes differ from that, a log-probability is NaN or positive, a row's
            mass exceeds 1 by more than rounding.
    """

    ids_RK: IntArray
    log_probs_RK: FloatArray

    def __post_init__(self) -> None:
        ids, log_probs = self.ids_RK, self.log_probs_RK
        if ids.ndim != 2 or ids.shape != log_probs.shape:
            raise ValueError(f"ids {ids.shape} and log-probabilities {log_probs.shape} must be one [R, K] shape")
        if ids.dtype != np.int64 or log_probs.dtype != np.float32:
            raise ValueError(f"expected int64 ids and float32 log-probabilities, got {ids.dtype}, {log_probs.dtype}")
        if log_probs.size == 0:
            return
        if np.isnan(log_probs).any() or log_probs.max() > 1e-3:
            row = int(np.argmax((np.isnan(log_probs) | (log_probs > 1e-3)).any(axis=1)))
            raise ValueError(f"row {row}: a log-probability is NaN or positive: {log_probs[row].tolist()[:8]}")
        heaviest = self.mass_R.max()
        if heaviest > 1.01:
            row = int(self.mass_R.argmax())
            raise ValueError(f"row {row}: probabilities add up to {heaviest:.4f}, expected at most 1")

    @property
    def rows(self) -> int:
        return int(self.ids_RK.shape[0])

    @property
    def k(self) -> int:
        return int(self.ids_RK.shape[1])

    @property
    def mass_R(self) -> FloatArray:
        """Probability mass that each row keeps, float32 [R]; the tail is 1 minus it."""
        return np.asarray(np.exp(self.log_probs_RK).sum(axis=1, dtype=np.float32))

    def take(self, rows: IntArray) -> TopK:
        """The given rows, in the given order."""
        return TopK(self.ids_RK[rows], self.log_probs_RK[rows])


def empty(rows: int, k: int) -> TopK:
    """`rows` rows without any entry."""
    return TopK(np.full((rows, k), PAD, np.int64), np.full((rows, k), -np.inf, np.float32))


@dataclass(frozen=True, slots=True, eq=False)
class VocabularyMap:
    """What a source's tokens say in terms of the target's vocabulary, static per pair of tokenizers (`vocab.build`).

    cell_of_source int64 [source V] and cell_of_target int64 [target V], PAD for tokens in no cell. Under `partition` a
    cell is a set of source tokens and a set of target tokens that are the same event, under the other rules one target
    token. Mass of source cell c supervises the target's mass of cell c: alignment, fusion and loss know this case only.
    """

    cell_of_source_V: IntArray
    cell_of_target_V: IntArray
    cells: int
