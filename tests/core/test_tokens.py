from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from fusery.core.tokens import ByteTokenizer
from fusery.errors import ModelError
from picomodels import TEXTS, TOKENIZERS, pico_byte_tokenizer, pico_tokenizer
from strategies import texts


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


def _word_tokenizer(normalizer: normalizers.Normalizer | None) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({"hello": 0, "world": 1, "[UNK]": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    return tokenizer


def test_a_normalising_tokenizer_is_followed_by_its_offsets() -> None:
    tokens = ByteTokenizer(_word_tokenizer(normalizers.Lowercase())).tokenize("Hello WORLD")
    assert tokens.byte_ends_T.tolist() == [5, 11]


def test_a_tokenizer_that_loses_text_is_refused_with_its_name_and_the_first_byte_that_differs() -> None:
    tokenizer = ByteTokenizer(_word_tokenizer(None), name="lossy")
    with pytest.raises(ModelError, match=r"lossy: .* byte 5 is b' ', the tokens say b'w'"):
        tokenizer.tokenize("hello world   ")


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


def test_an_empty_string_has_no_first_token() -> None:
    assert pico_byte_tokenizer("byte_level").first_tokens([b""]).tolist() == [-1]
