from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.console import Console

from fusery.hops.plan import Hop
from fusery.run import board as progress
from fusery.run.board import Board, Line, hop_lines, line_of, table_row
from fusery.run.coordinator.progress import HopProgress, Progress


class Clock:
    """Stands for the module `time`: moves only when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    @staticmethod
    def strftime(_form: str) -> str:
        return "12:00:00"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def board(terminal: bool = False) -> tuple[Board, io.StringIO]:
    output = io.StringIO()
    return Board(Console(file=output, force_terminal=terminal, width=100)), output


def shown(board: Board) -> list[str]:
    """The rows of the table, without its headings."""
    console = Console(file=io.StringIO(), width=100)
    with console.capture() as captured:
        console.print(board.table())
    return [line.rstrip() for line in captured.get().splitlines()[1:]]


def test_rate_and_time_left_come_from_what_moved_since_it_began_to_move(clock: Clock) -> None:
    one, _ = board()
    one.update(Line("align docs", 0, 100, "shards"))
    clock.now += 500  # waiting for the capture
    one.update(Line("align docs", 0, 100, "shards"))
    assert shown(one) == ["align docs  0/100 shards"]
    clock.now += 10
    one.update(Line("align docs", 20, 100, "shards"))
    assert shown(one)[0].split("  ") == ["align docs", "20/100 shards", "2.0 shards/s", "40 s"]


def test_the_first_shard_counts_with_the_time_that_it_took(clock: Clock) -> None:
    one, _ = board()
    one.update(Line("capture docs", 0, 10, "shards"))
    clock.now += 300  # until the source is loaded
    one.update(Line("capture docs", 0, 10, "shards"))
    for _ in range(120):
        one.update(Line("capture docs", 0, 10, "shards", running=1))
        clock.now += 0.5
    one.update(Line("capture docs", 1, 10, "shards", running=1))
    [line] = one.to_json()
    assert line["left_s"] == pytest.approx(9 * 60, rel=0.02)


def test_what_was_done_before_this_start_does_not_count_into_the_rate(clock: Clock) -> None:
    one, _ = board()
    one.update(Line("capture docs", 90, 100, "shards"))
    clock.now += 10
    one.update(Line("capture docs", 95, 100, "shards"))
    assert "0.5 shards/s" in shown(one)[0]
    assert shown(one)[0].endswith("10 s")


def test_a_finished_line_keeps_its_rate_and_says_done(clock: Clock) -> None:
    one, _ = board()
    one.update(Line("fuse", 0, 10, "shards"))
    clock.now += 5
    one.update(Line("fuse", 10, 10, "shards", "note"))
    clock.now += 1000
    one.update(Line("fuse", 10, 10, "shards", "note"))
    assert shown(one)[0].split() == ["fuse", "10/10", "shards", "2.0", "shards/s", "done", "note"]


def test_what_is_found_done_has_no_rate(clock: Clock) -> None:
    one, _ = board()
    one.update(Line("fuse", 10, 10, "shards"), Line("nothing", 0, 0, "shards"))
    assert [row.split() for row in shown(one)] == [
        ["fuse", "10/10", "shards", "done"],
        ["nothing", "0/0", "shards", "done"],
    ]


def test_a_finished_line_that_loses_a_shard_goes_on(clock: Clock) -> None:
    one, _ = board()
    for amount in (0, 10, 9):
        one.update(Line("fuse", amount, 10, "shards"))
        clock.now += 9
    assert shown(one)[0].split()[:2] == ["fuse", "9/10"]
    assert "done" not in shown(one)[0]
    one.update(Line("fuse", 10, 10, "shards"))
    assert "0.4 shards/s" in shown(one)[0]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (99, "99 s"), (120, "2 min"), (3590, "1 h 0 min"), (12300, "3 h 25 min")]
)
def test_times_are_for_people(seconds: float, text: str) -> None:
    assert progress.duration(seconds) == text


def test_outside_a_terminal_there_is_a_line_now_and_then_and_one_at_the_end(clock: Clock) -> None:
    one, output = board()
    with one.open():
        for amount in range(10):
            one.update(Line("capture docs", amount, 10, "shards"), Line("[/]", 1, 2, "shards"))
            clock.now += 7
    lines = output.getvalue().splitlines()
    assert lines[0] == "[12:00:00] capture docs 0/10, [/] 1/2"
    assert lines[-1] == "[12:00:00] capture docs 9/10 (0.1/s 8 s left), [/] 1/2"
    # After 0 and 35 s, and at the end.
    assert len(lines) == 3
    assert "\x1b" not in output.getvalue()


def test_nothing_is_said_where_there_is_nothing_to_say(clock: Clock) -> None:
    one, output = board()
    with one.open():
        one.heartbeat()
    assert output.getvalue() == ""


def test_in_a_terminal_a_table_is_kept_up_to_date() -> None:
    one, output = board(terminal=True)
    with one.open():
        one.update(Line("capture docs", 1, 4, "shards"))
        one.heartbeat(force=True)
        one.update(Line("capture docs", 4, 4, "shards", "123 tokens"))
    text = output.getvalue()
    assert "\x1b" in text
    assert "4/4 shards" in text
    assert "123 tokens" in text
    assert "[" not in text.replace("\x1b[", "")


def test_hops_become_lines_with_processes_attempts_dead_letters_and_bytes() -> None:
    hops = (
        HopProgress(Hop.CAPTURE, "docs", 3, 4, running=1, failed=2, dead=1, bytes=12_345),
        HopProgress(Hop.FUSE, "", 0, 4),
    )
    assert hop_lines(Progress(hops, ())) == [
        Line("capture docs", 3, 4, "shards", running=1, failed=2, dead=1, bytes=12_345),
        Line("fuse", 0, 4, "shards"),
    ]


def test_the_table_has_the_columns_that_say_something(clock: Clock) -> None:
    one, _ = board()
    one.update(Line("fuse", 0, 4, "shards"))
    assert [column.header for column in one.table().columns] == ["hop", "done", "rate", "left", ""]
    one.update(Line("capture docs", 3, 4, "shards", running=1, failed=2, dead=1, bytes=12_345))
    headers = [column.header for column in one.table().columns]
    assert headers == ["hop", "done", "running", "rate", "left", "failed", "dead", "size", ""]
    assert shown(one)[1].split() == ["capture", "docs", "3/4", "shards", "1", "2", "1", "12.3", "kB"]


def test_a_heartbeat_has_the_facts_of_the_table(clock: Clock) -> None:
    one, output = board()
    one.update(Line("capture docs", 0, 4, "shards"))
    clock.now += 60
    one.update(Line("capture docs", 3, 4, "shards", running=1, failed=2, dead=1))
    assert output.getvalue().splitlines()[-1] == (
        "[12:00:00] capture docs 3/4 (1 running 2 failed 1 dead 3.0/min 20 s left)"
    )


def test_as_json_every_line_is_an_object(clock: Clock) -> None:
    output = io.StringIO()
    one = Board(Console(file=output, width=40), as_json=True)
    with one.open():
        one.say("run", "a run [of] café and a text that is longer than forty characters", run_id="r-1")
        for amount in range(5):
            one.update(Line("capture docs", amount, 10, "shards", running=1))
            clock.now += 1
    events = [json.loads(line) for line in output.getvalue().splitlines()]
    assert events[0] == {
        "event": "run",
        "text": "a run [of] café and a text that is longer than forty characters",
        "run_id": "r-1",
    }
    [last] = events[-1]["lines"]
    assert (last["title"], last["done"], last["total"], last["running"]) == ("capture docs", 4, 10, 1)
    assert last["rate"] == pytest.approx(0.8, rel=0.3)
    assert len(events) == 5, "after 0, 2 and 4 s, and at the end"


def test_lines_are_kept_for_others_every_few_seconds_and_read_back(clock: Clock) -> None:
    kept: list[list[dict[str, Any]]] = []
    one, _ = board()
    one.keep = kept.append
    line = Line("capture docs", 1, 10, "shards", "a note", running=1, failed=2, dead=3, bytes=4)
    for _ in range(10):
        one.update(line)
        clock.now += 1
    assert len(kept) == 2
    assert line_of(kept[0][0]) == line


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (45_600_000, "45.6 MB"), (10**16, "10000.0 TB")]
)
def test_sizes_are_for_people(size: int, text: str) -> None:
    assert progress.data_size(size) == text


@pytest.mark.parametrize(("amount", "is_said"), [(2, True), (3, False)])
def test_attempts_that_failed_are_told_until_all_is_done(amount: int, is_said: bool) -> None:
    line = Line("fuse", amount, 3, "shards", failed=1)
    stream = io.StringIO()
    board = Board(Console(file=stream))
    board.update(line)
    board.heartbeat(force=True)
    assert ("1 failed" in stream.getvalue()) is is_said
    assert ("1" in table_row(line, None, None)) is is_said


def test_a_line_is_one_line_whatever_stands_in_it() -> None:
    one, written = board()
    one.say("warning", "warning: source a, domain x\nFAKE: all is well\x1b[2J\u202e: 3 %")
    assert written.getvalue() == "warning: source a, domain x\\nFAKE: all is well\\x1b[2J\\u202e: 3 %\n"
