"""How anything is sent to MLflow: experiments, parameters, numbers and data sets, as many at a time as it takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from fusery.runtime.text.domain_names import mlflow_name

if TYPE_CHECKING:
    from mlflow.entities import Metric
    from mlflow.tracking import MlflowClient

Item = TypeVar("Item")

HELD_OUT = "held-out"
_PARAMS_IN_A_BATCH, METRICS_IN_A_BATCH = 100, 1000
_MOST_CHARACTERS = 6000


def experiment_id(client: MlflowClient, name: str, artifacts: Path | None) -> str:
    """The id of `name`, which is made if it is not there. `artifacts`: where a new one keeps files, for SQLite."""
    from mlflow.exceptions import MlflowException

    location = None if artifacts is None else artifacts.resolve().as_uri()
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=location))
        except MlflowException as error:
            # The other training of the run was faster.
            if error.error_code != "RESOURCE_ALREADY_EXISTS" or (found := client.get_experiment_by_name(name)) is None:
                raise
    return str(found.experiment_id)


def log_params(client: MlflowClient, run_id: str, params: Mapping[str, object]) -> None:
    """Parameters as texts of at most 6000 characters; the same again changes nothing."""
    from mlflow.entities import Param

    texts = shortened({mlflow_name(key): str(value) for key, value in params.items()}, _MOST_CHARACTERS)
    for batch in _batches([Param(key, value) for key, value in texts.items()], _PARAMS_IN_A_BATCH):
        client.log_batch(run_id, params=batch)


def log_metrics(client: MlflowClient, run_id: str, metrics: Sequence[Metric]) -> None:
    for batch in _batches(metrics, METRICS_IN_A_BATCH):
        client.log_batch(run_id, metrics=batch)


def log_datasets(client: MlflowClient, run_id: str, digests: Mapping[str, str]) -> None:
    """One input for each data set, by name → digest; the held-out one is for evaluation, all else for training."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    purposes = {name: "evaluation" if name == HELD_OUT else "training" for name in digests}
    inputs = [
        # MLflow keeps 36 characters of a digest.
        DatasetInput(Dataset(name, digest[:36], "fusery", name), [InputTag("mlflow.data.context", purposes[name])])
        for name, digest in digests.items()
    ]
    client.log_inputs(run_id, datasets=inputs)


def shortened(values: Mapping[str, str], most: int) -> dict[str, str]:
    """Values cut to `most` characters, the last of them "…" where something was cut."""
    return {key: value if len(value) <= most else value[: most - 1] + "…" for key, value in values.items()}


def _batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    return (items[start : start + size] for start in range(0, len(items), size))
