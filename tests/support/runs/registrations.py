"""A record registered in SQLite once for the tests of a file, and what is needed to register it in other ways."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from fusery.registry.record import FusionRecord, Registered
from fusery.registry.register import register
from fusery.registry.tracking import default_artifact_folder, default_tracking_uri
from support.models.pico_models import pico_model

Make = Callable[..., FusionRecord]


class Registration:
    """A record registered once for all tests of this file, and a client to look at what came of it."""

    def __init__(self, folder: Path, make_record: Make) -> None:
        import torch

        torch.set_num_threads(1)
        self.record = make_record(folder, pico_model("llama", "byte_level"))
        self.uri = default_tracking_uri(folder / "store of runs")
        self.artifacts = default_artifact_folder(folder / "store of runs")
        self.registered = self.register()

    def register(self, **changes: Any) -> Registered:
        return register(replace(self.record, **changes), self.uri, self.artifacts)

    @property
    def client(self) -> Any:
        import mlflow

        mlflow.set_tracking_uri(self.uri)
        return mlflow.MlflowClient(self.uri)

    @property
    def run(self) -> Any:
        return self.client.get_run(self.registered.run_id)

    def model_file(self, name: str, number: str, folder: Path) -> Path:
        """The weights of a version, downloaded into `folder`."""
        import mlflow

        assert self.client is not None
        folder.mkdir()
        top = mlflow.artifacts.download_artifacts(f"models:/{name}/{number}", dst_path=str(folder))
        return Path(top) / "model" / "model.safetensors"

    def runs(self) -> list[Any]:
        experiment = self.client.get_experiment_by_name("fusions")
        return list(self.client.search_runs([experiment.experiment_id]))


def measured(registration: Registration, passed: bool, fused: float | None = None) -> dict[str, Any]:
    """A record's evaluation with another verdict, and another mean of the fused model where one is given."""
    evaluation = dict(registration.record.evaluation)
    checks = [{**check, "passed": passed} for check in evaluation["verdict"]["checks"]]
    if fused is not None:
        models = evaluation["models"]
        evaluation["models"] = {**models, "fused": {**models["fused"], "mean_bits_per_byte": fused}}
    return {"evaluation": evaluation | {"verdict": {**evaluation["verdict"], "passed": passed, "checks": checks}}}


def with_task(registration: Registration) -> dict[str, Any]:
    """A record's evaluation with a task that it had not before."""
    scores = {"value": 0.5, "metric": "acc_norm", "few_shot": 0, "items": 60}
    tasks = {"fused": {"tasks": {"arc_easy": scores}}}
    return {"evaluation": dict(registration.record.evaluation) | {"tasks": tasks}}


def other_weights(folder: Path, model_folder: Path) -> Path:
    """A copy in `folder` of a model, as another training of it would leave it."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(model_folder, folder)
    weights = load_file(folder / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    return folder
