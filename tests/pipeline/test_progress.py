from __future__ import annotations

import io

import pytest
from rich.console import Console

from fusery.pipeline import progress
from fusery.pipeline.coordinator import DeadLetter, HopProgress, Progress
from fusery.pipeline.progress import Board, Line, hop_lines
from fusery.worker.plan import Hop, ShardTask


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
    assert progress._duration(seconds) == text


def test_outside_a_terminal_there_is_a_line_now_and_then_and_one_at_the_end(clock: Clock) -> None:
    one, output = board()
    with one.open():
        for amount in range(10):
            one.update(Line("capture docs", amount, 10, "shards"), Line("[/]", 1, 2, "shards"))
            clock.now += 7
    lines = output.getvalue().splitlines()
    assert lines[0] == "[12:00:00] capture docs 0/10, [/] 1/2"
    assert lines[-1] == "[12:00:00] capture docs 9/10, [/] 1/2"
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


def test_hops_become_lines_with_tokens_and_dead_letters() -> None:
    poison = DeadLetter(ShardTask(Hop.CAPTURE, "docs", 1), "broke")
    hops = (
        HopProgress(Hop.CAPTURE, "docs", 3, 4, 1, 12_345),
        HopProgress(Hop.ALIGN, "docs", 0, 4, 0, 0),
        HopProgress(Hop.FUSE, "", 0, 4, 0, 0),
    )
    assert hop_lines(Progress(hops, (poison,))) == [
        Line("capture docs", 3, 4, "shards", "12,345 tokens, 1 dead"),
        Line("align docs", 0, 4, "shards"),
        Line("fuse", 0, 4, "shards"),
    ]
    dead_align = DeadLetter(ShardTask(Hop.ALIGN, "docs", 0), "broke")
    assert hop_lines(Progress(hops, (dead_align,)))[1].note == "1 dead"
