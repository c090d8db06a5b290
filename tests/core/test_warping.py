from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusery.core.levenshtein import one_to_one, warping_path
from fusery.core.rules import TieOrder
from support.core.oracles import plain_matrix, plain_path

# Few letters and short tokens: many equal distances, so that ties decide.
byte_tokens = st.lists(st.binary(max_size=4).map(lambda b: bytes(x % 4 + 97 for x in b)), min_size=1, max_size=9)
string_tokens = st.lists(st.text(st.sampled_from("ab é東😀"), max_size=3), min_size=1, max_size=9)
both_kinds = st.tuples(byte_tokens, byte_tokens) | st.tuples(string_tokens, string_tokens)


@given(pair=both_kinds, ties=st.sampled_from(list(TieOrder)))
def test_path_and_cost_equal_the_plain_statement_of_the_rule(pair: tuple[list[str], list[str]], ties: TieOrder) -> None:
    cost, expected = plain_path(*pair, ties.value)
    path = warping_path(*pair, ties)
    assert path.cost == cost
    assert path.pairs_P2.tolist() == [list(step) for step in expected]


@given(source=byte_tokens, target=byte_tokens)
def test_the_matrix_is_the_plain_one_cell_by_cell(source: list[bytes], target: list[bytes]) -> None:
    expected = plain_matrix(source, target)[1:, 1:]
    found = [
        [warping_path(source[: i + 1], target[: j + 1]).cost for j in range(len(target))] for i in range(len(source))
    ]
    assert found == expected.tolist()


@pytest.mark.parametrize("ties", list(TieOrder))
def test_a_document_with_repeated_tokens_has_the_plain_path(ties: TieOrder) -> None:
    random = np.random.default_rng(3)
    words = [bytes(random.integers(97, 105, size=size)) for size in random.integers(1, 9, size=40)]
    source, target = ([words[i] for i in random.integers(0, 40, size=n)] for n in (130, 110))
    cost, expected = plain_path(source, target, ties.value)
    path = warping_path(source, target, ties)
    assert (path.cost, path.pairs_P2.tolist()) == (cost, [list(step) for step in expected])


@given(pair=both_kinds, ties=st.sampled_from(list(TieOrder)))
def test_the_path_is_complete_and_monotone(pair: tuple[list[str], list[str]], ties: TieOrder) -> None:
    path = warping_path(*pair, ties).pairs_P2
    assert path[0].tolist() == [0, 0]
    assert path[-1].tolist() == [len(pair[0]) - 1, len(pair[1]) - 1]
    steps = np.diff(path, axis=0)
    assert ((steps >= 0) & (steps <= 1)).all()
    assert (steps.sum(axis=1) >= 1).all()


@given(tokens=byte_tokens)
def test_a_sequence_warped_to_itself_costs_nothing(tokens: list[bytes]) -> None:
    assert warping_path(tokens, tokens).cost == 0


def test_the_tie_orders_differ_where_a_source_and_a_target_step_cost_the_same() -> None:
    source, target = [b"a", b"b", b"a"], [b"b", b"a", b"b"]
    paths = [warping_path(source, target, ties).pairs_P2.tolist() for ties in TieOrder]
    assert paths == [[[0, 0], [0, 1], [1, 2], [2, 2]], [[0, 0], [1, 0], [2, 1], [2, 2]]]


def test_tokens_longer_than_a_byte_can_count_keep_their_distance() -> None:
    assert warping_path([b"x" * 700], [b"y"]).cost == 700


def test_a_side_without_tokens_gives_an_empty_path() -> None:
    assert warping_path([], [b"a"]).pairs_P2.shape == (0, 2)


@given(pair=both_kinds)
def test_one_to_one_keeps_the_positions_that_meet_one_row(pair: tuple[list[str], list[str]]) -> None:
    path = warping_path(*pair).pairs_P2
    rows, positions = one_to_one(path, len(pair[1]))
    met = [path[path[:, 1] == position, 0].tolist() for position in range(len(pair[1]))]
    assert list(zip(rows.tolist(), positions.tolist(), strict=True)) == [
        (rows_of[0], position) for position, rows_of in enumerate(met) if len(rows_of) == 1
    ]
