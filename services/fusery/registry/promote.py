"""Gives a registered version the alias `champion`: a person's decision, checked against the verdict of the gate."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from fusery.registry.model_card import gate_text
from fusery.registry.names import RUN_TAG, newest_version
from fusery.registry.register import GATE_TAG, REASONS_TAG
from fusery.registry.session import session
from fusery.runtime.errors import InvalidInput

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

CHAMPION = "champion"
_FORCED_TAG, _PROMOTED_TAG = "fusery.promoted_because", "fusery.promoted_at"


@dataclass(frozen=True, slots=True)
class Promotion:
    """What is asked for. `version` None: the one with `candidate_alias`; `force`: why the verdict does not count."""

    model_name: str
    version: str | None = None
    candidate_alias: str = "candidate"
    force: str | None = None


@dataclass(frozen=True, slots=True)
class Promoted:
    """The new champion, and the version that was it before; None: there was none."""

    model_name: str
    version: str
    before: str | None
    verdict: str


def promote(asked: Promotion, tracking_uri: str) -> Promoted:
    """The alias `champion` moved to the version that is asked for. The same call again changes nothing.

    Raises:
        InvalidInput: there is no such model or version, or the gate did not pass and no reason is given.
        Unavailable: MLflow fails or is gone.
    """
    if asked.force is not None and not asked.force.strip():
        raise InvalidInput("--force: the reason is empty; say why, it is kept with the version")
    with session(tracking_uri, "nothing was changed") as client:
        aliases = _aliases(client, asked.model_name)
        number = asked.version or aliases.get(asked.candidate_alias)
        if number is None:
            raise InvalidInput(
                f"{asked.model_name}: no version has the alias {asked.candidate_alias!r}: none passed the gate yet; "
                "name one with --version"
            )
        version = _version(client, asked.model_name, number)
        _check_verdict(version, asked)
        before = aliases.get(CHAMPION)
        if before != number:
            client.set_registered_model_alias(asked.model_name, CHAMPION, number)
            now = datetime.now(UTC).isoformat(timespec="seconds")
            client.set_model_version_tag(asked.model_name, number, _PROMOTED_TAG, now)
        if asked.force is not None:
            client.set_model_version_tag(asked.model_name, number, _FORCED_TAG, asked.force)
    return Promoted(asked.model_name, number, before if before != number else None, _verdict(version))


def version_of_run(model_name: str, run_id: str, tracking_uri: str) -> str:
    """The newest version that fusery's run `run_id` was registered as.

    Raises:
        InvalidInput: it was not registered there.
    """
    with session(tracking_uri, "nothing was changed") as client:
        found = newest_version(client, model_name, {RUN_TAG: run_id})
    if found is None:
        raise InvalidInput(f"run {run_id} is not registered as {model_name}; do that first: fusery register FILE.yaml")
    return str(found.version)


def _aliases(client: MlflowClient, name: str) -> dict[str, str]:
    from mlflow.exceptions import MlflowException

    try:
        return {alias: str(number) for alias, number in client.get_registered_model(name).aliases.items()}
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        known = ", ".join(sorted(model.name for model in client.search_registered_models(max_results=20)))
        raise InvalidInput(f"{name}: no such registered model; there are: {known or 'none'}") from error


def _version(client: MlflowClient, name: str, number: str) -> ModelVersion:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version(name, number)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        raise InvalidInput(f"{name}: no version {number!r}; see its versions in MLflow") from error


def _check_verdict(version: ModelVersion, asked: Promotion) -> None:
    if version.tags.get(GATE_TAG) == "passed" or asked.force is not None:
        return
    why = version.tags.get(REASONS_TAG) or gate_text({})
    raise InvalidInput(
        f'{asked.model_name} version {version.version}: {why} To promote it all the same: --force "REASON"; the reason '
        "is kept with the version"
    )


def _verdict(version: ModelVersion) -> str:
    return str(version.tags.get(GATE_TAG, "not judged"))
