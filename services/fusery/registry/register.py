"""Registers a fused model in MLflow with its proof: one run, one model version, an alias if the gate passed.

The version's run has what was measured at the end; its tags name the runs of the trainings, which have every step
(`follow`). The weights of a run are registered once. The version carries fusery's run id and a digest of the weights; a
last tag says that nothing is missing, of which measures and for which alias. So the same call after a crash finishes
what was begun, after success changes nothing, and after the run was measured or judged anew brings the version up to
date. A run that was trained again is another version: no proof is put on weights that it does not speak of. MLflow has
no transaction: a run that was cut off stays in MLflow, marked KILLED, and a new one is logged from the start.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusery.registry.follow import TRAINING_TAG
from fusery.registry.measures import coverage_line, evaluation_table, final_metrics, is_measure
from fusery.registry.model_card import description, gate_text, licence_note, model_card
from fusery.registry.names import ARCHITECTURE_TAG, RUN_TAG, check_name, newest_version
from fusery.registry.record import FusionRecord, Registered, requirements
from fusery.registry.redaction import published_yaml
from fusery.registry.sending import experiment_id, log_datasets, log_metrics, log_params, shortened
from fusery.registry.session import session
from fusery.registry.stored_model import generation_signature, write_top_files
from fusery.runtime.text.domain_names import mlflow_name

if TYPE_CHECKING:
    from mlflow.entities import Metric
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

_log = logging.getLogger(__name__)

WEIGHTS_TAG = "fusery.weights"
COVERAGE_TAG = "fusery.coverage_warnings"
GATE_TAG, REASONS_TAG = "fusery.gate", "fusery.gate_reasons"
_TABLE = "evaluation_table.json"
_NOTE_TAG = "mlflow.note.content"
"""A run's description."""
_COMPLETE_TAG = "fusery.complete"
_MAX_TAG_CHARACTERS = 5000


def register(record: FusionRecord, tracking_uri: str, artifact_folder: Path | None = None) -> Registered:
    """The model version of `record`'s run and weights, logged now unless it is there.

    The alias points to it if the gate passed, and does not move back from a newer version.

    `artifact_folder`: where a new experiment keeps its files; for SQLite. A server decides that itself: None.

    Raises:
        Unavailable: MLflow fails or is gone; nothing is lost, call again.
        AddressError, InvalidInput: MLflow refuses the credentials, or a name or value; or the name is that of a model
            of another architecture, or one that fusery did not register.
    """
    kept = f"the model is kept at {record.model_folder}; register it with: {record.register_command}"
    identity = {RUN_TAG: record.run_id, WEIGHTS_TAG: record.weights_digest()}
    with session(tracking_uri, kept) as client:
        found = newest_version(client, record.model_name, identity)
        if found is None:
            check_name(client, record.model_name, record.architecture, f"Nothing was registered, {kept}")
        version = found or _log_run(client, record, identity, artifact_folder)
        if version.tags.get(_COMPLETE_TAG) != record.proof_digest:
            if found is not None:
                _log_measures_again(client, record, found)
            _complete(client, record, version)
        done = _registered(client, record, version, created=found is None)
    _log.info("registered %s version %s%s", done.model_name, done.version, "" if done.created else " (before)")
    if done.remark:
        _log.warning("%s: %s", done.model_uri, done.remark)
    return done


def _registered(client: MlflowClient, record: FusionRecord, version: ModelVersion, created: bool) -> Registered:
    """What MLflow says of the version now: people may have moved the alias since."""
    number, at = int(version.version), _alias_at(client, record)
    remark = ""
    if record.passed and at != number:
        place = "no version has it: it was taken away" if at is None else f"it stays at version {at}"
        remark = f"the gate passed, and the alias {record.alias!r} was not moved here: {place}"
    return Registered(
        record.model_name,
        str(number),
        str(version.run_id),
        f"models:/{record.model_name}/{number}",
        record.alias if at == number else None,
        created,
        remark,
    )


def _alias_at(client: MlflowClient, record: FusionRecord) -> int | None:
    """The version that the record's alias points to."""
    number = client.get_registered_model(record.model_name).aliases.get(record.alias)
    return None if number is None else int(number)


def _complete(client: MlflowClient, record: FusionRecord, version: ModelVersion) -> None:
    """Alias and last tag; once complete, an alias that people have moved since stays where they put it.

    The alias is at the newest version that passed: measuring an older one again does not take it from a newer one.
    """
    number, at = int(version.version), _alias_at(client, record)
    if record.passed and (at is None or at < number):
        client.set_registered_model_alias(record.model_name, record.alias, str(number))
    elif not record.passed and at == number:
        client.delete_registered_model_alias(record.model_name, record.alias)
    client.set_model_version_tag(record.model_name, str(number), _COMPLETE_TAG, record.proof_digest)


def _log_measures_again(client: MlflowClient, record: FusionRecord, version: ModelVersion) -> None:
    """Brings metrics, files, card, description and tags of a version up to measures that it does not have."""
    number, run_id = str(version.version), str(version.run_id)
    measures = _measures(record)
    log_metrics(client, run_id, [*measures, *_withdrawn(client, run_id, measures)])
    _log_files(client, run_id, record)
    if version.model_id:
        _log_top_files(client, version.model_id, record)
    tags = _tags(record)
    for key, value in tags.items():
        client.set_model_version_tag(record.model_name, number, key, value)
        client.set_tag(run_id, key, value)
    if COVERAGE_TAG in version.tags and COVERAGE_TAG not in tags:
        client.delete_model_version_tag(record.model_name, number, COVERAGE_TAG)
        client.delete_tag(run_id, COVERAGE_TAG)
    client.update_model_version(record.model_name, number, description(record))
    client.set_tag(run_id, _NOTE_TAG, description(record))


def _withdrawn(client: MlflowClient, run_id: str, measures: Sequence[Metric]) -> list[Metric]:
    """NaN for what an earlier evaluation measured and this one did not: MLflow keeps every metric for good."""
    from mlflow.entities import Metric

    now_ms, names = int(time.time() * 1000), {metric.key for metric in measures}
    known = client.get_run(run_id).data.metrics
    gone = [name for name, value in known.items() if is_measure(name) and name not in names and not math.isnan(value)]
    return [Metric(name, math.nan, now_ms, 0) for name in gone]


def _log_run(
    client: MlflowClient,
    record: FusionRecord,
    identity: Mapping[str, str],
    artifact_folder: Path | None,
) -> ModelVersion:
    experiment = experiment_id(client, record.experiment, artifact_folder)
    _end_cut_off_runs(client, experiment, record.run_id)
    tags = {**_tags(record), **identity, _NOTE_TAG: description(record)}
    run_id = client.create_run(experiment, run_name=record.run_name, tags=tags).info.run_id
    try:
        log_datasets(client, run_id, record.datasets)
        log_params(client, run_id, record.params)
        log_metrics(client, run_id, _measures(record))
        _log_files(client, run_id, record)
        model_id, model_uri = _log_model(client, run_id, record)
        version = _create_version(client, record, {**_tags(record), **identity}, run_id, model_id, model_uri)
    except BaseException:
        with suppress(Exception):
            client.set_terminated(run_id, "FAILED")
        raise
    client.set_terminated(run_id, "FINISHED")
    return version


def _end_cut_off_runs(client: MlflowClient, experiment_id: str, run_id: str) -> None:
    """Runs of an earlier attempt that still say RUNNING are marked KILLED."""
    query = f"tags.`{RUN_TAG}` = '{run_id}' and attributes.status = 'RUNNING'"
    for run in client.search_runs([experiment_id], query):
        client.set_terminated(run.info.run_id, "KILLED")


def _measures(record: FusionRecord) -> list[Metric]:
    """What was measured at the end, at step 0."""
    from mlflow.entities import Metric

    now_ms = int(time.time() * 1000)
    return [Metric(mlflow_name(name), value, now_ms, 0) for name, value in final_metrics(record.evaluation).items()]


def _log_files(client: MlflowClient, run_id: str, record: FusionRecord) -> None:
    """The report with its pictures, evaluation.json and its table, the config, the metrics files and the model card."""
    with tempfile.TemporaryDirectory(prefix="fusery-") as folder:
        if record.report_folder is not None:
            shutil.copytree(record.report_folder, Path(folder) / "report")
        columns = evaluation_table(record.evaluation)
        table = {"columns": list(columns), "data": list(zip(*columns.values(), strict=True))}
        (Path(folder) / _TABLE).write_text(json.dumps(table, ensure_ascii=False), encoding="utf-8")
        evaluation = json.dumps(record.evaluation, ensure_ascii=False, indent=1)
        (Path(folder) / "evaluation.json").write_text(evaluation, encoding="utf-8")
        (Path(folder) / "model_card.md").write_text(model_card(record), encoding="utf-8")
        config = published_yaml(record.config_file.read_text(encoding="utf-8"))
        (Path(folder) / "config.yaml").write_text(config, encoding="utf-8")
        for training, path in record.metrics_files.items():
            if path is not None:
                shutil.copyfile(path, Path(folder) / f"metrics-{training}.jsonl")
        client.log_artifacts(run_id, folder)
    # By this tag MLflow's page and load_table know that the file is a table.
    client.set_tag(run_id, "mlflow.loggedArtifacts", json.dumps([{"path": _TABLE, "type": "table"}]))


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
            signature=generation_signature(record.model_folder),
            model_card=ModelCard(model_card(record)),
        )
    _log_top_files(client, info.model_id, record)
    return info.model_id, info.model_uri


def _log_top_files(client: MlflowClient, model_id: str, record: FusionRecord) -> None:
    with tempfile.TemporaryDirectory(prefix="fusery-") as folder:
        write_top_files(record.model_folder, Path(folder), model_card(record), licence_note(record.origin))
        client.log_model_artifacts(model_id, folder)


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
    client: MlflowClient, record: FusionRecord, tags: dict[str, str], run_id: str, model_id: str, model_uri: str
) -> ModelVersion:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(record.model_name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    return client.create_model_version(
        record.model_name, model_uri, run_id, tags=tags, description=description(record), model_id=model_id
    )


def _tags(record: FusionRecord) -> dict[str, str]:
    """Tags of run and version: fusery's run id, the lineage, the verdict, and a warning of low coverage, if any."""
    warnings = record.evaluation.get("warnings", ())
    texts = {
        **record.lineage,
        "coverage": coverage_line(record.evaluation),
        GATE_TAG: "passed" if record.passed else "failed",
        REASONS_TAG: gate_text(record.evaluation),
        ARCHITECTURE_TAG: record.architecture,
        **{f"{TRAINING_TAG}.{name}": run_id for name, run_id in record.training_runs.items()},
        **({COVERAGE_TAG: "\n".join(warnings)} if warnings else {}),
    }
    commit = record.lineage.get("git_commit")
    source = {"mlflow.source.git.commit": commit.partition(" ")[0]} if commit else {}
    return {RUN_TAG: record.run_id, **source, **shortened(texts, _MAX_TAG_CHARACTERS)}
