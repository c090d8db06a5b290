"""Long documents are cut once, at characters, after white space where there is any."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from fusery.hops.store.shards import CorpusDocument
from fusery.run.corpus.reading import split
from support.core.strategies import texts


@given(text=texts, limit=st.integers(16, 40))
def test_pieces_join_to_the_text_and_none_is_too_long(text: str, limit: int) -> None:
    pieces = list(split(CorpusDocument("d", "x", text * 3), limit))
    assert all(len(piece.text.encode()) <= limit for piece in pieces)
    assert all(piece.text.strip() for piece in pieces)
    kept = "".join(piece.text for piece in pieces)
    assert "".join(kept.split()) == "".join((text * 3).split())
    assert len({piece.doc_id for piece in pieces}) == len(pieces)


@given(
    text=st.text(st.characters(codec="utf-8", exclude_categories=["Z", "C"]), max_size=200), limit=st.integers(16, 40)
)
def test_text_without_white_space_is_cut_between_characters_and_nothing_is_lost(text: str, limit: int) -> None:
    pieces = [piece.text for piece in split(CorpusDocument("d", "x", text), limit)]
    assert "".join(pieces) == text
    # A character more would not have fitted.
    assert all(len((one + other[0]).encode()) > limit for one, other in pairwise(pieces))


def test_a_text_that_fits_stays_whole_with_its_own_id() -> None:
    assert list(split(CorpusDocument("d", "x", "a b"), 16)) == [CorpusDocument("d", "x", "a b")]


def test_cuts_come_after_white_space_where_there_is_any() -> None:
    pieces = [piece.text for piece in split(CorpusDocument("d", "x", "alpha beta gamma delta"), 16)]
    assert pieces == ["alpha beta ", "gamma delta"]


def quadratic_split(text: str, limit: int) -> list[str]:
    """The rule of `split`, said without windows."""
    pieces = []
    while text.strip():
        head = text.encode()[:limit].decode(errors="ignore")
        cut = max(head.rfind("\n"), head.rfind(" ")) + 1
        piece = text if head == text else head[:cut] if head[:cut].strip() else head
        pieces += [piece] if piece.strip() else []
        text = text[len(piece) :]
    return pieces


@given(text=st.text(st.sampled_from("ab é雪🙂\n \u2028"), max_size=120), limit=st.integers(16, 40))
def test_splitting_by_windows_gives_the_same_pieces(text: str, limit: int) -> None:
    assert [piece.text for piece in split(CorpusDocument("d", "x", text), limit)] == quadratic_split(text, limit)
