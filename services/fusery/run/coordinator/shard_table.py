"""What is done of a plan, as one array per hop and source: a million tasks take a few megabytes and milliseconds.

Arrays are indexed by shard (S). "Hopeless" is what can't be done for want of an artefact of a dead or untried task.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fusery.hops.plan import Hop, Plan, ShardTask

BoolArray = NDArray[np.bool_]
_HOPS = tuple(Hop)


@dataclass(slots=True)
class Row:
    """One hop of one source. `busy`: under way, or not to be published now; `dead`: given up.

    `is_stopped`: no more of it is tried, for its first shards failed with errors that no retry helps.
    """

    hop: Hop
    source: str
    folder: str
    done_S: BoolArray
    busy_S: BoolArray
    dead_S: BoolArray
    size_S: NDArray[np.int64]
    is_stopped: bool = False

    @property
    def untried_S(self) -> BoolArray:
        """What a hop that stopped early did not try."""
        return ~(self.done_S | self.dead_S) & self.is_stopped


class ShardTable:
    """The tasks of `plan` up to and with the hop `until`."""

    def __init__(self, plan: Plan, until: Hop = Hop.FUSE) -> None:
        self.plan = plan
        sources = [source.name for source in plan.sources]
        hops = _HOPS[: _HOPS.index(until) + 1]
        keys = [(hop, source) for hop in hops for source in ([""] if hop is Hop.FUSE else sources)]
        self.rows = {key: self._row(*key) for key in keys}

    def _row(self, hop: Hop, source: str) -> Row:
        done_S, busy_S, dead_S = (np.zeros(self.plan.corpus_shards, np.bool_) for _ in range(3))
        sizes_S = np.zeros(self.plan.corpus_shards, np.int64)
        return Row(hop, source, self.plan.folder(hop, source), done_S, busy_S, dead_S, sizes_S)

    def __contains__(self, task: ShardTask) -> bool:
        return (task.hop, task.source) in self.rows and 0 <= task.shard < self.plan.corpus_shards

    def row(self, task: ShardTask) -> Row:
        return self.rows[task.hop, task.source]

    def is_done(self, task: ShardTask) -> bool:
        return bool(self.row(task).done_S[task.shard])

    def set_done(self, task: ShardTask, size: int) -> None:
        row = self.row(task)
        row.done_S[task.shard], row.size_S[task.shard] = True, size

    def set_missing(self, task: ShardTask) -> None:
        row = self.row(task)
        row.done_S[task.shard], row.size_S[task.shard] = False, 0

    def set_busy(self, task: ShardTask, busy: bool) -> None:
        self.row(task).busy_S[task.shard] = busy

    def set_dead(self, task: ShardTask) -> None:
        self.row(task).dead_S[task.shard] = True

    def take_listing(self, row: Row, sizes: Mapping[str, int]) -> None:
        """Sets what is done of a row; `sizes`: name → bytes of the artefacts in its folder."""
        row.done_S[:], row.size_S[:] = False, 0
        # Of `folder/shard-00042.parquet`, for any number of digits; -1 where there is none.
        digits = (name[name.rfind("-") + 1 : name.rfind(".")] for name in sizes)
        shards = np.fromiter((int(one) if one.isdecimal() else -1 for one in digits), np.int64, len(sizes))
        known = (shards >= 0) & (shards < len(row.done_S))
        row.done_S[shards[known]] = True
        row.size_S[shards[known]] = np.fromiter(sizes.values(), np.int64, len(sizes))[known]

    def ready(self, hop: Hop, slots: Mapping[str, int]) -> Iterator[ShardTask]:
        """What may be published of `hop`, shard by shard over all sources; at most `slots` of each source."""
        found: list[tuple[int, str]] = []
        for row in self._rows_of(hop):
            open_S = ~(row.done_S | row.busy_S | row.dead_S) & self._needs_are_done(row)
            found += [(shard, row.source) for shard in np.flatnonzero(open_S)[: slots[row.source]].tolist()]
        order = {source.name: index for index, source in enumerate(self.plan.sources)}
        for shard, source in sorted(found, key=lambda one: (one[0], order.get(one[1], 0))):
            yield ShardTask(hop, source, shard)

    def is_finished(self) -> bool:
        """Every task is done, dead, not to be tried, or waits for such a one."""
        return all(bool((row.done_S | self._hopeless(row)).all()) for row in self.rows.values())

    def _needs_are_done(self, row: Row) -> BoolArray:
        done_S = np.ones(len(row.done_S), np.bool_)
        for need in self._needed_rows(row):
            done_S &= need.done_S
        return done_S

    def _hopeless(self, row: Row) -> BoolArray:
        hopeless_S = row.dead_S | row.is_stopped
        for need in self._needed_rows(row):
            hopeless_S |= self._hopeless(need)
        return hopeless_S & ~row.done_S

    def _needed_rows(self, row: Row) -> list[Row]:
        if row.hop is Hop.CAPTURE:
            return []
        return [self.rows[Hop.CAPTURE, row.source]] if row.hop is Hop.ALIGN else self._rows_of(Hop.ALIGN)

    def _rows_of(self, hop: Hop) -> list[Row]:
        return [row for row in self.rows.values() if row.hop is hop]


def ranges(chosen_S: BoolArray, most: int = 5) -> str:
    """The chosen shards as text, such as '3-63, 70'; at most so many ranges."""
    shards = np.flatnonzero(chosen_S)
    parts = [part for part in np.split(shards, np.flatnonzero(np.diff(shards) > 1) + 1) if len(part)]
    shown = [str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts[:most]]
    more = sum(map(len, parts[most:]))
    return ", ".join(shown) + (f" and {more} more" if more else "")
