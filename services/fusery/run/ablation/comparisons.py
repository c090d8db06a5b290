"""What a table shows beside its cases: the target before, and as asked the sources, the ensemble, weight merging.

All of them with the base run's settings, and named and kept as its evaluation keeps them: nothing is measured twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fusery.hops.plan import Plan
from fusery.run.ablation.file import Comparison
from fusery.run.open_run import Run
from fusery.run.steps import baselines, steps
from fusery.run.steps.training_file import keep_scores, measure_model

TARGET_BEFORE = "target before"
_ROLES = {steps.TARGET_BEFORE: TARGET_BEFORE, steps.MERGED: steps.MERGED}


def comparing(base: Run, compare: Sequence[Comparison]) -> Run:
    """The base run, with an evaluation of just these."""
    spec = base.config.evaluation.model_copy(
        update={
            "clm_baseline": False,
            "single_source": False,
            "ensemble": Comparison.ENSEMBLE in compare,
            "weight_merging": Comparison.WEIGHT_MERGING in compare,
        }
    )
    config = base.config.model_copy(update={"evaluation": spec})
    return replace(base, file=replace(base.file, config=config))


def scores_by_name(run: Run, plan: Plan, compare: Sequence[Comparison]) -> dict[str, str]:
    """The artefacts with the scores, by their names in tables. `run`: as `comparing` gives it."""
    own = steps.own_models(run, plan)
    found = {shown: own[role][2] for role, shown in _ROLES.items() if role in own}
    if Comparison.SOURCES in compare:
        for source in plan.sources:
            found[f"source {source.name}"] = steps.source_scores_name(run, plan, source.name)
    if baselines.wants_ensemble(run):
        found[steps.ENSEMBLE] = steps.ensemble_scores_name(run, plan)
    return found


def asks_sources(compare: Sequence[Comparison]) -> bool:
    return bool({Comparison.SOURCES, Comparison.ENSEMBLE} & set(compare))


def is_asked(name: str) -> bool:
    """Whether the scores called `name` in tables come from a source's server alone."""
    return name not in (steps.ENSEMBLE, *_ROLES.values())


def needs_sources(run: Run, plan: Plan, compare: Sequence[Comparison]) -> bool:
    """Whether something of this is missing that only a source's server can say."""
    names = [name for source in plan.sources for name in steps.source_measures(run, plan, source.name)]
    return asks_sources(compare) and any(run.store.find(name) is None for name in names)


def measure(run: Run, plan: Plan, name: str) -> None:
    """Makes and keeps the scores called `name` in tables; those of sources come from their servers."""
    if name == steps.ENSEMBLE:
        scores = baselines.measure_ensemble(run, plan, steps.held_out(run))
        keep_scores(run.store, steps.ensemble_scores_name(run, plan), scores)
        return
    if name == steps.MERGED:
        baselines.merge_weights(run, baselines.merging(run, plan))
    role = next(role for role, shown in _ROLES.items() if shown == name)
    model, revision, scores_name = steps.own_models(run, plan)[role]
    batch_bytes = run.config.evaluation.batch_bytes
    measure_model(run.store, steps.held_out(run), batch_bytes, (model, revision), scores_name)
