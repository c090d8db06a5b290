"""The comparison as one HTML file that needs nothing else: boxes in place, details in JSON that its script shows.

The boxes are plain HTML and stand without the script. A box is ~90 bytes and a matched row ~200, so 2 KB of text and
three sources stay under 1 MB. All text is escaped: as HTML in the boxes, by \\u003c in the JSON, by textContent in the
script.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from html import escape
from importlib import resources
from typing import Any

from rich.cells import cell_len

from fusery.pipeline.align_layout import Box, Layout, laid_out, lines
from fusery.pipeline.align_show import cell_label, summary
from fusery.pipeline.align_view import Match, SourceView, Token, View

_LINE_COLUMNS = 108
"""Columns of a line: with the names about 1000 pixels."""


def page(view: View) -> str:
    """The whole file."""
    names = [f"target {view.target_name}", *(source.name for source in view.sources)]
    kind = "source" if len(view.sources) == 1 else "sources"
    title = f"How target {view.target_name} and {kind} {_listed(names[1:])} read a text"
    modes = view.modes
    about = (
        f"{len(view.text.encode())} bytes, positions {modes.positions.value}, vocabulary {modes.vocabulary.value}. "
        f"Target {view.target_name} ({view.target_given})."
    )
    template = resources.files("fusery.pipeline").joinpath("align_page.html").read_text(encoding="utf-8")
    gutter = min(max(cell_len(name) for name in names), 20) + 3
    # Escaped text holds no "<", so no part can be taken for the place of another.
    parts = {
        "TITLE": escape(title),
        "ABOUT": escape(about),
        "GUTTER": f"{gutter * 0.62:.1f}em",
        "SUMMARY": _summary(view),
        "FIGURE": "".join(_figure(view, names)),
        "DATA": json.dumps(_data(view), ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"),
    }
    for name, content in parts.items():
        template = template.replace(f"<!--{name}-->", content)
    return template


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _summary(view: View) -> str:
    rows = ["<table><tr><th>source</th><th>what</th></tr>"]
    for source in view.sources:
        shown = f"{source.name}\n{source.given}" if source.given != source.name else source.name
        says = summary(view, source).replace(", ", "\n")
        if source.guesses is None:
            says += "\ntokens only: a tokenizer has no distributions"
        rows.append(f"<tr><td>{escape(shown)}</td><td>{escape(says)}</td></tr>")
    return "".join([*rows, "</table>"])


def _figure(view: View, names: Sequence[str]) -> Iterator[str]:
    rows = [view.target, *(source.tokens for source in view.sources)]
    layout = laid_out(rows)
    classes = [_target_classes(view), *(_source_classes(source) for source in view.sources)]
    ends = sorted({view.target[match.position].end for source in view.sources for match in source.matches})
    for start, end in lines(layout, _LINE_COLUMNS):
        yield '<div class="band">'
        yield _track("ruler", "byte", end - start, _ticks(layout, ends, start, end))
        for number, (name, tokens, boxes) in enumerate(zip(names, rows, layout.rows, strict=True)):
            drawn = _boxes(number, tokens, boxes, classes[number], (start, end))
            yield _track("", name, end - start, drawn)
        yield "</div>"


def _track(kind: str, name: str, columns: int, content: Iterator[str]) -> str:
    label = f'<span class="name" title="{escape(name)}">{escape(name)}</span>'
    return f'<div class="row {kind}">{label}<div class="track" style="width:{columns}ch">{"".join(content)}</div></div>'


def _ticks(layout: Layout, ends: Sequence[int], start: int, end: int) -> Iterator[str]:
    """Byte ends with evidence, where there is room for the number."""
    free = start
    for byte in ends:
        at = layout.column_of_end.get(byte, -1)
        if start <= at < end and at - len(str(byte)) + 1 >= free:
            yield f'<u style="right:{end - at - 1}ch"><span>{byte}</span></u>'
            free = at + 2


def _boxes(
    number: int, tokens: Sequence[Token], boxes: Sequence[Box], classes: Sequence[str], line: tuple[int, int]
) -> Iterator[str]:
    """The boxes of a row, or their parts, that stand in columns `line`."""
    start, end = line
    for token, box, kind in zip(tokens, boxes, classes, strict=True):
        left, right = max(box.left, start), min(box.right + 1, end)
        if left >= right:
            continue
        goes_on = " c" if box.right >= end else ""
        shown = token.shown if box.left >= start else "…"
        names, _, style = kind.partition("|")
        place = f"left:{left - start}ch;width:{right - left}ch{style}"
        yield f'<b class="box {names}{goes_on}" data-k="{number}.{box.index}" style="{place}">{escape(shown)}</b>'


def _target_classes(view: View) -> list[str]:
    matched = {match.position for source in view.sources for match in source.matches}
    return [_class_of(row, token, matched, len(view.target), "t ") for row, token in enumerate(view.target)]


def _source_classes(source: SourceView) -> list[str]:
    """Classes of each box; behind a bar what fills it by the mass on the target's next token."""
    mass = {match.row: match.next_mass or 0.0 for match in source.matches}
    kinds = [_class_of(row, token, mass, len(source.tokens), "") for row, token in enumerate(source.tokens)]
    return [f"{kind}|;--p:{mass[row]:.2f}" if mass.get(row) else kind for row, kind in enumerate(kinds)]


def _class_of(row: int, token: Token, matched: Any, count: int, before: str) -> str:
    edge = "m" if row in matched else "e" if row == count - 1 else "u"
    return f"{before}{edge}{' s' if token.spelled is None else ''}"


def _data(view: View) -> dict[str, Any]:
    """What the page's script shows, as short arrays: it names their fields."""
    rows = [(view.target_name, view.target), *((source.name, source.tokens) for source in view.sources)]
    return {
        "rows": [{"name": name, "tokens": [_token(token) for token in tokens]} for name, tokens in rows],
        "sources": [_source(source, view) for source in view.sources],
    }


def _token(token: Token) -> list[Any]:
    return [token.id, token.shown, None if token.spelled is None else token.spelled.hex(), token.start, token.end]


def _source(source: SourceView, view: View) -> dict[str, Any]:
    guesses = source.guesses
    return {
        "name": source.name,
        "guesses": None
        if guesses is None
        else [[[guess.shown, round(guess.probability, 4)] for guess in row] for row in guesses],
        "matches": [_match(match, view) for match in source.matches],
    }


def _match(match: Match, view: View) -> list[Any]:
    following = view.target[match.position + 1]
    kept, mass = (None if value is None else round(value, 4) for value in (match.kept_mass, match.next_mass))
    cells = [[cell_label(cell, following), round(cell.mass, 4)] for cell in match.cells]
    return [match.position, match.row, kept, mass, int(match.next_is_best), cells]
