"""The steps after the hops: train, measure, judge. Each writes its result beside the run and is done once.

Every result stands under a digest of what it was made from, so a changed input is never answered with an old result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fusery.config.sections import TrainingSpec
from fusery.core.rules import Dtype
from fusery.evaluation.bits_per_byte import HeldOutDocument, measure
from fusery.evaluation.report import report as reports
from fusery.evaluation.report.gate import judge
from fusery.evaluation.report.report import Report
from fusery.evaluation.scores import Scores
from fusery.evaluation.windows import Reading
from fusery.hops.names import digest, plan_name
from fusery.hops.plan import Hop, Plan
from fusery.registry.sending import HELD_OUT
from fusery.run.coverage import coverage_of, shares_of, warnings_of
from fusery.run.open_run import Run, open_run
from fusery.run.steps import baselines
from fusery.run.steps import tasks as evaluation_tasks
from fusery.run.steps.baselines import check_measured
from fusery.run.steps.tasks import Results, TaskModel
from fusery.run.steps.training_file import keep_scores, measure_model, window_tokens
from fusery.runtime.errors import ConfigError
from fusery.runtime.text.json import parse_json
from fusery.source.api import Distributions, Document
from fusery.source.client import SourceClient

FUSED, CLM, TARGET_BEFORE = "fused", "clm", "target_before"
ENSEMBLE, MERGED = "ensemble", "weight merging"
_EVALUATE_VERSION = 4


def load_plan(run: Run) -> Plan:
    """The plan of a run whose hops have begun.

    Raises:
        ConfigError: they have not.
    """
    note = run.store.read_note(plan_name(run.run_id))
    if note is None:
        others = (folder.rpartition("/")[2] for folder in run.store.folders("runs"))
        found = ", ".join(other for other in others if other.startswith(f"{run.config.name}-") and other != run.run_id)
        hint = f"; the store has other runs of this name, of other settings or texts: {found}" if found else ""
        raise ConfigError(f"run {run.run_id} has no plan yet; start it with: {run.file.command('run')}{hint}")
    return Plan.model_validate(note)


def training_key(run_id: str, reads: str, spec: TrainingSpec, seed: int, clm_only: bool) -> str:
    """What decides a training's result; `reads`: the name of the text. `run_id` is the run's whose target it trains."""
    return digest([reads, spec.model_dump(mode="json"), run_id, seed, clm_only])


def training_digest(run: Run, plan: Plan, clm_only: bool) -> str:
    """The key of a run's own training."""
    return training_key(run.run_id, plan.folder(Hop.FUSE), run.config.training, run.config.seed, clm_only)


def training_folder(run: Run, plan: Plan, clm_only: bool) -> Path:
    return run.folder / f"{CLM if clm_only else FUSED}-{training_digest(run, plan, clm_only)[:8]}"


def is_trained(run: Run, plan: Plan, clm_only: bool) -> bool:
    return (training_folder(run, plan, clm_only) / "result.json").exists()


def held_out(run: Run) -> list[HeldOutDocument]:
    return [HeldOutDocument(d.doc_id, d.domain, d.text) for d in run.corpora.held_out.read(run.store)]


def scores_name(run: Run, model: str, made_from: object) -> str:
    """The artefact with a model's scores on the held-out documents."""
    parts = [made_from, run.corpora.held_out.digest, run.config.evaluation.batch_bytes, _EVALUATE_VERSION]
    return f"{run.name}/scores/{model}-{digest(parts)[:8]}.json"


def source_scores_name(run: Run, plan: Plan, source: str) -> str:
    return scores_name(run, f"source-{source}", plan.source(source).model_fingerprint)


Mark = Callable[[str, int, int, str], None]
"""Hears how far a step is: its title, how much of how much is done, and in which unit."""


def measure_source(run: Run, plan: Plan, source: str, client: SourceClient, mark: Mark) -> None:
    """A source's scores and what the ensemble needs of it, asked of its server, unless they are there."""
    name = source_scores_name(run, plan, source)
    if run.store.find(name) is None:
        reading = Reading(client.tokenizer(), window_tokens(client.model()))
        expected = _Expected(client, plan.source(source).model_fingerprint)
        batch_bytes = run.config.evaluation.batch_bytes

        def progress(done: int, total: int) -> None:
            mark(f"measure {source}", done, total, "documents")

        keep_scores(run.store, name, measure(expected, held_out(run), batch_bytes, progress, reading))
    baselines.capture_held_out(run, plan, source, client, mark)


@dataclass(frozen=True, slots=True)
class _Expected:
    """A source as `measure` asks it: the very model of the plan, also where its server came back in between."""

    client: SourceClient
    fingerprint: str

    def compute_many(self, requests: Iterable[Sequence[Document]], top_k: int) -> Iterator[list[Distributions]]:
        return self.client.compute_many(requests, top_k, "float16", self.fingerprint)


def source_measures(run: Run, plan: Plan, source: str) -> list[str]:
    """The artefacts that `measure_source` makes."""
    return [source_scores_name(run, plan, source), *baselines.capture_names(run, plan, source)]


def single_sources(run: Run, plan: Plan) -> dict[str, Plan]:
    """The plans of the fusions of one source alone that the run asks for, by the source's name."""
    names = [source.name for source in plan.sources] if run.config.evaluation.single_source else []
    return {name: plan.of_source_alone(name) for name in names if len(names) > 1}


def own_models(run: Run, plan: Plan) -> dict[str, tuple[str, str | None, str]]:
    """The models measured in this process: role → (folder or Hub id, revision, name of the scores)."""
    target = run.file.model(run.config.target.model)
    before = _target_scores_name(run, plan, target)
    models: dict[str, tuple[str, str | None, str]] = {TARGET_BEFORE: (target, run.config.target.revision, before)}
    for role, clm_only in ((CLM, True), (FUSED, False)):
        if not clm_only or run.config.evaluation.clm_baseline:
            folder = training_folder(run, plan, clm_only)
            models[role] = (str(folder / "model"), None, scores_name(run, role, training_digest(run, plan, clm_only)))
    for source, alone in single_sources(run, plan).items():
        folder, made_from = training_folder(run, alone, clm_only=False), training_digest(run, alone, clm_only=False)
        models[f"single source {source}"] = (str(folder / "model"), None, scores_name(run, f"only-{source}", made_from))
    if run.config.evaluation.weight_merging and (found := baselines.merging(run, plan)).is_possible:
        merged = baselines.merged_folder(run, found)
        models[MERGED] = (str(merged), None, scores_name(run, "merged", str(merged.parent.name)))
    return models


def ensemble_scores_name(run: Run, plan: Plan) -> str:
    return scores_name(run, ENSEMBLE, baselines.ensemble_made_from(run, plan))


def _target_scores_name(run: Run, plan: Plan, target: str) -> str:
    """A target that is also a source is measured once."""
    for source in run.config.sources:
        same = source.address is None and run.file.model(source.model) == target
        if same and source.revision == run.config.target.revision and source.dtype is Dtype.FLOAT32:
            return source_scores_name(run, plan, source.name)
    return scores_name(run, TARGET_BEFORE, run.run_id)


def evaluate_step(
    path: Path, threads: int | None, folder: Path | None = None, changes: Mapping[str, Any] | None = None
) -> None:
    """Measures all models that no server answers for, gives them tasks, and writes evaluation.json.

    `changes`: of the YAML's section `evaluation`, for this time.
    """
    run = open_run(path, folder=folder)
    if changes:
        spec = run.config.evaluation.model_copy(update=dict(changes))
        config = run.config.model_copy(update={"evaluation": spec})
        run = replace(run, file=replace(run.file, config=config))
    plan = load_plan(run)
    tasks = evaluation_tasks.check_tasks(run)
    check_measured(run, {source.name: [source_scores_name(run, plan, source.name)] for source in plan.sources})
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    _measure_own(run, plan)
    results, remarks = evaluation_tasks.give_tasks(run, _task_models(run, plan), tasks)
    reports.write(build_report(run, plan, results, remarks), evaluation_path(run))


def _measure_own(run: Run, plan: Plan) -> None:
    """The scores of the models in this process that are not there yet."""
    for role, (model, revision, name) in own_models(run, plan).items():
        if run.store.find(name) is not None:
            continue
        if role == MERGED:
            baselines.merge_weights(run, baselines.merging(run, plan))
        measure_model(run.store, held_out(run), run.config.evaluation.batch_bytes, (model, revision), name)
    if baselines.wants_ensemble(run) and run.store.find(ensemble_scores_name(run, plan)) is None:
        scores = baselines.measure_ensemble(run, plan, held_out(run))
        keep_scores(run.store, ensemble_scores_name(run, plan), scores)


def _task_models(run: Run, plan: Plan) -> dict[str, TaskModel]:
    """The checkpoints that tasks are given to, by their names in the report."""
    own = own_models(run, plan)
    names = {TARGET_BEFORE: "target before", CLM: "CLM"}
    models = {names.get(role, role): TaskModel(model, rev, name) for role, (model, rev, name) in own.items()}
    sources = {}
    for spec, planned in zip(run.config.sources, plan.sources, strict=True):
        if run.config.evaluation.task_sources and baselines.not_at_hand(spec) is None:
            place = run.file.model(spec.model)
            sources[f"source {spec.name}"] = TaskModel(place, spec.revision, planned.model_fingerprint)
    return {**models, **sources}


def evaluation_path(run: Run) -> Path:
    return run.folder / "evaluation.json"


def build_report(
    run: Run, plan: Plan, tasks: Results | None = None, remarks: Mapping[str, str] | None = None
) -> Report:
    """The report of a run whose models are all measured, with the verdict of its gate."""

    def scores(name: str) -> Scores:
        return Scores.from_json(parse_json(run.store.read(name)))

    own = {role: scores(name) for role, (_, _, name) in own_models(run, plan).items()}
    further = {role: found for role, found in own.items() if role not in (TARGET_BEFORE, CLM, FUSED)}
    if baselines.wants_ensemble(run):
        further = {ENSEMBLE: scores(ensemble_scores_name(run, plan)), **further}
    report = Report(
        run_id=run.run_id,
        target_before=own[TARGET_BEFORE],
        fused=own[FUSED],
        clm=own.get(CLM),
        sources={s.name: scores(source_scores_name(run, plan, s.name)) for s in plan.sources},
        baselines=further,
        remarks={**remarks_of(run, plan), **(remarks or {})},
        tasks=tasks or {},
        coverage=coverage_of(run.store, plan),
        wins=shares_of(run.store, plan),
        warnings=tuple(warning.text for warning in warnings_of(run.store, plan, run.config.coverage)),
        training=settings_of(run),
        seed=run.config.seed,
    )
    return replace(report, verdict=judge(report, run.config.gate))


def remarks_of(run: Run, plan: Plan) -> dict[str, str]:
    """Why a baseline that the run asks for is not there, or not whole."""
    remarks = {}
    if run.config.evaluation.ensemble and (reason := baselines.why_no_ensemble(run)) is not None:
        remarks[ENSEMBLE] = f"not measured: {reason}"
    if run.config.evaluation.weight_merging:
        found = baselines.merging(run, plan)
        if not found.is_possible:
            remarks[MERGED] = f"not measured: {found.reason}"
        elif found.left_out:
            remarks[MERGED] = f"of {' and '.join(found.names)} only: {found.reason}"
    return remarks


def datasets_of(run: Run, plan: Plan) -> dict[str, str]:
    """What the run reads, for MLflow: name → digest."""
    return {"corpus": plan.corpus_digest, HELD_OUT: run.corpora.held_out.digest, "fused": plan.folder(Hop.FUSE)}


def settings_of(run: Run) -> dict[str, Any]:
    """The settings that decide a result, flat."""
    sections = run.config.model_dump(mode="json", include={"capture", "alignment", "fusion", "training"})
    return {f"{section}.{key}": value for section, values in sections.items() for key, value in values.items()}


def manifest(run: Run, plan: Plan) -> dict[str, str]:
    """Name → SHA-256 of every artefact that the run's plan names and the store has."""
    names = [plan.artefact(task) for task in plan.tasks]
    # A bucket answers many at a time.
    with ThreadPoolExecutor(16) as pool:
        entries = zip(names, pool.map(run.store.find, names), strict=True)
        return {name: entry.sha256 for name, entry in entries if entry is not None}
