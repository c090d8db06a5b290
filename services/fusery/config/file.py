"""Reading a run's YAML: every mistake is named with file, line, key and the nearest known key."""

from __future__ import annotations

import difflib
import logging
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from fusery.config.run import EngineKind, RunConfig, split_engine
from fusery.config.section import Place, Section, old_words, section_of
from fusery.runtime.errors import ConfigError
from fusery.runtime.text.yaml import NotYaml, parse_yaml

MOUNTED = Path("/etc/fusery/run")
"""Where the pods of a run have its YAML, a file of a ConfigMap; people have theirs elsewhere."""

log = logging.getLogger(__name__)
_HUB_ID = re.compile(r"^[\w.-]+(/[\w.-]+)?$")


@dataclass(frozen=True, slots=True)
class RunFile:
    """A checked run and the file that it comes from."""

    config: RunConfig
    path: Path
    relative_to: Path | None = None
    """What relative paths in it are relative to; None: the file's folder. A copy elsewhere keeps the original's."""

    @property
    def folder(self) -> Path:
        return self.path.resolve().parent if self.relative_to is None else self.relative_to

    def command(self, name: str, *options: str) -> str:
        """The command line `fusery NAME` on this run, for people."""
        return command_on(self.path, name, *options)

    def resolve(self, path: str) -> str:
        """`path` made absolute against `folder`, unless it is a URL."""
        return path if "://" in path else str((self.folder / Path(path).expanduser()).resolve())

    def model(self, name: str) -> str:
        """A model's folder, made absolute, where there is one; else `name`, a Hub id, or the name of a server.

        Raises:
            ConfigError: neither a folder nor the form of a Hub id.
        """
        kind, place = split_engine(name)
        if kind is not EngineKind.TRANSFORMERS:
            return name
        name, folder = place, Path(self.resolve(place))
        if folder.is_dir():
            return str(folder)
        if _HUB_ID.match(name) and not name.startswith("."):
            return name
        raise ConfigError(f"{self.path}: model {name!r}: there is no folder {folder}; make it first, or name a Hub id")

    @property
    def store(self) -> str:
        return self.resolve(self.config.services.store)


def command_on(path: Path, name: str, *options: str) -> str:
    """The command line `fusery NAME` on the run at `path`, for people: in a pod, on the file that they have.

    >>> command_on(Path("/etc/fusery/run/run.yaml"), "run", "--until", "fuse")
    'fusery run FILE.yaml --on kubernetes --until fuse'
    """
    if path.parent != MOUNTED:
        return shlex.join(["fusery", name, str(path), *options])
    return shlex.join(["fusery", name, "FILE.yaml", *(["--on", "kubernetes"] if name == "run" else []), *options])


def read_run_file(path: Path, folder: Path | None = None) -> RunFile:
    """The run that `path` describes, checked whole; its relative paths are relative to `folder`, or its own.

    Raises:
        ConfigError: one line per mistake, each with file, line and key.
    """
    file = read_yaml(path, "a run's YAML file", "name, target, sources, corpus, …")
    for place, warning in old_words(file.content, RunConfig):
        log.warning("%s: %s", file.at(place), warning)
    try:
        relative_to = None if folder is None else folder.resolve()
        # The file's own name stays: a ConfigMap's is a link to a folder that goes with its next change.
        return RunFile(RunConfig.model_validate(file.content), path.parent.resolve() / path.name, relative_to)
    except ValidationError as error:
        raise file.refused(error, RunConfig) from error


@dataclass(frozen=True, slots=True)
class YamlFile:
    """A mapping read from a YAML file, and the line of every key and item in it."""

    path: Path
    content: dict[str, Any]
    lines: Mapping[Place, int]

    def at(self, place: Place) -> str:
        """'FILE:LINE' of the key or item at `place`, or of the nearest one around it."""
        line = next((self.lines[place[:n]] for n in range(len(place), 0, -1) if place[:n] in self.lines), 1)
        return f"{self.path}:{line}"

    def refused(self, error: ValidationError, model: type[Section]) -> ConfigError:
        """One line per mistake that `model` found in the content."""
        details = error.errors(include_url=False)
        return ConfigError("\n".join(f"{self.at(tuple(d['loc']))}: {explained(d, model)}" for d in details))


def read_yaml(path: Path, what: str, keys: str) -> YamlFile:
    """The content of `path`; `what` it should be and its `keys` stand in messages.

    Raises:
        ConfigError: the file can't be read, is no YAML, or holds no mapping.
    """
    try:
        parsed = parse_yaml(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; expected {what}") from error
    except NotYaml as error:
        where = str(path) if error.line is None else f"{path}:{error.line}"
        raise ConfigError(f"{where}: not YAML: {error}; expected {what}") from error
    content = parsed.value
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a mapping with the keys {keys}")
    return YamlFile(path, content, dict(_lines(parsed.root, ())))


def _lines(node: yaml.Node | None, place: Place) -> Iterator[tuple[Place, int]]:
    """The line of every key and item."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*place, key.value)
            yield inner, key.start_mark.line + 1
            yield from _lines(value, inner)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            inner = (*place, index)
            yield inner, value.start_mark.line + 1
            yield from _lines(value, inner)


def explained(detail: ErrorDetails, model: type[Section]) -> str:
    """'training.clm_weight: Input should be …, got 1.5': a mistake that `model` found, with its key."""
    place: Place = tuple(detail["loc"])
    key = ".".join(str(part) for part in place) or "run"
    got = detail["input"]
    section = _section_at(model, place[:-1])
    last = str(place[-1]) if place else ""
    if (advice := section.REMOVED.get(last) or section.REMOVED.get(f"{last}: {got}")) is not None:
        return f"{key}: {'the key' if last in section.REMOVED else got} was removed; {advice}"
    if detail["type"] == "extra_forbidden":
        if (new := section.new_word(last, got)) is not None:
            return f"{key}: it is called {new[0]} now, which is given too; leave {last} out"
        known = list(section.model_fields)
        nearest = difflib.get_close_matches(last, known, n=1, cutoff=0.5)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"known keys here: {', '.join(known)}"
        return f"{key}: unknown key; {hint}"
    if detail["type"] == "missing":
        return f"{key}: missing; this key is required"
    shown = f", got {got!r}" if isinstance(got, str | int | float | bool | None) or got in ([], {}, ()) else ""
    near = _nearest_choice(detail, got)
    return f"{key}: {detail['msg'].removeprefix('Value error, ')}{shown}{near}"


def _nearest_choice(detail: ErrorDetails, got: object) -> str:
    choices = re.findall(r"'([^']+)'", str(detail.get("ctx", {}).get("expected", "")))
    near = difflib.get_close_matches(str(got), choices, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def _section_at(model: type[Section], place: Place) -> type[Section]:
    """The section at `place`, or the nearest one around it."""
    for part in place:
        field = model.model_fields.get(str(part))
        model = (None if field is None else section_of(field.annotation)) or model
    return model
