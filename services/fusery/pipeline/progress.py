"""Progress for people: a live table in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live
from rich.table import Table

from fusery.pipeline.coordinator import Progress

_HEARTBEAT_S = 30.0


@dataclass(frozen=True, slots=True)
class Line:
    """One row of progress: `amount` of `total` done, in `unit`s; `note` for what else is worth seeing."""

    title: str
    amount: int
    total: int
    unit: str
    note: str = ""

    @property
    def is_done(self) -> bool:
        return self.amount >= self.total


@dataclass(slots=True)
class Board:
    """Shows lines with their rates and the time left; each line's clock starts when it first moves."""

    console: Console
    _seen: dict[str, tuple[float, int]] = field(default_factory=dict)
    _lines: dict[str, Line] = field(default_factory=dict)
    _finished_in_s: dict[str, float] = field(default_factory=dict)
    _last_heartbeat: float = 0.0
    _live: Live | None = None

    @contextmanager
    def open(self) -> Iterator[Board]:
        """Live in a terminal until the end of the block."""
        if not self.console.is_terminal:
            yield self
            self.heartbeat(force=True)
            return
        with Live(self.table(), console=self.console, refresh_per_second=2) as self._live:
            yield self
            self._live.update(self.table())
        self._live = None

    def update(self, *lines: Line) -> None:
        now = time.monotonic()
        for line in lines:
            first = self._seen.setdefault(line.title, (now, line.amount))
            if first[1] == line.amount and not line.is_done:
                # Waiting is not work: the clock starts with the first move.
                self._seen[line.title] = (now, line.amount)
            if not line.is_done:
                # What was finished may be found corrupt, and made again.
                self._finished_in_s.pop(line.title, None)
            elif line.title not in self._finished_in_s:
                self._finished_in_s[line.title] = now - first[0]
            self._lines[line.title] = line
        if self._live is not None:
            self._live.update(self.table())
        else:
            self.heartbeat()

    def heartbeat(self, force: bool = False) -> None:
        """Outside a terminal: one line every 30 s, and one at the end."""
        now = time.monotonic()
        is_due = force or now - self._last_heartbeat >= _HEARTBEAT_S
        if self._lines and is_due and not self.console.is_terminal:
            self._last_heartbeat = now
            parts = [f"{line.title} {line.amount}/{line.total}" for line in self._lines.values()]
            self.console.print(
                f"[{time.strftime('%H:%M:%S')}] " + ", ".join(parts), markup=False, highlight=False, soft_wrap=True
            )

    def table(self) -> Table:
        table = Table(box=None, pad_edge=False)
        for title, justify in (("hop", "left"), ("done", "right"), ("rate", "right"), ("left", "right"), ("", "left")):
            table.add_column(title, justify=justify)  # type: ignore[arg-type]
        for line in self._lines.values():
            rate, left = self._rate_and_time_left(line)
            style = "green" if line.is_done else ""
            table.add_row(line.title, f"{line.amount}/{line.total} {line.unit}", rate, left, line.note, style=style)
        return table

    def _rate_and_time_left(self, line: Line) -> tuple[str, str]:
        since, start = self._seen[line.title]
        elapsed = self._finished_in_s.get(line.title, time.monotonic() - since)
        moved = line.amount - start
        if moved <= 0 or elapsed <= 0:
            return "", "done" if line.is_done else ""
        rate = moved / elapsed
        left = "done" if line.is_done else _duration((line.total - line.amount) / rate)
        return f"{rate:.1f} {line.unit}/s", left


def _duration(seconds: float) -> str:
    """'42 s', '12 min' or '3 h 25 min'."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def hop_lines(progress: Progress) -> list[Line]:
    """One line per hop and source."""
    dead = [letter.task for letter in progress.dead_letters]
    lines = []
    for hop in progress.hops:
        failed = sum(task.hop is hop.hop and task.source == hop.source for task in dead)
        notes = [f"{hop.tokens:,} tokens"] * bool(hop.tokens) + [f"{failed} dead"] * bool(failed)
        lines.append(Line(f"{hop.hop.value} {hop.source}".strip(), hop.done, hop.total, "shards", ", ".join(notes)))
    return lines
