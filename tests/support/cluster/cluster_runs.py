"""Runs for the tests of `cluster`: a configuration with every source at an address, and every way to place it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from fusery.cluster.manifests.manifests import run_objects, step_objects
from fusery.cluster.manifests.names import Step
from fusery.config.run import RunConfig
from support.cluster.charts import ROOT, Manifest

TINY = ROOT / "examples" / "tiny.yaml"
SECRETS = {"token-secret", "tls-secret", "store-secret", "broker-secret", "pull-secret"}
WITH_SECRETS = {
    "store": {"volume": False, "credentials_secret": "store-secret"},
    "work_claim": "work",
    "source_access": {"token_secret": "token-secret", "tls_secret": "tls-secret", "mutual": True},
    "broker_password_secret": "broker-secret",
    "image_pull_secrets": ["pull-secret"],
}
TRAINERS: dict[str, dict[str, Any]] = {
    "job": {"kind": "job"},
    "job with gpus": {"kind": "job", "gpus_per_node": 4, "sharded": True, "runtime_class": "nvidia", "queue": "gpus"},
    "nodes": {"kind": "job", "nodes": 3, "gpus_per_node": 1, "env": {"NCCL_DEBUG": "WARN"}},
    "nodes on cpu": {"kind": "job", "nodes": 2},
    "jobset": {"kind": "jobset", "nodes": 2, "gpus_per_node": 2, "queue": "gpus"},
    "jobset of one": {"kind": "jobset"},
    "trainjob": {"kind": "trainjob", "nodes": 2, "gpus_per_node": 8, "shared_memory": "8Gi", "queue": "gpus"},
    "trainjob of one": {"kind": "trainjob"},
}
PLACEMENTS: dict[str, dict[str, Any]] = {
    "default": {},
    "gpu": {
        "run": {"gpus": 1, "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}], "priority_class": "low"}
    },
    "secrets": WITH_SECRETS,
    "no dns": {"addressing": "environment", "trainer": {"kind": "job", "nodes": 2}, "namespace": "ml"},
    "evaluate": {"evaluate": {"kind": "job", "gpus": 1, "node_selector": {"gpu": "yes"}, "queue": "gpus"}},
    **{f"trainer {name}": {"trainer": trainer} for name, trainer in TRAINERS.items()},
    **{f"trainer {name} with secrets": {**WITH_SECRETS, "trainer": trainer} for name, trainer in TRAINERS.items()},
}


def content(kubernetes: dict[str, Any] | None = None) -> dict[str, Any]:
    """The example for one machine with the addresses of a release, and a section `kubernetes` if it is given."""
    found: dict[str, Any] = yaml.safe_load(TINY.read_text())
    for source in found["sources"]:
        source["address"] = f"dns:///fusery-source-{source['name']}:50051"
    return found if kubernetes is None else found | {"kubernetes": kubernetes}


def configured(kubernetes: dict[str, Any] | None = None, **changes: Any) -> RunConfig:
    return RunConfig.model_validate(content(kubernetes) | changes)


def objects(config: RunConfig) -> tuple[Manifest, ...]:
    """Everything that the run creates in the course of its life."""
    kinds = config.kubernetes.trainer.kind.value, config.kubernetes.evaluate.kind.value
    steps = [step for step, kind in zip((Step.TRAIN, Step.EVALUATE), kinds, strict=True) if kind != "run"]
    return (*run_objects(config, "name: tiny\n"), *(made for step in steps for made in step_objects(config, step)))


def pods(manifests: tuple[Manifest, ...]) -> list[Manifest]:
    """The templates of all pods, of whatever kind makes them."""
    return list(_templates(list(manifests)))


def jobs(manifests: tuple[Manifest, ...]) -> list[Manifest]:
    """The specs of all Jobs, also those inside a JobSet or a TrainingRuntime."""
    return list(_job_specs(list(manifests)))


def _templates(node: Any) -> Iterator[Manifest]:
    return (spec["template"] for spec in _job_specs(node))


def _job_specs(node: Any) -> Iterator[Manifest]:
    if isinstance(node, dict):
        if "podFailurePolicy" in node:
            yield node
        else:
            yield from (spec for value in node.values() for spec in _job_specs(value))
    elif isinstance(node, list):
        yield from (spec for value in node for spec in _job_specs(value))
