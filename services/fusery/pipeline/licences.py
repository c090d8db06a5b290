"""The licences of a run's models: read, compared with what was accepted, and refused before any work.

What is accepted stands in the YAML (`registry.accept_licenses`) or is given once with `--accept-license`, and is noted
with the run in the store, so that taking the run up again does not ask again.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from fusery.errors import ConfigError
from fusery.models.licence import StatedLicence, stated_licence
from fusery.registry.licences import (
    NOT_KNOWN,
    TARGET,
    Condition,
    LicensedModel,
    conditions,
    licence_of_result,
    open_conditions,
)
from fusery.run_config import EngineKind, ModelSpec, SourceSpec, split_engine

if TYPE_CHECKING:
    from fusery.pipeline.preflight import Run


@dataclass(frozen=True, slots=True)
class RunLicences:
    """What the models of a run say of their licences, what these ask, and what was accepted, with the time."""

    models: tuple[LicensedModel, ...]
    conditions: tuple[Condition, ...]
    accepted: dict[str, str]

    @property
    def of_result(self) -> tuple[str, str | None]:
        return licence_of_result(self.models)


def accept_licences(run: Run, accepted: Sequence[str]) -> None:
    """Notes with the run that these licences (ids, or roles of models) are accepted.

    Raises:
        ConfigError: one of them is no licence or model of the run.
    """
    _check_known(run, _models(run), accepted)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    run.store.write_note(_note(run), {"accepted": {id: now for id in accepted} | _noted(run)})


def check_licences(run: Run) -> None:
    """Nothing, if every condition of the models' licences is met or accepted. Asks the Hub for cards; no weights.

    Raises:
        ConfigError: some are not; the message says which, why, and how to accept them.
    """
    found = run_licences(run)
    _check_known(run, found.models, run.config.registry.accept_licenses)
    missing = open_conditions(found.conditions, found.accepted)
    if not missing:
        return
    ids = list(dict.fromkeys(_to_accept(condition) for condition in missing))
    lines = [f"  {condition.model.shown} ({condition.model.id}): {condition.says}" for condition in missing]
    options = " ".join(f"--accept-license {id}" for id in ids)
    raise ConfigError(
        f"{run.file.path}: licences with conditions that nobody has accepted; nothing was begun:\n"
        + "\n".join(lines)
        + f"\nread them; if you may go on: fusery run {run.file.path} {options}\n"
        f"or in the YAML: registry: {{accept_licenses: [{', '.join(ids)}]}}"
    )


def run_licences(run: Run) -> RunLicences:
    """What the run's models say, what follows, and what was accepted in the YAML or with the run."""
    models = _models(run)
    accepted = dict.fromkeys(run.config.registry.accept_licenses, "in the YAML") | _noted(run)
    return RunLicences(models, tuple(conditions(models, run.config.registered_name)), accepted)


def _models(run: Run) -> tuple[LicensedModel, ...]:
    specs = [(TARGET, run.config.target), *((source.name, source) for source in run.config.sources)]
    return tuple(_licensed(run, role, spec) for role, spec in specs)


def _licensed(run: Run, role: str, spec: ModelSpec) -> LicensedModel:
    stated = _stated(run, spec)
    return LicensedModel(role, spec.model, stated.id, stated.found_in)


def _stated(run: Run, spec: ModelSpec) -> StatedLicence:
    kind, place = split_engine(spec.model)
    if kind is not EngineKind.TRANSFORMERS:
        # The server has no card; its tokenizer comes from the model's own folder or repository.
        tokenizer = spec.tokenizer if isinstance(spec, SourceSpec) else None
        if tokenizer is None:
            return StatedLicence(None, f"the server at {place} says nothing of a licence")
        return stated_licence(run.file.model(tokenizer))
    folder = Path(run.file.resolve(place))
    if isinstance(spec, SourceSpec) and spec.address is not None and not folder.is_dir() and place.startswith("."):
        return StatedLicence(None, f"its files are not on this machine, {spec.address} serves it")
    return stated_licence(str(folder) if folder.is_dir() else place, spec.revision)


def _to_accept(condition: Condition) -> str:
    return condition.model.role if condition.model.id == NOT_KNOWN else condition.model.id


def _check_known(run: Run, models: Sequence[LicensedModel], accepted: Sequence[str]) -> None:
    known = sorted({model.role for model in models} | {model.id for model in models} - {NOT_KNOWN})
    for id in accepted:
        if id not in known:
            near = difflib.get_close_matches(id, known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ConfigError(
                f"{run.file.path}: accepted licence {id!r}: no model of the run has it; {hint}known: {', '.join(known)}"
            )


def _note(run: Run) -> str:
    return f"{run.name}/licences.json"


def _noted(run: Run) -> dict[str, str]:
    note = run.store.read_note(_note(run))
    return {} if note is None else dict(note["accepted"])
