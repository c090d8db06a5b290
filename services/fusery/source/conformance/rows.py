"""One position's kept entries, and how far two of them are apart where neither order nor ties mean anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, log

import numpy as np

from fusery.source.api import Distributions

_LEAST = -50.0
"""Log-probabilities under this are all the same to any use of them."""


@dataclass(frozen=True, slots=True)
class Row:
    """Id → log-probability of the kept entries."""

    log_probs: Mapping[int, float]

    @property
    def mass(self) -> float:
        return sum(exp(value) for value in self.log_probs.values())

    @property
    def least(self) -> float:
        """Log-probability of the last entry: no token that is not kept has more."""
        return min(self.log_probs.values())

    @property
    def bound(self) -> float:
        """The most that a token which is not kept can have: the last entry's, or all of the tail."""
        tail = 1.0 - self.mass
        return max(_LEAST, min(self.least, log(tail) if tail > 0 else _LEAST))


def row_of(answer: Distributions, position: int) -> Row | None:
    """The entries at `position`; None if the source gave none there."""
    log_probs = answer.top.log_probs_RK[position]
    if not len(log_probs) or np.isneginf(log_probs[0]):
        return None
    return Row(dict(zip(answer.top.ids_RK[position].tolist(), log_probs.tolist(), strict=True)))


def apart(a: Row, b: Row) -> float:
    """The largest difference in nats; an entry that the other lacks counts by how far it is over the other's last.

    Entries of equal log-probability at the cut may so be any of them. Differences are divided by 1 + |log p| / 10:
    what is improbable is computed less exactly, and matters less.
    """
    return max(_beyond(a, b), _beyond(b, a))


def _beyond(a: Row, b: Row) -> float:
    worst = 0.0
    for index, value in a.log_probs.items():
        here, there = max(value, _LEAST), b.log_probs.get(index)
        gap = here - max(b.least, _LEAST) if there is None else abs(here - max(there, _LEAST))
        worst = max(worst, gap / (1 + abs(here) / 10))
    return worst
