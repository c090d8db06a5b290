"""The order of a training: which documents stand in which sequence of which step.

A function of (seed, epoch) and of the documents' lengths alone, so the fused training and the CLM baseline read the
same tokens in the same steps, on any number of processes, and a resumed training needs no state of a data loader.

Shards are shuffled, then put together to windows of about a million tokens, and the documents of a window are shuffled
and packed. So a training reads every shard once an epoch and holds one window in memory, however large the corpus is.
The price: two documents can meet in a step only if their shards meet in a window. A corpus of one window is shuffled
as a whole; in a larger one whose neighbouring documents are alike, a step sees as many kinds as a window has shards.

Packing is first-fit over the latest open sequences: it fills 95 to 99 % where filling one at a time fills 75 to 90 %.

Dimensions: D documents, S shards, W windows of an epoch.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np

from fusery.core.topk import IntArray

OPEN_SEQUENCES = 64
"""How many unfinished sequences a document may still join."""

WINDOW_TOKENS = 2**20
"""Tokens shuffled together. With 64 entries a position they take about a gigabyte of memory, with 10 a fifth of it."""

Packed = tuple[int, ...]
"""One sequence: the numbers of its documents, in order."""


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Tokens of every document, int64 [D]; shard s has the documents edges[s] to edges[s + 1], int64 [S + 1]."""

    lengths_D: IntArray
    edges: IntArray

    @property
    def shards(self) -> int:
        return len(self.edges) - 1

    def shard_of(self, document: int) -> int:
        return int(np.searchsorted(self.edges, document, side="right")) - 1

    def tokens_of(self, shard: int) -> int:
        return int(self.lengths_D[self.edges[shard] : self.edges[shard + 1]].sum())


def pack(documents: Iterable[int], lengths_D: Sequence[int] | IntArray, capacity: int) -> list[Packed]:
    """The documents that have something to predict, in this order, in sequences of at most `capacity` tokens.

    Ordered by when a sequence was opened.
    """
    sequences: list[list[int]] = []
    free: list[int] = []
    for index in documents:
        length = int(lengths_D[index])
        if length < 2:
            continue
        first = max(0, len(free) - OPEN_SEQUENCES)
        place = next((first + i for i, room in enumerate(free[first:]) if room >= length), None)
        if place is None:
            place = len(sequences)
            sequences.append([])
            free.append(capacity)
        sequences[place].append(index)
        free[place] -= length
    return [tuple(sequence) for sequence in sequences]


@dataclass(frozen=True, slots=True)
class _Epoch:
    """Shards of every window, and how many sequences there are up to its end."""

    windows: tuple[tuple[int, ...], ...]
    ends: tuple[int, ...]

    @property
    def sequences(self) -> int:
        return self.ends[-1] if self.ends else 0


@dataclass(frozen=True, slots=True, eq=False)
class Schedule:
    """The sequences of every step, packed when they are asked for. The last step of an epoch may be short."""

    layout: Layout
    capacity: int
    batch_sequences: int
    seed: int
    _epochs: tuple[_Epoch, ...]
    _first_steps: tuple[int, ...]
    _packed: dict[tuple[int, int], list[Packed]] = field(default_factory=dict)

    @classmethod
    def of(cls, layout: Layout, capacity: int, batch_sequences: int, epochs: int, seed: int) -> Schedule:
        """Packs everything once, window by window, to count the steps."""
        counted = []
        for epoch in range(epochs):
            windows = tuple(_windows(layout, seed, epoch))
            counts = (len(_pack_window(layout, window, capacity, seed, epoch)) for window in windows)
            counted.append(_Epoch(windows, tuple(accumulate(counts))))
        steps = (-(-epoch.sequences // batch_sequences) for epoch in counted)
        return cls(layout, capacity, batch_sequences, seed, tuple(counted), tuple(accumulate(steps, initial=0)))

    @property
    def steps(self) -> int:
        return self._first_steps[-1]

    @property
    def window_shards(self) -> int:
        """The most shards in one window."""
        return max((len(window) for epoch in self._epochs for window in epoch.windows), default=0)

    def epoch(self, step: int) -> int:
        """The epoch of a step, from 0."""
        return bisect_right(self._first_steps, step) - 1

    def batch(self, step: int) -> list[Packed]:
        """The sequences of a step, from 0."""
        epoch = self.epoch(step)
        ends = self._epochs[epoch].ends
        first = (step - self._first_steps[epoch]) * self.batch_sequences
        last = min(first + self.batch_sequences, ends[-1])
        found: list[Packed] = []
        for window in range(bisect_right(ends, first), bisect_right(ends, last - 1) + 1):
            start = ends[window - 1] if window else 0
            found += self._window(epoch, window)[max(0, first - start) : last - start]
        return found

    def tokens(self, step: int) -> int:
        return sum(int(self.layout.lengths_D[i]) for sequence in self.batch(step) for i in sequence)

    def _window(self, epoch: int, window: int) -> list[Packed]:
        """The sequences of a window; the last few are kept."""
        if (epoch, window) not in self._packed:
            while len(self._packed) > 1:
                del self._packed[next(iter(self._packed))]
            shards = self._epochs[epoch].windows[window]
            self._packed[epoch, window] = _pack_window(self.layout, shards, self.capacity, self.seed, epoch)
        return self._packed[epoch, window]


def _windows(layout: Layout, seed: int, epoch: int) -> Iterable[tuple[int, ...]]:
    """All shards, shuffled, in groups that reach WINDOW_TOKENS."""
    group: list[int] = []
    tokens = 0
    for shard in _shuffled(range(layout.shards), f"{seed}/{epoch}/shard"):
        group.append(shard)
        tokens += layout.tokens_of(shard)
        if tokens >= WINDOW_TOKENS:
            yield tuple(group)
            group, tokens = [], 0
    if group:
        yield tuple(group)


def _pack_window(layout: Layout, shards: Sequence[int], capacity: int, seed: int, epoch: int) -> list[Packed]:
    ranges = (range(int(layout.edges[shard]), int(layout.edges[shard + 1])) for shard in shards)
    return pack(_shuffled([i for own in ranges for i in own], f"{seed}/{epoch}"), layout.lengths_D, capacity)


def _shuffled(numbers: Sequence[int], salt: str) -> list[int]:
    """By hash and not by a random generator, whose stream may change with the library's version."""
    return sorted(numbers, key=lambda i: hashlib.blake2b(f"{salt}/{i}".encode(), digest_size=16).digest())
