"""The steps after the hops: train, measure, report, register. Each writes its result beside the run and is done once.

Every result stands under a digest of what it was made from, so a changed input is never answered with an old result.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fusery import __version__
from fusery.core.rules import Dtype
from fusery.errors import ConfigError
from fusery.evaluation import report as reports
from fusery.evaluation.bits_per_byte import HeldOutDocument, measure
from fusery.evaluation.report import Report
from fusery.evaluation.scores import Scores
from fusery.formats import shards
from fusery.formats.shards import FusedDocument
from fusery.pipeline.coverage import coverage_of, shares_of
from fusery.pipeline.coverage_warnings import warnings_of
from fusery.pipeline.preflight import Run, open_run
from fusery.source.client import SourceClient
from fusery.worker.hops import load_vocabulary_map
from fusery.worker.plan import Hop, Plan, ShardTask, digest, plan_name

FUSED, CLM, TARGET_BEFORE = "fused", "clm", "target_before"
_EVALUATE_VERSION = 1


def load_plan(run: Run) -> Plan:
    """The plan of a run whose hops have begun.

    Raises:
        ConfigError: they have not.
    """
    note = run.store.read_note(plan_name(run.run_id))
    if note is None:
        others = run.folder.parent.glob(f"{run.config.name}-*/plan.json")
        found = ", ".join(sorted(other.parent.name for other in others))
        hint = f"; the store has other runs of this name, of other settings or texts: {found}" if found else ""
        raise ConfigError(f"run {run.run_id} has no plan yet; start it with: fusery run {run.file.path}{hint}")
    return Plan.model_validate(note)


def training_digest(run: Run, plan: Plan, clm_only: bool) -> str:
    """What decides a training's result."""
    training = run.config.training.model_dump(mode="json")
    return digest([plan.folder(Hop.FUSE), training, run.run_id, run.config.seed, clm_only])


def training_folder(run: Run, plan: Plan, clm_only: bool) -> Path:
    return run.folder / f"{CLM if clm_only else FUSED}-{training_digest(run, plan, clm_only)[:8]}"


def is_trained(run: Run, plan: Plan, clm_only: bool) -> bool:
    return (training_folder(run, plan, clm_only) / "result.json").exists()


def fused_documents(run: Run, plan: Plan) -> list[FusedDocument]:
    """All training documents with their evidence, in corpus order."""
    expect = {"target": plan.target_tokenizer_fingerprint}
    names = (plan.artefact(ShardTask(Hop.FUSE, "", shard)) for shard in range(plan.corpus_shards))
    return [document for name in names for document in shards.read_fused(run.store.read(name), expect)]


def train_step(path: Path, clm_only: bool, threads: int | None) -> dict[str, Any]:
    """Trains the target on the run's fused shards, or on their tokens alone; the result as JSON values."""
    run = open_run(path)
    plan = load_plan(run)
    config = run.config
    # Imports torch: not before a wrong file name is found out.
    from fusery.trainer.job import TrainJob, train

    result = train(
        TrainJob(
            target=run.file.model(config.target.model),
            revision=config.target.revision,
            output=training_folder(run, plan, clm_only),
            documents=fused_documents(run, plan),
            partitions=[load_vocabulary_map(run.store, plan, source).cell_of_target_V for source in plan.sources],
            training=config.training,
            config_digest=training_digest(run, plan, clm_only),
            seed=config.seed,
            clm_only=clm_only,
            threads=threads,
        )
    )
    return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(result).items()}


def held_out(run: Run) -> list[HeldOutDocument]:
    return [HeldOutDocument(d.doc_id, d.domain, d.text) for d in run.corpora.held_out.documents]


def scores_name(run: Run, model: str, made_from: object) -> str:
    """The artefact with a model's scores on the held-out documents."""
    parts = [made_from, run.corpora.held_out.digest, run.config.evaluation.batch_bytes, _EVALUATE_VERSION]
    return f"{run.name}/scores/{model}-{digest(parts)[:8]}.json"


def source_scores_name(run: Run, plan: Plan, source: str) -> str:
    return scores_name(run, f"source-{source}", plan.source(source).model_fingerprint)


def measure_source(
    run: Run, plan: Plan, source: str, client: SourceClient, progress: Callable[[int, int], None]
) -> None:
    """A source's scores, asked of its server, unless they are there."""
    name = source_scores_name(run, plan, source)
    if run.store.find(name) is None:
        scores = measure(client, held_out(run), run.config.evaluation.batch_bytes, progress)
        run.store.publish(name, json.dumps(scores.to_json(), sort_keys=True).encode())


def own_models(run: Run, plan: Plan) -> dict[str, tuple[str, str | None, str]]:
    """The models measured in this process: role → (folder or Hub id, revision, name of the scores)."""
    target = run.file.model(run.config.target.model)
    before = _target_scores_name(run, plan, target)
    models: dict[str, tuple[str, str | None, str]] = {TARGET_BEFORE: (target, run.config.target.revision, before)}
    for role, clm_only in ((CLM, True), (FUSED, False)):
        if not clm_only or run.config.evaluation.clm_baseline:
            folder = training_folder(run, plan, clm_only)
            models[role] = (str(folder / "model"), None, scores_name(run, role, training_digest(run, plan, clm_only)))
    return models


def _target_scores_name(run: Run, plan: Plan, target: str) -> str:
    """A target that is also a source is measured once."""
    for source in run.config.sources:
        same = source.address is None and run.file.model(source.model) == target
        if same and source.revision == run.config.target.revision and source.dtype is Dtype.FLOAT32:
            return source_scores_name(run, plan, source.name)
    return scores_name(run, TARGET_BEFORE, run.run_id)


def evaluate_step(path: Path, threads: int | None) -> None:
    """Measures the target before, the CLM baseline and the fused model, and writes evaluation.json."""
    run = open_run(path)
    plan = load_plan(run)
    missing = {role: model for role, model in own_models(run, plan).items() if run.store.find(model[2]) is None}
    if missing:
        import torch

        from fusery.source.engine import load_engine

        if threads is not None:
            torch.set_num_threads(threads)
        for model, revision, name in missing.values():
            scores = measure(load_engine(model, revision), held_out(run), run.config.evaluation.batch_bytes)
            run.store.publish(name, json.dumps(scores.to_json(), sort_keys=True).encode())
    reports.write(build_report(run, plan), evaluation_path(run))


def evaluation_path(run: Run) -> Path:
    return run.folder / "evaluation.json"


def build_report(run: Run, plan: Plan) -> Report:
    """The report of a run whose models are all measured."""

    def scores(name: str) -> Scores:
        return Scores.from_json(json.loads(run.store.read(name)))

    own = {role: scores(name) for role, (_, _, name) in own_models(run, plan).items()}
    return Report(
        run_id=run.run_id,
        target_before=own[TARGET_BEFORE],
        fused=own[FUSED],
        clm=own.get(CLM),
        sources={s.name: scores(source_scores_name(run, plan, s.name)) for s in plan.sources},
        coverage=coverage_of(run.store, plan),
        wins=shares_of(run.store, plan),
        warnings=tuple(warning.text for warning in warnings_of(run.store, plan, run.config.coverage)),
        training=_settings(run),
        seed=run.config.seed,
    )


def _settings(run: Run) -> dict[str, Any]:
    """The settings that decide a result, flat."""
    sections = run.config.model_dump(mode="json", include={"capture", "alignment", "fusion", "training"})
    return {f"{section}.{key}": value for section, values in sections.items() for key, value in values.items()}


def register_step(path: Path) -> dict[str, Any]:
    """The registered model version, as JSON values."""
    from fusery.evaluation.tables import to_markdown
    from fusery.registry.record import FusionRecord
    from fusery.registry.register import register
    from fusery.registry.tracking import default_artifact_folder

    run = open_run(path)
    plan = load_plan(run)
    if not evaluation_path(run).exists():
        raise ConfigError(f"run {run.run_id} is not evaluated yet; start it with: fusery run {run.file.path}")
    report = reports.read(evaluation_path(run))
    clm = training_folder(run, plan, clm_only=True) / "metrics.jsonl"
    fused = training_folder(run, plan, clm_only=False)
    record = FusionRecord(
        experiment=run.config.name,
        run_name=run.run_id,
        run_id=run.run_id,
        model_name=run.config.registered_name,
        alias=run.config.registry.alias,
        model_folder=fused / "model",
        config_file=run.file.path,
        evaluation=report.to_json(),
        report_markdown=to_markdown(report),
        metrics_files={FUSED: fused / "metrics.jsonl", CLM: clm if clm.exists() else None},
        params=_settings(run) | {"seed": run.config.seed},
        lineage=_lineage(run, plan),
    )
    is_sqlite = run.tracking_uri.startswith("sqlite:")
    folder = default_artifact_folder(run.store.local_path("mlflow")) if is_sqlite else None
    run.store.local_path("mlflow").mkdir(parents=True, exist_ok=True)
    registered = asdict(register(record, run.tracking_uri, folder)) | {"tracking_uri": run.tracking_uri}
    run.store.write_note(f"{run.name}/registered.json", registered)
    return registered


def _lineage(run: Run, plan: Plan) -> dict[str, str]:
    sources = {
        f"source.{s.name}": f"{spec.model}@{spec.revision or 'unpinned'} {s.model_fingerprint}"
        for s, spec in zip(plan.sources, run.config.sources, strict=True)
    }
    return {
        "target": f"{run.config.target.model}@{run.config.target.revision or 'unpinned'}",
        "target_tokenizer": plan.target_tokenizer_fingerprint,
        "corpus": plan.corpus_digest,
        "held_out": run.corpora.held_out.digest,
        "manifest": digest(manifest(run, plan)),
        "fusery": __version__,
        **sources,
    }


def manifest(run: Run, plan: Plan) -> dict[str, str]:
    """Name → SHA-256 of every artefact that the run's plan names and the store has."""
    entries = ((plan.artefact(task), run.store.find(plan.artefact(task))) for task in plan.tasks)
    return {name: entry.sha256 for name, entry in entries if entry is not None}
