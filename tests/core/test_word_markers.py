"""Marks in token strings ("##ing", "the</w>", "<n>") are no text: tokens are spelled as their decoders spell them."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from fusery.core.alignment import boundary
from fusery.core.rules import Vocabulary
from fusery.core.tokens import ByteTokenizer
from fusery.core.vocab import build
from support.models.lossy_tokenizers import WORDS, letters, word_ends, word_piece
from support.models.pico_models import pico_byte_tokenizer


def continuing_bpe() -> Tokenizer:
    vocabulary = {token: i for i, token in enumerate(["p", "##l", "##a", "##y", "##ay"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("##a", "##y")], continuing_subword_prefix="##"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def byte_level_word_ends() -> Tokenizer:
    """As CLIP's: byte letters, and "</w>" behind the last of a word."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(f"{letter}</w>" for letter in alphabet)]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, [], end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.Sequence([decoders.Replace("</w>", " "), decoders.ByteLevel()])
    return tokenizer


def newline_marker() -> Tokenizer:
    tokens = ["<unk>", "a", "▁", "▁a", "<n>"]
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Replace("\n", "<n>"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split("<n>", "isolated")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("<n>", "\n"), decoders.Replace("▁", " ")])
    return tokenizer


@pytest.mark.parametrize(
    ("make", "spelled"),
    [
        (word_piece, {"##ing": b"ing", "play": b"play", "##s": b"s"}),
        (continuing_bpe, {"##ay": b"ay", "p": b"p"}),
        (word_ends, {"the</w>": b"the", "th": b"th", "e</w>": b"e"}),
        (byte_level_word_ends, {"a</w>": b"a", "Ã</w>": b"\xc3", "<": b"<", "w": b"w"}),
        (newline_marker, {"<n>": b"\n", "▁a": b" a"}),
        # Without a model that adds them they are text.
        (
            lambda: Tokenizer(models.WordLevel({"##ing": 0, "a</w>": 1, "?": 2}, "?")),
            {"##ing": b"##ing", "a</w>": b"a</w>"},
        ),
        # A marker alone is what it says.
        (lambda: word_piece("##"), {"##": b"##"}),
    ],
)
def test_a_token_spells_its_text_without_its_marker(make, spelled: dict[str, bytes]) -> None:  # type: ignore[no-untyped-def]
    tokenizer = ByteTokenizer(make())
    assert {token: tokenizer.token_bytes[tokenizer.token_id(token) or 0] for token in spelled} == spelled


@pytest.mark.parametrize("make", [word_piece, word_ends, continuing_bpe, byte_level_word_ends])
def test_one_word_is_spelled_by_its_pieces(make) -> None:  # type: ignore[no-untyped-def]
    tokens = ByteTokenizer(make()).tokenize("play")
    assert tokens.unspelled_T is None
    assert tokens.byte_ends_T[-1] == 4


TEXT = "playing the games(players,goers)of"


@pytest.mark.parametrize("make", [word_piece, word_ends])
def test_a_source_with_marked_tokens_has_evidence_where_the_text_goes_on(make) -> None:  # type: ignore[no-untyped-def]
    source, target = ByteTokenizer(make()), ByteTokenizer(letters(None))
    source_text, target_text = source.tokenize(TEXT), target.tokenize(TEXT)
    pairs = boundary(source_text, target_text)
    ends = source_text.byte_ends_T[pairs.source_rows_R]
    assert len(ends) >= 5
    assert np.array_equal(ends, target_text.byte_ends_T[pairs.target_positions_R])
    # Nothing is said before white space that the tokenizer drops.
    assert not {TEXT.index(" "), TEXT.index(" games")} & set(ends.tolist())


def test_behind_the_end_of_a_word_a_row_does_not_know_whether_white_space_follows() -> None:
    tokenizer = ByteTokenizer(word_ends())
    tokens = tokenizer.tokenize("the(the)")
    assert tokens.byte_ends_T.tolist() == [3, 4, 7, 8]
    assert tokens.stands_T is not None
    assert tokens.stands_T.tolist() == [False, False, False, True]


@pytest.mark.parametrize("rule", list(Vocabulary))
def test_words_that_may_stand_after_a_space_are_in_no_cell_and_pieces_of_words_are(rule: Vocabulary) -> None:
    source, target = ByteTokenizer(word_piece("東", "，")), pico_byte_tokenizer("byte_level")
    cells = build(rule, source, target).cell_of_source_V
    assert {token for token in WORDS if token.isalpha() and cells[source.token_id(token) or 0] >= 0} == set()
    assert cells[source.token_id("##s") or 0] >= 0
    assert cells[source.token_id("(") or 0] >= 0
    back = build(rule, target, source).cell_of_target_V
    if rule is Vocabulary.PARTITION:
        assert back[source.token_id("##ing") or 0] >= 0
        assert cells[source.token_id("東") or 0] >= 0


def test_the_first_token_inside_a_word_is_a_continuing_one() -> None:
    tokenizer = ByteTokenizer(word_piece())
    first = tokenizer.first_tokens([b"ing", b"sly", b"the", b"(", b" the", b"xyz", b"ing the"])
    names = [None if i < 0 else tokenizer.token_strings[i] for i in first.tolist()]
    assert names == ["##ing", "##s", None, "(", None, None, "##ing"]


def test_a_tokenizer_that_keeps_spaces_has_no_unclear_word_starts() -> None:
    tokenizer = word_piece(" ")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "isolated")
    assert ByteTokenizer(tokenizer).word_start_ids == frozenset()
    assert ByteTokenizer(word_piece()).word_start_ids
