from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from fusery.core.tokens import ByteTokenizer
from fusery.runtime.errors import ModelError
from support.core.strategies import texts
from support.models.pico_models import TEXTS, TOKENIZERS, pico_byte_tokenizer, pico_tokenizer


@pytest.mark.parametrize("kind", ["byte_level", "sentencepiece"])
@given(text=texts)
def test_token_bytes_spell_any_text_and_ends_are_their_running_lengths(kind: str, text: str) -> None:
    tokenizer = pico_byte_tokenizer(kind)
    tokens = tokenizer.tokenize(text)
    spelled = [tokenizer.token_bytes[index] or b"" for index in tokens.ids_T.tolist()]
    whole = b"".join(spelled)
    assert whole == (b" " if tokens.has_prefix_space else b"") + text.encode()
    expected = np.maximum(np.cumsum([len(piece) for piece in spelled]) - tokens.has_prefix_space, 0)
    assert tokens.byte_ends_T.tolist() == expected.tolist()


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(text=texts.filter(bool))
def test_ends_never_decrease_and_reach_the_end_of_the_text(kind: str, text: str) -> None:
    tokens = pico_byte_tokenizer(kind).tokenize(text)
    assert (np.diff(tokens.byte_ends_T) >= 0).all()
    assert tokens.byte_ends_T[-1] == len(text.encode())


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_ids_are_those_of_the_library_with_the_prefix_before_them(kind: str) -> None:
    for text in TEXTS:
        expected = pico_tokenizer(kind).encode(text, add_special_tokens=False).ids
        tokenizer = pico_byte_tokenizer(kind)
        assert tokenizer.tokenize(text).ids_T.tolist() == [*tokenizer.prefix_ids.tolist(), *expected]


def test_prefix_tokens_end_at_byte_0_and_spell_nothing() -> None:
    tokenizer = pico_byte_tokenizer("sentencepiece")
    tokens = tokenizer.tokenize("fox")
    assert tokens.ids_T[0] == 1
    assert tokens.byte_ends_T[0] == 0
    assert tokenizer.token_bytes[1] is None


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_text_that_spells_a_special_token_does_not_become_it(kind: str) -> None:
    tokenizer = pico_byte_tokenizer(kind)
    special = [i for i, spelled in enumerate(tokenizer.token_bytes) if spelled is None]
    body = tokenizer.tokenize("a</s><|endoftext|><s>").ids_T[len(tokenizer.prefix_ids) :]
    unknown = pico_tokenizer(kind).token_to_id("<unk>")
    assert not set(body.tolist()) & (set(special) - {unknown})


def test_a_byte_level_letter_stands_for_its_byte_and_a_piece_of_a_character_is_a_boundary() -> None:
    tokenizer = ByteTokenizer(_byte_alphabet_tokenizer())
    tokens = tokenizer.tokenize("é東")
    assert [tokenizer.token_bytes[i] for i in tokens.ids_T.tolist()] == [bytes([b]) for b in "é東".encode()]
    assert tokens.byte_ends_T.tolist() == [1, 2, 3, 4, 5]


def _byte_alphabet_tokenizer() -> Tokenizer:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return tokenizer


def test_a_lower_casing_tokenizer_is_followed_and_stands_where_the_text_is_lower_case() -> None:
    tokens = ByteTokenizer(_word_tokenizer(normalizers.Lowercase(), "hello", "world", " ")).tokenize(
        "hello WORLD hello"
    )
    assert tokens.byte_ends_T.tolist() == [5, 6, 11, 12, 17]
    # After "hello" comes " ", after " " comes "WORLD", read as "world": a distribution about another text.
    assert tokens.stands_T is not None
    assert tokens.stands_T.tolist() == [True, False, True, True, True]


@pytest.mark.parametrize(
    ("normalizer", "text", "standing"),
    [
        # A ligature that becomes two characters, two characters that become one, a mark that is dropped.
        (normalizers.NFKC(), "ofﬁx", [1, 5, 6]),
        (normalizers.NFC(), "oe\u0301x", [5]),
        (normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()]), "oe\u0301xéf", [1, 7, 8]),
    ],
)
def test_unicode_normalisation_is_followed_and_no_row_stands_before_what_it_changed(
    normalizer: normalizers.Normalizer, text: str, standing: list[int]
) -> None:
    tokens = ByteTokenizer(_letter_tokenizer(normalizer)).tokenize(text)
    assert tokens.stands_T is not None
    assert tokens.byte_ends_T[tokens.stands_T].tolist() == standing


def _letter_tokenizer(normalizer: normalizers.Normalizer) -> Tokenizer:
    letters = {letter: i for i, letter in enumerate("oeéfix")} | {"[UNK]": 6}
    tokenizer = Tokenizer(models.WordLevel(letters, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.normalizer = normalizer
    return tokenizer


def test_no_row_stands_before_white_space_that_the_tokenizer_drops() -> None:
    tokens = ByteTokenizer(_word_tokenizer(None, "hello", "world"), prefix_ids=[9]).tokenize(" hello world hello  ")
    assert tokens.byte_ends_T.tolist() == [0, 6, 12, 18]
    assert tokens.stands_T is not None
    assert tokens.stands_T.tolist() == [False, False, False, False]


def test_words_around_a_token_added_to_the_vocabulary_are_followed() -> None:
    backend = pico_tokenizer("sentencepiece")
    backend = Tokenizer.from_str(backend.to_str())
    backend.add_tokens(["<tool>"])
    tokenizer = ByteTokenizer(backend)
    tokens = tokenizer.tokenize("the fox<tool>the fox")
    ends = tokens.byte_ends_T.tolist()
    assert {7, 13, 20} <= set(ends)
    assert tokenizer.token_bytes[tokens.ids_T[ends.index(13)]] == b"<tool>"


def test_a_piece_of_the_model_that_is_added_once_more_stands_for_its_spaces() -> None:
    backend = Tokenizer(models.BPE({"a": 0, "▁": 1, "▁▁": 2, "<tool>": 3}, [("▁", "▁")]))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.add_tokens([AddedToken("▁▁", normalized=False), AddedToken("<x▁>", normalized=False)])
    tokenizer = ByteTokenizer(backend)
    tokens = tokenizer.tokenize("a  a<x▁>a")
    assert tokens.stands_T is None
    assert [tokenizer.token_bytes[i] for i in tokens.ids_T.tolist()] == [b"a", b"  ", b"a", "<x▁>".encode(), b"a"]


@pytest.mark.parametrize(("normalizer", "byte"), [(normalizers.Replace("x", ""), 5), (normalizers.Strip(), None)])
def test_a_tokenizer_that_loses_text_is_refused_with_its_name_and_the_first_byte_that_differs(
    normalizer: normalizers.Normalizer, byte: int | None
) -> None:
    tokenizer = ByteTokenizer(_word_tokenizer(normalizer, "hello", "world", " "), name="lossy")
    if byte is None:
        assert tokenizer.tokenize("  hello ").byte_ends_T.tolist() == [7]
        return
    with pytest.raises(ModelError, match=rf"lossy: .* byte {byte} is b'x', the tokens say b' '"):
        tokenizer.tokenize("hellox world")


def _word_tokenizer(normalizer: normalizers.Normalizer | None, *words: str) -> Tokenizer:
    vocabulary = {word: i for i, word in enumerate([*words, "[UNK]"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    dropping = pre_tokenizers.Whitespace()
    tokenizer.pre_tokenizer = dropping if " " not in words else pre_tokenizers.Split(" ", "isolated")
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    return tokenizer


def test_token_strings_are_those_of_the_vocabulary_and_lead_back_to_their_ids() -> None:
    for kind in TOKENIZERS:
        tokenizer = pico_byte_tokenizer(kind)
        for index, string in enumerate(tokenizer.token_strings):
            if string is not None and tokenizer.token_bytes[index] is not None:
                assert tokenizer.token_id(string) == index
        assert tokenizer.space_marker == ("Ġ" if kind == "byte_level" else "▁")


def test_the_definition_makes_an_equal_tokenizer() -> None:
    for kind in TOKENIZERS:
        tokenizer = pico_byte_tokenizer(kind)
        copy = ByteTokenizer.from_definition(tokenizer.definition())
        assert copy.fingerprint == tokenizer.fingerprint
        assert copy.definition() == tokenizer.definition()
        assert all(np.array_equal(copy.tokenize(t).ids_T, tokenizer.tokenize(t).ids_T) for t in TEXTS)


def test_fingerprints_cover_the_bos_habit_and_not_the_name() -> None:
    backend = pico_tokenizer("sentencepiece")
    assert ByteTokenizer(backend, [1], "a").fingerprint == ByteTokenizer(backend, [1], "b").fingerprint
    assert ByteTokenizer(backend, [1]).fingerprint != ByteTokenizer(backend, []).fingerprint
    assert len({pico_byte_tokenizer(kind).fingerprint for kind in TOKENIZERS}) == len(TOKENIZERS)


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(text=st.text(st.sampled_from("the fox def({ \n1"), min_size=1, max_size=12))
def test_the_first_token_is_the_librarys_own_and_begins_the_string(kind: str, text: str) -> None:
    tokenizer = pico_byte_tokenizer(kind)
    [first] = tokenizer.first_tokens([text.encode()]).tolist()
    if first >= 0:
        spelled = tokenizer.token_bytes[first]
        assert spelled
        assert text.encode().startswith(spelled)


@pytest.mark.parametrize("kind", ["byte_level", "sentencepiece"])
def test_every_single_byte_has_a_first_token(kind: str) -> None:
    tokenizer = pico_byte_tokenizer(kind)
    strings = [bytes([byte]) for byte in range(256)]
    first = tokenizer.first_tokens(strings).tolist()
    assert [tokenizer.token_bytes[index] for index in first] == strings


def test_the_first_token_is_taken_in_the_middle_of_a_text() -> None:
    tokenizer = pico_byte_tokenizer("sentencepiece")
    [bare, spaced] = tokenizer.first_tokens([b"quick", b" quick"]).tolist()
    assert not (tokenizer.token_bytes[bare] or b"").startswith(b" ")
    assert (tokenizer.token_bytes[spaced] or b"").startswith(b" ")


def test_a_tokenizer_that_strips_spaces_at_the_beginning_still_has_them_in_the_middle() -> None:
    pieces = ["\x01", "▁", "▁a", "a", "▁▁"]
    backend = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, [("▁", "a"), ("▁", "▁")]))
    backend.normalizer = normalizers.Sequence([normalizers.Strip(right=False), normalizers.Replace(" ", "▁")])
    assert ByteTokenizer(backend).first_tokens([b" a", b"a", b"  ", b" b"]).tolist() == [2, 3, 4, 1]


def test_an_empty_string_has_no_first_token() -> None:
    assert pico_byte_tokenizer("byte_level").first_tokens([b""]).tolist() == [-1]
