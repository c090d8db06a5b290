"""Bytes and tokens as visible text."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from fusery.run.inspect.align.text import TokenNames, visible
from support.models.pico_models import pico_byte_tokenizer


@pytest.mark.parametrize(
    ("spelled", "shown"),
    [
        (b" the", "␣the"),
        (b"\n\t\r", "⏎⇥␍"),
        ("東京".encode(), "東京"),
        ("東".encode()[:1], "⟨E6⟩"),
        ("東".encode()[1:], "⟨9D⟩⟨B1⟩"),
        (b"a" + "😀".encode()[:3], "a⟨F0⟩⟨9F⟩⟨98⟩"),
        (b"\xff\xfe", "⟨FF⟩⟨FE⟩"),
        ("👩\u200d🚀".encode(), "👩⟨U+200D⟩🚀"),
        ("e\u0301".encode(), "e\u0301"),
        ("\u0301".encode(), "⟨U+0301⟩"),
        ("❤\ufe0f".encode(), "❤⟨U+FE0F⟩"),
        ("\u202eabc".encode(), "⟨U+202E⟩abc"),
        (b"\x1b[31m", "⟨U+001B⟩[31m"),
        ("a\u00a0b".encode(), "a⟨U+00A0⟩b"),
        (b"", ""),
    ],
)
def test_bytes_are_shown_as_what_they_are(spelled: bytes, shown: str) -> None:
    assert visible(spelled) == shown


@given(st.binary(max_size=40))
def test_no_bytes_give_a_character_that_a_terminal_acts_on_or_hides(spelled: bytes) -> None:
    shown = visible(spelled)
    assert not any(unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zs", "Zl", "Zp") for character in shown)
    assert bool(shown) == bool(spelled)
    assert cell_len(shown) >= bool(spelled)


@given(st.text(alphabet="ab ⏎é東😀\n", max_size=20), st.text(alphabet="ab ⏎é東😀\n", max_size=20))
def test_texts_are_shown_piece_by_piece(first: str, second: str) -> None:
    assert visible((first + second).encode()) == visible(first.encode()) + visible(second.encode())


def test_special_tokens_go_by_their_name_and_unknown_ids_by_their_number() -> None:
    names = TokenNames(pico_byte_tokenizer("sentencepiece"))
    assert (names.shown(1), names.spelled(1)) == ("‹s›", None)
    assert (names.shown(10_000), names.spelled(10_000)) == ("‹10000›", None)
    tokenizer = pico_byte_tokenizer("byte_level")
    assert TokenNames(tokenizer).shown(0) == "‹endoftext›"
    index = int(tokenizer.tokenize(" the").ids_T[0])
    assert TokenNames(tokenizer).shown(index).startswith("␣")
