"""What commands write: in any encoding, to a reader that goes, and with text from outside in it."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from fusery.runtime import output
from fusery.runtime.output import set_up_output, to_json
from fusery.runtime.telemetry import _JsonFormatter, _TextFormatter
from fusery.runtime.text.shown import in_markdown, in_markdown_code, shown, shown_short

ENCODINGS = ["ascii", "latin-1", "cp1252", "cp437", "iso8859-15", "utf-8", "utf-16"]
RUN_YAML = """\
name: x
target: {model: "no\\x1b[31mthing/…-−-东"}
sources: [{name: a, model: b}]
corpus: {train: [{path: 东.jsonl}], held_out: [{path: a.txt}]}
"""
HOSTILE = "\x1b[2J\x1b]0;title\x07\r\x9b31m\u202eevil\u2066\ufeff\u2028\udce9\x00\U000e0041"


@contextmanager
def written(encoding: str) -> Iterator[io.BytesIO]:
    """What stdout, in this encoding, is given meanwhile."""
    content = io.BytesIO()
    stream = io.TextIOWrapper(content, encoding=encoding, errors="strict")
    with redirect_stdout(stream):
        set_up_output()
        yield content
    stream.detach()


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_tables_and_lines_are_written_whole_in_every_encoding(encoding: str) -> None:
    with written(encoding) as content:
        console = output.console(width=80)
        table = Table("model", "域")
        table.add_row(Text("−4.4 % …␣⏎ λ ✓ ‹s› é"), Text(escape("[red]东😀")))
        for part in (table, Text("┃ evidence ┊ none"), Text("█")):
            console.print(part)
        print("half a pair \udce9, 东 and −")
        sys.stdout.flush()
        lines = content.getvalue().decode(encoding).splitlines()
    assert len(lines) == 8
    assert "4.4 %" in lines[3]
    assert lines[-1].startswith(r"half a pair \udce9, ")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_json_is_the_same_in_every_encoding(encoding: str) -> None:
    value = {"域": ["−4.4 %", "…", "é", "😀", HOSTILE, "\\u00e9"]}
    with written(encoding) as content:
        print(to_json(value, indent=1))
        sys.stdout.flush()
        assert json.loads(content.getvalue().decode(encoding)) == value


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_file_on_its_way_to_another_program_is_utf_8(encoding: str) -> None:
    with written(encoding) as content:
        output.write_utf8("path: 东/…−\n")
        assert content.getvalue().decode().lstrip("\ufeff") == "path: 东/…−\n"


def fusery(*arguments: str, encoding: str | None = None, **environment: str) -> subprocess.CompletedProcess[bytes]:
    names = {"PYTHONIOENCODING": encoding} if encoding else {}
    return subprocess.run(
        [sys.executable, "-m", "fusery", *arguments],
        env={**os.environ, "FUSERY_LOG_LEVEL": "warning", **names, **environment},
        capture_output=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    "environment",
    [
        *({"PYTHONIOENCODING": encoding} for encoding in ("ascii", "latin-1", "cp1252", "latin-1:strict")),
        {"LC_ALL": "C", "LANG": "C"},
        {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=str,
)
def test_commands_end_as_they_would_in_utf_8(tmp_path: Path, environment: dict[str, str]) -> None:
    (tmp_path / "东.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "run.yaml").write_text(RUN_YAML, encoding="utf-8")
    for arguments in (["--help"], ["run", "--help"], ["schema"], ["validate", "--offline", str(tmp_path / "run.yaml")]):
        usual = fusery(*arguments)
        done = fusery(*arguments, **environment)
        assert done.returncode == usual.returncode
        assert b"defect" not in done.stdout + done.stderr
        assert abs(done.stdout.count(b"\n") - usual.stdout.count(b"\n")) <= 2
    assert b"\x1b" not in done.stderr
    assert rb"no\x1b[31mthing" in done.stderr


@pytest.mark.parametrize("command", [["schema"], ["--help"], ["run", "--help"]])
def test_a_reader_that_goes_ends_a_command_without_a_word(command: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "fusery", *command], stdout=writing, stderr=subprocess.PIPE, timeout=120, check=False
    )
    os.close(writing)
    # Python's own parser of arguments does not look whether its help is read.
    assert done.returncode == (141 if command == ["schema"] else 0)
    assert done.stderr == b""


def test_a_reader_of_a_table_that_goes_is_a_broken_pipe() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    stream = os.fdopen(writing, "w", encoding="utf-8")
    with pytest.raises(BrokenPipeError):
        output.console(file=stream).print("a\n" * 9)
    with suppress(BrokenPipeError):
        stream.close()


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_command_without_an_output_ends_as_usual(closed: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f'"{sys.executable}" -m fusery schema {closed}'], capture_output=True, timeout=120, check=False
    )
    assert done.returncode == 0
    assert b"Traceback" not in done.stderr


@given(text=st.text(max_size=30) | st.just(HOSTILE))
def test_what_acts_or_hides_is_shown_as_escapes(text: str) -> None:
    found = shown(text)
    assert all(character.isprintable() or character.isspace() or character in "\u200c\u200d" or
               character not in HOSTILE for character in found)  # fmt: skip
    assert not set(found) & set("\x1b\x07\r\n\t\x9b\x00\u202e\u2066\u2028\ufeff\udce9\u200b")
    assert shown(found) == found
    if text.isascii() and text.isprintable():
        assert found == text
    assert len(shown_short(text, 10)) <= 10


def test_a_terminal_gets_no_control_character_from_a_table() -> None:
    stream = io.StringIO()
    console = output.console(file=stream, force_terminal=True, color_system=None, width=200)
    table = Table("domain")
    table.add_row(Text(shown(HOSTILE)))
    console.print(table)
    console.print(Text(HOSTILE))
    console.print(HOSTILE, markup=False)
    assert not set(stream.getvalue()) & (set(HOSTILE) - set("evil[]0;title2J31mA"))


def test_a_line_of_a_log_is_one_line() -> None:
    record = logging.LogRecord("fusery", logging.WARNING, "f.py", 1, "run %s", (f"a\nFAKE 12:00 ok{HOSTILE}",), None)
    text = _TextFormatter("%(levelname)s: %(message)s").format(record)
    assert text.startswith(r"WARNING: run a\nFAKE")
    assert not set(text) & set("\n\x1b\u202e\u2028")
    assert json.loads(_JsonFormatter("run").format(record))["message"].startswith("run a\nFAKE")


@given(text=st.text("ab<>[]()!*_`#|~\\&$@\n\r- ", max_size=24))
def test_markdown_reads_as_the_text_stands(text: str) -> None:
    from markdown_it import MarkdownIt

    line = "x " + in_markdown(text) + " x"
    (paragraph, inline, _) = MarkdownIt("commonmark", {"html": True}).parse(line)
    assert paragraph.type == "paragraph_open"
    assert [child.type for child in inline.children or []] == ["text"] * len(inline.children or [])
    assert "".join(child.content for child in inline.children or []).split() == f"x {shown(text)} x".split()
    code = MarkdownIt().parse("x " + in_markdown_code(text) + " x")[1].children or []
    assert [child.type for child in code] == ["text", "code_inline", "text"]
    assert code[1].content.split() == shown(text).split()


@pytest.mark.parametrize("breaks_lines", [True, False])
def test_a_log_has_its_lines_as_long_as_they_are(breaks_lines: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    stream = io.StringIO()
    output.console(breaks_lines=breaks_lines, file=stream).print("word " * 60)
    assert (len(stream.getvalue().splitlines()) > 1) is breaks_lines
