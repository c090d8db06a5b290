"""The comparison as one HTML file that needs nothing else: boxes in place, details in JSON that its script shows.

The boxes are plain HTML and stand without the script. A box is ~90 bytes and a matched row ~200, so 2 KB of text and
three sources stay under 1 MB. All text is escaped: by the template, by `tojson`, and by textContent in the script.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from typing import Any

from rich.cells import cell_len

from fusery.run.inspect.align.show import cell_label, summary
from fusery.run.inspect.align.text import Box, Layout, Token, laid_out, lines
from fusery.run.inspect.align.view import SourceView, View

_LINE_COLUMNS = 108
"""Columns of a line: with the names about 1000 pixels."""


def page(view: View) -> str:
    """The whole file."""
    from jinja2 import Environment, StrictUndefined

    names = [f"target {view.target_name}", *(source.name for source in view.sources)]
    listed = " and ".join([", ".join(names[1:-1]), names[-1]] if len(names) > 2 else names[1:])
    modes = view.modes
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}
    template = resources.files("fusery.run.inspect.align").joinpath("page.html").read_text(encoding="utf-8")
    return environment.from_string(template).render(
        title=f"How {names[0]} and {'source' if len(names) == 2 else 'sources'} {listed} read a text",
        about=f"{len(view.text.encode())} bytes, positions {modes.positions.value}, vocabulary "
        f"{modes.vocabulary.value}. Target {view.target_name} ({view.target_given}).",
        gutter=f"{(min(max(cell_len(name) for name in names), 20) + 3) * 0.62:.1f}em",
        summaries=[_summary(view, source) for source in view.sources],
        bands=_bands(view, names),
        data={
            "rows": [
                {
                    "name": name,
                    "tokens": [
                        [t.id, t.shown, None if t.spelled is None else t.spelled.hex(), t.start, t.end] for t in tokens
                    ],
                }
                for name, tokens in zip([view.target_name, *names[1:]], _rows(view), strict=True)
            ],
            "sources": [_source(source, view) for source in view.sources],
        },
    )


def _rows(view: View) -> list[tuple[Token, ...]]:
    return [view.target, *(source.tokens for source in view.sources)]


def _summary(view: View, source: SourceView) -> tuple[str, str]:
    shown = f"{source.name}\n{source.given}" if source.given != source.name else source.name
    says = summary(view, source).replace(", ", "\n")
    return shown, says if source.guesses is not None else f"{says}\ntokens only: a tokenizer has no distributions"


def _bands(view: View, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The lines of the figure, one below the other."""
    rows = _rows(view)
    layout = laid_out(rows)
    matched = [{match.row: match.next_mass or 0.0 for match in source.matches} for source in view.sources]
    positions = {match.position for source in view.sources for match in source.matches}
    ends = sorted(view.target[position].end for position in positions)
    every_matched = [dict.fromkeys(positions, 0.0), *matched]
    for line in lines(layout, _LINE_COLUMNS):
        drawn = [
            list(_boxes(number, tokens, boxes, of_row, line))
            for number, (tokens, boxes, of_row) in enumerate(zip(rows, layout.rows, every_matched, strict=True))
        ]
        ticks = list(_ticks(layout, ends, *line))
        yield {"columns": line[1] - line[0], "ticks": ticks, "rows": list(zip(names, drawn, strict=True))}


def _ticks(layout: Layout, ends: Sequence[int], start: int, end: int) -> Iterator[tuple[int, int]]:
    """Byte ends with evidence, where there is room for the number, and their columns from the right."""
    free = start
    for byte in ends:
        at = layout.column_of_end.get(byte, -1)
        if start <= at < end and at - len(str(byte)) + 1 >= free:
            yield byte, end - at - 1
            free = at + 2


def _boxes(
    number: int, tokens: Sequence[Token], boxes: Sequence[Box], matched: Mapping[int, float], line: tuple[int, int]
) -> Iterator[dict[str, str]]:
    """The boxes of a row, or their parts, that stand in columns `line`; `matched`: what fills those with evidence.

    Classes: (t)arget; (m)atched, (u)nmatched, the (e)nd of the text; (s)pecial; (c)ontinued in the next line.
    """
    start, end = line
    for token, box in zip(tokens, boxes, strict=True):
        left, right = max(box.left, start), min(box.right + 1, end)
        if left >= right:
            continue
        edge = "m" if box.index in matched else "e" if box.index == len(tokens) - 1 else "u"
        kinds = {"t": number == 0, edge: True, "s": token.spelled is None, "c": box.right >= end}
        mass = matched.get(box.index)
        yield {
            "key": f"{number}.{box.index}",
            "kind": " ".join(kind for kind, holds in kinds.items() if holds),
            "style": f"left:{left - start}ch;width:{right - left}ch" + (f";--p:{mass:.2f}" if mass else ""),
            "shown": token.shown if box.left >= start else "…",
        }


def _source(source: SourceView, view: View) -> dict[str, Any]:
    """As the page's script takes it: short arrays, whose fields it names."""
    guesses = source.guesses
    return {
        "name": source.name,
        "guesses": None
        if guesses is None
        else [[[guess.shown, round(guess.probability, 4)] for guess in row] for row in guesses],
        "matches": [
            [
                match.position,
                match.row,
                *(None if value is None else round(value, 4) for value in (match.kept_mass, match.next_mass)),
                int(match.next_is_best),
                [[cell_label(c, view.target[match.position + 1]), round(c.mass, 4)] for c in match.cells],
            ]
            for match in source.matches
        ],
    }
