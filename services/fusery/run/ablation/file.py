"""An ablation's YAML, checked whole before any work: every setting of every case against the run's own schema.

name: tiny
run: ../tiny.yaml                       # the base run: models, texts, and all settings that no case changes
axes:                                   # every combination is a case …
  fusion.rule: [min_ce, avg_ce]
  alignment: {paper: {positions: reference}, ours: {positions: boundary}}
cases: [{name: code alone, set: {sources: [code]}}]     # … or: these
exclude: [{where: {alignment: paper}, why: …}]
repeat: [0, 1, 2]                       # seeds of the training
"""

from __future__ import annotations

import difflib
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator, model_validator

from fusery.config.file import RunFile, YamlFile, explained, read_run_file, read_yaml
from fusery.config.run import Name, RunConfig
from fusery.config.section import Place, Section, old_words
from fusery.run.ablation.settings import SOURCES, Settings, apply, check_key, overlapping
from fusery.runtime.errors import ConfigError

log = logging.getLogger(__name__)

_MOST_CASES = 1000
_MOST_SEEDS = 100


class Comparison(StrEnum):
    """What is measured beside the cases; the target before training and CLM always are."""

    SOURCES = "sources"
    ENSEMBLE = "ensemble"
    WEIGHT_MERGING = "weight_merging"


class NamedCase(Section):
    """One case, and what it changes in the run."""

    name: str = Field(min_length=1, max_length=100, pattern=r"^\S.*$")
    set: dict[str, Any] = Field(default_factory=dict)


class Exclusion(Section):
    """Combinations of the axes that are left out: those with all of these values."""

    where: dict[str, Any] = Field(min_length=1)
    why: str = Field(min_length=1)


class AblationSpec(Section):
    """An ablation's YAML as it stands there."""

    name: Name
    run: str = Field(min_length=1)
    set: dict[str, Any] = Field(default_factory=dict)
    """What all cases change in the run."""
    axes: dict[str, list[Any] | dict[str, Any]] = Field(default_factory=dict)
    cases: tuple[NamedCase, ...] = ()
    exclude: tuple[Exclusion, ...] = ()
    repeat: int | tuple[int, ...] = 1
    """Seeds of the training, or how many, from the run's on."""
    compare: tuple[Comparison, ...] = ()
    keep_models: bool = False
    """Keep the trained models; else they are removed when they are measured."""

    @field_validator("repeat")
    @classmethod
    def _are_seeds(cls, repeat: int | tuple[int, ...]) -> int | tuple[int, ...]:
        count = repeat if isinstance(repeat, int) else len(repeat)
        if not 1 <= count <= _MOST_SEEDS:
            raise ValueError(f"expected 1 to {_MOST_SEEDS} trainings of each case")
        if not isinstance(repeat, int) and (len(set(repeat)) < len(repeat) or min(repeat) < 0):
            raise ValueError("expected different seeds of at least 0")
        return repeat

    @model_validator(mode="after")
    def _has_cases(self) -> AblationSpec:
        if bool(self.axes) == bool(self.cases):
            raise ValueError(f"axes, cases: give one of them, got {'both' if self.axes else 'neither'}")
        if self.exclude and not self.axes:
            raise ValueError("exclude: goes with axes; leave the case out of cases")
        return self

    def seeds(self, first: int) -> tuple[int, ...]:
        return tuple(range(first, first + self.repeat)) if isinstance(self.repeat, int) else self.repeat


@dataclass(frozen=True, slots=True)
class Case:
    """One run of the ablation. `labels`: the value of each axis, by its key, as it is shown; empty for a named case."""

    name: str
    labels: Mapping[str, str]
    settings: Mapping[str, Any]
    config: RunConfig


@dataclass(frozen=True, slots=True)
class AblationFile:
    """A checked ablation: its base run, the cases, the seeds that each is trained with."""

    spec: AblationSpec
    path: Path
    base: RunFile
    cases: tuple[Case, ...]
    seeds: tuple[int, ...]

    @property
    def axes(self) -> tuple[str, ...]:
        return tuple(self.spec.axes)


def read_ablation(path: Path) -> AblationFile:
    """The ablation that `path` describes; nothing but YAML is read.

    Raises:
        ConfigError: one line per mistake, each with file, line and key.
    """
    file = read_yaml(path, "an ablation's YAML file", "name, run, axes, cases, …")
    try:
        spec = AblationSpec.model_validate(file.content)
    except ValidationError as error:
        raise file.refused(error, AblationSpec) from error
    place = path.parent / spec.run
    base = read_run_file(place)
    content = read_yaml(place, "a run's YAML file", "name, target, sources, corpus, …").content
    _check_keys(file, spec)
    drafts = list(_product(file, spec) if spec.axes else _named(spec))
    _warn_of_old_words(file, drafts)
    cases = _checked(file, content, drafts)
    _check_distinct(file, cases, [draft.place for draft in drafts])
    return AblationFile(spec, path.resolve(), base, tuple(cases), spec.seeds(base.config.seed))


@dataclass(frozen=True, slots=True)
class _Draft:
    """A case before it is checked; `places`: where each of its settings stands in the file."""

    name: str
    labels: Mapping[str, str]
    settings: Settings
    places: Mapping[str, Place]
    place: Place


def _check_keys(file: YamlFile, spec: AblationSpec) -> None:
    """Keys that can be set at all, each once."""
    groups: list[tuple[Place, Mapping[str, Any]]] = [(("set",), spec.set), (("axes",), spec.axes)]
    groups += [(("cases", number, "set"), case.set) for number, case in enumerate(spec.cases)]
    mistakes = []
    for place, group in groups:
        for key in group:
            reason = check_key(key)
            if reason is not None:
                mistakes.append(f"{file.at((*place, key))}: {_shown((*place, key))}: {reason}")
        if (both := overlapping(list(group))) is not None:
            mistakes.append(f"{file.at((*place, both[1]))}: {both[0]} and {both[1]} set the same; give one of them")
    if mistakes:
        raise ConfigError("\n".join(mistakes))


def _named(spec: AblationSpec) -> Iterator[_Draft]:
    common = {key: ("set", key) for key in spec.set}
    for number, case in enumerate(spec.cases):
        places = {**common, **{key: ("cases", number, "set", key) for key in case.set}}
        yield _Draft(case.name, {}, {**spec.set, **case.set}, places, ("cases", number))


def _product(file: YamlFile, spec: AblationSpec) -> Iterator[_Draft]:
    """Every combination that is not excluded, the last axis running fastest."""
    axes = {axis: _values(file, axis, values) for axis, values in spec.axes.items()}
    count = math.prod(len(values) for values in axes.values())
    if count > _MOST_CASES:
        raise ConfigError(f"{file.at(('axes',))}: axes: {count:,} combinations, expected at most {_MOST_CASES:,}")
    excluded = _exclusions(file, spec, axes)
    used, left = [False] * len(excluded), 0
    for chosen in product(*(values.items() for values in axes.values())):
        labels = {axis: label for axis, (label, _) in zip(axes, chosen, strict=True)}
        out = [all(labels[axis] == label for axis, label in where.items()) for where in excluded]
        used = [before or now for before, now in zip(used, out, strict=True)]
        if any(out):
            continue
        left += 1
        settings = {axis: value for axis, (_, (value, _)) in zip(axes, chosen, strict=True)}
        places = {axis: place for axis, (_, (_, place)) in zip(axes, chosen, strict=True)}
        common = {key: ("set", key) for key in spec.set}
        yield _Draft(_name(labels), labels, {**spec.set, **settings}, {**common, **places}, ("axes",))
    if left == 0:
        raise ConfigError(f"{file.at(('exclude',))}: exclude: leaves no case; expected at least one combination left")
    if not all(used):
        place: Place = ("exclude", used.index(False))
        raise ConfigError(f"{file.at(place)}: {_shown(place)}: leaves out nothing that is not left out already")


Values = dict[str, tuple[Any, Place]]
"""By label: an axis' value, and where it stands."""


def _values(file: YamlFile, axis: str, given: list[Any] | dict[str, Any]) -> Values:
    pairs: Sequence[tuple[Any, Any]] = (
        [(number, value) for number, value in enumerate(given)] if isinstance(given, list) else list(given.items())
    )
    found: Values = {}
    for key, value in pairs:
        label, place = label_of(value) if isinstance(given, list) else str(key), ("axes", axis, key)
        if label in found:
            raise ConfigError(f"{file.at(place)}: axes.{axis}: the value {label} stands twice")
        found[label] = (value, place)
    if not found:
        raise ConfigError(f"{file.at(('axes', axis))}: axes.{axis}: no value; give at least one")
    return found


def label_of(value: Any) -> str:
    """A value as tables show it: 'python+cpp', 'vocabulary=partition', '0.9'."""
    if isinstance(value, Mapping):
        return " ".join(f"{key}={label_of(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return "+".join(label_of(inner) for inner in value)
    return {None: "none", True: "yes", False: "no"}[value] if value is None or isinstance(value, bool) else str(value)


def _name(labels: Mapping[str, str]) -> str:
    """A word stands for itself; a number needs the key that it belongs to."""
    parts = []
    for axis, label in labels.items():
        is_word = label[:1].isalpha() and label not in ("yes", "no", "none")
        parts.append(label if is_word else f"{axis.rpartition('.')[2]} {label}")
    return ", ".join(parts)


def _exclusions(file: YamlFile, spec: AblationSpec, axes: Mapping[str, Values]) -> list[dict[str, str]]:
    found = []
    for number, exclusion in enumerate(spec.exclude):
        where = {}
        for axis, value in exclusion.where.items():
            place: Place = ("exclude", number, "where", axis)
            if axis not in axes:
                raise ConfigError(f"{file.at(place)}: {_shown(place)}: no such axis; expected {', '.join(axes)}")
            if (label := label_of(value)) not in axes[axis]:
                known = ", ".join(axes[axis])
                raise ConfigError(f"{file.at(place)}: {_shown(place)}: no value {label!r} there; expected {known}")
            where[axis] = label
        found.append(where)
    return found


def _warn_of_old_words(file: YamlFile, drafts: Sequence[_Draft]) -> None:
    given = {(key, draft.places[key]): value for draft in drafts for key, value in draft.settings.items()}
    for (key, place), value in given.items():
        for _, warning in () if key == SOURCES else old_words(apply({}, {key: value}), RunConfig):
            log.warning("%s: %s", file.at(place), warning)


def _checked(file: YamlFile, content: Mapping[str, Any], drafts: Sequence[_Draft]) -> list[Case]:
    cases, mistakes = [], dict[str, None]()
    for draft in drafts:
        try:
            config = RunConfig.model_validate(apply(content, draft.settings))
        except ValidationError as error:
            mistakes |= dict.fromkeys(_mistakes(file, draft, error))
        except KeyError as error:
            mistakes[_unknown_source(file, draft, content, str(error.args[0]))] = None
        else:
            cases.append(Case(draft.name, draft.labels, draft.settings, config))
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    return cases


def _mistakes(file: YamlFile, draft: _Draft, error: ValidationError) -> Iterator[str]:
    """Each at the setting that it is of; one of a combination names the case."""
    for detail in error.errors(include_url=False):
        loc = [str(part) for part in detail["loc"]]
        of = [key for key in draft.settings if loc[: len(key.split("."))] == key.split(".")]
        if of:
            yield f"{file.at(draft.places[of[0]])}: {explained(detail, RunConfig)}"
        else:
            hint = "; leave it out with exclude" if draft.labels else ""
            yield f"{file.at(draft.place)}: case {draft.name!r}: {explained(detail, RunConfig)}{hint}"


def _unknown_source(file: YamlFile, draft: _Draft, content: Mapping[str, Any], name: str) -> str:
    known = [str(source["name"]) for source in content["sources"]]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known)}"
    return f"{file.at(draft.places['sources'])}: sources: the run has no source {name!r}; {hint}"


def _check_distinct(file: YamlFile, cases: Sequence[Case], places: Sequence[Place]) -> None:
    names: dict[str, Case] = {}
    configs: dict[str, Case] = {}
    for case, place in zip(cases, places, strict=True):
        if case.name in names:
            raise ConfigError(f"{file.at(place)}: the name {case.name!r} stands twice; give every case its own")
        digest = case.config.digest()
        if digest in configs:
            raise ConfigError(
                f"{file.at(place)}: case {case.name!r} is the same as {configs[digest].name!r}; leave one of them out"
            )
        names[case.name] = configs[digest] = case


def _shown(place: Place) -> str:
    return ".".join(str(part) for part in place)
