"""An ablation in MLflow: a parent run with the table and the plot, and a nested run for each case.

A run is logged once: a last tag says that nothing of it is missing, so the same call again adds nothing, and finishes
what was cut off.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusery.hops.names import digest
from fusery.registry.sending import experiment_id, log_metrics, log_params
from fusery.registry.session import session
from fusery.run.ablation.results import Row, Table
from fusery.runtime.text.domain_names import mlflow_name

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

ABLATION_TAG, CASE_TAG, COMPLETE_TAG = "fusery.run.ablation", "fusery.case", "fusery.complete"
_PARENT_TAG = "mlflow.parentRunId"


def record(
    table: Table, experiment: str, tracking_uri: str, artifacts: Path | None, files: Sequence[Path], again: str
) -> str:
    """The id of the parent run. `artifacts`: where a new experiment keeps files, for SQLite; `again`: this command.

    Raises:
        Unavailable: MLflow fails or is gone; nothing is lost, call again.
        AddressError, InvalidInput: MLflow refuses the credentials, or a name or value.
    """
    kept = f"the table is kept at {files[0].parent}; the same command logs it: {again}"
    with session(tracking_uri, kept) as client:
        place = experiment_id(client, experiment, artifacts)
        # Files have the table, so a table that has changed since is logged again.
        parent = _Run(client, place, table.ablation_id, "", digest(table.to_json()))
        parent_id = parent.find() or parent.create(f"ablation {table.name}", {})
        for row in table.sorted_rows():
            if row.fused is not None:
                _log_case(client, place, table, row, parent_id)
        if not parent.is_complete(parent_id):
            best = table.sorted_rows()[0]
            params = {"run_id": table.run_id, "seeds": ", ".join(map(str, table.seeds)), "best case": best.name}
            _log(client, parent_id, params, {f"best/{key}": value for key, value in table.metrics(best).items()})
            for path in files:
                client.log_artifact(parent_id, str(path))
            parent.complete(parent_id)
    return parent_id


def _log_case(client: MlflowClient, place: str, table: Table, row: Row, parent_id: str) -> None:
    metrics = table.metrics(row)
    run = _Run(client, place, table.ablation_id, row.digest, digest(metrics))
    run_id = run.find() or run.create(row.name, {_PARENT_TAG: parent_id})
    if not run.is_complete(run_id):
        params = {key: row.labels.get(key) or _text(value) for key, value in row.settings.items()}
        _log(client, run_id, params, metrics)
        run.complete(run_id)


class _Run:
    """A run that is found by what it is of; complete when it holds what `content` is the digest of."""

    def __init__(self, client: MlflowClient, experiment_id: str, ablation: str, case: str, content: str) -> None:
        self._client, self._experiment_id = client, experiment_id
        self._tags = {ABLATION_TAG: ablation, CASE_TAG: case or "all"}
        self._content = content

    def find(self) -> str | None:
        query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in self._tags.items())
        found = self._client.search_runs([self._experiment_id], query, max_results=1)
        return str(found[0].info.run_id) if found else None

    def create(self, name: str, tags: Mapping[str, str]) -> str:
        run = self._client.create_run(self._experiment_id, run_name=name, tags={**self._tags, **tags})
        return str(run.info.run_id)

    def is_complete(self, run_id: str) -> bool:
        return bool(self._client.get_run(run_id).data.tags.get(COMPLETE_TAG) == self._content)

    def complete(self, run_id: str) -> None:
        self._client.set_tag(run_id, COMPLETE_TAG, self._content)
        self._client.set_terminated(run_id, "FINISHED")


def _log(client: MlflowClient, run_id: str, params: Mapping[str, str], metrics: Mapping[str, float]) -> None:
    """What is there already with the same value is not logged again: MLflow would keep it twice."""
    from mlflow.entities import Metric

    known = client.get_run(run_id).data
    now_ms = int(time.time() * 1000)
    named = {mlflow_name(key): value for key, value in metrics.items()}
    new_params = {key: value for key, value in params.items() if mlflow_name(key) not in known.params}
    new_metrics = [Metric(name, value, now_ms, 0) for name, value in named.items() if known.metrics.get(name) != value]
    log_params(client, run_id, new_params)
    log_metrics(client, run_id, new_metrics)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
