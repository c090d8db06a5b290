"""Collects an ablation's table from what the store and the folders of the trainings hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from fusery.ablation import comparisons
from fusery.ablation.file import Case
from fusery.ablation.opened import Ablation, Plans
from fusery.ablation.results import CLM, Evidence, Figures, Row, Table
from fusery.ablation.trainings import Training
from fusery.evaluation.scores import Scores
from fusery.json_text import parse_json, read_json_object
from fusery.pipeline.coverage import aligned_counts, coverage_of, fused_counts
from fusery.pipeline.preflight import Run
from fusery.worker.names import digest
from fusery.worker.plan import Plan


def table_of(ablation: Ablation, plans: Plans, failed: Mapping[str, str], reasons: Mapping[str, str]) -> Table:
    """`failed`: why the evidence of a plan's run is missing, by its id; `reasons`: of a training, by its key."""
    base, file = ablation.base, ablation.file
    run = ablation.comparing
    named = comparisons.scores_by_name(run, plans.base, file.spec.compare)
    beside = {name: Figures.of([_scores(base, scores)]) for name, scores in named.items() if base.store.find(scores)}
    lost = {name: reasons[digest(name)] for name in named if digest(name) in reasons}
    rows, clm_names = [], _clm_names(file.cases, plans)
    for case in file.cases:
        row = _row(base, case, plans, {**reasons, **_of_cases(plans, case, failed)}, clm_names[case.name])
        if row.clm is not None:
            beside[row.clm_name] = row.clm
        rows.append(row)
    every = {one.key: one for pairs in plans.trainings.values() for pair in pairs for one in pair}
    # What is measured has its figures, whatever became of a model to keep.
    unkept = [one for one in every.values() if one.key in reasons and one.is_measured(base)]
    lost |= {f"model of {one.title}": reasons[one.key] for one in unkept}
    return Table(
        name=file.spec.name,
        ablation_id=ablation.ablation_id,
        run_id=base.run_id,
        axes=file.axes,
        seeds=file.seeds,
        rows=tuple(rows),
        beside=beside,
        remarks=comparisons.remarks(run, plans.base),
        lost=lost,
        seconds=sum(_seconds(base, one) for one in every.values()),
        bootstrap_seed=base.config.seed,
    )


def _of_cases(plans: Plans, case: Case, failed: Mapping[str, str]) -> dict[str, str]:
    """The failure of a case's evidence, as one of each of its trainings."""
    reason = failed.get(plans.of_cases[case.name].run_id)
    return {} if reason is None else {one.key: reason for pair in plans.trainings[case.name] for one in pair}


def _clm_names(cases: Sequence[Case], plans: Plans) -> dict[str, str]:
    """How the CLM baseline of each case is called; plainly, where all have the same."""
    firsts: dict[str, str] = {}
    for case in cases:
        firsts.setdefault(plans.trainings[case.name][0][1].key, case.name)
    names = {key: CLM if len(firsts) == 1 else f"{CLM} ({first})" for key, first in firsts.items()}
    return {case.name: names[plans.trainings[case.name][0][1].key] for case in cases}


def _row(base: Run, case: Case, plans: Plans, reasons: Mapping[str, str], clm_name: str) -> Row:
    pairs, plan = plans.trainings[case.name], plans.of_cases[case.name]
    of = digest([case.name, case.config.digest(), [fused.seed for fused, _ in pairs]])
    row = Row(case.name, case.labels, case.settings, of, clm_name=clm_name)
    missing = [one for pair in pairs for one in pair if not one.is_measured(base)]
    if missing:
        reason = next((reasons[one.key] for one in missing if one.key in reasons), "not measured")
        return replace(row, failure=reason)
    fused, clm = (Figures.of([_scores(base, pair[side].scores(base)) for pair in pairs]) for side in (0, 1))
    return replace(row, fused=fused, clm=clm, evidence=_evidence(base, plan))


def _evidence(base: Run, plan: Plan) -> Evidence:
    """Shares over all domains; None where the shards are gone."""
    joined = fused_counts(base.store, plan)[1].values()
    positions, with_evidence = (sum(getattr(of, name) for of in joined) for name in ("positions", "with_evidence"))
    counts = [of for found in aligned_counts(base.store, plan).values() for of in found.domains.values()]
    rows = sum(of.with_evidence for of in counts)
    return Evidence(
        with_evidence / positions if positions else None,
        sum(float(of.kept_mass) for of in counts) / rows if rows else None,
        coverage_of(base.store, plan),
    )


def _scores(base: Run, name: str) -> Scores:
    return Scores.from_json(parse_json(base.store.read(name)))


def _seconds(base: Run, one: Training) -> float:
    result = one.folder(base) / "result.json"
    return float(read_json_object(result)["elapsed_s"]) if result.exists() else 0.0
