"""Mode `reference` against the plain statement of the rule; records of the implementation itself are in tests/bench."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusery.core import vocab
from fusery.core.alignment import Side, align
from fusery.core.projection import kept_entries, project_as_reference
from fusery.core.reference import TokenStrings, key, matches, path_of, token_map
from fusery.core.rules import Positions, TieOrder, Vocabulary
from fusery.core.topk import PAD, TopK
from support.core.oracles import plain_kept, plain_nearest, plain_reference
from support.core.strategies import top_ks
from support.models.pico_models import TEXTS, TOKENIZERS, pico_byte_tokenizer

LETTERS = st.text(st.sampled_from("abc"), min_size=1, max_size=3)
MARKERS = st.sampled_from([("Ġ", "▁"), ("▁", "▁")])


@st.composite
def vocabularies(draw: st.DrawFn) -> tuple[list[str], list[str], tuple[str, str]]:
    markers = draw(MARKERS)
    tokens = [draw(st.lists(st.tuples(st.booleans(), LETTERS), min_size=1, max_size=8, unique=True)) for _ in markers]
    source, target = ([m * marked + word for marked, word in t] for t, m in zip(tokens, markers, strict=True))
    return source, target, markers


@given(
    pair=vocabularies(),
    rule=st.sampled_from([Vocabulary.MIN_ED, Vocabulary.EXACT]),
    ties=st.sampled_from(TieOrder),
    data=st.data(),
)
def test_rows_taken_equal_the_plain_statement(
    pair: tuple[list[str], list[str], tuple[str, str]], rule: Vocabulary, ties: TieOrder, data: st.DataObject
) -> None:
    source_vocabulary, target_vocabulary, markers = pair
    ids = [
        data.draw(st.lists(st.integers(0, len(v) - 1), min_size=1, max_size=8))
        for v in (source_vocabulary, target_vocabulary)
    ]
    source, target = [source_vocabulary[i] for i in ids[0]], [target_vocabulary[i] for i in ids[1]]
    mapped = token_map(rule, source_vocabulary, markers[0], target_vocabulary, markers[1])
    keys = [key(token, *markers) for token in source_vocabulary]
    mapping = dict(zip(keys, (target_vocabulary[i] for i in plain_nearest(keys, target_vocabulary)), strict=True))
    sides = TokenStrings(source, np.asarray(ids[0]), markers[0]), TokenStrings(target, np.asarray(ids[1]), markers[1])
    found = matches(path_of(*sides, ties), *sides, mapped)
    expected = plain_reference(source, target, markers, mapping if rule is Vocabulary.MIN_ED else None, ties.value)
    assert [None if row == PAD else row for row in found.tolist()] == expected


@given(pair=vocabularies())
def test_maps_are_exact_or_the_nearest_string(pair: tuple[list[str], list[str], tuple[str, str]]) -> None:
    source, target, markers = pair
    keys = [key(token, *markers) for token in source]
    assert token_map(Vocabulary.MIN_ED, source, markers[0], target, markers[1]).image_V.tolist() == plain_nearest(
        keys, target
    )
    exact = token_map(Vocabulary.EXACT, source, markers[0], target, markers[1]).image_V.tolist()
    assert exact == [target.index(string) if string in target else PAD for string in keys]


def test_unused_ids_are_mapped_nowhere_and_to_nothing() -> None:
    mapped = token_map(Vocabulary.MIN_ED, ["a", None, "b"], "▁", [None, "b", "ab"], "▁")
    assert mapped.image_V.tolist() == [1, PAD, 1]


def test_a_byte_level_first_token_gets_the_marker_it_lacks_and_no_other_does() -> None:
    target = TokenStrings(["▁the", "▁the"], np.array([0, 0]), "▁")
    for marker, expected in (("Ġ", [0, PAD]), ("▁", [PAD, PAD])):
        source = TokenStrings(["the", "the"], np.array([0, 0]), marker)
        mapped = token_map(Vocabulary.EXACT, ["the"], marker, ["▁the"], "▁")
        assert (
            matches(path_of(source, target, TieOrder.DIAGONAL_SOURCE_TARGET), source, target, mapped).tolist()
            == expected
        )


def test_ids_past_the_vocabulary_have_no_image() -> None:
    mapped = token_map(Vocabulary.EXACT, ["a"], "▁", ["a"], "▁")
    assert mapped.images(np.array([0, 1, 9, -1])).tolist() == [0, PAD, PAD, PAD]


def test_a_first_token_that_lacks_no_marker_is_matched_as_any_other() -> None:
    source = TokenStrings(["Ġ"], np.array([0]), "▁")
    target = TokenStrings(["b", "a", "b", "cĠ", "b", "cĠ"], np.array([0, 1, 0, 2, 0, 2]), "Ġ")
    for ties in TieOrder:
        mapped = token_map(Vocabulary.MIN_ED, ["Ġ"], "▁", ["b", "a", "cĠ"], "Ġ")
        found = matches(path_of(source, target, ties), source, target, mapped)
        expected = plain_reference(source.tokens, target.tokens, ("▁", "Ġ"), {"Ġ": "b"}, ties.value)
        assert [None if row == PAD else row for row in found.tolist()] == expected


images = st.lists(st.lists(st.integers(PAD, 4), min_size=6, max_size=6), min_size=1, max_size=5)


@given(rows=images)
def test_a_row_keeps_the_first_entry_of_every_image(rows: list[list[int]]) -> None:
    kept = kept_entries(np.asarray(rows))
    assert [np.flatnonzero(row).tolist() for row in kept] == [plain_kept(row) for row in rows]


@given(top=top_ks(), data=st.data())
def test_what_is_kept_of_a_row_is_a_softmax_of_its_own(top: TopK, data: st.DataObject) -> None:
    image = np.asarray(data.draw(st.lists(st.integers(PAD, 9), min_size=30, max_size=30)))
    projected = project_as_reference(top, image)
    for row in range(top.rows):
        images_K = np.where(top.ids_RK[row] == PAD, PAD, image[top.ids_RK[row]])
        kept = [e for e in plain_kept(images_K.tolist()) if top.log_probs_RK[row, e] > -np.inf]
        mass = np.exp(top.log_probs_RK[row, kept].astype(np.float64))
        present = projected.log_probs_RK[row] > -np.inf
        assert projected.ids_RK[row][present].tolist() == images_K[kept].tolist()
        np.testing.assert_allclose(np.exp(projected.log_probs_RK[row][present]), mass / mass.sum(), rtol=1e-5)


@pytest.mark.parametrize("target_kind", TOKENIZERS)
@pytest.mark.parametrize("rule", [Vocabulary.MIN_ED, Vocabulary.EXACT])
def test_whole_tokenizers_give_what_the_plain_rule_gives_without_their_prefix_tokens(
    rule: Vocabulary, target_kind: str
) -> None:
    source, target = pico_byte_tokenizer("byte_level"), pico_byte_tokenizer(target_kind)
    markers = source.space_marker, target.space_marker
    vocabulary = vocab.build(rule, source, target, Positions.REFERENCE)
    mapping = {
        key(string, *markers): str(target.token_strings[image])
        for string, image in zip(source.token_strings, vocabulary.cell_of_source_V.tolist(), strict=True)
        if string is not None and image != PAD
    }
    first = len(target.prefix_ids)
    for text in TEXTS:
        s, t = source.tokenize(text), target.tokenize(text)
        strings = [
            [str(side.token_strings[i]) for i in ids]
            for side, ids in ((source, s.ids_T.tolist()), (target, t.ids_T[first:].tolist()))
        ]
        expected = plain_reference(*strings, markers, mapping if rule is Vocabulary.MIN_ED else None)[:-1]
        pairs = align(Positions.REFERENCE, Side(source, s), Side(target, t), vocabulary)
        taken = {i + first: row for i, row in enumerate(expected) if row is not None}
        assert dict(zip(pairs.target_positions_R.tolist(), pairs.source_rows_R.tolist(), strict=True)) == taken
