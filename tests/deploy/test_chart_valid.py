"""What the chart renders is valid for every supported Kubernetes, whichever Helm renders it."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from support.cluster.api_schemas import KUBERNETES, OUTSIDE, WITH_POD_FAILURE_POLICY, faults
from support.cluster.charts import ROOT, TOOLS, Helm

JOBS = sorted((ROOT / "k8s").glob("*.yaml"))


@pytest.mark.parametrize("version", KUBERNETES)
def test_an_example_is_valid_for_kubernetes(helm4: Helm, example: str, version: str) -> None:
    assert [fault for manifest in helm4.template(example).manifests for fault in faults(manifest, version)] == []


@pytest.mark.parametrize("version", WITH_POD_FAILURE_POLICY)
@pytest.mark.parametrize("file", JOBS, ids=[file.name for file in JOBS])
def test_a_job_is_valid_for_kubernetes(file: Any, version: str) -> None:
    manifests = list(yaml.safe_load_all(file.read_text()))
    assert [fault for manifest in manifests for fault in faults(manifest, version)] == []


def test_both_majors_print_the_same(helm4: Helm, example: str) -> None:
    helm3 = Helm(TOOLS / "helm3")
    assert helm4.template(example).manifests == helm3.template(example).manifests


def test_the_chart_passes_the_linter(helm: Helm, example: str) -> None:
    done = helm.run("lint", "--strict", "helm/fusery", "--values", f"helm/fusery/ci/{example}-values.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_validator_finds_a_key_that_the_api_does_not_know() -> None:
    manifest = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": {"port": 1}}
    assert any("port" in fault for fault in faults(manifest, KUBERNETES[-1]))


@pytest.mark.parametrize(("api_version", "kind"), sorted(OUTSIDE))
def test_the_schema_of_another_project_finds_a_key_that_it_does_not_know(api_version: str, kind: str) -> None:
    manifest = {"apiVersion": api_version, "kind": kind, "metadata": {"name": "x"}, "spec": {"nonsense": 1}}
    assert any("nonsense" in fault for fault in faults(manifest, KUBERNETES[-1]))


def test_no_object_is_rendered_twice(helm4: Helm, example: str) -> None:
    names = [(manifest["kind"], manifest["metadata"]["name"]) for manifest in helm4.template(example).manifests]
    assert len(set(names)) == len(names)


def test_no_variable_mount_or_volume_stands_twice_in_a_pod(helm4: Helm, example: str) -> None:
    # Server-side apply, the default of Helm 4, refuses them.
    for name, _, spec in helm4.template(example).pods():
        lists = [spec["volumes"], *(box.get("env", []) for box in spec["containers"])]
        paths = [[{"name": mount["mountPath"]} for mount in box["volumeMounts"]] for box in spec["containers"]]
        for entries in [*lists, *paths]:
            names = [entry["name"] for entry in entries]
            assert len(set(names)) == len(names), (name, names)


def test_every_mount_has_its_volume(helm4: Helm, example: str) -> None:
    for name, _, spec in helm4.template(example).pods():
        volumes = {volume["name"] for volume in spec["volumes"]}
        boxes = [*spec["containers"], *spec.get("initContainers", [])]
        mounted = {mount["name"] for box in boxes for mount in box["volumeMounts"]}
        assert mounted == volumes, name
