"""Section: what every part of a YAML file is, and what becomes of words that earlier versions had.

A renamed key or value works for one version more, with a warning; a removed one is refused with what to do. Digests and
stored plans keep the words of the first version, so that a new word makes nothing again: the price is two forms.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator

Place = tuple[str | int, ...]


class Section(BaseModel):
    """A part of a run's YAML: frozen, and without unknown keys. A word is 'KEY' or 'KEY: VALUE'."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    RENAMED: ClassVar[Mapping[str, str]] = {}
    """Old word → new word: {"quality": "cost", "positions: mined": "positions: dtw"}."""
    REMOVED: ClassVar[Mapping[str, str]] = {}
    """Old word → what to do without it."""
    FIXED: ClassVar[Mapping[str, Any]] = {}
    """Removed keys that digests and stored plans have → the value that holds for all runs now."""

    @classmethod
    def new_word(cls, key: str, value: object) -> tuple[str, Any] | None:
        """Key and value as they are called now; None if neither was renamed.

        >>> AlignmentSpec.new_word("positions", "mined")
        ('positions', 'dtw')
        """
        word = cls.RENAMED.get(key) or cls.RENAMED.get(f"{key}: {value}")
        if word is None:
            return None
        new_key, _, new_value = word.partition(": ")
        return new_key, new_value or value

    @model_validator(mode="before")
    @classmethod
    def _in_new_words(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        found = {key: cls.new_word(key, value) for key, value in values.items()}
        # An old key beside the new one stays, and is refused.
        kept = {key: new for key, new in found.items() if new is not None and (new[0] == key or new[0] not in values)}
        return dict(kept.get(key, (key, value)) for key, value in values.items())

    def stored(self) -> dict[str, Any]:
        """The section as digests and stored plans have it, in the words of the first version."""
        values = self.model_dump(mode="json")
        for old, new in self.RENAMED.items():
            (old_key, _, old_value), (new_key, _, new_value) = old.partition(": "), new.partition(": ")
            if new_key in values and (not new_value or values[new_key] == new_value):
                value = values.pop(new_key)
                values[old_key] = old_value or value
        return {**values, **self.FIXED}

    @classmethod
    def from_stored(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """What `stored` gave, without removed keys; one with another value than holds now stays, and is refused."""
        return {key: value for key, value in values.items() if key not in cls.FIXED or cls.FIXED[key] != value}


def old_words(content: Mapping[str, Any], model: type[Section], around: Place = ()) -> Iterator[tuple[Place, str]]:
    """Where renamed words stand in the content of a YAML file, each with a warning for people."""
    for key, value in content.items():
        place = (*around, key)
        if (new := model.new_word(key, value)) is not None:
            old, name = (key, new[0]) if new[0] != key else (value, new[1])
            warning = f"{old} is called {name} now; change it, the next version knows {name} only"
            yield place, f"{'.'.join(map(str, place))}: {warning}"
        elif isinstance(value, dict) and key in model.model_fields:
            inner = section_of(model.model_fields[key].annotation)
            if inner is not None:
                yield from old_words(value, inner, place)


def section_of(annotation: Any) -> type[Section] | None:
    """The section inside an annotation such as tuple[SourceSpec, ...]; None if there is none."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    inner = (section_of(part) for part in getattr(annotation, "__args__", ()))
    return next((section for section in inner if section is not None), None)
