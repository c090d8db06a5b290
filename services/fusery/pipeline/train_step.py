"""The step `train`: a run's target on its fused shards, on one source's alone, or on their tokens alone."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from fusery.core.topk import IntArray
from fusery.errors import ConfigError
from fusery.pipeline import evaluation_baselines as baselines
from fusery.pipeline.preflight import Run, open_run
from fusery.pipeline.steps import (
    CLM,
    FUSED,
    datasets_of,
    fused_documents,
    held_out,
    load_plan,
    settings_of,
    training_digest,
    training_folder,
)
from fusery.registry.follow import Followed
from fusery.registry.tracking import default_artifact_folder
from fusery.worker.names import digest
from fusery.worker.plan import Plan
from fusery.worker.tables import load_tokenizer, load_vocabulary_map


def train_step(
    path: Path, clm_only: bool, threads: int | None, folder: Path | None = None, only_source: str | None = None
) -> dict[str, Any]:
    """Trains the target on the run's fused shards, on one source's alone, or on their tokens alone; as JSON values.

    Raises:
        ConfigError: the run has no such source.
    """
    run, plan = _training_of(path, folder, only_source)
    if only_source is not None:
        baselines.make_missing(run, plan)
    config = run.config
    # Imports torch: not before a wrong file name is found out.
    from fusery.pipeline.provenance import of_training
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
            held_out=_held_out_tokens(run, plan) if config.training.evaluate_every_steps else (),
            tracking=_tracking(run, plan, clm_only) if config.registry.enabled else None,
            lineage=partial(of_training, run, plan, clm_only),
        )
    )
    return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(result).items()}


def training_result(path: Path, clm_only: bool, folder: Path | None, only_source: str | None) -> Path:
    """The file that says that the training which `train_step` does with the same arguments is done.

    Raises:
        ConfigError: as `train_step` does.
    """
    return training_folder(*_training_of(path, folder, only_source), clm_only) / "result.json"


def _training_of(path: Path, folder: Path | None, only_source: str | None) -> tuple[Run, Plan]:
    run = open_run(path, folder=folder)
    plan = load_plan(run)
    if only_source is None:
        return run, plan
    names = [source.name for source in plan.sources]
    if only_source not in names:
        raise ConfigError(f"no source {only_source!r} in {run.file.path}; it has {', '.join(names)}")
    return run, baselines.single_source_plan(plan, only_source)


def _held_out_tokens(run: Run, plan: Plan) -> list[IntArray]:
    """Some of the held-out documents in the target's tokens, the same ones at every start."""
    chosen = sorted(held_out(run), key=lambda document: digest(document.doc_id))
    tokenizer = load_tokenizer(run.store, plan.target_tokenizer_fingerprint)
    chosen = chosen[: run.config.training.evaluate_documents]
    texts, names = [document.text for document in chosen], [document.doc_id for document in chosen]
    return [tokenized.ids_T for tokenized in tokenizer.tokenize_batch(texts, names)]


def _tracking(run: Run, plan: Plan, clm_only: bool) -> Followed:
    """The training's run in MLflow, beside which the finished model's run will stand."""
    name = CLM if clm_only else FUSED
    is_sqlite = run.tracking_uri.startswith("sqlite:")
    return Followed(
        tracking_uri=run.tracking_uri,
        experiment=run.config.name,
        run_name=f"{run.run_id} {name}",
        training_id=f"{run.run_id}/{name}-{training_digest(run, plan, clm_only)}",
        artifact_folder=str(default_artifact_folder(run.work / "mlflow")) if is_sqlite else None,
        params={key: str(value) for key, value in (settings_of(run) | {"seed": run.config.seed}).items()},
        datasets=datasets_of(run, plan),
    )
