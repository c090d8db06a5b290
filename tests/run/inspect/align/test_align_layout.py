"""Columns: common byte ends line up, nothing overlaps, and lines hold all of it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from fusery.run.inspect.align.text import Layout, Token, laid_out, lines, visible

TEXT = "The naïve 東京\n😀 fox, and more of it".encode()


def tokens(ends: list[int], prefix: bool = False) -> list[Token]:
    """The text cut at `ends`, behind a special token if there is to be one."""
    starts = [0, *ends[:-1]]
    cut = [
        Token(i, visible(TEXT[start:end]) or "∅", TEXT[start:end], start, end)
        for i, (start, end) in enumerate(zip(starts, ends, strict=True))
    ]
    return [Token(99, "‹s›", None, 0, 0), *cut] if prefix else cut


# The same end may come twice: offsets give all pieces of a character one end.
some_ends = st.lists(st.integers(1, len(TEXT)), max_size=12).map(lambda inner: [*sorted(inner), len(TEXT)])
some_rows = st.lists(st.builds(tokens, some_ends, st.booleans()), min_size=1, max_size=4)


@given(some_rows)
def test_every_token_has_room_and_follows_the_one_before(rows: list[list[Token]]) -> None:
    layout = laid_out(rows)
    for row, boxes in zip(rows, layout.rows, strict=True):
        free = 0
        for token, box in zip(row, boxes, strict=True):
            assert box.left >= free
            assert box.right - box.left >= cell_len(token.shown)
            free = box.right + 1
        assert free <= layout.width


@given(some_rows)
def test_the_last_token_of_a_byte_end_stands_in_one_column_in_all_rows(rows: list[list[Token]]) -> None:
    layout = laid_out(rows)
    columns: dict[int, set[int]] = {}
    for row, boxes in zip(rows, layout.rows, strict=True):
        last = {token.end: box.right for token, box in zip(row, boxes, strict=True)}
        for end, column in last.items():
            columns.setdefault(end, set()).add(column)
    assert all(len(found) == 1 for found in columns.values())
    assert {end: found.pop() for end, found in columns.items()}.items() <= layout.column_of_end.items()
    ordered = [layout.column_of_end[end] for end in sorted(layout.column_of_end)]
    assert ordered == sorted(set(ordered))


@given(some_rows, st.integers(2, 60))
def test_lines_hold_every_column_once_and_are_no_longer_than_asked(rows: list[list[Token]], width: int) -> None:
    layout = laid_out(rows)
    cut = lines(layout, width)
    assert [column for start, end in cut for column in range(start, end)] == list(range(layout.width))
    assert all(0 < end - start <= width for start, end in cut)


def test_texts_without_a_prefix_token_begin_at_the_left_edge() -> None:
    assert laid_out([tokens([3, 10])]).rows[0][0].left == 0


def test_where_another_row_has_a_prefix_token_the_text_begins_behind_it() -> None:
    with_prefix, without = laid_out([tokens([3, 10], prefix=True), tokens([3, 10])]).rows
    assert (with_prefix[0].left, with_prefix[1].left) == (0, 4)
    assert without[0].left == 4
    assert without[0].right == with_prefix[1].right


def test_a_line_ends_where_all_rows_end_a_token_if_that_is_possible() -> None:
    layout = laid_out([tokens([4, 8, 12, 17]), tokens([2, 4, 6, 12, 14, 17])])
    ends: list[set[int]] = [{box.right for box in row} for row in layout.rows]
    [(_, first), *_] = lines(layout, layout.width - 1)
    assert first - 1 in ends[0] & ends[1]


def test_a_token_longer_than_a_line_is_cut() -> None:
    layout: Layout = laid_out([tokens([len(TEXT)])])
    assert len(lines(layout, 10)) == -(-layout.width // 10)
