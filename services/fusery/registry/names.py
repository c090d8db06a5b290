"""Checks a name in MLflow's model registry: its versions are fusery's, and all of one architecture.

Code that loads a name by its alias expects the same kind of model there tomorrow. The check comes twice: before any
work, for training takes hours, and again when the model is registered.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from fusery.registry.session import session
from fusery.registry.tracking import SQLITE
from fusery.runtime.errors import InvalidInput, Unavailable

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

_log = logging.getLogger(__name__)

RUN_TAG = "fusery.run_id"
ARCHITECTURE_TAG = "fusery.architecture"


def newest_version(client: MlflowClient, name: str, tags: dict[str, str] | None = None) -> ModelVersion | None:
    """The newest version of the registered model `name`, among those that have these tags; None: there is none."""
    quoted = name.replace("'", "''")
    asked = [f"name = '{quoted}'", *(f"tags.`{key}` = '{value}'" for key, value in (tags or {}).items())]
    found = client.search_model_versions(" and ".join(asked), max_results=1, order_by=["version_number DESC"])
    return found[0] if found else None


def check_name(client: MlflowClient, name: str, architecture: str, on_failure: str) -> None:
    """Returns if a model of `architecture` may be the next version of `name`; `on_failure` ends the error message.

    Raises:
        InvalidInput: the newest version is of another architecture, or not one of fusery's.
    """
    newest = newest_version(client, name)
    if newest is None:
        return
    before, where = newest.tags.get(ARCHITECTURE_TAG), f"registry.model_name {name!r}: version {newest.version}"
    if before is None:
        raise InvalidInput(
            f"{where} was not registered by fusery (it has no tag {ARCHITECTURE_TAG}); choose another "
            f"registry.model_name, or give that version the tag if it belongs there. {on_failure}"
        )
    if before != architecture:
        raise InvalidInput(
            f"{where} is a {before}, this run's model is a {architecture}; choose another registry.model_name. "
            f"{on_failure}"
        )


def check_name_early(name: str, architecture: str, run_id: str, tracking_uri: str) -> None:
    """As `check_name`, before any work of fusery's run `run_id`. Where MLflow does not answer it is left for later.

    Imports mlflow, unless there is no SQLite file yet.

    Raises:
        InvalidInput: as `check_name`, unless the run has a version of that name already.
        AddressError: MLflow refuses the credentials.
    """
    if tracking_uri.startswith(SQLITE) and not Path(tracking_uri.removeprefix(SQLITE)).exists():
        return
    try:
        with session(tracking_uri, "nothing was begun") as client:
            if newest_version(client, name, {RUN_TAG: run_id}) is None:
                check_name(client, name, architecture, "Nothing was begun")
    except Unavailable as error:
        _log.warning("%s; the name %r is looked at again when the model is registered", error, name)
