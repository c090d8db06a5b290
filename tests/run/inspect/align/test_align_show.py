"""What a terminal and a pipe get."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from fusery.run.inspect.align.show import cell_label, show, show_summary
from fusery.run.inspect.align.text import Token
from fusery.run.inspect.align.view import Cell, View
from support.models.pico_models import TEXTS
from support.runs.align_views import modes, seen

TEXT = TEXTS[4].strip()


def printed(view: View, width: int = 100, terminal: bool = False) -> str:
    colours: Any = {"force_terminal": True, "color_system": "truecolor"} if terminal else {}
    console = Console(file=io.StringIO(), width=width, highlight=False, **colours)
    show(view, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def row_of(shown: str, name: str) -> str:
    """The line of a tokenisation that was not wrapped."""
    [line] = [line for line in shown.splitlines() if line.startswith(name) and not line.endswith("kept")]
    return line


def column_of(line: str, character: str) -> list[int]:
    """The terminal columns at which `character` stands."""
    return [cell_len(line[:i]) for i, c in enumerate(line) if c == character]


def test_matched_ends_stand_under_each_other_also_behind_wide_characters() -> None:
    shown = printed(seen("a 東京 fox 😀 b", "byte_level", "unigram"), width=200)
    target, source = row_of(shown, "target"), row_of(shown, "source unigram")
    assert "東" in source or "‹unk›" in source
    assert column_of(target, "┃") == column_of(source, "┃")
    assert column_of(target, "┃")


def test_ends_without_evidence_and_the_end_of_the_text_have_other_marks() -> None:
    shown = printed(seen(TEXT, "byte_level", "sentencepiece"), width=2000)
    target = row_of(shown, "target")
    [summary] = re.findall(r"evidence at (\d+) of (\d+) positions", shown)
    assert target.count("┃") == int(summary[0])
    assert target.count("┃") + target.count("┊") == int(summary[1])
    assert target.endswith("│")


def test_parts_of_characters_and_blanks_are_visible() -> None:
    shown = printed(seen("a\n\tΩ b", "byte_level", "sentencepiece"), width=200)
    for mark in ("⏎", "⇥", "␣", "⟨CE⟩", "‹s›"):
        assert mark in shown


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_no_line_of_tokens_is_wider_than_the_terminal(width: int) -> None:
    shown = printed(seen(" ".join(TEXTS), "byte_level", "sentencepiece", skill=None), width)
    rows = [line for line in shown.splitlines() if set("┃┊") & set(line) and "none" not in line]
    assert len(rows) > 2
    # A terminal of 20 columns gets the narrowest block there is.
    assert all(cell_len(row) <= max(width, 42) for row in rows)


@pytest.mark.parametrize("skill", [0.5, None])
@pytest.mark.parametrize("width", [80, 100, 140])
def test_no_line_of_a_table_is_wider_than_the_terminal_and_no_number_is_cut(width: int, skill: float | None) -> None:
    view = seen(TEXT, "byte_level", "sentencepiece", skill=skill)
    shown = printed(view, width)
    table = shown[shown.index("after") :].splitlines()[:-1]
    assert all(cell_len(line) <= width for line in table)
    numbers = re.findall(r"(?:0|1)\.\d\d(?!\d)", shown)
    assert "0.…" not in shown
    assert len(numbers) == (0 if skill is None else sum(2 + 3 + len(m.cells) for m in view.sources[0].matches))
    assert all(f"{view.target[match.position].end} " in shown for match in view.sources[0].matches)


@given(st.text(alphabet="ab 東京😀\n\té", min_size=1, max_size=40), st.integers(30, 90))
@hypothesis_settings(max_examples=25)
def test_wrapping_loses_no_character(text: str, width: int) -> None:
    view = seen(text, "byte_level", "sentencepiece", skill=None)
    wide, narrow = printed(view, 2000), printed(view, width)
    marks = str.maketrans("", "", "┃┊│ ")
    for name in ("target byte_lev…", "source sentence…"):
        whole = "".join(line.removeprefix(name) for line in wide.splitlines() if line.startswith(name))
        parts = "".join(line.removeprefix(name) for line in narrow.splitlines() if line.startswith(name))
        assert parts.translate(marks) == whole.translate(marks)


def test_a_pipe_gets_no_colour_codes_and_a_terminal_does() -> None:
    view = seen(TEXT, "byte_level", "sentencepiece")
    assert "\x1b[" not in printed(view)
    coloured = printed(view, terminal=True)
    assert "\x1b[" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured).split() == printed(view).split()


def test_the_best_cell_is_marked_if_the_targets_next_token_is_in_it() -> None:
    shown = printed(seen("The quick brown fox", "byte_level", "byte_level", skill=0.5), width=160)
    assert "✓ 0.50" in shown
    assert "the target's next token in the source's best cell at 100 %" in shown


def test_cells_are_shown_by_their_tokens() -> None:
    following = Token(7, "fox", b"fox", 3, 6)
    tokens = ((1, "a"), (2, "b"), (7, "fox"))
    assert cell_label(Cell(0, 1, ((1, "a"),), 0.5, False), following) == "a"
    assert cell_label(Cell(0, 2, tokens[:2], 0.5, False), following) == "{a, b} 2 tokens"
    assert cell_label(Cell(0, 12, tokens, 0.5, False), None) == "{a, b, …} 12 tokens"
    assert cell_label(Cell(0, 12, tokens, 0.5, True), following) == "{fox, a, …} 12 tokens"
    assert cell_label(Cell(0, 12, tokens, 0.5, True), following, 19) == "{fox, …} 12 tokens"
    assert cell_label(Cell(0, 12, tokens, 0.5, True), following, 3) == "{…} 12 tokens"


def test_mined_positions_show_the_pairs_and_those_that_slipped() -> None:
    text = "In 1974 the naïve café"
    view = seen(text, "byte_level", "unigram", rules=modes("dtw", "exact"))
    shown = printed(view, width=200)
    assert "matched pairs, target ↔ source:" in shown
    [source] = view.sources
    pairs = shown[shown.index("matched pairs") :]
    assert pairs.count("↔") == len(source.matches) + 1
    slipped = sum(view.target[m.position].end != source.tokens[m.row].end for m in source.matches)
    assert pairs.count("≠") == slipped
    assert ("different bytes" in pairs) == (slipped > 0)
    assert "matched pairs" not in printed(seen(text, "byte_level", "unigram"))


def test_a_tokenizer_alone_is_shown_as_such_with_both_next_tokens() -> None:
    shown = printed(seen("The quick brown fox", "byte_level", "sentencepiece", skill=None), width=140)
    assert "tokens only: a tokenizer has no distributions" in shown
    assert "target's next" in shown
    assert "one cell" in shown
    assert "kept mass" not in shown


def test_a_text_without_evidence_is_shown_with_the_likely_cause() -> None:
    shown = printed(seen("T", "byte_level", "sentencepiece"))
    assert "no position of 0 has evidence: the target reads the text as one token" in shown


def test_text_that_looks_like_mark_up_stays_as_it_is() -> None:
    assert "bold" in printed(seen("[bold]x[/bold] [/]", "byte_level", "byte_level")).replace("┃", "")


def test_a_summary_is_one_line_a_source_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    show_summary(seen(TEXT, "byte_level", "sentencepiece", "unigram"), Console(width=40))
    assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()] == ["sentencepiece", "unigram"]
