"""`fusery query` against real servers: what it prints for people and for programs."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusery import cli
from fusery.run.inspect.query import query
from fusery.source.engines.transformers import load_engine
from support.models.pico_models import pico_byte_tokenizer, pico_model
from support.source.source_servers import RunningServer, UniformEngine, running

TEXT = "def f(x):\n\treturn “é”"


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with running(UniformEngine()) as server:
        yield server


def asked(server: RunningServer, text: str, top_k: int, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    query(server.address, text, top_k, as_json=True)
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def test_rows_are_tokens_with_what_may_follow(server: RunningServer, capsys: pytest.CaptureFixture[str]) -> None:
    answer = asked(server, TEXT, 3, capsys)
    tokenizer = pico_byte_tokenizer("byte_level")
    expected = tokenizer.tokenize(TEXT)
    assert answer["model"] == "uniform"
    assert len(answer["fingerprint"]) == 64
    rows = answer["rows"]
    assert [row["token_id"] for row in rows] == expected.ids_T.tolist()
    assert [row["byte_end"] for row in rows] == expected.byte_ends_T.tolist()
    share = 1 / tokenizer.size
    for row in rows:
        assert [candidate["token_id"] for candidate in row["candidates"]] == [0, 1, 2]
        assert [candidate["probability"] for candidate in row["candidates"]] == pytest.approx([share] * 3)
        assert row["tail"] == pytest.approx(1 - 3 * share)
    assert [row["next_probability"] for row in rows[:-1]] == pytest.approx([share] * (len(rows) - 1))
    assert rows[-1]["next_probability"] is None


def test_tokens_are_spelled_and_parts_of_characters_and_special_tokens_marked(
    server: RunningServer, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = asked(server, "a Ω", 1, capsys)["rows"]
    assert "".join(row["token"] for row in rows) == "a \\xce\\xa9"
    assert rows[0]["candidates"][0]["text"] == "<0>"


def test_a_table_shows_spaces_and_line_ends(
    server: RunningServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    query(server.address, TEXT, 2, as_json=False)
    title, headings, *rows = capsys.readouterr().out.splitlines()
    tokenizer = pico_byte_tokenizer("byte_level")
    assert title.strip() == f"uniform (UniformForCausalLM, vocabulary {tokenizer.size}, context 512)"
    assert headings.split() == ["byte", "token", "p(next)", "candidates", "for", "the", "next", "token", "tail"]
    assert len(rows) == len(tokenizer.tokenize(TEXT).ids_T)
    shown = "\n".join(rows)
    assert "⏎" in shown
    assert "⇥" in shown
    assert rows[-1].split()[0] == str(len(TEXT.encode()))


def test_text_that_looks_like_mark_up_stays_as_it_is(server: RunningServer, capsys: pytest.CaptureFixture[str]) -> None:
    query(server.address, "[/]", 1, as_json=False)
    rows = capsys.readouterr().out.splitlines()[2:]
    assert "".join(row.split()[1] for row in rows) == "[/]"


def test_a_real_model_gives_a_distribution_over_its_vocabulary(capsys: pytest.CaptureFixture[str]) -> None:
    engine = load_engine(str(pico_model("llama")))
    with running(engine) as server:
        rows = asked(server, "The quick brown fox", engine.model.vocabulary_size, capsys)["rows"]
    assert (rows[0]["token"], rows[0]["byte_end"]) == ("<1>", 0)
    for row, following in itertools.pairwise(rows):
        probabilities = {candidate["token_id"]: candidate["probability"] for candidate in row["candidates"]}
        assert sum(probabilities.values()) == pytest.approx(1, abs=1e-4)
        assert list(probabilities.values()) == sorted(probabilities.values(), reverse=True)
        assert row["next_probability"] == pytest.approx(probabilities[following["token_id"]])
        assert np.isclose(row["tail"], 0, atol=1e-4)
    # More logits than tokens, as real models have: an id without a token is shown as one.
    last = engine.model.vocabulary_size - 1
    assert next(c["text"] for c in rows[0]["candidates"] if c["token_id"] == last) == f"<{last}>"


@pytest.mark.parametrize(
    ("text", "top_k", "says"),
    [
        ("", "5", "TEXT is empty"),
        ("a", "9999", "top_k: got 9999, expected 1 to"),
        ("Zq! " * 900, "5", "tokens, the context of uniform holds 512; split the document"),
    ],
)
def test_what_the_source_refuses_is_one_line_and_exit_code_2(
    server: RunningServer, text: str, top_k: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["query", server.address, text, "--top-k", top_k]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    [line] = shown.err.splitlines()
    assert line.startswith("fusery query: ")
    assert says in line


def test_the_token_of_a_guarded_server_comes_from_the_file_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(UniformEngine(), token="s3cret") as guarded:
        assert cli.main(["query", guarded.address, "a"]) == 2
        assert "UNAUTHENTICATED" in capsys.readouterr().err
        (tmp_path / "token").write_text("s3cret\n")
        monkeypatch.setenv("FUSERY_SOURCE_TOKEN_FILE", str(tmp_path / "token"))
        assert cli.main(["query", guarded.address, "a", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["model"] == "uniform"
