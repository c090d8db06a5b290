"""The jobs of k8s/ fit a release of the chart that is called fusery."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from fusery.config.run import RunConfig
from support.cluster.charts import ROOT, Helm, Manifest, Rendered, container, variables

RUN = ROOT / "k8s" / "run.yaml"


@pytest.fixture(scope="module")
def manifests() -> dict[str, Manifest]:
    return {manifest["kind"]: manifest for manifest in yaml.safe_load_all(RUN.read_text())}


@pytest.fixture
def release(helm4: Helm) -> Rendered:
    return helm4.template("tiny", release="fusery")


def names(rendered: Rendered, kind: str) -> set[str]:
    return {manifest["metadata"]["name"] for manifest in rendered.of(kind)}


def pod(manifests: dict[str, Manifest]) -> Manifest:
    template: Manifest = manifests["Job"]["spec"]["template"]
    return template


def test_the_run_s_yaml_is_valid_and_its_text_lies_on_a_mounted_volume(manifests: dict[str, Manifest]) -> None:
    content = yaml.safe_load(manifests["ConfigMap"]["data"]["run.yaml"])
    RunConfig.model_validate(content)
    mounts = tuple(mount["mountPath"] for mount in container(pod(manifests)["spec"])["volumeMounts"])
    paths = [Path(part["path"]) for part in content["corpus"]["train"] + content["corpus"]["held_out"]]
    models = [Path(content["target"]["model"]), *(Path(source["model"]) for source in content["sources"])]
    assert all(str(path).startswith(mounts) for path in paths + models)


def test_the_run_s_addresses_and_models_are_those_of_the_release(
    manifests: dict[str, Manifest], release: Rendered
) -> None:
    content = yaml.safe_load(manifests["ConfigMap"]["data"]["run.yaml"])
    services = names(release, "Service")
    for source in content["sources"]:
        assert source["address"].removeprefix("dns:///").removesuffix(":50051") in services
    served = yaml.safe_load((ROOT / "helm/fusery/ci/tiny-values.yaml").read_text())["sources"]
    assert {source["name"]: source["model"] for source in content["sources"]} == {
        name: source["model"] for name, source in served.items()
    }


def test_a_job_uses_objects_that_the_release_has(manifests: dict[str, Manifest], release: Rendered) -> None:
    spec = pod(manifests)["spec"]
    claims = {v["persistentVolumeClaim"]["claimName"] for v in spec["volumes"] if "persistentVolumeClaim" in v}
    assert claims <= names(release, "PersistentVolumeClaim")
    assert container(spec)["envFrom"] == [{"configMapRef": {"name": "fusery-settings"}}]
    assert "fusery-settings" in names(release, "ConfigMap")
    assert spec["serviceAccountName"] in names(release, "ServiceAccount")


def test_a_job_speaks_with_broker_and_mlflow_as_the_release_s_own_pods(
    manifests: dict[str, Manifest], release: Rendered
) -> None:
    given = variables(pod(manifests)["spec"])
    (test,) = release.of("Pod")
    expected = variables(test["spec"])
    short = ".ml.svc.cluster.local"
    for name in ("FUSERY_BROKER_URL", "FUSERY_TRACKING_URI"):
        assert given[name] == expected[name].replace(short, "")


def test_a_job_belongs_to_the_release_s_network_policies(manifests: dict[str, Manifest], release: Rendered) -> None:
    given: Any = pod(manifests)["metadata"]["labels"]
    (deny,) = [policy for policy in release.of("NetworkPolicy") if policy["metadata"]["name"] == "fusery-deny"]
    assert deny["spec"]["podSelector"]["matchLabels"].items() <= given.items()
    assert given["app.kubernetes.io/component"] == "run"


def test_an_exit_code_that_no_retry_mends_ends_the_job(manifests: dict[str, Manifest]) -> None:
    rules = manifests["Job"]["spec"]["podFailurePolicy"]["rules"]
    (codes,) = [rule["onExitCodes"]["values"] for rule in rules if rule["action"] == "FailJob"]
    assert codes == [2, 3, 4]
    assert pod(manifests)["spec"]["restartPolicy"] == "Never"
