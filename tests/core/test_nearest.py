from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusery.core.levenshtein import nearest
from fusery.core.topk import PAD
from support.core.oracles import plain_nearest

strings = st.lists(st.text(st.sampled_from("abcé東"), max_size=7), max_size=12)
byte_strings = st.lists(st.binary(max_size=6).map(lambda b: bytes(x % 3 + 97 for x in b)), max_size=12)
pairs = st.tuples(strings, strings.filter(bool)) | st.tuples(byte_strings, byte_strings.filter(bool))


@given(pair=pairs)
def test_the_first_choice_at_the_least_distance_is_found(pair: tuple[list[str], list[str]]) -> None:
    assert nearest(*pair).tolist() == plain_nearest(*pair)


def test_a_vocabulary_of_words_equals_the_plain_rule() -> None:
    random = np.random.default_rng(0)
    words = ["".join(chr(97 + c) for c in random.integers(0, 6, size=n)) for n in random.integers(1, 12, size=900)]
    assert nearest(words[:600], words[600:]).tolist() == plain_nearest(words[:600], words[600:])


def test_ties_go_to_the_first_choice_whatever_its_length() -> None:
    assert nearest(["ab"], ["abc", "a", "xb", "ab!"]).tolist() == [0]
    assert nearest(["ab"], ["xb", "abc", "a"]).tolist() == [0]


def test_equal_strings_are_nearest_and_of_equal_choices_the_first() -> None:
    assert nearest([b"b", b"a"], [b"a", b"b", b"a"]).tolist() == [1, 0]


@pytest.mark.parametrize("length", [255, 256, 400])
def test_very_long_strings_keep_their_distance(length: int) -> None:
    assert nearest(["x" * length], ["y", "x" * (length - 1)]).tolist() == [1]


def test_nothing_to_choose_from_and_nothing_to_map() -> None:
    assert nearest(["a"], []).tolist() == [PAD]
    assert nearest([], ["a"]).tolist() == []
