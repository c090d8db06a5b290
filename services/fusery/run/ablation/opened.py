"""An ablation whose input is known, the plans of its cases and trainings, and the table of what came of them."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from fusery.evaluation.scores import Scores
from fusery.hops.names import digest
from fusery.hops.plan import Plan
from fusery.run.ablation import comparisons, evidence
from fusery.run.ablation.evidence import Captures
from fusery.run.ablation.file import AblationFile, Case, read_ablation
from fusery.run.ablation.results import CLM, Evidence, Figures, Row, Table
from fusery.run.coverage import aligned_counts, coverage_of, fused_counts
from fusery.run.open_run import Run, open_run
from fusery.run.steps import steps
from fusery.run.steps.trainings import Training, case_training
from fusery.runtime.text.json import parse_json, read_json_object


@dataclass(frozen=True, slots=True)
class Ablation:
    """An ablation whose input is known. `folder`: its place on this machine."""

    file: AblationFile
    base: Run
    groups: tuple[Captures, ...]
    ablation_id: str

    @property
    def folder(self) -> Path:
        return self.base.work / "ablations" / self.ablation_id

    @property
    def comparing(self) -> Run:
        return comparisons.comparing(self.base, self.file.spec.compare)


def open_ablation(path: Path) -> Ablation:
    """The ablation of a YAML file, checked as far as YAML and texts go. Writes nothing.

    Raises:
        ConfigError, ModelError, CorpusError: what is wrong, with its place.
    """
    file = read_ablation(path)
    base = open_run(file.base.path)
    groups = evidence.captures(base, {case.name: case.config for case in file.cases})
    cases = [[case.name, case.config.digest()] for case in file.cases]
    parts = [base.run_id, base.corpora.held_out.digest, cases, list(file.seeds), list(file.spec.compare)]
    return Ablation(file, base, tuple(groups), f"{file.spec.name}-{digest(parts)[:10]}")


@dataclass(slots=True)
class Plans:
    """What the cases and the models beside them are made from."""

    base: Plan
    keep_models: bool = False
    of_cases: dict[str, Plan] = field(default_factory=dict)
    trainings: dict[str, list[tuple[Training, Training]]] = field(default_factory=dict)
    """By case: of each seed the fused training and its CLM baseline."""
    lost: dict[str, str] = field(default_factory=dict)
    """By id of a case's run: why captures of its sources are missing."""
    unmeasured: str | None = None
    """Why the sources could not be measured."""

    def missing(self, names: Sequence[str] | None = None, failed: Container[str] = ()) -> dict[str, Training]:
        """By key, the trainings of these cases (None: of all) of which scores, or a model to keep, are not there.

        Without those that read the text of a run in `failed`: of a baseline that other cases share, theirs is read.
        """
        pairs = [pair for name in (self.trainings if names is None else names) for pair in self.trainings[name]]
        found: dict[str, Training] = {}
        for one in (one for pair in pairs for one in pair if one.plan.run_id not in failed):
            # One order for all starts: a baseline is trained beside the first case that needs it.
            found.setdefault(one.key, one)
        return {key: one for key, one in found.items() if not self._stays(one)}

    def _stays(self, one: Training) -> bool:
        """Whether what stays of it is there: the scores and, where it is to be kept, the model."""
        return one.is_measured and (not self.keep_models or (one.folder / "model").is_dir())


def plans_of(ablation: Ablation, asked: Sequence[Plan]) -> Plans:
    """All plans, from what the sources said when the captures of each group were planned."""
    base, file = ablation.base, ablation.file
    plans = Plans(evidence.case_plan(base, asked[0]), file.spec.keep_models)
    for group, plan in zip(ablation.groups, asked, strict=True):
        of_runs: dict[str, Plan] = {}
        for name, run in group.cases.items():
            if run.run_id not in of_runs:
                of_runs[run.run_id] = evidence.case_plan(run, plan)
            plans.of_cases[name] = of_runs[run.run_id]
    for case in file.cases:
        plan = plans.of_cases[case.name]
        plans.trainings[case.name] = [
            (
                case_training(base, case.name, case.config, plan, seed, clm_only=False),
                case_training(base, case.name, case.config, plan, seed, clm_only=True),
            )
            for seed in file.seeds
        ]
    return plans


def not_fused(base: Run, missing: Iterable[Training]) -> list[Plan]:
    """The plans, each once, whose fused text these trainings need and the store lacks."""
    wanted: Mapping[str, Plan] = {found.plan.run_id: found.plan for found in missing}
    return [plan for plan in wanted.values() if not evidence.is_fused(base, plan)]


def finished_runs(ablation: Ablation, plans: Plans) -> set[str]:
    """Ids of runs, not the base run's, of which nothing is still to be made: of cases, and of captures for them."""
    base = ablation.base
    waiting = {plan.run_id for name, plan in plans.of_cases.items() if plans.missing([name])}
    found = {plan.run_id for plan in plans.of_cases.values()}
    for group in ablation.groups:
        if waiting.isdisjoint(run.run_id for run in group.cases.values()):
            found.add(group.run.run_id)
    return found - waiting - {base.run_id}


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
    unkept = [one for one in every.values() if one.key in reasons and one.is_measured]
    lost |= {f"model of {one.title}": reasons[one.key] for one in unkept}
    return Table(
        name=file.spec.name,
        ablation_id=ablation.ablation_id,
        run_id=base.run_id,
        axes=file.axes,
        seeds=file.seeds,
        rows=tuple(rows),
        beside=beside,
        remarks=steps.remarks_of(run, plans.base),
        lost=lost,
        seconds=sum(_seconds(one) for one in every.values()),
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
    missing = [one for pair in pairs for one in pair if not one.is_measured]
    if missing:
        reason = next((reasons[one.key] for one in missing if one.key in reasons), "not measured")
        return replace(row, failure=reason)
    fused, clm = (Figures.of([_scores(base, pair[side].scores) for pair in pairs]) for side in (0, 1))
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


def _seconds(one: Training) -> float:
    result = one.folder / "result.json"
    return float(read_json_object(result)["elapsed_s"]) if result.exists() else 0.0
