"""Every pod meets the Pod Security Standard `restricted`, and no secret stands in a manifest."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from support.cluster.charts import ROOT, Helm, Manifest, container, variables

JOBS = sorted((ROOT / "k8s").glob("*.yaml"))
ALLOWED_VOLUMES = {"configMap", "emptyDir", "persistentVolumeClaim", "secret", "name"}


def boxes(spec: Manifest) -> list[Manifest]:
    return [*spec["containers"], *spec.get("initContainers", [])]


def check_restricted(name: str, spec: Manifest) -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards, and a read-only root on top."""
    pod = spec["securityContext"]
    assert pod["runAsNonRoot"] is True, name
    assert pod["runAsUser"] > 0
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
    assert all(set(volume) <= ALLOWED_VOLUMES for volume in spec["volumes"]), name
    for box in boxes(spec):
        security = box["securityContext"]
        assert security["allowPrivilegeEscalation"] is False, name
        assert security["readOnlyRootFilesystem"] is True, name
        assert security["capabilities"] == {"drop": ["ALL"]}, name
        assert "privileged" not in security
        assert not any("hostPort" in port for port in box.get("ports", []))


def test_every_pod_is_restricted(helm4: Helm, example: str) -> None:
    pods = helm4.template(example).pods()
    assert pods
    for name, _, spec in pods:
        check_restricted(name, spec)


def test_no_pod_has_a_token_of_the_kubernetes_api(helm4: Helm, example: str) -> None:
    rendered = helm4.template(example)
    assert all(spec["automountServiceAccountToken"] is False for _, _, spec in rendered.pods())
    assert all(account["automountServiceAccountToken"] is False for account in rendered.of("ServiceAccount"))
    given = {spec["serviceAccountName"] for _, _, spec in rendered.pods()}
    bound = {one["name"] for binding in rendered.of("RoleBinding") for one in binding["subjects"]}
    assert not given & bound
    assert not any(rendered.of(kind) for kind in ("ClusterRole", "ClusterRoleBinding"))


def test_every_container_asks_for_cpu_and_memory_and_has_a_memory_limit(helm4: Helm, example: str) -> None:
    for name, _, spec in helm4.template(example).pods():
        for box in boxes(spec):
            assert {"cpu", "memory"} <= box["resources"]["requests"].keys(), name
            assert "memory" in box["resources"]["limits"], name


def test_the_chart_makes_no_secret(helm4: Helm, example: str) -> None:
    assert helm4.template(example).of("Secret") == []


def test_a_secret_is_a_file_and_never_a_variable(helm4: Helm, example: str) -> None:
    for name, _, spec in helm4.template(example).pods():
        for box in boxes(spec):
            assert not any("secretKeyRef" in entry.get("valueFrom", {}) for entry in box.get("env", [])), name
            assert not any("secretRef" in source for source in box.get("envFrom", [])), name
        for volume in spec["volumes"]:
            if "secret" in volume:
                assert volume["secret"]["defaultMode"] == 0o440, (name, volume["name"])


def test_secrets_are_mounted_read_only(helm4: Helm, example: str) -> None:
    for name, _, spec in helm4.template(example).pods():
        secret = {volume["name"] for volume in spec["volumes"] if "secret" in volume}
        for box in boxes(spec):
            mounts = [mount for mount in box["volumeMounts"] if mount["name"] in secret]
            assert all(mount.get("readOnly") for mount in mounts), name


def test_no_argument_and_no_variable_holds_a_password(helm4: Helm, example: str) -> None:
    for name, _, spec in helm4.template(example).pods():
        for box in boxes(spec):
            said = [*box.get("args", []), *box.get("command", [])]
            values = [entry["value"] for entry in box.get("env", []) if "value" in entry]
            for text in [*said, *values]:
                assert not re.search(r"://[^/\s$]*:[^/\s$]+@", str(text)), (name, text)


def files(rendered: Any, name: str) -> dict[str, list[str]]:
    """Secrets of a pod and which of their keys it sees; [] are all."""
    (spec,) = [spec for pod, _, spec in rendered.pods() if pod == f"demo-fusery-{name}"]
    secrets = [volume["secret"] for volume in spec["volumes"] if "secret" in volume]
    return {secret["secretName"]: [item["key"] for item in secret.get("items", [])] for secret in secrets}


CLIENT_FILES = {"source-token": ["token"], "client-tls": [], "broker": ["password"], "store": ["credentials"]}


@pytest.mark.parametrize(
    ("pod", "expected"),
    [
        ("source-docs", {"source-token": ["token"], "source-tls": [], "hub": ["token"]}),
        ("worker-capture", CLIENT_FILES),
        ("broker", {"broker": ["password"]}),
        ("mlflow", {}),
        ("test", CLIENT_FILES),
    ],
)
def test_a_pod_sees_the_secrets_that_it_needs_and_no_others(
    helm4: Helm, pod: str, expected: dict[str, list[str]]
) -> None:
    assert files(helm4.template("everything"), pod) == expected


def test_without_mutual_tls_a_client_sees_no_key_of_the_servers(helm4: Helm) -> None:
    rendered = helm4.template("tiny", {"sourceAccess": {"tls": {"secret": "source-tls"}}})
    assert files(rendered, "worker-align") == {"source-tls": ["ca.crt"]}
    assert files(rendered, "source-docs") == {"source-tls": []}


@pytest.mark.parametrize(
    ("example", "url"),
    [
        ("environment", "redis://$(DEMO_FUSERY_BROKER_SERVICE_HOST):6379/0"),
        ("external", "rediss://fusery@redis.example.com:6380/0"),
    ],
)
def test_a_client_of_the_broker_has_the_password_from_a_file_and_the_address_without_it(
    helm4: Helm, example: str, url: str
) -> None:
    rendered = helm4.template(example)
    spec = rendered.one("Deployment", "worker-align")["spec"]["template"]["spec"]
    assert variables(spec)["FUSERY_BROKER_URL"] == url
    file = rendered.one("ConfigMap", "settings")["data"]["FUSERY_BROKER_PASSWORD_FILE"]
    folder, _, name = file.rpartition("/")
    (volume,) = [mount["name"] for mount in container(spec)["volumeMounts"] if mount["mountPath"] == folder]
    (secret,) = [given["secret"] for given in spec["volumes"] if given["name"] == volume]
    assert secret["items"] == [{"key": "password", "path": name}]


def test_the_authorities_of_a_broker_of_one_s_own_are_a_setting(helm4: Helm) -> None:
    rendered = helm4.template("external")
    assert rendered.one("ConfigMap", "settings")["data"]["FUSERY_BROKER_TLS_CA"].startswith("-----BEGIN CERT")


def manifests() -> Iterator[tuple[str, Manifest]]:
    for file in JOBS:
        for manifest in yaml.safe_load_all(file.read_text()):
            yield file.name, manifest


def test_every_job_is_restricted() -> None:
    jobs = [(name, manifest) for name, manifest in manifests() if manifest["kind"] == "Job"]
    assert jobs
    for name, job in jobs:
        check_restricted(name, job["spec"]["template"]["spec"])
