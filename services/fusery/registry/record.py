"""What is recorded of a fusion, and what comes back: values, without MLflow."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fusery.models.model_files import weight_files
from fusery.runtime.errors import InvalidInput, ModelError
from fusery.runtime.text.json import read_json_object

Param = str | int | float | bool | None

_UNSAFE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".py"})
_NEEDED = ("config.json", "tokenizer.json")


@dataclass(frozen=True, slots=True)
class ModelLicence:
    """A model that the fused one comes from, its licence's id, where that is stated, and what it asks."""

    role: str
    model: str
    licence: str
    found_in: str
    asks: str
    accepted: str | None
    """When its conditions were accepted; None if it has none."""


@dataclass(frozen=True, slots=True)
class Origin:
    """For the card: the models (target first) and datasets that it comes from, and the licences that bind it."""

    base_models: tuple[str, ...]
    datasets: tuple[str, ...]
    licence: str
    licence_name: str | None
    models: tuple[ModelLicence, ...]


@dataclass(frozen=True, slots=True)
class FusionRecord:
    """A finished run: settings, proof, and the folder of the fused model (a plain Hugging Face folder).

    `run_id` is fusery's own; with the weights it decides whether the model is registered already. `evaluation` is the
    content of evaluation.json, `report_markdown` the same for people, `report_folder` that of the HTML report and its
    pictures.
    `datasets`: the texts that it was trained and measured on, and the fused evidence, name → digest.
    `metrics_files`: the trainer's metrics of "fused" and "clm"; None where there was no such training. `training_runs`:
    their runs in MLflow, which have every step. `lineage`: what
    the model comes from, as short texts by name (sources, fingerprints, corpus and manifest digest, rules, versions).
    `alias` is what a version that passed the gate gets; `register_command` the command that calls this.

    Raises:
        InvalidInput: a file is missing, or the alias is one that MLflow keeps for itself.
        ModelError: the folder is no safetensors model with a fast tokenizer, or holds what could run code.
    """

    experiment: str
    run_name: str
    run_id: str
    model_name: str
    alias: str
    model_folder: Path
    config_file: Path
    evaluation: Mapping[str, Any]
    report_markdown: str
    metrics_files: Mapping[str, Path | None]
    params: Mapping[str, Param]
    lineage: Mapping[str, str]
    origin: Origin
    register_command: str
    report_folder: Path | None = None
    training_runs: Mapping[str, str] = field(default_factory=dict)
    datasets: Mapping[str, str] = field(default_factory=dict)
    input_example: str = "The "

    def __post_init__(self) -> None:
        _check_model_folder(self.model_folder)
        for path in [self.config_file, *(path for path in self.metrics_files.values() if path)]:
            if not path.is_file():
                raise InvalidInput(f"{path}: no such file, nothing was registered; run the same command again")
        if self.alias == "latest" or re.fullmatch(r"[vV]\d+", self.alias):
            raise InvalidInput(f"registry.alias {self.alias!r}: MLflow keeps 'latest' and 'v1' for itself; use another")

    @property
    def passed(self) -> bool:
        """Whether the gate passed. Without a verdict there is no proof."""
        return bool(self.evaluation.get("verdict", {}).get("passed", False))

    @property
    def architecture(self) -> str:
        """The model's class in transformers."""
        return str(_config(self.model_folder).get("architectures", ["unknown"])[0])

    @property
    def proof_digest(self) -> str:
        """What tells these measures, and the alias that they may earn, from others of the same weights."""
        return hashlib.sha256(json.dumps([self.evaluation, self.alias], sort_keys=True).encode()).hexdigest()[:32]

    def weights_digest(self) -> str:
        """What tells the weights from others, read from the files: one run can be trained again, on other evidence."""
        whole = hashlib.sha256()
        for path in weight_files(self.model_folder):
            with path.open("rb") as file:
                whole.update(hashlib.file_digest(file, "sha256").digest())
        return whole.hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Registered:
    """A version in MLflow's model registry. `model_uri` loads exactly it.

    `alias`: the run's alias if it points to this version, as MLflow says, else None. `remark`: why it does not though
    the gate passed; else empty.
    """

    model_name: str
    version: str
    run_id: str
    model_uri: str
    alias: str | None
    created: bool
    """False: these weights of the run had been registered before."""
    remark: str = ""

    @property
    def alias_uri(self) -> str | None:
        return None if self.alias is None else f"models:/{self.model_name}@{self.alias}"


def requirements() -> list[str]:
    """What a place that loads the model must install: the installed versions, without local labels ("+cpu")."""
    return [f"{name}=={version(name).partition('+')[0]}" for name in ("torch", "transformers", "safetensors")]


def _config(folder: Path) -> dict[str, Any]:
    return read_json_object(folder / "config.json")


def _check_model_folder(folder: Path) -> None:
    missing = [name for name in _NEEDED if not (folder / name).is_file()]
    if missing:
        raise ModelError(f"{folder}: no {' and no '.join(missing)}; expected a Hugging Face model folder")
    weight_files(folder)
    unsafe = sorted(path.name for path in folder.rglob("*") if path.suffix in _UNSAFE_SUFFIXES)
    if unsafe:
        raise ModelError(f"{folder}: holds {unsafe[0]}, which can run code when loaded; keep only safetensors and JSON")
