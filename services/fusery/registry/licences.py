"""What licences say of training one model on another's distributions: a small table, and what follows for a run.

A run warns of every condition that it meets and records it with the model. It refuses only what the terms forbid: a
source whose outputs may improve no other family of models. If you have other terms from the licensor, accept the
licence by its id, in the YAML (`registry.accept_licenses`) or once with `--accept-license`, which is noted with the run
in the store. Nothing here is legal advice.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from fusery.config.file import RunFile
from fusery.config.run import EngineKind, ModelSpec, RunConfig, SourceSpec, split_engine
from fusery.hops.store.store import Store
from fusery.registry.stated_licence import StatedLicence, stated_licence
from fusery.runtime.errors import ConfigError
from fusery.runtime.text.secrets import without_secrets

NOT_KNOWN = "unknown"
TARGET = "target"
_SOURCE = "source:"


class Terms(StrEnum):
    """What a licence asks of a model that was trained on distributions of the licensed one."""

    FREE = "free"
    """Nothing but notices."""
    NAME = "name"
    """The model's name must begin with a word of the licensor's."""
    CARRIED = "carried"
    """The model goes on under the same terms."""
    NON_COMMERCIAL = "non-commercial"
    FAMILY_ONLY = "family only"
    """Only models of the same family may be improved: the one kind that forbids a run."""
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Licence:
    """A row of the table. `says`: what matters here, for people; `name`: with what a model's name must begin."""

    id: str
    terms: Terms
    says: str
    name: str | None = None


_NOTICES = "free to use and train on; keep the notices"
_RAIL = "a model trained on its outputs is a derivative: the use restrictions go on with it"
_SHARE_ALIKE = "adaptations are passed on under the same licence"
_NO_COMMERCE = "no commercial use"
_BUILT = 'a model trained with it or its outputs says "Built with Llama" and has a name that begins with Llama'

_TABLE = (
    *(Licence(id, Terms.FREE, _NOTICES) for id in ("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "isc")),
    *(Licence(id, Terms.FREE, _NOTICES) for id in ("cc0-1.0", "unlicense", "cc-by-3.0", "cc-by-4.0")),
    Licence(
        "llama2",
        Terms.FAMILY_ONLY,
        "Llama 2 and its outputs may not be used to improve any other large language model (section 1.b.v)",
    ),
    Licence(
        "llama3",
        Terms.FAMILY_ONLY,
        "Llama 3 and its outputs may not be used to improve any other large language model (section 1.b.v)",
        name="Llama 3",
    ),
    *(Licence(id, Terms.NAME, _BUILT, name="Llama") for id in ("llama3.1", "llama3.2", "llama3.3", "llama4")),
    Licence(
        "gemma",
        Terms.CARRIED,
        "a model trained on Gemma's outputs is a Model Derivative: it goes on under the Gemma Terms of Use, with their "
        "use restrictions (sections 1.1 and 3.1)",
    ),
    *(Licence(id, Terms.CARRIED, _RAIL) for id in ("openrail", "bigscience-openrail-m", "bigscience-bloom-rail-1.0")),
    *(Licence(id, Terms.CARRIED, _RAIL) for id in ("bigcode-openrail-m", "openrail++", "creativeml-openrail-m")),
    *(Licence(id, Terms.CARRIED, _SHARE_ALIKE) for id in ("cc-by-sa-3.0", "cc-by-sa-4.0")),
    *(Licence(id, Terms.NON_COMMERCIAL, _NO_COMMERCE) for id in ("cc-by-nc-3.0", "cc-by-nc-4.0")),
    *(Licence(id, Terms.NON_COMMERCIAL, _NO_COMMERCE) for id in ("cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0")),
)
LICENCES: Mapping[str, Licence] = {licence.id: licence for licence in _TABLE}


class Licensed(Protocol):
    """What is read of a run."""

    @property
    def name(self) -> str: ...
    @property
    def config(self) -> RunConfig: ...
    @property
    def file(self) -> RunFile: ...
    @property
    def store(self) -> Store: ...


@dataclass(frozen=True, slots=True)
class LicensedModel:
    """A model of a run: `role` is "target" or the source's name; `stated`: ids as on the Hub, None for one not known.

    All of them count.
    """

    role: str
    model: str
    stated: tuple[str | None, ...]
    found_in: str

    @property
    def terms(self) -> tuple[Licence, ...]:
        """What each licence asks, the free ones left out."""
        ids = dict.fromkeys(id or NOT_KNOWN for id in self.stated)
        unknown = "fusery does not know these terms; read them"
        rows = (LICENCES.get(id) or Licence(id, Terms.UNKNOWN, unknown) for id in ids)
        return tuple(row for row in rows if row.terms is not Terms.FREE)

    @property
    def id(self) -> str:
        """Of several licences all that bind: "gemma-and-llama2"; else the first."""
        return "-and-".join(row.id for row in self.terms) or next(iter(self.stated)) or NOT_KNOWN

    @property
    def by_role(self) -> str:
        return self.role if self.role == TARGET else f"{_SOURCE}{self.role}"

    @property
    def shown(self) -> str:
        return self.role if self.role == TARGET else f"source {self.role}"


@dataclass(frozen=True, slots=True)
class Condition:
    """What a model's licences ask of a run. `met`: it holds anyway; `forbids`: the ids of those that forbid the run."""

    model: LicensedModel
    says: str
    met: bool
    forbids: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        return f"{self.model.shown} ({self.model.id}): {self.says}"


def conditions(models: Sequence[LicensedModel], registered_name: str) -> list[Condition]:
    """What the licences of target and sources ask, the target first; free ones ask nothing.

    The target's own terms bind the result anyway, so they are met, unless they are not known or ask for a name.
    """
    target = next(model for model in models if model.role == TARGET)
    same_terms = {row.id for row in target.terms}
    found = []
    for model in (model for model in models if model.terms):
        says, met = [], True
        for row in model.terms:
            is_named = row.name is None or _plain(registered_name).startswith(_plain(row.name))
            where = f"{model.found_in}: " if row.terms is Terms.UNKNOWN else ""
            says.append(f"{where}{row.says}{'' if is_named else f'; registry.model_name is {registered_name!r}'}")
            met &= is_named and row.terms is not Terms.UNKNOWN and (row.id in same_terms or row.terms is Terms.NAME)
        forbids = (row.id for row in model.terms if row.terms is Terms.FAMILY_ONLY and row.id not in same_terms)
        found.append(Condition(model, "; ".join(says), met, tuple(forbids)))
    return found


def _plain(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())


def licence_of_result(models: Sequence[LicensedModel]) -> tuple[str, str | None]:
    """`license` and `license_name` for the card of the trained model: all terms that bind it, else the target's.

    What is no id of the Hub's stands in `license_name`, and `license` is "other".
    """
    target = next(model for model in models if model.role == TARGET)
    binding = list(dict.fromkeys(row.id for model in models for row in model.terms))
    if not binding:
        return target.id, None
    if len(binding) == 1 and binding[0] in LICENCES:
        return binding[0], None
    return "other", "-and-".join(binding)


@dataclass(frozen=True, slots=True)
class RunLicences:
    """What the models of a run say of their licences, what these ask, and what was accepted, with the time."""

    models: tuple[LicensedModel, ...]
    conditions: tuple[Condition, ...]
    accepted: dict[str, str]

    @property
    def of_result(self) -> tuple[str, str | None]:
        return licence_of_result(self.models)

    def accepted_of(self, model: LicensedModel) -> str | None:
        """When `model` was accepted, by one of its licences' ids or by its role."""
        names = (model.by_role, model.id, *(row.id for row in model.terms))
        return next((self.accepted[name] for name in names if name in self.accepted), None)


def run_licences(run: Licensed) -> RunLicences:
    """What the run's models say, what follows, and what was accepted in the YAML or with the run.

    Asks the Hub for cards; no weights.
    """
    specs = [(TARGET, run.config.target), *((source.name, source) for source in run.config.sources)]
    stated = {role: _stated(run, spec) for role, spec in specs}
    models = tuple(
        LicensedModel(role, without_secrets(spec.model), stated[role].ids, stated[role].found_in)
        for role, spec in specs
    )
    note = run.store.read_note(f"{run.name}/licences.json") or {"accepted": {}}
    accepted = {**dict.fromkeys(run.config.registry.accept_licenses, "in the YAML"), **note["accepted"]}
    by_name = {_accepted_name(given, models): when for given, when in accepted.items()}
    return RunLicences(models, tuple(conditions(models, run.config.registered_name)), by_name)


def accept_licences(run: Licensed, accepted: Sequence[str]) -> None:
    """Notes with the run that these licences are accepted: ids, or `target` and `source:NAME` where none is known.

    Raises:
        ConfigError: one of them is no licence or model of the run.
    """
    found = run_licences(run)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    before = {name: when for name, when in found.accepted.items() if when != "in the YAML"}
    run.store.write_note(
        f"{run.name}/licences.json", {"accepted": dict.fromkeys(_known(run, found.models, accepted), now) | before}
    )


def check_licences(run: Licensed) -> list[str]:
    """Warnings: conditions that the run does not meet anyway, of models that were not accepted.

    Raises:
        ConfigError: a licence forbids the run, and was not accepted; or what was accepted is nothing of the run's.
    """
    found = run_licences(run)
    _known(run, found.models, run.config.registry.accept_licenses)
    forbidden = {
        condition.line: [id for id in condition.forbids if not {id, condition.model.id} & found.accepted.keys()]
        for condition in found.conditions
    }
    if ids := list(dict.fromkeys(id for of_model in forbidden.values() for id in of_model)):
        lines = "\n".join(f"  {line}" for line, of_model in forbidden.items() if of_model)
        options = [part for id in ids for part in ("--accept-license", id)]
        raise ConfigError(
            f"{run.file.path}: licences whose terms forbid this run; nothing was begun:\n{lines}\n"
            f"leave these sources out; if you have other terms: {run.file.command('run', *options)}\n"
            f"or in the YAML: registry: {{accept_licenses: [{', '.join(ids)}]}}"
        )
    asked = (condition for condition in found.conditions if not condition.met)
    return [f"licence of {condition.line}" for condition in asked if found.accepted_of(condition.model) is None]


def _stated(run: Licensed, spec: ModelSpec) -> StatedLicence:
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


def _accepted_name(given: str, models: Sequence[LicensedModel]) -> str:
    """`given`; a source's bare name is short for source:NAME, if no licence has it."""
    is_licence = given in LICENCES or any(given in (model.id, *model.stated) for model in models)
    return f"{_SOURCE}{given}" if given in {model.role for model in models} - {TARGET} and not is_licence else given


def _known(run: Licensed, models: Sequence[LicensedModel], accepted: Sequence[str]) -> list[str]:
    """`accepted`, by the names that `RunLicences.accepted` has.

    Raises:
        ConfigError: one of them is no licence or model of the run.
    """
    ids = {id for model in models for id in (model.id, *model.stated) if id not in (None, NOT_KNOWN)}
    known = sorted({model.by_role for model in models} | ids)
    names = [_accepted_name(given, models) for given in accepted]
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1) or [id for id in known if id.endswith(f":{name}")]
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ConfigError(
                f"{run.file.path}: accepted licence {name!r}: no model of the run has it; {hint}known: "
                f"{', '.join(known)}"
            )
    return names
