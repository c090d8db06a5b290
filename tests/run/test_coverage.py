"""What the notes of all shards say together, as shares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusery.hops.plan import Hop
from fusery.hops.store.store import Store
from fusery.run.coverage import aligned_counts, coverage_of, fused_counts, shares_of
from support.runs.coverage_notes import aligned_note, plan_of, publish


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


def given_by(positions: int, with_evidence: int, **weights: float) -> dict[str, Any]:
    return {"positions": positions, "with_evidence": with_evidence, "weights": weights}


def test_coverage_adds_the_shards_up_by_source_and_domain(store: Store) -> None:
    plan = plan_of()
    one = {"x": aligned_note(positions=10, kept=[0.75] * 4)}
    other = {"x": aligned_note(positions=30, kept=[0.25] * 4), "y": aligned_note(positions=5, kept=[1.0] * 5)}
    publish(store, plan, Hop.ALIGN, "a", [one, other])
    found = coverage_of(store, plan)
    assert found["b"] == {}
    assert found["a"]["x"]["positions"] == 0.2
    assert found["a"]["x"]["kept_mass"] == pytest.approx(0.5)
    assert found["a"]["x"]["kept_mass_deciles"][0] == pytest.approx(0.25, abs=0.01)
    assert found["a"]["x"]["kept_mass_deciles"][8] == pytest.approx(0.75, abs=0.01)
    assert (found["a"]["y"]["positions"], found["a"]["y"]["kept_mass"]) == (1.0, 1.0)


def test_the_captured_mass_is_split_into_what_its_tokens_become(store: Store) -> None:
    split = {"same_bytes": 4.0, "other_bytes": 2.0, "larger_cell": 1.0, "no_cell": 1.0, "cell_tokens": 3.5}
    note = aligned_note(positions=20, kept=[0.7] * 10) | split
    publish(store, plan_of(), Hop.ALIGN, "a", [{"x": note}])
    found = coverage_of(store, plan_of())["a"]["x"]
    assert [found[name] for name in ("same_bytes", "other_bytes", "larger_cell", "no_cell")] == [
        0.5,
        0.25,
        0.125,
        0.125,
    ]
    assert (found["captured_mass"], found["kept_mass"], found["larger_cell_tokens"]) == (0.8, 0.7, 3.5)


def test_nothing_is_divided_by_zero(store: Store) -> None:
    notes = {"none": aligned_note(positions=8, kept=[]), "empty": aligned_note(positions=0, kept=[])}
    publish(store, plan_of(), Hop.ALIGN, "a", [notes])
    found = coverage_of(store, plan_of())["a"]
    assert found["none"]["positions"] == 0.0
    assert found["empty"]["positions"] is None
    for shares in found.values():
        assert {value for key, value in shares.items() if key != "positions"} == {None}


@pytest.mark.parametrize(
    ("alignment", "falls_back"),
    [
        ({}, None),
        ({"fallback": "current_token"}, 0.75),
        ({"positions": "dtw"}, 0.75),
        ({"positions": "reference"}, 0.75),
    ],
)
def test_positions_fall_back_where_the_rules_have_such_a_case(
    store: Store, alignment: dict[str, str], falls_back: float | None
) -> None:
    plan = plan_of(alignment=alignment)
    publish(store, plan, Hop.ALIGN, "a", [{"x": aligned_note(positions=8, kept=[0.5, 0.5])}])
    assert coverage_of(store, plan)["a"]["x"].get("falls_back") == falls_back


def test_shards_that_are_not_there_are_left_out_and_counted(store: Store) -> None:
    publish(store, plan_of(), Hop.ALIGN, "a", [{"x": aligned_note(positions=10, kept=[1.0] * 5)}])
    found = aligned_counts(store, plan_of())
    assert (found["a"].shards, found["b"].shards) == (1, 0)
    assert coverage_of(store, plan_of())["a"]["x"]["positions"] == 0.5
    assert shares_of(store, plan_of()) == {}


def test_shares_are_of_the_positions_that_mince_gave_each_source(store: Store) -> None:
    first = {"x": given_by(5, 4, a=3, b=1)}
    publish(store, plan_of(), Hop.FUSE, "", [first, {"x": given_by(5, 4, a=0, b=4), "y": given_by(3, 0, a=0, b=0)}])
    assert shares_of(store, plan_of()) == {"x": {"a": 0.375, "b": 0.625}, "y": {"a": 0.0, "b": 0.0}}
    shards, joined = fused_counts(store, plan_of())
    assert shards == 2
    assert (joined["x"].positions, joined["x"].with_evidence) == (10, 8)


def test_under_avgce_shares_are_of_the_weight(store: Store) -> None:
    averaged = plan_of(fusion={"rule": "avg_ce"})
    publish(store, averaged, Hop.FUSE, "", [{"x": given_by(9, 4, a=2.5, b=1.5)}])
    assert shares_of(store, averaged) == {"x": {"a": 0.625, "b": 0.375}}


@given(parts=st.lists(st.tuples(st.lists(st.floats(0, 1), max_size=8), st.integers(0, 9)), min_size=1, max_size=4))
def test_how_text_is_spread_over_shards_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, parts: list[tuple[list[float], int]]
) -> None:
    notes = [aligned_note(positions=len(kept) + without, kept=kept) for kept, without in parts]
    kept_of_all, without_of_all = [k for kept, _ in parts for k in kept], sum(without for _, without in parts)
    whole = aligned_note(positions=len(kept_of_all) + without_of_all, kept=kept_of_all)
    found: list[Any] = []
    for shards in (notes, [whole]):
        store = Store(str(tmp_path_factory.mktemp("store")))
        spread = plan_of(shards=len(shards))
        publish(store, spread, Hop.ALIGN, "a", [{"x": note} for note in shards])
        found.append(coverage_of(store, spread)["a"]["x"])
    deciles = [shares.pop("kept_mass_deciles") for shares in found]
    assert deciles[0] == deciles[1]
    assert found[0] == pytest.approx(found[1])
    assert all(0 <= share <= 1 + 1e-9 for share in found[0].values() if share is not None)
