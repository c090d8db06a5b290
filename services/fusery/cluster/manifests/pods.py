"""The pods of a run: restricted, read-only, with the settings of the release and its secrets as files.

What stands here fits the chart (helm/fusery/templates/_pod.tpl): the same folders, the same names of the environment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fusery.cluster.manifests.names import Component, base_name, labels
from fusery.config.file import MOUNTED
from fusery.config.kubernetes import Addressing, KubernetesSpec, PodsSpec
from fusery.config.run import RunConfig

Manifest = dict[str, Any]

FILE_FOLDER = str(MOUNTED)
RUN_FILE = f"{FILE_FOLDER}/run.yaml"
_HUB_CACHE = "/models/hub/hub"
_TOKEN, _TLS, _CREDENTIALS = "/etc/fusery/source-token", "/etc/fusery/client-tls", "/etc/fusery/store"
_BROKER = "/etc/fusery/broker"


_Storage = tuple[str, Manifest, str, bool]
"""Name and source of a volume, where it is mounted, and whether it is only read."""


@dataclass(frozen=True, slots=True)
class Part:
    """One kind of pod of a run. `command`: replaces the image's entrypoint `fusery`."""

    component: Component
    spec: PodsSpec
    gpus: int
    grace_s: int
    args: tuple[str, ...]
    command: tuple[str, ...] = ()
    env: Mapping[str, Any] = field(default_factory=dict)
    container: str = ""

    @property
    def container_name(self) -> str:
        return self.container or self.component.value


def pod_template(config: RunConfig, part: Part) -> Manifest:
    """Metadata and spec of the pod."""
    return {"metadata": {"labels": labels(config, part.component)}, "spec": _pod(config, part)}


def command_args(config: RunConfig, command: str, *arguments: str) -> tuple[str, ...]:
    """The arguments of `fusery` for a command on the run's YAML in a pod."""
    return (command, RUN_FILE, "--relative-to", config.kubernetes.home, *arguments)


def service_host(kubernetes: KubernetesSpec, service: str) -> str:
    """Where a Service is reached: its name, or a reference to the variable that Kubernetes sets for it."""
    if kubernetes.addressing is Addressing.ENVIRONMENT:
        return f"$({service.upper().replace('-', '_')}_SERVICE_HOST)"
    return service


def _pod(config: RunConfig, part: Part) -> Manifest:
    kubernetes, spec = config.kubernetes, part.spec
    is_launcher = part.component is Component.RUN and kubernetes.launches_jobs
    account = kubernetes.service_account or kubernetes.full_name
    if is_launcher:
        account = kubernetes.run_service_account or f"{kubernetes.full_name}-run"
    volumes, mounts = _storage(config, part)
    return {
        "restartPolicy": "Never",
        "serviceAccountName": account,
        "automountServiceAccountToken": is_launcher,
        "enableServiceLinks": kubernetes.addressing is Addressing.ENVIRONMENT,
        "terminationGracePeriodSeconds": part.grace_s,
        **_given("imagePullSecrets", [{"name": name} for name in kubernetes.image_pull_secrets]),
        **_given("nodeSelector", dict(spec.node_selector)),
        **_given("tolerations", [toleration.model_dump(exclude_none=True) for toleration in spec.tolerations]),
        **_given("runtimeClassName", spec.runtime_class),
        **_given("priorityClassName", spec.priority_class),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": kubernetes.user,
            "runAsGroup": kubernetes.user,
            "fsGroup": kubernetes.fs_group,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(config, part, mounts)],
        "volumes": volumes,
    }


def _container(config: RunConfig, part: Part, mounts: Sequence[Manifest]) -> Manifest:
    # A GPU's request is its limit.
    gpus = {part.spec.gpu_resource: str(part.gpus)} if part.gpus else {}
    requests, limits = dict(part.spec.resources.requests), dict(part.spec.resources.limits) | gpus
    return {
        "name": part.container_name,
        "image": image(config.kubernetes, part.spec, part.gpus),
        "imagePullPolicy": config.kubernetes.image_pull_policy,
        # The end of the log of a pod that failed, for those who read its state alone.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        **_given("command", list(part.command)),
        "args": list(part.args),
        "envFrom": [{"configMapRef": {"name": f"{config.kubernetes.full_name}-settings"}}],
        "env": _environment(config, part),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "resources": {**_given("requests", requests), **_given("limits", limits)},
        "volumeMounts": list(mounts),
    }


def image(kubernetes: KubernetesSpec, spec: PodsSpec, gpus: int) -> str:
    """The image of a pod."""
    if spec.image is not None:
        return spec.image
    return (kubernetes.gpu_image or f"{kubernetes.image}-gpu") if gpus else kubernetes.image


def _environment(config: RunConfig, part: Part) -> list[Manifest]:
    """Variables by name; a part's own come first, for others may refer to them."""
    kubernetes = config.kubernetes
    values: dict[str, Any] = dict(part.env)
    # Lines that kubectl logs shows to people; collectors of logs have the release's own setting for the rest.
    values["FUSERY_LOG_FORMAT"] = "text"
    if part.component is Component.RUN:
        # A release that was installed a moment ago still loads its models.
        values["FUSERY_WAIT_S"] = "3600"
    if part.component is Component.RUN and config.services.broker_url is None:
        values["FUSERY_BROKER_URL"] = f"redis://{service_host(kubernetes, f'{kubernetes.full_name}-broker')}:6379/0"
    if config.services.tracking_uri is None and part.component is not Component.EVALUATE:
        values["FUSERY_TRACKING_URI"] = f"http://{service_host(kubernetes, f'{kubernetes.full_name}-mlflow')}:5000"
    if kubernetes.work_claim is not None:
        values["FUSERY_WORK"] = "/work"
    if kubernetes.models.volume and kubernetes.models.offline:
        values |= {"HF_HUB_CACHE": _HUB_CACHE, "HF_HUB_OFFLINE": "1"}
    values |= part.spec.env
    return [
        {"name": name, "valueFrom": value} if isinstance(value, dict) else {"name": name, "value": value}
        for name, value in values.items()
    ]


def _storage(config: RunConfig, part: Part) -> tuple[list[Manifest], list[Manifest]]:
    """The pod's volumes, and where its container has them."""
    kubernetes = config.kubernetes
    found: list[_Storage] = [
        ("tmp", {"emptyDir": {}}, "/tmp", False),
        ("run", {"configMap": {"name": base_name(config)}}, FILE_FOLDER, True),
    ]
    if kubernetes.store.volume:
        found.append(("store", _claim(kubernetes.store.claim or f"{kubernetes.full_name}-store"), "/store", False))
    if kubernetes.work_claim is not None:
        found.append(("work", _claim(kubernetes.work_claim), "/work", False))
    if kubernetes.models.volume:
        found.append(("models", _claim(kubernetes.models.claim or f"{kubernetes.full_name}-models"), "/models", True))
    found += _secrets(kubernetes, part.component)
    if (size := part.spec.shared_memory or ("1Gi" if part.gpus > 1 else None)) is not None:
        found.append(("shared-memory", {"emptyDir": {"medium": "Memory", "sizeLimit": size}}, "/dev/shm", False))
    volumes = [{"name": name, **source} for name, source, _, _ in found]
    mounts = [{"name": name, "mountPath": path, **_given("readOnly", is_read)} for name, _, path, is_read in found]
    return volumes, mounts


def _secrets(kubernetes: KubernetesSpec, component: Component) -> list[_Storage]:
    """Files of Secrets; a training and an evaluation speak with neither broker nor sources, and get theirs not."""
    found: list[_Storage] = []
    if (secret := kubernetes.store.credentials_secret) is not None:
        found.append(("store-credentials", _secret(secret, "credentials"), _CREDENTIALS, True))
    if component is not Component.RUN:
        return found
    access = kubernetes.source_access
    if access.token_secret is not None:
        found.append(("source-token", _secret(access.token_secret, "token"), _TOKEN, True))
    if access.tls_secret is not None:
        keys = ("ca.crt", "tls.crt", "tls.key") if access.mutual else ("ca.crt",)
        found.append(("client-tls", _secret(access.tls_secret, *keys), _TLS, True))
    if kubernetes.broker_password_secret is not None:
        found.append(("broker-password", _secret(kubernetes.broker_password_secret, "password"), _BROKER, True))
    return found


def _claim(name: str) -> Manifest:
    return {"persistentVolumeClaim": {"claimName": name}}


def _secret(name: str, *keys: str) -> Manifest:
    # 0440: the group is the pod's fsGroup.
    items = [{"key": key, "path": key} for key in keys]
    return {"secret": {"secretName": name, "defaultMode": 0o440, "items": items}}


def _given(key: str, value: Any) -> Manifest:
    return {key: value} if value else {}
