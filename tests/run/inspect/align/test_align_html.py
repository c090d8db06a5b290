"""The page: one file, nothing fetched, nothing of the text acted on."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from fusery.run.inspect.align.html import page
from support.models.pico_models import TEXTS
from support.runs.align_views import seen

HOSTILE = "a </script><script>alert(1)</script> & \"q\" 'r' <!--DATA--> {{ data }} {% raw %} <img src=x onerror=y> b"


class Parsed(HTMLParser):
    """Tags, the text of every box, and the content of scripts."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.boxes: dict[str, str] = {}
        self.scripts: list[str] = []
        self.links: list[str] = []
        self._box: str | None = None
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = dict(attrs)
        self.links += [str(value) for name, value in attrs if name in ("src", "href", "action", "data")]
        if tag == "b":
            self._box = str(given["data-k"])
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self._box is not None and data != "…":
            self.boxes[self._box] = data
        if self.tags and self.tags[-1] == "script":
            self.scripts[-1] += data

    def handle_endtag(self, tag: str) -> None:
        self._box = None


def data_of(parsed: Parsed) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(parsed.scripts[0])
    return content


def test_every_token_is_a_box_with_its_text() -> None:
    view = seen(TEXTS[4], "byte_level", "sentencepiece", "unigram")
    parsed = Parsed(page(view))
    rows = [view.target, *(source.tokens for source in view.sources)]
    expected = {f"{r}.{i}": token.shown for r, row in enumerate(rows) for i, token in enumerate(row)}
    assert parsed.boxes == expected


def test_the_texts_can_break_out_of_nothing() -> None:
    plain, hostile = Parsed(page(seen("a b", "byte_level"))), page(seen(HOSTILE, "byte_level", "byte_level"))
    parsed = Parsed(hostile)
    assert len(parsed.scripts) == len(plain.scripts) == 2
    assert "img" not in parsed.tags
    assert "<script>alert" not in hostile
    assert "<!--" not in hostile
    shown = "".join(token[1] for token in data_of(parsed)["rows"][0]["tokens"])
    assert shown == HOSTILE.replace(" ", "␣")


def test_a_token_that_spells_nothing_is_no_special_one() -> None:
    view = seen("a b", "byte_level", "byte_level")
    empty = replace(view.target[0], spelled=b"", shown="∅")
    content = data_of(Parsed(page(replace(view, target=(empty, *view.target[1:])))))
    assert content["rows"][0]["tokens"][0][1:3] == ["∅", ""]


def test_nothing_is_fetched() -> None:
    content = page(seen(TEXTS[0], "byte_level", "sentencepiece"))
    assert Parsed(content).links == []
    assert not re.search(r"https?://|url\(|@import|fetch\(|XMLHttpRequest|import\(", content)
    assert "innerHTML" not in content


def test_dark_and_light_are_both_there() -> None:
    content = page(seen(TEXTS[0], "byte_level", "sentencepiece"))
    assert "prefers-color-scheme: dark" in content
    assert '<meta name="color-scheme" content="light dark">' in content


def test_boxes_say_whether_they_are_evidence() -> None:
    view = seen("The quick brown fox", "byte_level", "sentencepiece")
    content = page(view)
    [source] = view.sources
    matched = {match.row for match in source.matches}
    for row in range(len(source.tokens)):
        [kind] = re.findall(rf'<b class="box ([^"]*)" data-k="1\.{row}"', content)
        last = row == len(source.tokens) - 1
        assert kind.split()[0] == ("m" if row in matched else "e" if last else "u")


def test_every_number_of_the_ruler_stands_over_the_right_edge_of_the_token_that_ends_there() -> None:
    view = seen(TEXTS[2] * 2, "byte_level", "sentencepiece")
    content = page(view)
    bands = content.split('<div class="band">')[1:]
    assert len(bands) > 1
    for band in bands:
        [width] = set(re.findall(r'class="track" style="width:(\d+)ch"', band))
        boxes = re.findall(r'data-k="0\.(\d+)" style="left:(\d+)ch;width:(\d+)ch', band)
        edges = {view.target[int(index)].end: int(left) + int(size) for index, left, size in boxes}
        ticks = re.findall(r'<u style="right:(\d+)ch"><span>(\d+)</span></u>', band)
        assert ticks
        assert all(edges[int(byte)] == int(width) - int(right) for right, byte in ticks)
    # A column is the width of a character: another font size there would be another column.
    assert "font-size" not in re.findall(r"\.track u \{[^}]*\}", content)[0]


@pytest.mark.parametrize("skill", [0.5, None])
def test_the_script_gets_tops_cells_and_masses(skill: float | None) -> None:
    view = seen(TEXTS[0].strip(), "byte_level", "sentencepiece", skill=skill)
    content = data_of(Parsed(page(view)))
    [source], [shown] = view.sources, content["sources"]
    assert (shown["guesses"] is None) == (skill is None)
    assert len(shown["matches"]) == len(source.matches)
    for match, (position, row, kept, mass, best, cells) in zip(source.matches, shown["matches"], strict=True):
        assert (position, row, bool(best)) == (match.position, match.row, match.next_is_best)
        assert (kept is None) == (mass is None) == (skill is None)
        assert [cell[1] for cell in cells] == pytest.approx([cell.mass for cell in match.cells], abs=1e-4)


def test_two_kilobytes_of_text_and_three_sources_stay_under_a_megabyte() -> None:
    text = ("".join(TEXTS) * 5)[:2000]
    content = page(seen(text, "byte_level", "sentencepiece", "unigram", "byte_level"))
    assert len(content.encode()) < 1_000_000


@pytest.mark.parametrize(
    ("sources", "says"),
    [
        (["sentencepiece"], "How target .* and source .* read a text"),
        (["sentencepiece", "unigram", "byte_level"], "How target .* and sources .*, .* and .* read a text"),
    ],
)
def test_the_title_tells_the_target_from_the_sources(sources: list[str], says: str) -> None:
    content = page(seen(TEXTS[0], "byte_level", *sources))
    [title] = re.findall("<h1>(.*)</h1>", content)
    assert re.fullmatch(says, title)


def test_a_page_is_as_small_as_its_text_until_a_table_is_asked_for() -> None:
    content = page(seen(TEXTS[0], "byte_level", "sentencepiece", "unigram"))
    assert "details.open" not in content
    assert content.count('<div class="band">') == 2


def test_no_probability_is_shown_as_nothing() -> None:
    content = page(seen(TEXTS[0], "byte_level", "sentencepiece", skill=0.5))
    [share] = re.findall(r"const share = (.*);", content)
    assert 'p < 0.0005 ? "<0.001" : p.toFixed(3)' in share
