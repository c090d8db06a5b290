"""What `fusery align` compares: one text in a target's and its sources' tokens, and what becomes of the distributions.

Pure: tokenizers and answers in, values out, through the very functions that the align hop uses. Nothing here
knows of terminals, pages or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fusery.core import vocab
from fusery.core.alignment import Alignment, Side, align
from fusery.core.projection import project, project_as_reference
from fusery.core.rules import Positions, Vocabulary
from fusery.core.tokens import ByteTokenizer, TokenizedText
from fusery.core.topk import PAD, IntArray, TopK, VocabularyMap
from fusery.run.inspect.align.text import Token, TokenNames
from fusery.runtime.errors import InvalidInput

_LISTED_TOKENS = 8
"""Target tokens that are listed of a cell; it may have thousands."""


@dataclass(frozen=True, slots=True)
class Modes:
    """Which rules align, and how many entries of a distribution are shown."""

    positions: Positions
    vocabulary: Vocabulary
    top: int

    @classmethod
    def of(cls, positions: Positions, vocabulary: Vocabulary | None, top: int) -> Modes:
        """With the vocabulary map that belongs to `positions` where none is given.

        Raises:
            InvalidInput: `reference` with a map that the paper's implementation does not have.
        """
        as_reference = positions is Positions.REFERENCE
        if as_reference and vocabulary not in (None, Vocabulary.MIN_ED, Vocabulary.EXACT):
            raise InvalidInput("positions reference goes with vocabulary min_ed or exact (the paper's soft and hard)")
        return cls(positions, vocabulary or (Vocabulary.MIN_ED if as_reference else Vocabulary.PARTITION), top)


@dataclass(frozen=True, slots=True)
class Guess:
    """A next token that a source holds likely."""

    id: int
    shown: str
    probability: float


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell with mass: how many target tokens it has, the first by id, whether the target's next token is in it."""

    number: int
    size: int
    tokens: tuple[tuple[int, str], ...]
    mass: float
    has_next: bool


@dataclass(frozen=True, slots=True)
class Match:
    """Evidence: a source row at a target position.

    `same_cell`: both next tokens are in one cell. Without distributions there are no cells and no masses.
    `next_mass` is what the source gives the cell of the target's next token, 0 where it is not among its entries.
    """

    position: int
    row: int
    same_cell: bool
    cells: tuple[Cell, ...] = ()
    kept_mass: float | None = None
    next_mass: float | None = None

    @property
    def next_is_best(self) -> bool:
        """Whether the target's next token is in the source's best cell."""
        return bool(self.cells) and self.cells[0].has_next


@dataclass(frozen=True, slots=True)
class SourceView:
    """A source's reading of the text. `guesses`: the top of each of its rows; None without distributions."""

    name: str
    given: str
    fingerprint: str
    tokens: tuple[Token, ...]
    guesses: tuple[tuple[Guess, ...], ...] | None
    matches: tuple[Match, ...]
    top_k: int | None
    cells: int
    nothing_because: str | None

    @property
    def kept_mass(self) -> float | None:
        """Mean mass that the matched rows keep on their way into cells; None if there is nothing to average."""
        kept = [match.kept_mass for match in self.matches if match.kept_mass is not None]
        return sum(kept) / len(kept) if kept else None

    def share(self, counted: Sequence[bool]) -> float | None:
        """The share of positions with evidence for which `counted` holds; None if there are none."""
        return sum(counted) / len(counted) if counted else None

    @property
    def same_cell(self) -> float | None:
        return self.share([match.same_cell for match in self.matches])

    @property
    def next_is_best(self) -> float | None:
        return None if self.guesses is None else self.share([match.next_is_best for match in self.matches])


@dataclass(frozen=True, slots=True)
class View:
    """Everything that is shown."""

    text: str
    modes: Modes
    target_name: str
    target_given: str
    target_fingerprint: str
    target: tuple[Token, ...]
    sources: tuple[SourceView, ...]

    @property
    def positions(self) -> int:
        """Target positions that predict a token of the text."""
        return max(len(self.target) - 1, 0)


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """A participant's tokens of the text; `top` [T, K], a source's distributions, if it has any."""

    name: str
    given: str
    tokenizer: ByteTokenizer
    text: TokenizedText
    top: TopK | None = None


def view(text: str, modes: Modes, target: Reading, sources: Sequence[Reading]) -> View:
    """`text` as `target` and `sources` read it, aligned under `modes`."""
    return View(
        text=text,
        modes=modes,
        target_name=target.name,
        target_given=target.given,
        target_fingerprint=target.tokenizer.fingerprint,
        target=_tokens(target),
        sources=tuple(_source(modes, target, source) for source in sources),
    )


def _tokens(reading: Reading) -> tuple[Token, ...]:
    names, ends = TokenNames(reading.tokenizer), reading.text.byte_ends_T.tolist()
    starts = [0, *ends[:-1]]
    return tuple(
        Token(index, names.shown(index), names.spelled(index), start, end)
        for index, start, end in zip(reading.text.ids_T.tolist(), starts, ends, strict=True)
    )


def _source(modes: Modes, target: Reading, source: Reading) -> SourceView:
    vocabulary = vocab.build(modes.vocabulary, source.tokenizer, target.tokenizer, modes.positions)
    pairs = align(modes.positions, Side(source.tokenizer, source.text), Side(target.tokenizer, target.text), vocabulary)
    return SourceView(
        name=source.name,
        given=source.given,
        fingerprint=source.tokenizer.fingerprint,
        tokens=_tokens(source),
        guesses=None if source.top is None else _guesses(source.top, source.tokenizer, modes.top),
        matches=_matches(pairs, vocabulary, target, source, modes),
        top_k=None if source.top is None else source.top.k,
        cells=vocabulary.cells,
        nothing_because=None if len(pairs.source_rows_R) else _likely_cause(modes, target, source),
    )


def _guesses(top: TopK, tokenizer: ByteTokenizer, count: int) -> tuple[tuple[Guess, ...], ...]:
    names = TokenNames(tokenizer)
    probabilities = np.exp(top.log_probs_RK[:, :count].astype(np.float64)).tolist()
    return tuple(
        tuple(Guess(i, names.shown(i), p) for i, p in zip(ids, row, strict=True) if i != PAD)
        for ids, row in zip(top.ids_RK[:, :count].tolist(), probabilities, strict=True)
    )


def _matches(
    pairs: Alignment, vocabulary: VocabularyMap, target: Reading, source: Reading, modes: Modes
) -> tuple[Match, ...]:
    positions, rows = pairs.target_positions_R, pairs.source_rows_R
    next_cells = _cells_of_next(vocabulary.cell_of_target_V, target.text.ids_T, positions)
    same = (next_cells != PAD) & (next_cells == _cells_of_next(vocabulary.cell_of_source_V, source.text.ids_T, rows))
    plain = zip(positions.tolist(), rows.tolist(), same.tolist(), strict=True)
    if source.top is None:
        return tuple(Match(position, row, is_same) for position, row, is_same in plain)
    as_reference = modes.positions is Positions.REFERENCE
    projected = (project_as_reference if as_reference else project)(source.top.take(rows), vocabulary.cell_of_source_V)
    mass_RK = np.exp(projected.log_probs_RK.astype(np.float64))
    is_next_RK = (projected.ids_RK == next_cells[:, None]) & (next_cells != PAD)[:, None]
    next_mass = (mass_RK * is_next_RK).sum(axis=1).tolist()
    kept, members = projected.mass_R.tolist(), _Members(vocabulary, TokenNames(target.tokenizer))
    return tuple(
        Match(
            position=position,
            row=row,
            same_cell=is_same,
            cells=tuple(
                Cell(number, *members.of(number), mass, has_next)
                for number, mass, has_next in zip(
                    projected.ids_RK[r, : modes.top].tolist(),
                    mass_RK[r, : modes.top].tolist(),
                    is_next_RK[r, : modes.top].tolist(),
                    strict=True,
                )
                if number != PAD
            ),
            kept_mass=kept[r],
            next_mass=next_mass[r],
        )
        for r, (position, row, is_same) in enumerate(plain)
    )


def _cells_of_next(cell_of_V: IntArray, ids_T: IntArray, rows_R: IntArray) -> IntArray:
    """The cell of the token after each row, PAD where there is none, int64 [R]."""
    cells = np.append(cell_of_V[ids_T], PAD)
    return np.asarray(cells[rows_R + 1])


class _Members:
    """The target tokens of each cell."""

    def __init__(self, vocabulary: VocabularyMap, names: TokenNames) -> None:
        self._order = np.argsort(vocabulary.cell_of_target_V, kind="stable")
        self._sorted = vocabulary.cell_of_target_V[self._order]
        self._names = names

    def of(self, cell: int) -> tuple[int, tuple[tuple[int, str], ...]]:
        """How many there are, and the first of them by id, each with its visible text."""
        first, end = np.searchsorted(self._sorted, [cell, cell + 1]).tolist()
        listed = self._order[first : min(end, first + _LISTED_TOKENS)].tolist()
        return end - first, tuple((index, self._names.shown(index)) for index in listed)


def _likely_cause(modes: Modes, target: Reading, source: Reading) -> str:
    """Why no position of the target has evidence from this source."""
    if len(target.text.ids_T) < 2:
        return "the target reads the text as one token and so predicts nothing inside it; give a longer text"
    if modes.positions is not Positions.BOUNDARY:
        return (
            f"under {modes.positions.value} no target token meets exactly one source token of its own cell; compare "
            "with --positions boundary"
        )
    shared = np.intersect1d(source.text.byte_ends_T, target.text.byte_ends_T[:-1])
    if len(shared) and source.text.has_prefix_space != target.text.has_prefix_space:
        return (
            "they meet at byte 0 only, and there one of them puts a space before the text and the other does not; "
            "give a longer text"
        )
    if len(shared):
        return "they meet only where a tokenizer that normalises spells something else than the text"
    return (
        f"no token of {source.name} ends where one of the target's does before the text's end; the text is short, or "
        "one of them reads it in long tokens"
    )
