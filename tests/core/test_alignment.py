from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from fusery.core import vocab
from fusery.core.alignment import Side, align, boundary, warping_path
from fusery.core.rules import Positions, Vocabulary
from fusery.core.tokens import TokenizedText
from picomodels import TEXTS, TOKENIZERS, pico_byte_tokenizer
from strategies import texts


def tokenized(*ends: int, has_prefix_space: bool = False) -> TokenizedText:
    return TokenizedText(np.arange(len(ends)), np.asarray(ends, np.int64), has_prefix_space)


segmentations = st.lists(st.integers(0, 3), min_size=1, max_size=12).map(lambda steps: np.cumsum(steps).tolist())


@given(source=segmentations, target=segmentations)
def test_boundary_finds_exactly_the_common_byte_ends(source: list[int], target: list[int]) -> None:
    pairs = boundary(tokenized(*source), tokenized(*target))
    found = [target[i] for i in pairs.target_positions_R.tolist()]
    assert found == [source[j] for j in pairs.source_rows_R.tolist()]
    last = len(target) - 1
    # The last target token predicts nothing, and of equal ends only the last one stands there.
    expected = sorted(set(source) & set(target))
    assert found == [end for end in expected if end != target[last]]


def test_the_row_after_the_same_prefix_is_evidence_whatever_the_last_token_was() -> None:
    pairs = boundary(tokenized(0, 3, 5, 9), tokenized(0, 1, 3, 7, 9))
    assert pairs.target_positions_R.tolist() == [0, 2]
    assert pairs.source_rows_R.tolist() == [0, 1]


def test_pieces_of_one_character_give_one_row_the_last() -> None:
    pairs = boundary(tokenized(2, 2, 2, 4), tokenized(2, 4))
    assert (pairs.target_positions_R.tolist(), pairs.source_rows_R.tolist()) == ([0], [2])


def test_a_space_before_the_text_on_one_side_only_takes_the_evidence_at_byte_0() -> None:
    with_space, without = tokenized(0, 4, 8, has_prefix_space=True), tokenized(0, 4, 8)
    assert boundary(with_space, without).target_positions_R.tolist() == [1]
    assert boundary(with_space, with_space).target_positions_R.tolist() == [0, 1]
    assert boundary(without, without).target_positions_R.tolist() == [0, 1]


@given(text=texts.filter(bool))
def test_identical_tokenizers_align_every_predicting_position_with_itself(text: str) -> None:
    tokens = pico_byte_tokenizer("byte_level").tokenize(text)
    pairs = boundary(tokens, tokens)
    assert pairs.target_positions_R.tolist() == pairs.source_rows_R.tolist() == list(range(len(tokens.ids_T) - 1))


def test_at_common_boundaries_the_next_tokens_are_mostly_in_one_cell() -> None:
    same, seen = 0, 0
    for source_kind in TOKENIZERS:
        for target_kind in TOKENIZERS:
            source, target = pico_byte_tokenizer(source_kind), pico_byte_tokenizer(target_kind)
            partition = vocab.build(Vocabulary.PARTITION, source, target)
            for text in TEXTS:
                s, t = source.tokenize(text), target.tokenize(text)
                pairs = boundary(s, t)
                rows = pairs.source_rows_R[pairs.source_rows_R < len(s.ids_T) - 1]
                positions = pairs.target_positions_R[: len(rows)]
                source_cells = partition.cell_of_source_V[s.ids_T[rows + 1]]
                same += int((source_cells == partition.cell_of_target_V[t.ids_T[positions + 1]]).sum())
                seen += len(rows)
    assert seen > 500
    assert same / seen > 0.9


def plain_path(source: list[bytes], target: list[bytes]) -> tuple[float, list[tuple[int, int]]]:
    """The rule as the paper's reference states it, cell by cell: the oracle."""
    rows, columns = len(source), len(target)
    total = np.full((rows + 1, columns + 1), np.inf)
    total[0, 0] = 0
    for i in range(rows):
        for j in range(columns):
            best = min(total[i, j + 1], total[i + 1, j], total[i, j])
            total[i + 1, j + 1] = Levenshtein.distance(source[i], target[j]) + best
    i, j = rows - 1, columns - 1
    path = [(i, j)]
    while i or j:
        candidates = [(total[i, j], i - 1, j - 1), (total[i, j + 1], i - 1, j), (total[i + 1, j], i, j - 1)]
        inside = [c for c in candidates if c[1] >= 0 and c[2] >= 0]
        _, i, j = min(inside, key=lambda c: c[0])
        path.append((i, j))
    return float(total[rows, columns]), path[::-1]


tokens = st.lists(st.binary(max_size=4).map(lambda b: bytes(x % 4 + 97 for x in b)), min_size=1, max_size=9)


@given(source=tokens, target=tokens)
def test_the_warping_path_equals_the_plain_statement_of_the_rule(source: list[bytes], target: list[bytes]) -> None:
    _, expected = plain_path(source, target)
    assert warping_path(source, target).tolist() == [list(step) for step in expected]


@given(source=tokens, target=tokens)
def test_the_warping_path_is_complete_and_monotone(source: list[bytes], target: list[bytes]) -> None:
    path = warping_path(source, target)
    assert path[0].tolist() == [0, 0]
    assert path[-1].tolist() == [len(source) - 1, len(target) - 1]
    steps = np.diff(path, axis=0)
    assert ((steps >= 0) & (steps <= 1)).all()
    assert (steps.sum(axis=1) >= 1).all()


def test_mined_keeps_positions_that_meet_one_row_of_the_same_cell() -> None:
    for target_kind in TOKENIZERS:
        source, target = pico_byte_tokenizer("byte_level"), pico_byte_tokenizer(target_kind)
        exact = vocab.build(Vocabulary.EXACT, source, target)
        for text in TEXTS:
            s, t = source.tokenize(text), target.tokenize(text)
            pairs = align(Positions.MINED, Side(source, s), Side(target, t), exact)
            assert len(pairs.target_positions_R) > 0
            assert (np.diff(pairs.target_positions_R) > 0).all()
            for position, row in zip(pairs.target_positions_R.tolist(), pairs.source_rows_R.tolist(), strict=True):
                assert source.token_bytes[s.ids_T[row]] == target.token_bytes[t.ids_T[position]]
