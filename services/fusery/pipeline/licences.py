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
    TARGET,
    Condition,
    LicensedModel,
    accepted_name,
    combined,
    conditions,
    licence_of_result,
    open_conditions,
)
from fusery.registry.redaction import without_secrets
from fusery.run_config import EngineKind, ModelSpec, SourceSpec, split_engine

if TYPE_CHECKING:
    from fusery.pipeline.preflight import Run


@dataclass(frozen=True, slots=True)
class RunLicences:
    """What the models of a run say of their licences, what these ask, and what was accepted, with the time.

    `accepted`: by `LicensedModel.accepted_as`.
    """

    models: tuple[LicensedModel, ...]
    conditions: tuple[Condition, ...]
    accepted: dict[str, str]

    @property
    def of_result(self) -> tuple[str, str | None]:
        return licence_of_result(self.models)


def accept_licences(run: Run, accepted: Sequence[str]) -> None:
    """Notes with the run that these licences are accepted: ids, or `target` and `source:NAME` where none is known.

    Raises:
        ConfigError: one of them is no licence or model of the run.
    """
    models = _models(run)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    new = dict.fromkeys(_known(run, models, accepted), now)
    run.store.write_note(_note(run), {"accepted": new | _noted(run, models)})


def check_licences(run: Run) -> None:
    """Nothing, if every condition of the models' licences is met or accepted. Asks the Hub for cards; no weights.

    Raises:
        ConfigError: some are not; the message says which, why, and how to accept them.
    """
    found = run_licences(run)
    _known(run, found.models, run.config.registry.accept_licenses)
    missing = open_conditions(found.conditions, found.accepted)
    if not missing:
        return
    ids = list(dict.fromkeys(condition.model.accepted_as for condition in missing))
    lines = [f"  {condition.model.shown} ({condition.model.id}): {condition.says}" for condition in missing]
    options = [part for id in ids for part in ("--accept-license", id)]
    raise ConfigError(
        f"{run.file.path}: licences with conditions that nobody has accepted; nothing was begun:\n"
        + "\n".join(lines)
        + f"\nread them; if you may go on: {run.file.command('run', *options)}\n"
        f"or in the YAML: registry: {{accept_licenses: [{', '.join(ids)}]}}"
    )


def run_licences(run: Run) -> RunLicences:
    """What the run's models say, what follows, and what was accepted in the YAML or with the run."""
    models = _models(run)
    in_yaml = [accepted_name(given, models) for given in run.config.registry.accept_licenses]
    accepted = dict.fromkeys(in_yaml, "in the YAML") | _noted(run, models)
    return RunLicences(models, tuple(conditions(models, run.config.registered_name)), accepted)


def _models(run: Run) -> tuple[LicensedModel, ...]:
    specs = [(TARGET, run.config.target), *((source.name, source) for source in run.config.sources)]
    return tuple(_licensed(run, role, spec) for role, spec in specs)


def _licensed(run: Run, role: str, spec: ModelSpec) -> LicensedModel:
    stated = _stated(run, spec)
    return LicensedModel(role, without_secrets(spec.model), combined(stated.ids), stated.found_in)


def _stated(run: Run, spec: ModelSpec) -> StatedLicence:
    kind, place = split_engine(spec.model)
    if kind is not EngineKind.TRANSFORMERS:
        # The server has no card; its tokenizer comes from the model's own folder or repository.
        tokenizer = spec.tokenizer if isinstance(spec, SourceSpec) else None
        if tokenizer is None:
            return StatedLicence((None,), f"the server at {without_secrets(place)} says nothing of a licence")
        return stated_licence(run.file.model(tokenizer))
    folder = Path(run.file.resolve(place))
    if isinstance(spec, SourceSpec) and spec.address is not None and not folder.is_dir() and place.startswith("."):
        return StatedLicence((None,), f"its files are not on this machine, {spec.address} serves it")
    return stated_licence(str(folder) if folder.is_dir() else place, spec.revision)


def _known(run: Run, models: Sequence[LicensedModel], accepted: Sequence[str]) -> list[str]:
    """`accepted`, by `LicensedModel.accepted_as`.

    Raises:
        ConfigError: one of them is no licence or model of the run.
    """
    known = sorted({model.by_role for model in models} | {model.accepted_as for model in models})
    names = [accepted_name(given, models) for given in accepted]
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1) or [id for id in known if id.endswith(f":{name}")]
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ConfigError(
                f"{run.file.path}: accepted licence {name!r}: no model of the run has it; {hint}known: "
                f"{', '.join(known)}"
            )
    return names


def _note(run: Run) -> str:
    return f"{run.name}/licences.json"


def _noted(run: Run, models: Sequence[LicensedModel]) -> dict[str, str]:
    note = run.store.read_note(_note(run)) or {"accepted": {}}
    return {accepted_name(given, models): when for given, when in note["accepted"].items()}
