"""Progress for people: a live table in a terminal, a line now and then elsewhere, or JSON lines for programs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fusery.hops.plan import Hop
from fusery.hops.store.store import Store
from fusery.run.coordinator.progress import Progress
from fusery.runtime import output
from fusery.runtime.errors import FuseryError, StoreFull
from fusery.runtime.text import shown as shown_text

log = logging.getLogger(__name__)

_HEARTBEAT_S = 30.0
_JSON_S = 2.0
_KEEP_S = 5.0


@dataclass(frozen=True, slots=True)
class Line:
    """One row of progress: `amount` of `total` done, in `unit`s; `note` for what else is worth seeing.

    Of a hop also: shards that are worked on, attempts that failed, shards given up, bytes of the finished ones.
    """

    title: str
    amount: int
    total: int
    unit: str
    note: str = ""
    running: int = 0
    failed: int = 0
    dead: int = 0
    bytes: int = 0

    @property
    def is_done(self) -> bool:
        return self.amount >= self.total

    @property
    def failing(self) -> int:
        """Attempts that failed, until all is done in spite of them."""
        return 0 if self.is_done else self.failed


@dataclass(slots=True)
class Board:
    """Shows lines with their rates and the time left; each line's clock starts when work on it does.

    `keep` is handed the lines as JSON values every few seconds, for those who look from elsewhere.
    """

    console: Console
    as_json: bool = False
    keep: Callable[[list[dict[str, Any]]], None] = lambda _: None
    _seen: dict[str, tuple[float, int]] = field(default_factory=dict)
    _lines: dict[str, Line] = field(default_factory=dict)
    _finished_in_s: dict[str, float] = field(default_factory=dict)
    _shown: tuple[Line, ...] = ()
    _last_heartbeat: float = 0.0
    _last_kept: float = 0.0
    _live: Live | None = None

    @contextmanager
    def open(self) -> Iterator[Board]:
        """Live in a terminal until the end of the block."""
        if self.as_json or not self.console.is_terminal:
            yield self
            self.heartbeat(force=True)
            return
        with Live(self.table(), console=self.console, refresh_per_second=2) as self._live:
            yield self
            self._live.update(self.table())
        self._live = None

    def say(self, event: str, text: str, style: str = "", **fields: Any) -> None:
        """One plain line for people, or one JSON object with `event` and `fields`.

        Paths and names are never read as mark-up, and never broken.
        """
        if self.as_json:
            self._print(output.to_json({"event": event, "text": text, **fields}))
        else:
            self.console.print(Text(shown_text.shown(text), style), soft_wrap=True)

    def update(self, *lines: Line) -> None:
        now = time.monotonic()
        for line in lines:
            first = self._seen.setdefault(line.title, (now, line.amount))
            if first[1] == line.amount and not line.is_done and not line.running:
                # Waiting is not work: the clock starts when a worker is at it, or else with the first move.
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
        if now - self._last_kept >= _KEEP_S:
            self._last_kept = now
            self.keep(self.to_json())

    def heartbeat(self, force: bool = False) -> None:
        """Outside a terminal: one line every 30 s, and one at the end; as JSON, one whenever something moved too."""
        now = time.monotonic()
        lines = tuple(self._lines.values())
        since = now - self._last_heartbeat
        is_due = force or since >= _HEARTBEAT_S or (self.as_json and since >= _JSON_S and lines != self._shown)
        if not lines or not is_due or (self.console.is_terminal and not self.as_json):
            return
        self._last_heartbeat, self._shown = now, lines
        if self.as_json:
            self._print(output.to_json({"event": "progress", "lines": self.to_json()}))
        else:
            parts = [self._compact(line) for line in lines]
            self._print(f"[{time.strftime('%H:%M:%S')}] " + ", ".join(parts))

    def to_json(self) -> list[dict[str, Any]]:
        """One object a line: title, done, total, unit, running, failed, dead, bytes, rate, left_s, note."""
        found = []
        for line in self._lines.values():
            rate, left_s = self._rate_and_time_left(line)
            content = {"title": line.title, "done": line.amount, "total": line.total, "unit": line.unit}
            content |= {name: getattr(line, name) for name in ("running", "failed", "dead", "bytes", "note")}
            found.append({**content, "rate": rate, "left_s": left_s})
        return found

    def table(self) -> RenderableType:
        rows = [table_row(line, *self._rate_and_time_left(line)) for line in self._lines.values()]
        return progress_table(rows, list(self._lines.values()))

    def _print(self, line: str) -> None:
        self.console.print(Text(line), soft_wrap=True)

    def _compact(self, line: Line) -> str:
        """The facts of a row of the table in a few words."""
        rate, left_s = self._rate_and_time_left(line)
        facts = [f"{line.running} running"] * bool(line.running) + [f"{line.failed} failed"] * bool(line.failing)
        facts += [f"{line.dead} dead"] * bool(line.dead)
        facts += [_per_time(rate)] if rate and not line.is_done else []
        facts += [f"{duration(left_s)} left"] if left_s else []
        note = f": {line.note}" if len(line.note) > _LONGEST_NOTE else ""
        return f"{line.title} {line.amount}/{line.total}" + (f" ({' '.join(facts)})" if facts else "") + note

    def _rate_and_time_left(self, line: Line) -> tuple[float | None, float | None]:
        """Units a second since the line moved, and the seconds left at that rate; None: not known yet."""
        since, start = self._seen[line.title]
        elapsed = self._finished_in_s.get(line.title, time.monotonic() - since)
        moved = line.amount - start
        if moved <= 0 or elapsed <= 0:
            return None, None
        rate = moved / elapsed
        return rate, 0.0 if line.is_done else (line.total - line.amount) / rate


_COLUMNS = (
    *(("hop", "left"), ("done", "right"), ("running", "right"), ("rate", "right"), ("left", "right")),
    *(("failed", "right"), ("dead", "right"), ("size", "right"), ("", "left")),
)
_LONGEST_NOTE = 30
_OPTIONAL = {"running", "failed", "dead", "size"}
"""Columns that are left out where no row has anything to say in them."""


def _per_time(rate: float, unit: str = "") -> str:
    """Units a second, or a minute where that would be next to none."""
    return f"{rate:.1f}{unit}/s" if rate >= 0.1 else f"{60 * rate:.1f}{unit}/min"


def table_row(line: Line, rate: float | None, left_s: float | None) -> tuple[str, ...]:
    """The cells of one line, in the order of the table's columns."""
    left = "done" if line.is_done else "" if left_s is None else duration(left_s)
    counts = [str(count) if count else "" for count in (line.running, line.failing, line.dead)]
    shown_rate = "" if rate is None else _per_time(rate, f" {line.unit}")
    done = f"{line.amount}/{line.total} {line.unit}"
    size = data_size(line.bytes) if line.bytes else ""
    return (line.title, done, counts[0], shown_rate, left, *counts[1:], size, line.note)


def progress_table(rows: Sequence[tuple[str, ...]], lines: Sequence[Line]) -> RenderableType:
    """`rows` under headings; finished lines green, those with dead letters red. Long notes stand under it, whole."""
    long = [
        Text(shown_text.shown(f"{line.title}: {line.note}"), "yellow")
        for line in lines
        if len(line.note) > _LONGEST_NOTE
    ]
    rows = [(*row[:-1], row[-1] if len(row[-1]) <= _LONGEST_NOTE else "") for row in rows]
    table = Table(box=None, pad_edge=False)
    shown = [
        index for index, (name, _) in enumerate(_COLUMNS) if name not in _OPTIONAL or any(row[index] for row in rows)
    ]
    for index in shown:
        table.add_column(_COLUMNS[index][0], justify=_COLUMNS[index][1])  # type: ignore[arg-type]
    for row, line in zip(rows, lines, strict=True):
        style = "red" if line.dead else "green" if line.is_done else ""
        table.add_row(*(Text(shown_text.shown(row[index])) for index in shown), style=style)
    return Group(table, *long) if long else table


def duration(seconds: float) -> str:
    """'42 s', '12 min' or '3 h 25 min'."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def data_size(size: int) -> str:
    """'512 B', '3.4 MB' and so on, in powers of 1000."""
    amount, unit = float(size), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if amount < 1000:
            break
        amount, unit = amount / 1000, larger
    return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"


def hop_lines(progress: Progress) -> list[Line]:
    """One line per hop and source; what is done has no note of what was in its way."""
    return [
        Line(
            hop.title,
            hop.done,
            hop.total,
            "shards",
            running=hop.running,
            failed=hop.failed,
            dead=hop.dead,
            bytes=hop.bytes,
            note="" if hop.done == hop.total else hop.note,
        )
        for hop in progress.hops
    ]


@dataclass(slots=True)
class Shown:
    """Puts the hops on `board`, with a line of its own when a source is away and when it is back."""

    board: Board
    _away: dict[str, str] = field(default_factory=dict)

    def __call__(self, progress: Progress) -> None:
        self.board.update(*hop_lines(progress))
        for hop in progress.hops:
            if hop.hop is Hop.CAPTURE:
                self.tell(hop.source, hop.waits_for)

    def tell(self, source: str, why: str) -> None:
        """`why`: what is wrong with the source; '': it answers."""
        before = self._away.pop(source, "")
        if why:
            self._away[source] = why
        if why and why != before:
            text = f"{why}; what needs this source waits, all else goes on"
            self.board.say("waiting", text, "yellow", source=source)
        elif before and not why:
            self.board.say("answers", f"source {source}: it answers again", source=source)


def board_name(run_id: str) -> str:
    return f"runs/{run_id}/board.json"


def keep_lines(store: Store, run_id: str, lines: list[dict[str, Any]]) -> None:
    """Writes the lines of a board; a store that does not take them costs nothing but the note.

    Raises:
        StoreFull: there is no room.
    """
    try:
        store.write_note(board_name(run_id), {"lines": lines})
    except StoreFull:
        raise
    except (FuseryError, OSError) as error:
        log.warning("the progress can't be kept: %s", error)


def read_board(store: Store, run_id: str) -> list[dict[str, Any]]:
    """The lines as `Board.to_json` gave them; none where there is no note that can be read."""
    try:
        note = store.read_note(board_name(run_id))
    except (FuseryError, OSError) as error:
        log.debug("no board of run %s: %s", run_id, error)
        return []
    return [] if note is None else list(note["lines"])


def kept_lines(store: Store, run_id: str) -> list[Line]:
    """What a coordinator elsewhere last showed."""
    return [line_of(content) for content in read_board(store, run_id)]


def line_of(content: dict[str, Any]) -> Line:
    """A line from its JSON values."""
    counts = {name: content[name] for name in ("note", "running", "failed", "dead", "bytes")}
    return Line(content["title"], content["done"], content["total"], content["unit"], **counts)
