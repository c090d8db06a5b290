"""Which trainings of an ablation are the same, so that they are done once."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fusery.config.run import RunConfig
from fusery.config.sections import AlignmentSpec, CaptureSpec, FusionSpec
from fusery.hops.plan import Plan, PlannedSource
from fusery.run.steps.trainings import Training, case_training

BASE: Any = SimpleNamespace(run_id="base-1", work=Path("work"))


def made(seed: int = 0, clm_only: bool = False, alignment: dict[str, Any] | None = None, **settings: Any) -> Training:
    config = RunConfig.model_validate(
        {
            "name": "base",
            "target": {"model": "target"},
            "sources": [{"name": "docs", "model": "docs"}],
            "corpus": {"train": [{"path": "train.jsonl"}], "held_out_share": 0.5},
            "alignment": alignment or {},
            "training": settings,
        }
    )
    source = PlannedSource(name="docs", model_fingerprint="m", tokenizer_fingerprint="t", vocabulary_size=100)
    plan = Plan(
        run_id="case",
        corpus_digest="c" * 64,
        corpus_shards=1,
        target_tokenizer_fingerprint="t",
        sources=(source,),
        capture=CaptureSpec(),
        alignment=AlignmentSpec.model_validate(alignment or {}),
        fusion=FusionSpec(),
    )
    return case_training(BASE, "a case", config, plan, seed, clm_only)


EVIDENCE = st.fixed_dictionaries(
    {},
    optional={
        "clm_weight": st.sampled_from([0.0, 0.3, 1.0]),
        "tail": st.sampled_from(["tail", "renormalise"]),
        "temperature": st.sampled_from([0.5, 2.0]),
        "alignment": st.sampled_from([{"positions": "reference"}, {"vocabulary": "min_ed"}]),
    },
)


@given(EVIDENCE)
def test_clm_is_one_training_whatever_the_evidence(settings: dict[str, Any]) -> None:
    assert made(clm_only=True, **settings).key == made(clm_only=True).key
    assert made(clm_only=True, **settings).spec == made(clm_only=True).spec
    is_usual = made(**settings).spec == made().spec and "alignment" not in settings
    assert (made(**settings).key == made().key) is is_usual


def test_clm_differs_by_what_it_is_trained_with() -> None:
    usual = made(clm_only=True)
    keys = {
        usual.key,
        made(clm_only=True, seed=1).key,
        made(clm_only=True, epochs=2).key,
        made(clm_only=True, learning_rate=1e-3).key,
        made().key,
    }
    assert len(keys) == 5


def test_a_learning_rate_of_clm_alone_keeps_the_baseline_over_those_of_fusing() -> None:
    rates = [made(clm_only=True, learning_rate=rate, clm_learning_rate=2e-3) for rate in (1e-3, 4e-3)]
    assert rates[0].key == rates[1].key
    assert rates[0].spec.learning_rate == 2e-3
    fused = [made(learning_rate=1e-3, clm_learning_rate=rate) for rate in (2e-3, 4e-3)]
    assert fused[0].key == fused[1].key != made(learning_rate=4e-3).key
