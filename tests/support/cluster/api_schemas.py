"""The schemas of the Kubernetes API, fetched by `scripts/chart_tools.sh`, and what of a manifest does not fit them."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from typing import Any

import pytest

from support.cluster.charts import TOOLS, Manifest

KUBERNETES = tuple(f"1.{minor}" for minor in range(27, 38))
WITH_POD_FAILURE_POLICY = tuple(version for version in KUBERNETES if version >= "1.31")
"""Where a Job may say what exit codes mean, without a feature gate."""
OUTSIDE = {
    ("keda.sh/v1alpha1", "ScaledObject"),
    ("keda.sh/v1alpha1", "TriggerAuthentication"),
    ("monitoring.coreos.com/v1", "ServiceMonitor"),
    ("monitoring.coreos.com/v1", "PrometheusRule"),
    ("jobset.x-k8s.io/v1alpha2", "JobSet"),
    ("trainer.kubeflow.org/v1alpha1", "TrainingRuntime"),
    ("trainer.kubeflow.org/v1alpha1", "TrainJob"),
}
"""Kinds of other projects, whose schemas the Kubernetes API does not have: they come from those projects' models."""


@functools.cache
def validator(kind: str, api_version: str, version: str) -> Any:
    """The strict schema of one kind: keys that the API does not know are mistakes."""
    if not (TOOLS / "python" / "kubernetes_validate").is_dir():
        pytest.skip("the API's schemas are not there; make chart-tools fetches them")
    import jsonschema
    from referencing import Registry, Resource

    folder = TOOLS / "python/kubernetes_validate/kubernetes-json-schema" / f"v{version}.0-local-strict"
    group, _, api = api_version.rpartition("/")
    name = f"{kind.lower()}-{group.partition('.')[0]}-{api}.json" if group else f"{kind.lower()}-{api}.json"
    schema, definitions = (json.loads((folder / file).read_text()) for file in (name, "_definitions.json"))
    registry: Any = Registry()
    registry = Resource.from_contents(definitions) @ (Resource.from_contents(schema) @ registry)
    return jsonschema.Draft202012Validator(schema, registry=registry)


@functools.cache
def outside_validator(kind: str, api_version: str) -> Any:
    """As `validator`, for a kind of another project, which has one schema for every Kubernetes."""
    file = TOOLS / "schemas" / f"{api_version.replace('/', '_')}_{kind}.json"
    if not file.is_file():
        pytest.skip(f"the schema of {kind} is not there; make chart-tools fetches it")
    import jsonschema

    return jsonschema.Draft202012Validator(json.loads(file.read_text()))


def faults(manifest: Manifest, version: str) -> Iterator[str]:
    """Every place of a manifest that the API would refuse."""
    kind, api_version = manifest["kind"], manifest["apiVersion"]
    is_outside = (api_version, kind) in OUTSIDE
    known = outside_validator(kind, api_version) if is_outside else validator(kind, api_version, version)
    for error in known.iter_errors(manifest):
        yield f"{manifest['kind']} {manifest['metadata']['name']} {error.json_path}: {error.message[:200]}"
