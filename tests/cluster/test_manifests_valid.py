"""Every placement of a run is valid for every Kubernetes whose Jobs know what exit codes mean."""

from __future__ import annotations

from typing import Any

import pytest

from support.cluster.api_schemas import WITH_POD_FAILURE_POLICY, faults
from support.cluster.cluster_runs import PLACEMENTS, configured, jobs, objects


@pytest.mark.parametrize("placement", PLACEMENTS.values(), ids=PLACEMENTS)
def test_the_objects_of_a_run_are_valid_for_the_newest_kubernetes(placement: dict[str, Any]) -> None:
    made = objects(configured(placement))
    assert [fault for manifest in made for fault in faults(manifest, WITH_POD_FAILURE_POLICY[-1])] == []


@pytest.mark.parametrize("version", WITH_POD_FAILURE_POLICY)
@pytest.mark.parametrize("name", ["evaluate", "trainer nodes with secrets"])
def test_the_objects_of_a_run_are_valid_for_every_kubernetes(name: str, version: str) -> None:
    placement = PLACEMENTS[name]
    made = objects(configured(placement))
    assert [fault for manifest in made for fault in faults(manifest, version)] == []


@pytest.mark.parametrize("kind", ["jobset", "trainjob"])
def test_the_job_inside_another_project_s_object_is_valid_too(kind: str) -> None:
    placement = {"trainer": {"kind": kind, "nodes": 2, "gpus_per_node": 2}}
    for spec in jobs(objects(configured(placement))):
        whole = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "inside"}, "spec": spec}
        assert list(faults(whole, WITH_POD_FAILURE_POLICY[-1])) == []


def test_a_job_with_a_key_that_the_api_does_not_know_is_found() -> None:
    job = objects(configured())[-1]
    job["spec"]["template"]["spec"]["gpus"] = 1
    assert any("gpus" in fault for fault in faults(job, WITH_POD_FAILURE_POLICY[-1]))
