"""Registers a fused model in MLflow with its proof: one run, one model version, one alias.

A run is registered once. The version carries fusery's run id, and a last tag says that nothing is missing; so
the same call after a crash finishes what was begun, and after success changes nothing. MLflow has no
transaction: a run that was cut off stays in MLflow, marked KILLED, and a new one is logged from the start.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fusery.registry.model_card import LICENCE_NOTE, description, model_card
from fusery.registry.plots import models_of, plot_bits_per_byte, plot_training
from fusery.registry.record import FusionRecord, Registered, requirements
from fusery.registry.session import session
from fusery.registry.training_metrics import Step, read_steps

if TYPE_CHECKING:
    from mlflow.entities import Metric
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

_log = logging.getLogger(__name__)

Item = TypeVar("Item")
RUN_TAG = "fusery.run_id"
COVERAGE_TAG = "fusery.coverage_warnings"
_COMPLETE_TAG = "fusery.complete"
_MAX_PARAM_CHARACTERS = 6000
_MAX_TAG_CHARACTERS = 5000
_PARAMS_IN_A_BATCH = 100
_METRICS_IN_A_BATCH = 1000


def register(record: FusionRecord, tracking_uri: str, artifact_folder: Path | None = None) -> Registered:
    """The model version of `record`'s run, logged now unless it is there; its alias points to it.

    `artifact_folder`: where a new experiment keeps its files; for SQLite. A server decides that itself: None.

    Raises:
        Unavailable: MLflow fails or is gone; nothing is lost, call again.
        AddressError, InvalidInput: MLflow refuses the credentials, or a name or value.
    """
    kept = f"the model is kept at {record.model_folder}; run the same command again"
    steps = {name: read_steps(path) for name, path in record.metrics_files.items() if path is not None}
    with session(tracking_uri, kept) as client:
        found = _version_of_run(client, record)
        version = found or _log_run(client, record, steps, artifact_folder)
        _complete(client, record, version)
    created = found is None
    _log.info("registered %s version %s%s", record.model_name, version.version, "" if created else " (before)")
    number = str(version.version)
    uri = f"models:/{record.model_name}/{number}"
    return Registered(record.model_name, number, str(version.run_id), uri, record.alias, created)


def _version_of_run(client: MlflowClient, record: FusionRecord) -> ModelVersion | None:
    name = record.model_name.replace("'", "''")
    found = client.search_model_versions(f"name = '{name}' and tags.`{RUN_TAG}` = '{record.run_id}'")
    return found[0] if found else None


def _complete(client: MlflowClient, record: FusionRecord, version: ModelVersion) -> None:
    """Alias and last tag; once complete, an alias that people have moved since stays where they put it."""
    if _COMPLETE_TAG in version.tags:
        return
    number = str(version.version)
    client.set_registered_model_alias(record.model_name, record.alias, number)
    client.set_model_version_tag(record.model_name, number, _COMPLETE_TAG, "true")


def _log_run(
    client: MlflowClient, record: FusionRecord, steps: Mapping[str, Sequence[Step]], artifact_folder: Path | None
) -> ModelVersion:
    experiment_id = _experiment_id(client, record.experiment, artifact_folder)
    _end_cut_off_runs(client, experiment_id, record.run_id)
    tags = _tags(record)
    run_id = client.create_run(experiment_id, run_name=record.run_name, tags=tags).info.run_id
    try:
        _log_numbers(client, run_id, record, steps)
        _log_files(client, run_id, record, steps)
        model_id, model_uri = _log_model(client, run_id, record)
        version = _create_version(client, record, run_id, model_id, model_uri)
    except BaseException:
        with suppress(Exception):
            client.set_terminated(run_id, "FAILED")
        raise
    client.set_terminated(run_id, "FINISHED")
    return version


def _experiment_id(client: MlflowClient, name: str, artifact_folder: Path | None) -> str:
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    location = artifact_folder.resolve().as_uri() if artifact_folder is not None else None
    return client.create_experiment(name, artifact_location=location)


def _end_cut_off_runs(client: MlflowClient, experiment_id: str, run_id: str) -> None:
    """Runs of an earlier attempt that still say RUNNING are marked KILLED."""
    query = f"tags.`{RUN_TAG}` = '{run_id}' and attributes.status = 'RUNNING'"
    for run in client.search_runs([experiment_id], query):
        client.set_terminated(run.info.run_id, "KILLED")


def _log_numbers(client: MlflowClient, run_id: str, record: FusionRecord, steps: Mapping[str, Sequence[Step]]) -> None:
    from mlflow.entities import Param

    params = _short({_name(key): str(value) for key, value in record.params.items()}, _MAX_PARAM_CHARACTERS)
    for batch in _batches([Param(key, value) for key, value in params.items()], _PARAMS_IN_A_BATCH):
        client.log_batch(run_id, params=batch)
    metrics = [*_step_metrics(steps), *_final_metrics(record.evaluation, time.time())]
    for metric_batch in _batches(metrics, _METRICS_IN_A_BATCH):
        client.log_batch(run_id, metrics=metric_batch)


def _step_metrics(steps: Mapping[str, Sequence[Step]]) -> Iterator[Metric]:
    """Metrics "train/<training>/<name>" of every step, at the time of the step."""
    from mlflow.entities import Metric

    for training, of_training in steps.items():
        for step in of_training:
            for name, value in step.values.items():
                yield Metric(_name(f"train/{training}/{name}"), value, int(step.time_s * 1000), step.step)


def _final_metrics(evaluation: Mapping[str, Any], now_s: float) -> Iterator[Metric]:
    """Metrics "bits_per_byte/<model>/<domain>", ".../mean", "gain/<baseline>" and those of coverage, at step 0."""
    from mlflow.entities import Metric

    values: dict[str, float] = {}
    for model, scores in models_of(evaluation).items():
        domains = {domain: score["bits_per_byte"] for domain, score in scores["domains"].items()}
        for group, value in {**domains, "mean": scores["mean_bits_per_byte"]}.items():
            values[f"bits_per_byte/{model}/{group}"] = value
    gains = evaluation["gains"]
    for baseline in ("target_before", "clm"):
        if baseline in gains:
            values[f"gain/{baseline}"] = gains[baseline]["relative"]["value"]
    values |= _coverage_metrics(evaluation)
    for name, value in values.items():
        yield Metric(_name(name), value, int(now_s * 1000), 0)


def _coverage_metrics(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """Metrics "coverage/<source>/<domain>/<share>" and "evidence_share/<source>/<domain>"; unmeasured ones left out."""
    values: dict[str, float] = {}
    for source, domains in evaluation["coverage"].items():
        for domain, shares in domains.items():
            plain = {key: value for key, value in shares.items() if isinstance(value, int | float)}
            deciles = {f"kept_mass_p{n}0": value for n, value in enumerate(shares.get("kept_mass_deciles") or (), 1)}
            values |= {f"coverage/{source}/{domain}/{key}": value for key, value in (plain | deciles).items()}
    for domain, of_source in evaluation["wins"].items():
        values |= {f"evidence_share/{source}/{domain}": share for source, share in of_source.items()}
    return values


def _log_files(client: MlflowClient, run_id: str, record: FusionRecord, steps: Mapping[str, Sequence[Step]]) -> None:
    """Plots, evaluation.json, the config, the metrics files and the model card, as artifacts of the run."""
    with tempfile.TemporaryDirectory(prefix="fusery-") as folder:
        plots = Path(folder) / "plots"
        plots.mkdir()
        plot_bits_per_byte(record.evaluation, plots / "bits_per_byte.png")
        if steps:
            plot_training(steps, plots / "training.png")
        evaluation = json.dumps(record.evaluation, ensure_ascii=False, indent=1)
        (Path(folder) / "evaluation.json").write_text(evaluation, encoding="utf-8")
        (Path(folder) / "model_card.md").write_text(model_card(record), encoding="utf-8")
        shutil.copyfile(record.config_file, Path(folder) / "config.yaml")
        for training, path in record.metrics_files.items():
            if path is not None:
                shutil.copyfile(path, Path(folder) / f"metrics-{training}.jsonl")
        client.log_artifacts(run_id, folder)


def _log_model(client: MlflowClient, run_id: str, record: FusionRecord) -> tuple[str, str]:
    """Id and URI of the logged model. The weights are copied as files, never loaded."""
    import mlflow
    from huggingface_hub import ModelCard
    from mlflow.transformers import log_model

    with mlflow.start_run(run_id=run_id), _pipeline_class_for_mlflow():
        info = log_model(
            # Absolute, so that nothing can take it for the id of a model on the hub.
            str(record.model_folder.resolve()),
            name="fused",
            task="text-generation",
            pip_requirements=requirements(),
            input_example=record.input_example,
            model_card=ModelCard(model_card(record)),
        )
    with tempfile.TemporaryDirectory(prefix="fusery-") as folder:
        # In place of MLflow's own, which sends people to a page on the hub that does not exist.
        licence = Path(folder) / "LICENSE.txt"
        licence.write_text(LICENCE_NOTE, encoding="utf-8")
        client.log_model_artifact(info.model_id, str(licence))
    return info.model_id, info.model_uri


@contextmanager
def _pipeline_class_for_mlflow() -> Iterator[None]:
    """MLflow 3.17 expects the class of a pipeline where transformers 5.20 and later keep its dotted name."""
    from transformers import TextGenerationPipeline
    from transformers.pipelines import SUPPORTED_TASKS

    task: dict[str, Any] = SUPPORTED_TASKS["text-generation"]  # type: ignore[assignment]
    before = task["impl"]
    task["impl"] = TextGenerationPipeline
    try:
        yield
    finally:
        task["impl"] = before


def _create_version(
    client: MlflowClient, record: FusionRecord, run_id: str, model_id: str, model_uri: str
) -> ModelVersion:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(record.model_name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    tags = _tags(record)
    return client.create_model_version(
        record.model_name, model_uri, run_id, tags=tags, description=description(record), model_id=model_id
    )


def _tags(record: FusionRecord) -> dict[str, str]:
    """Tags of run and version: fusery's run id, the lineage, and a warning of low coverage, a line each, if any."""
    warnings = record.evaluation.get("warnings", ())
    coverage = {COVERAGE_TAG: "\n".join(warnings)} if warnings else {}
    return {RUN_TAG: record.run_id, **_short({**record.lineage, **coverage}, _MAX_TAG_CHARACTERS)}


def _short(values: Mapping[str, str], most: int) -> dict[str, str]:
    """Values cut to `most` characters, the last of them "…" where something was cut."""
    return {key: value if len(value) <= most else value[: most - 1] + "…" for key, value in values.items()}


def _name(name: str) -> str:
    """`name` with "_" in place of what MLflow refuses in names of metrics and parameters."""
    return re.sub(r"[^\w/. :-]", "_", name)[:250].strip("/. ")


def _batches(items: Sequence[Item], size: int) -> Iterator[list[Item]]:
    remaining = iter(items)
    while batch := list(islice(remaining, size)):
        yield batch
