from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusery.formats.store import Store
from fusery.pipeline.coverage import coverage_of, shares_of
from fusery.run_config import AlignmentSpec, CaptureSpec, FusionSpec
from fusery.worker.plan import Hop, Plan, PlannedSource, ShardTask

Domains = dict[str, dict[str, float]]


def plan(shards: int = 2, rule: str = "min_ce") -> Plan:
    return Plan(
        run_id="r",
        corpus_digest="c" * 64,
        corpus_shards=shards,
        target_tokenizer_fingerprint="t" * 64,
        sources=tuple(
            PlannedSource(name=name, model_fingerprint=name * 64, tokenizer_fingerprint="f" * 64, vocabulary_size=99)
            for name in "ab"
        ),
        capture=CaptureSpec(top_k=4),
        alignment=AlignmentSpec(),
        fusion=FusionSpec.model_validate({"rule": rule}),
    )


def publish(store: Store, plan: Plan, hop: Hop, source: str, shards: list[Domains]) -> None:
    for shard, domains in enumerate(shards):
        store.publish(plan.artefact(ShardTask(hop, source, shard)), b"", {"tokens": 1, "domains": domains})


def counts(positions: float, with_evidence: float, kept_mass: float) -> dict[str, float]:
    return {"positions": positions, "with_evidence": with_evidence, "kept_mass": kept_mass}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


def test_coverage_adds_the_shards_up_by_source_and_domain(store: Store) -> None:
    publish(store, plan(), Hop.ALIGN, "a", [{"x": counts(10, 4, 3)}, {"x": counts(30, 4, 1), "y": counts(5, 5, 5)}])
    publish(store, plan(), Hop.ALIGN, "b", [{"x": counts(10, 10, 9)}, {"x": counts(30, 30, 27), "y": counts(5, 0, 0)}])
    assert coverage_of(store, plan()) == {
        "a": {"x": {"positions": 0.2, "kept_mass": 0.5}, "y": {"positions": 1.0, "kept_mass": 1.0}},
        "b": {"x": {"positions": 1.0, "kept_mass": 0.9}, "y": {"positions": 0.0, "kept_mass": 0.0}},
    }


def test_shards_that_are_not_there_are_left_out(store: Store) -> None:
    publish(store, plan(), Hop.ALIGN, "a", [{"x": counts(10, 5, 5)}])
    assert coverage_of(store, plan()) == {"a": {"x": {"positions": 0.5, "kept_mass": 1.0}}, "b": {}}
    assert shares_of(store, plan()) == {}


def test_shares_are_of_the_positions_that_mince_gave_each_source(store: Store) -> None:
    publish(store, plan(), Hop.FUSE, "", [{"x": {"a": 3, "b": 1}}, {"x": {"a": 0, "b": 4}, "y": {"a": 0, "b": 0}}])
    assert shares_of(store, plan()) == {"x": {"a": 0.375, "b": 0.625}, "y": {"a": 0.0, "b": 0.0}}


def test_without_mince_nothing_is_won(store: Store) -> None:
    averaged = plan(rule="avg_ce")
    publish(store, averaged, Hop.FUSE, "", [{"x": {"a": 3, "b": 1}}, {}])
    assert shares_of(store, averaged) == {}


@given(
    parts=st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50), st.floats(0, 1)), min_size=1, max_size=4),
)
def test_how_text_is_spread_over_shards_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, parts: list[tuple[int, int, float]]
) -> None:
    rows = [
        counts(with_evidence + without, with_evidence, with_evidence * mass) for with_evidence, without, mass in parts
    ]
    whole = {key: sum(row[key] for row in rows) for key in rows[0]}
    found: list[Any] = []
    for shards in ([{"x": row} for row in rows], [{"x": whole}]):
        store = Store(str(tmp_path_factory.mktemp("store")))
        spread = plan(shards=len(shards))
        publish(store, spread, Hop.ALIGN, "a", shards)
        found.append(coverage_of(store, spread)["a"]["x"])
    assert found[0] == pytest.approx(found[1])
    assert all(0 <= share <= 1 + 1e-9 for share in found[0].values())
