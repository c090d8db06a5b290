"""What licences say of training one model on another's distributions: a small table, and what follows for a run.

Decision: the table is short and careful. What is not in it is unknown, and unknown means that a person looks: a run
asks before any work, and what was accepted is recorded with the model. Nothing here is legal advice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

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
    """Only models of the same family may be improved."""
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


@dataclass(frozen=True, slots=True)
class LicensedModel:
    """A model of a run: `role` is "target" or the source's name; `licence` an id as on the Hub, None if not stated."""

    role: str
    model: str
    licence: str | None
    found_in: str

    @property
    def id(self) -> str:
        return self.licence or NOT_KNOWN

    @property
    def row(self) -> Licence:
        known = LICENCES.get(self.id)
        return known or Licence(self.id, Terms.UNKNOWN, "fusery does not know these terms; read them")

    @property
    def accepted_as(self) -> str:
        """By what its conditions are accepted: its licence's id; where none is known, `target` or `source:NAME`."""
        if self.licence is None or self.licence in (NOT_KNOWN, TARGET) or self.licence.startswith(_SOURCE):
            return self.by_role
        return self.licence

    @property
    def by_role(self) -> str:
        return self.role if self.role == TARGET else f"{_SOURCE}{self.role}"

    @property
    def shown(self) -> str:
        return self.role if self.role == TARGET else f"source {self.role}"


@dataclass(frozen=True, slots=True)
class Condition:
    """What a model's licence asks of this run; `met`: it holds already, so that nobody needs to accept it."""

    model: LicensedModel
    says: str
    met: bool


def conditions(models: Sequence[LicensedModel], registered_name: str) -> list[Condition]:
    """What the licences of target and sources ask, the target first; free ones ask nothing.

    The target's own terms bind the result anyway, so they are met, unless nobody knows them or they ask for a name.
    """
    target = next(model for model in models if model.role == TARGET)
    found = (_condition(model, target, registered_name) for model in models)
    return [condition for condition in found if condition is not None]


def _condition(model: LicensedModel, target: LicensedModel, registered_name: str) -> Condition | None:
    row = model.row
    if row.terms is Terms.FREE:
        return None
    if row.terms is Terms.UNKNOWN:
        where = f"licence {model.licence!r} ({model.found_in})" if model.licence else model.found_in
        return Condition(model, f"{where}: {row.says}", met=False)
    named = row.name is None or _plain(registered_name).startswith(_plain(row.name))
    hint = "" if named else f"; registry.model_name is {registered_name!r}"
    same_terms = model.id == target.id
    return Condition(model, f"{row.says}{hint}", met=named and (same_terms or row.terms is Terms.NAME))


def _plain(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())


def open_conditions(found: Iterable[Condition], accepted: Iterable[str]) -> list[Condition]:
    """Those that are neither met nor accepted; `accepted`: as `LicensedModel.accepted_as`."""
    known = set(accepted)
    return [condition for condition in found if not condition.met and condition.model.accepted_as not in known]


def accepted_name(given: str, models: Sequence[LicensedModel]) -> str:
    """`given` as `LicensedModel.accepted_as`: a source's bare name is short for source:NAME, if no licence has it."""
    is_licence = given in LICENCES or any(model.licence == given for model in models)
    names = {model.role for model in models if model.role != TARGET}
    return f"{_SOURCE}{given}" if given in names and not is_licence else given


def combined(ids: Sequence[str | None]) -> str | None:
    """The licence of a model that states several: all that binds counts, and one that nobody can tell hides the rest.

    Two that bind are joined, "gemma-and-llama2", which is in no table: a person looks.
    """
    if not ids or None in ids:
        return None
    known = list(dict.fromkeys(id for id in ids if id is not None))
    binding = [id for id in known if id not in LICENCES or LICENCES[id].terms is not Terms.FREE]
    return "-and-".join(binding) or known[0]


def licence_of_result(models: Sequence[LicensedModel]) -> tuple[str, str | None]:
    """`license` and `license_name` for the card of the trained model: all terms that bind it, else the target's.

    What is no id of the Hub's stands in `license_name`, and `license` is "other".
    """
    target = next(model for model in models if model.role == TARGET)
    binding = dict.fromkeys(model.id for model in models if model.row.terms is not Terms.FREE)
    if not binding:
        return target.id, None
    if len(binding) == 1 and not binding.keys() - LICENCES.keys():
        return next(iter(binding)), None
    return "other", "-and-".join(binding)
