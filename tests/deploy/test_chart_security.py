"""Every pod meets the Pod Security Standard `restricted`, and no secret stands in a manifest."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from charts import ROOT, Helm, Manifest, container, variables

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
    assert not any(rendered.of(kind) for kind in ("Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"))


def test_every_container_asks_for_cpu_and_memory_and_has_a_memory_limit(helm4: Helm, example: str) -> None:
    for name, _, spec in helm4.template(example).pods():
        for box in boxes(spec):
            assert {"cpu", "memory"} <= box["resources"]["requests"].keys(), name
            assert "memory" in box["resources"]["limits"], name


def test_the_chart_makes_no_secret(helm4: Helm, example: str) -> None:
    assert helm4.template(example).of("Secret") == []


def test_a_secret_is_a_file_and_only_the_brokers_address_a_variable(helm4: Helm, example: str) -> None:
    """The broker's client reads its password from the address alone."""
    for name, _, spec in helm4.template(example).pods():
        for box in boxes(spec):
            taken = [entry["name"] for entry in box.get("env", []) if "secretKeyRef" in entry.get("valueFrom", {})]
            assert set(taken) <= {"FUSERY_BROKER_URL", "BROKER_PASSWORD"}, name
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


@pytest.mark.parametrize(
    ("pod", "expected"),
    [
        ("source-docs", {"source-token": ["token"], "source-tls": [], "hub": ["token"]}),
        ("worker-capture", {"source-token": ["token"], "client-tls": [], "store": ["credentials"]}),
        ("broker", {"broker": ["password"]}),
        ("mlflow", {}),
        ("test", {"source-token": ["token"], "client-tls": [], "store": ["credentials"]}),
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


def test_the_chart_s_broker_takes_its_password_from_a_file_and_clients_from_its_secret(helm4: Helm) -> None:
    rendered = helm4.template("environment")
    script = container(rendered.one("Deployment", "broker")["spec"]["template"]["spec"])["args"][0]
    assert "requirepass" in script
    assert "/etc/fusery/broker-password/password" in script
    given = variables(rendered.one("Deployment", "worker-align")["spec"]["template"]["spec"])
    assert given["BROKER_PASSWORD"] == {"secretKeyRef": {"name": "broker", "key": "password"}}
    assert given["FUSERY_BROKER_URL"] == "redis://:$(BROKER_PASSWORD)@$(DEMO_FUSERY_BROKER_SERVICE_HOST):6379/0"


def test_an_external_broker_s_address_comes_whole_from_its_secret(helm4: Helm) -> None:
    given = variables(helm4.template("external").one("Deployment", "worker-align")["spec"]["template"]["spec"])
    assert given["FUSERY_BROKER_URL"] == {"secretKeyRef": {"name": "redis", "key": "url"}}


def manifests() -> Iterator[tuple[str, Manifest]]:
    for file in JOBS:
        for manifest in yaml.safe_load_all(file.read_text()):
            yield file.name, manifest


def test_every_job_is_restricted() -> None:
    jobs = [(name, manifest) for name, manifest in manifests() if manifest["kind"] == "Job"]
    assert jobs
    for name, job in jobs:
        check_restricted(name, job["spec"]["template"]["spec"])
