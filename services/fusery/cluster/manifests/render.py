"""`fusery k8s render`: a run's manifests as text that kubectl creates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from fusery.cluster.manifests.manifests import config_map, run_objects, step_objects
from fusery.cluster.manifests.names import Step
from fusery.cluster.manifests.pods import Manifest
from fusery.config.file import read_run_file
from fusery.config.run import RunConfig
from fusery.runtime.errors import ConfigError, InvalidInput, TooLarge
from fusery.runtime.text.yaml import parse_yaml


@dataclass(frozen=True, slots=True)
class ClusterFile:
    """A run's YAML as it goes into the cluster: the text of the ConfigMap, and what it says."""

    path: Path
    config: RunConfig
    text: str


def read_cluster_file(path: Path, changes: Mapping[str, str | None]) -> ClusterFile:
    """The run of `path`. `changes`: of its section `kubernetes`, such as the namespace; None leaves a key as it is.

    Without changes the text is the file's own. With some it is written anew: what runs in the cluster reads it too.

    Raises:
        ConfigError: the file, or a change, is wrong.
    """
    config, text = read_run_file(path).config, path.read_text(encoding="utf-8")
    given = {key: value for key, value in changes.items() if value is not None}
    if not given:
        return ClusterFile(path, config, text)
    content = parse_yaml(text).value
    content["kubernetes"] = {**(content.get("kubernetes") or {}), **given}
    try:
        config = RunConfig.model_validate(content)
    except ValidationError as error:
        wrong = error.errors(include_url=False)[0]
        option = f"--{'.'.join(str(part) for part in wrong['loc'][1:]).replace('_', '-')}"
        raise ConfigError(f"{option}: {wrong['msg']}, got {wrong['input']!r}") from error
    return ClusterFile(path, config, to_yaml([content]))


def cluster_objects(
    given: ClusterFile, step: Step | None = None, arguments: Sequence[str] = ()
) -> tuple[Manifest, ...]:
    """Everything that the job of a step (None: of the run) needs beside the release, in the order of its creation.

    Raises:
        InvalidInput: the run can't be carried out in a cluster as it is; every line names the file and a key.
    """
    try:
        if step is None:
            return run_objects(given.config, given.text, arguments)
        return config_map(given.config, given.text), *step_objects(given.config, step, arguments)
    except (ConfigError, TooLarge) as error:
        shown = "\n".join(f"{given.path}: {line}" for line in str(error).splitlines())
        kind: type[InvalidInput] = type(error)
        raise kind(shown) from error


def render(path: Path, step: Step | None, changes: Mapping[str, str | None], arguments: Sequence[str] = ()) -> str:
    """The manifests as YAML documents, with a first line that says what they are."""
    objects = cluster_objects(read_cluster_file(path, changes), step, arguments)
    shown = " ".join(["fusery k8s render", str(path), *([] if step is None else ["--job", step])])
    return f"# {' '.join([shown, *arguments])}\n{to_yaml(objects)}"


def to_yaml(documents: Sequence[Any]) -> str:
    """YAML in which texts of several lines stay readable."""
    text: str = yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return text


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, _data: Any) -> bool:
        return True


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _represent_text)
