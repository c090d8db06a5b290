"""The table of `fusery query`: wide characters, narrow terminals, pipes, and tokens that a terminal would obey."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from fusery import cli
from fusery.run.inspect import query
from fusery.run.inspect.align.text import TokenNames
from fusery.runtime.errors import InvalidInput
from support.models.pico_models import pico_byte_tokenizer
from support.source.source_servers import RunningServer, UniformEngine, running

MODEL = replace(UniformEngine().model, name="a-model")
TOKENIZER = pico_byte_tokenizer("byte_level")
NAMES = TokenNames(TOKENIZER)
TEXT = "def f(x):\n\treturn “é” 東京 🙂"


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with running(UniformEngine()) as server:
        yield server


def row(token_id: int, probabilities: list[float], follows: float | None = 0.5) -> dict[str, Any]:
    candidates = [{"token_id": token_id + i, "text": "", "probability": p} for i, p in enumerate(probabilities)]
    tail = max(0.0, 1 - sum(probabilities))
    return {
        "token_id": token_id,
        "token": "",
        "byte_end": 7,
        "next_probability": follows,
        "candidates": candidates,
        "tail": tail,
    }


def lines(rows: list[dict[str, Any]], width: int | None) -> list[str]:
    return [line.plain for line in query.table(MODEL, NAMES, rows, width)]


@given(
    ids=st.lists(st.integers(0, TOKENIZER.size + 3), min_size=1, max_size=6),
    k=st.integers(1, 8),
    width=st.integers(46, 160),
)
def test_no_line_is_wider_than_the_terminal_and_nothing_is_left_out(ids: list[int], k: int, width: int) -> None:
    rows = [row(token_id, [0.1] * k) for token_id in ids]
    narrow, whole = lines(rows, width), lines(rows, None)
    token = max(5, *(cell_len(NAMES.shown(token_id)) for token_id in ids))
    widest = max(cell_len(NAMES.shown(token_id + i)) + 5 for token_id in ids for i in range(k))
    assert all(cell_len(line) <= max(width, token + 24 + max(widest, 12)) for line in narrow)
    assert len(whole) == 2 + len(rows)
    assert sorted(" ".join(narrow[2:]).split()) == sorted(" ".join(whole[2:]).split())


@pytest.mark.parametrize("width", [50, 60, 80])
def test_a_token_and_its_probability_stand_in_one_line(width: int) -> None:
    shown = lines([row(40, [0.1] * 8)], width)
    assert len(shown) > 3
    for line in shown[2:]:
        candidates = line[23:].removesuffix("  0.20").strip().split("  ")
        assert all(candidate.split()[1] == "0.10" for candidate in candidates)


def test_columns_line_up_under_wide_characters() -> None:
    rows = [row(token_id, [0.5]) for token_id in TOKENIZER.tokenize(TEXT).ids_T.tolist()]
    heading, *shown = lines(rows, None)[1:]
    at = heading.index("candidates")
    for line, of in zip(shown, rows, strict=True):
        before, candidate, after = line.partition(f"  {NAMES.shown(of['token_id'])} 0.50 ")
        assert candidate
        assert cell_len(before) + 2 == at
        assert cell_len(line) == cell_len(heading)
        assert after.endswith("  0.50")


def test_small_probabilities_are_not_shown_as_none() -> None:
    [_, _, shown] = lines([row(40, [0.004, 0.006, 0.0], follows=0.0004)], None)
    assert "<0.001" in shown
    assert " <0.01" in shown
    assert " 0.01 " in shown
    assert shown.split()[-2:] == ["0.00", "0.99"]


def test_tokens_that_a_terminal_would_obey_are_spelled() -> None:
    escape = next(i for i in range(TOKENIZER.size) if TOKENIZER.token_bytes[i] == b"\x1b")
    [_, _, shown] = lines([row(escape, [0.5])], None)
    assert "\x1b" not in shown
    assert shown.count("⟨U+001B⟩") == 2


def test_a_pipe_gets_one_line_for_each_position_however_narrow(
    server: RunningServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert cli.main(["query", server.address, TEXT, "--top-k", "9"]) == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 2 + len(TOKENIZER.tokenize(TEXT).ids_T)
    assert all(line == line.rstrip() for line in out.splitlines())
    assert "\x1b" not in out


def test_a_terminal_gets_lines_of_its_width(
    server: RunningServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    assert cli.main(["query", server.address, TEXT, "--top-k", "9"]) == 0
    out = re.sub("\x1b[^m]*m", "", capsys.readouterr().out).splitlines()
    assert len(out) > 2 + len(TOKENIZER.tokenize(TEXT).ids_T)
    assert all(cell_len(line) <= 60 for line in out)


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("nowhere", "address 'nowhere': 'nowhere' is no server; expected host:port"),
        ("127.0.0.1:99999", "the port is 99999, expected 1 to 65535"),
        ("127.0.0.1:1,127.0.0.1:1", "127.0.0.1:1 stands twice"),
    ],
)
def test_what_is_no_address_is_one_line_and_exit_code_2(
    address: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["query", address, "a"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("fusery query: ")
    assert says in line


def test_a_list_of_servers_answers_like_one(server: RunningServer, capsys: pytest.CaptureFixture[str]) -> None:
    with running(UniformEngine()) as other:
        answers = []
        for address in (server.address, f"{server.address},{other.address}"):
            assert cli.main(["query", address, "a", "--json"]) == 0
            answers.append(json.loads(capsys.readouterr().out))
    assert answers[0] == answers[1]


def test_two_models_in_a_list_are_refused_in_one_line(
    server: RunningServer, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = UniformEngine()
    engine.model = replace(engine.model, weights_fingerprint="1" * 64)
    with running(engine) as other:
        assert cli.main(["query", f"{server.address},{other.address}", "a"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert server.address in line
    assert other.address in line


def test_an_empty_text_is_refused_before_anybody_is_asked() -> None:
    with pytest.raises(InvalidInput, match="TEXT is empty"):
        query.query("127.0.0.1:1", "", 3, as_json=False)
