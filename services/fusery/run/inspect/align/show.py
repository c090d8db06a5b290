"""The comparison on a terminal: tokens lined up at their byte ends, then what each matched row says.

Colour only adds: what is evidence and what is not is told by the characters, so a file or a pipe loses nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fusery.core.rules import Positions
from fusery.run.inspect.align.text import Box, Layout, Token, clipped, laid_out, lines, probability
from fusery.run.inspect.align.view import Cell, Guess, Match, SourceView, View

EVIDENCE, NO_EVIDENCE, TEXT_END = "┃", "┊", "│"
_STYLE = {EVIDENCE: "bold green", NO_EVIDENCE: "yellow", TEXT_END: "dim"}
_LONGEST_NAME = 16
_NARROWEST = 24
_UNKEPT = 1e-9
"""Shown for a token that is not among the entries kept: it is not impossible."""
_Column = tuple[str, str]
"""A character, or nothing where a wide one goes on, and its style."""


def show(view: View, console: Console) -> None:
    """Prints the whole comparison."""
    modes = view.modes
    head = f"positions {modes.positions.value}, vocabulary {modes.vocabulary.value}; {len(view.text.encode())} bytes"
    console.print(Text(head, "dim"))
    legend = Text()
    for mark, meaning in ((EVIDENCE, "evidence  "), (NO_EVIDENCE, "none  "), (TEXT_END, "end of the text")):
        legend.append(mark, _STYLE[mark]).append(f" {meaning}", "dim")
    console.print(legend)
    for source in view.sources:
        console.print()
        note = "tokens only: a tokenizer has no distributions"
        note = note if source.guesses is None else f"top {source.top_k} kept"
        console.print(Text(f"source {source.name} ({source.given}), {source.cells} cells, {note}", "bold"))
        _show_tokens(view, source, console)
        if source.matches:
            console.print()
            console.print(_table(view, source, console.width))
            _show_pairs(view, source, console)
        console.print(Text(summary(view, source)), soft_wrap=not console.is_terminal)


def show_summary(view: View, console: Console) -> None:
    """Prints one line for each source."""
    for source in view.sources:
        console.print(Text(f"{source.name}: {summary(view, source)}"), soft_wrap=not console.is_terminal)


def summary(view: View, source: SourceView) -> str:
    """How much of the text has evidence, and how much of the source's mass comes through."""
    if source.nothing_because is not None:
        return f"no position of {view.positions} has evidence: {source.nothing_because}"
    count = len(source.matches)
    parts = [f"evidence at {count} of {view.positions} positions ({_percent(count / max(view.positions, 1))})"]
    if source.kept_mass is not None:
        parts.append(f"kept mass {probability(source.kept_mass, 3)}")
    if source.same_cell is not None:
        parts.append(f"both next tokens in one cell at {_percent(source.same_cell)}")
    if source.next_is_best is not None:
        parts.append(f"the target's next token in the source's best cell at {_percent(source.next_is_best)}")
    return ", ".join(parts)


def cell_label(cell: Cell, following: Token | None, width: int = 1000) -> str:
    """A cell by its token, or as {a, b, …} 12 tokens; the target's next token is named first if it is one of them.

    Where `width` columns do not hold two of its tokens it names one or none; the token of a small cell may be wider.
    """
    if cell.size == 1:
        return cell.tokens[0][1]
    others = [shown for index, shown in cell.tokens if following is None or index != following.id]
    named = [following.shown, *others] if following is not None and cell.has_next else others
    for count in (2, 1, 0):
        parts = [*named[:count], *(["…"] if cell.size > count else [])]
        label = f"{{{', '.join(parts)}}} {cell.size} tokens"
        if cell_len(label) <= width:
            break
    return label


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _show_tokens(view: View, source: SourceView, console: Console) -> None:
    layout = laid_out([view.target, source.tokens])
    names = ["byte", f"target {view.target_name}", f"source {source.name}"]
    gutter = min(max(cell_len(name) for name in names), _LONGEST_NAME) + 1
    matched = [{match.position for match in source.matches}, {match.row for match in source.matches}]
    ends = {view.target[match.position].end for match in source.matches}
    rows = [
        _ruler(layout, ends),
        _row(view.target, layout.rows[0], matched[0], layout.width),
        _row(source.tokens, layout.rows[1], matched[1], layout.width),
    ]
    # One column less: a wide character that a cut would halve hangs over.
    for number, (start, end) in enumerate(lines(layout, max(console.width - gutter - 1, _NARROWEST))):
        if number:
            console.print()
        for name, row in zip(names, rows, strict=True):
            label = set_cell_size(name if cell_len(name) < gutter else set_cell_size(name, gutter - 2) + "…", gutter)
            line = Text(label, "dim")
            for at, (character, style) in enumerate(row[start:end]):
                line.append(character or ("" if at else " "), style)
            line.rstrip()
            console.print(line, soft_wrap=True)


def _ruler(layout: Layout, ends: set[int]) -> list[_Column]:
    """Byte ends with evidence, each above its mark, where there is room."""
    columns: list[_Column] = [(" ", "")] * layout.width
    free = 0
    for end in sorted(ends & layout.column_of_end.keys()):
        number, at = str(end), layout.column_of_end[end]
        first = at - len(number) + 1
        if first >= free:
            columns[first : at + 1] = [(digit, "dim") for digit in number]
            free = at + 2
    return columns


def _row(tokens: Sequence[Token], boxes: Sequence[Box], matched: set[int], width: int) -> list[_Column]:
    columns: list[_Column] = [(" ", "")] * width
    for token, box in zip(tokens, boxes, strict=True):
        at = box.left
        for character in token.shown:
            size = cell_len(character)
            if size == 0 and at > box.left:
                last = at - 1 if columns[at - 1][0] else at - 2
                columns[last] = (columns[last][0] + character, columns[last][1])
            elif size:
                style = "dim" if token.spelled is None else ""
                columns[at : at + size] = [(character, style), *[("", style)] * (size - 1)]
                at += size
        is_last = box.index == len(tokens) - 1
        mark = EVIDENCE if box.index in matched else TEXT_END if is_last else NO_EVIDENCE
        columns[box.right] = (mark, _STYLE[mark])
    return columns


def _table(view: View, source: SourceView, width: int) -> Table:
    """What both sides go on with at each matched position; a tokenizer alone has neither probabilities nor cells."""
    headings: tuple[str, ...] = ("byte", "after", "p", "source", "p", "as cells", "kept", "target's next")
    # Beside the texts stand byte, kept mass, three probabilities, a mark and what separates columns.
    room = max(width - 38, 36)
    token = max(room // 5, 8)
    if source.guesses is None:
        headings = ("byte", "after", "target's next", "source's next", "one cell")
        token = max((width - 22) // 3, 8)
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim")
    for heading in headings:
        table.add_column(heading, justify="right" if heading in ("byte", "p", "kept") else "left", no_wrap=True)
    for match in source.matches:
        cells = _met(view, source, match, token)
        if source.guesses is not None:
            cells = _said(view, source.guesses[match.row], match, token, room - 3 * token)
        table.add_row(str(view.target[match.position].end), _after(view, source, match, token), *cells)
    return table


def _said(view: View, said: Sequence[Guess], match: Match, token: int, cell: int) -> list[Text]:
    """What the source expects: its tokens, the cells that they become, the target's next, in columns so wide."""
    following = view.target[match.position + 1]
    labels = [_clipped(cell_label(c, following, cell), cell) for c in match.cells]
    mark: tuple[str, str] | str = "  "
    if match.next_is_best:
        mark = ("✓ ", "bold green")
        labels[0].stylize("green")
    return [
        _stack(Text(probability(guess.probability, 2)) for guess in said),
        _stack(_clipped(guess.shown, token) for guess in said),
        _stack(Text(probability(c.mass, 2)) for c in match.cells),
        _stack(labels),
        Text("" if match.kept_mass is None else probability(match.kept_mass, 2)),
        Text.assemble(mark, f"{probability(match.next_mass or _UNKEPT, 2)} ", _clipped(following.shown, token)),
    ]


def _met(view: View, source: SourceView, match: Match, token: int) -> list[Text]:
    """Where the source could speak, if it had distributions: what both sides go on with."""
    goes_on = match.row + 1 < len(source.tokens)
    return [
        _clipped(view.target[match.position + 1].shown, token),
        _clipped(source.tokens[match.row + 1].shown, token) if goes_on else Text("nothing", "dim"),
        Text("✓" if match.same_cell else ""),
    ]


def _after(view: View, source: SourceView, match: Match, width: int) -> Text:
    """The target's token, and below it the source's if that one is another."""
    target, other = view.target[match.position].shown, source.tokens[match.row].shown
    shown = _clipped(target, width)
    return shown if target == other else Text("\n").join([shown, Text.assemble(_clipped(other, width), style="dim")])


def _stack(parts: Iterable[Text]) -> Text:
    """One line each."""
    return Text("\n").join(parts)


def _clipped(shown: str, width: int) -> Text:
    return Text(clipped(shown, width))


def _show_pairs(view: View, source: SourceView, console: Console) -> None:
    """Which token met which, under the rules that pair tokens and not byte ends."""
    if view.modes.positions is Positions.BOUNDARY:
        return
    line = Text("matched pairs, target ↔ source: ", "dim")
    for match in source.matches:
        target, other = view.target[match.position], source.tokens[match.row]
        same = target.end == other.end
        line.append(f"{target.shown} ↔ {other.shown} ", "" if same else "yellow")
        line.append(f"{target.end}  " if same else f"{target.end}≠{other.end}  ", "dim" if same else "yellow")
    slipped = sum(view.target[match.position].end != source.tokens[match.row].end for match in source.matches)
    if slipped:
        line.append(f"({slipped} at different bytes: the source read another prefix)", "yellow")
    console.print()
    console.print(line)
