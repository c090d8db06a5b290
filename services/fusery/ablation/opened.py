"""An ablation whose input is known, and the plans of its cases and trainings."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fusery.ablation import comparisons, evidence
from fusery.ablation.evidence import Captures
from fusery.ablation.file import AblationFile, read_ablation
from fusery.ablation.trainings import Training, training
from fusery.pipeline.preflight import Run, open_run
from fusery.worker.names import digest
from fusery.worker.plan import Plan


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

    def missing(self, run: Run, names: Sequence[str] | None = None, failed: Container[str] = ()) -> dict[str, Training]:
        """By key, the trainings of these cases (None: of all) of which scores, or a model to keep, are not there.

        Without those that read the text of a run in `failed`: of a baseline that other cases share, theirs is read.
        """
        pairs = [pair for name in (self.trainings if names is None else names) for pair in self.trainings[name]]
        found: dict[str, Training] = {}
        for one in (one for pair in pairs for one in pair if one.plan.run_id not in failed):
            # One order for all starts: a baseline is trained beside the first case that needs it.
            found.setdefault(one.key, one)
        return {key: one for key, one in found.items() if not one.is_done(run, self.keep_models)}


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
                training(base, case.name, case.config, plan, seed, clm_only=False),
                training(base, case.name, case.config, plan, seed, clm_only=True),
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
    waiting = {plan.run_id for name, plan in plans.of_cases.items() if plans.missing(base, [name])}
    found = {plan.run_id for plan in plans.of_cases.values()}
    for group in ablation.groups:
        if waiting.isdisjoint(run.run_id for run in group.cases.values()):
            found.add(group.run.run_id)
    return found - waiting - {base.run_id}
