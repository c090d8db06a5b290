"""Coverage counts: what becomes of a source's mass, against slow and plain statements of the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fusery.core import vocab
from fusery.core.coverage import BINS, Counts, Image, TokenImages, deciles, images_of, masses, nothing
from fusery.core.projection import project
from fusery.core.rules import Vocabulary
from fusery.core.topk import PAD, TopK, VocabularyMap, empty
from support.core.strategies import top_ks
from support.models.pico_models import TOKENIZERS, pico_byte_tokenizer

VOCABULARY = 30
"""Of the strategy `top_ks`."""

HAND_MAP = VocabularyMap(np.asarray([0, 1, 1, 2, PAD, 2]), np.asarray([0, 1, 2, 2, PAD]), 3)
HAND_SOURCE = [b"a", b"b", b"bc", b"d", None, b"dx"]
HAND_TARGET = [b"a", b"b", b"d", b"dx", None]


def row(*entries: tuple[int, float]) -> TopK:
    """One row of (id, probability)."""
    ids, probabilities = zip(*entries, strict=True)
    return TopK(np.asarray([ids], np.int64), np.log(np.asarray([probabilities], np.float32)))


@st.composite
def maps(draw: st.DrawFn) -> tuple[VocabularyMap, list[bytes | None], list[bytes | None]]:
    """Any map from VOCABULARY tokens to a few target tokens, and what they spell."""
    cells, target = draw(st.integers(1, 8)), draw(st.integers(1, 12))
    of_source = draw(arrays(np.int64, VOCABULARY, elements=st.integers(PAD, cells - 1)))
    of_target = draw(arrays(np.int64, target, elements=st.integers(PAD, cells - 1)))
    spelled = st.none() | st.sampled_from([b"a", b"b", b"ab"])
    bytes_of = [draw(st.lists(spelled, min_size=size, max_size=size)) for size in (VOCABULARY, target)]
    return VocabularyMap(of_source, of_target, cells), *bytes_of  # type: ignore[return-value]


def plain_image(token: int, given: tuple[VocabularyMap, list[bytes | None], list[bytes | None]]) -> tuple[Image, int]:
    """Image and cell size of one token, by the definition."""
    vocabulary, source, target = given
    cell = vocabulary.cell_of_source_V[token]
    members = np.flatnonzero(vocabulary.cell_of_target_V == cell).tolist() if cell != PAD else []
    if not members:
        return Image.NO_CELL, 0
    if len(members) > 1:
        return Image.LARGER_CELL, len(members)
    return (Image.SAME_BYTES if source[token] == target[members[0]] else Image.OTHER_BYTES), 0


def test_a_token_becomes_the_same_bytes_others_a_larger_cell_or_nothing() -> None:
    images = images_of(HAND_MAP, HAND_SOURCE, HAND_TARGET)
    same, other, larger, none = Image
    assert images.image_V.tolist() == [same, same, other, larger, none, larger, none]
    assert images.cell_tokens_V.tolist() == [0, 0, 0, 2, 0, 2, 0]


@given(given_map=maps())
def test_images_are_those_of_the_definition(
    given_map: tuple[VocabularyMap, list[bytes | None], list[bytes | None]],
) -> None:
    images = images_of(*given_map)
    expected = [plain_image(token, given_map) for token in range(VOCABULARY)]
    assert list(zip(images.image_V[:-1].tolist(), images.cell_tokens_V[:-1].tolist(), strict=True)) == expected
    assert images.image_V[-1] == Image.NO_CELL


@pytest.mark.parametrize("source", TOKENIZERS)
@pytest.mark.parametrize("target", TOKENIZERS)
@pytest.mark.parametrize("rule", list(Vocabulary))
def test_each_rule_has_the_images_that_it_can_have(rule: Vocabulary, target: str, source: str) -> None:
    sides = pico_byte_tokenizer(source), pico_byte_tokenizer(target)
    found = set(images_of(vocab.build(rule, *sides), sides[0].token_bytes, sides[1].token_bytes).image_V[:-1].tolist())
    if source == target or rule is Vocabulary.EXACT:
        assert found <= {Image.SAME_BYTES, Image.NO_CELL} | (
            {Image.OTHER_BYTES} if rule is Vocabulary.MIN_ED else set()
        )
    elif rule is not Vocabulary.PARTITION:
        assert Image.LARGER_CELL not in found
    else:
        assert {Image.SAME_BYTES, Image.LARGER_CELL} <= found


@given(used=top_ks(VOCABULARY), given_map=maps())
def test_masses_are_those_of_a_plain_loop(
    used: TopK, given_map: tuple[VocabularyMap, list[bytes | None], list[bytes | None]]
) -> None:
    found = masses(used, images_of(*given_map))
    by_image, cell_tokens, kept = np.zeros(len(Image)), 0.0, np.zeros(used.rows)
    for r in range(used.rows):
        for token, log_prob in zip(used.ids_RK[r].tolist(), used.log_probs_RK[r].tolist(), strict=True):
            if token != PAD:
                image, tokens = plain_image(token, given_map)
                by_image[image] += np.exp(log_prob)
                cell_tokens += np.exp(log_prob) * tokens
                kept[r] += np.exp(log_prob) * (image != Image.NO_CELL)
    np.testing.assert_allclose(found.mass_I, by_image, atol=1e-5)
    assert found.cell_tokens == pytest.approx(cell_tokens, abs=1e-4)
    assert found.kept_B.sum() == used.rows
    # Rounding may move a row over the edge of a bin.
    bins = np.repeat(np.arange(BINS), found.kept_B)
    np.testing.assert_allclose(bins, np.minimum(np.sort(kept) * BINS, BINS - 1) - 0.5, atol=0.5 + 1e-3)


@given(used=top_ks(VOCABULARY), given_map=maps())
def test_what_is_kept_is_what_the_projection_keeps(
    used: TopK, given_map: tuple[VocabularyMap, list[bytes | None], list[bytes | None]]
) -> None:
    vocabulary = given_map[0]
    # A cell that the target has no token of is none to the counts; maps that are built have no such cell.
    empty_cells = np.setdiff1d(np.arange(vocabulary.cells), vocabulary.cell_of_target_V)
    of_source = np.where(np.isin(vocabulary.cell_of_source_V, empty_cells), PAD, vocabulary.cell_of_source_V)
    kept = masses(used, images_of(*given_map)).mass_I[: Image.NO_CELL].sum()
    assert kept == pytest.approx(float(project(used, of_source).mass_R.sum()), abs=1e-4)


def test_an_entry_whose_cell_the_row_had_counts_as_dropped_where_the_projection_drops_it() -> None:
    images = images_of(HAND_MAP, HAND_SOURCE, HAND_TARGET)
    used = row((2, 0.5), (1, 0.2), (0, 0.1), (4, 0.05))
    assert masses(used, images).mass_I.tolist() == pytest.approx([0.3, 0.5, 0, 0.05])
    assert masses(used, images, drops_duplicates=True).mass_I.tolist() == pytest.approx([0.1, 0.5, 0, 0.25])
    # The images are shared by all documents.
    assert masses(used, images).mass_I.tolist() == pytest.approx([0.3, 0.5, 0, 0.05])


def test_ids_past_the_tokenizer_and_absent_entries_are_in_no_cell() -> None:
    images = images_of(HAND_MAP, HAND_SOURCE, HAND_TARGET)
    used = TopK(np.asarray([[0, 99, PAD]]), np.asarray([[np.log(0.5), np.log(0.25), -np.inf]], np.float32))
    found = masses(used, images)
    assert found.mass_I.tolist() == pytest.approx([0.5, 0, 0, 0.25])
    assert found.kept_B[50] == 1


@pytest.mark.parametrize(("rows", "k"), [(0, 0), (0, 4), (3, 0), (3, 4)])
def test_rows_without_entries_have_no_mass_and_are_still_rows(rows: int, k: int) -> None:
    found = masses(empty(rows, k), images_of(HAND_MAP, HAND_SOURCE, HAND_TARGET))
    assert found.mass_I.tolist() == [0, 0, 0, 0]
    assert (found.cell_tokens, found.kept_B[0], found.kept_B.sum()) == (0, rows, rows)


@given(used=top_ks(VOCABULARY), given_map=maps(), cut=st.integers(0, 6))
def test_counts_of_parts_add_up_to_those_of_the_whole(
    used: TopK, given_map: tuple[VocabularyMap, list[bytes | None], list[bytes | None]], cut: int
) -> None:
    images = images_of(*given_map)
    parts = [used.take(np.arange(used.rows)[:cut]), used.take(np.arange(used.rows)[cut:])]
    whole, (one, other) = counts(used, images), (counts(part, images) for part in parts)
    added = one.plus(other).plus(nothing())
    assert added.positions == one.positions + other.positions
    assert added.with_evidence == whole.with_evidence
    assert added.kept_mass == pytest.approx(whole.kept_mass)
    assert added.cell_tokens == pytest.approx(whole.cell_tokens)
    assert added.kept_B.tolist() == whole.kept_B.tolist()


def counts(used: TopK, images: TokenImages) -> Counts:
    found = masses(used, images)
    return Counts(1, used.rows + 3, used.rows, 9, 1, 2, found.mass_I, found.cell_tokens, found.kept_B)


@given(kept=st.lists(st.floats(0, 1), min_size=1, max_size=200))
def test_deciles_are_those_of_the_rows_up_to_a_bin(kept: list[float]) -> None:
    bins = np.minimum((np.asarray(kept) * BINS).astype(np.int64), BINS - 1)
    found = deciles(np.bincount(bins, minlength=BINS))
    assert found is not None
    assert found == sorted(found)
    exact = np.quantile(kept, np.arange(1, 10) / 10, method="inverted_cdf")
    np.testing.assert_allclose(found, exact, atol=1 / BINS + 1e-9)


def test_no_rows_have_no_deciles() -> None:
    assert deciles(np.zeros(BINS, np.int64)) is None
