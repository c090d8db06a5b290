"""The section `kubernetes` of a run's YAML: where in a cluster its jobs run, and with what.

Placement only: it is left out of the run's digest, so a run that moves into a cluster keeps its plan and its artefacts.
Names of Secrets stand here, values never: this text lies in a ConfigMap.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from fusery import __version__
from fusery.config.section import Section


def _as_text(value: Any) -> Any:
    """YAML reads `cpu: 2` as a number; the API takes text for every quantity."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


Label = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
ObjectName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
Quantity = Annotated[
    str,
    BeforeValidator(_as_text),
    Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$", max_length=32),
]
_FULL_NAME = r"^[a-z]([a-z0-9-]{0,32}[a-z0-9])?$"
VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class Addressing(StrEnum):
    """How pods find Services, as in the chart's value of the same name."""

    DNS = "dns"
    ENVIRONMENT = "environment"
    """By the variables that Kubernetes sets for Services: for clusters without DNS."""


class StepKind(StrEnum):
    """Where a step runs."""

    RUN = "run"
    """In the pod of the run, as on one machine."""
    JOB = "job"
    """In a Job of its own, which the run creates; the GPU is held as long as the step takes, and no longer."""


class TrainerKind(StrEnum):
    """Where and as what the training runs."""

    RUN = "run"
    JOB = "job"
    """A Job; an Indexed one with torchrun for several nodes."""
    JOBSET = "jobset"
    """A JobSet (jobset.x-k8s.io), which starts all nodes anew when one fails."""
    TRAINJOB = "trainjob"
    """A TrainJob of Kubeflow Trainer (trainer.kubeflow.org), with a TrainingRuntime of its own."""


class Toleration(Section):
    """A taint that is tolerated, as in a pod."""

    key: str | None = None
    operator: Literal["Exists", "Equal"] = "Equal"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    tolerationSeconds: int | None = None


class Resources(Section):
    """CPU, memory and disk of a container, as in a pod; GPUs stand under `gpus`."""

    requests: dict[str, Quantity] = Field(default_factory=dict)
    limits: dict[str, Quantity] = Field(default_factory=dict)


class PodsSpec(Section):
    """What the pods of a job need, and which nodes they may run on."""

    image: str | None = Field(default=None, min_length=1)
    """Replaces the image of this job; None: kubernetes.image, or with GPUs kubernetes.gpu_image."""
    resources: Resources = Resources(requests={"cpu": "2", "memory": "8Gi"}, limits={"memory": "16Gi"})
    node_selector: dict[str, str] = Field(default_factory=dict)
    """Labels of the nodes."""
    tolerations: tuple[Toleration, ...] = ()
    runtime_class: ObjectName | None = None
    """Such as nvidia, where the cluster's default runtime hands no GPU in."""
    priority_class: ObjectName | None = None
    queue: Label | None = None
    """A LocalQueue of Kueue: the job starts suspended, until Kueue admits it."""
    shared_memory: Quantity | None = None
    """Size of /dev/shm; None: 1Gi with several GPUs in a pod, else the container runtime's 64 MiB."""
    gpu_resource: str = "nvidia.com/gpu"
    env: dict[VariableName, str] = Field(default_factory=dict)
    """More variables of the environment, such as NCCL_SOCKET_IFNAME. No secrets: this text lies in a ConfigMap."""

    @field_validator("env")
    @classmethod
    def _holds_no_secret(cls, env: dict[str, str]) -> dict[str, str]:
        suspect = [name for name in env if re.search(r"PASSWORD|SECRET|TOKEN$|API_?KEY|ACCESS_?KEY", name.upper())]
        if suspect:
            raise ValueError(f"{suspect[0]} looks like a secret, and this text lies in a ConfigMap; mount a Secret")
        return env

    def _is_without_needs(self, what: str) -> None:
        """Refuses needs of pods that are not there: keys with another value than their default."""
        fields = type(self).model_fields.items()
        default = {name: field.get_default(call_default_factory=True) for name, field in fields}
        given = sorted(name for name in default.keys() - {"kind"} if getattr(self, name) != default[name])
        if given:
            raise ValueError(f"{', '.join(given)}: for {what}; the run's pod has its needs under kubernetes.run")


class RunPod(PodsSpec):
    """The pod of the run: it plans, hands out tasks, and does every step that has no job of its own."""

    gpus: int = Field(default=0, ge=0, le=64)
    """GPUs of the pod, for a training and an evaluation that run in it."""


class TrainerPods(PodsSpec):
    """The training."""

    kind: TrainerKind = TrainerKind.RUN
    nodes: int = Field(default=1, ge=1, le=1000)
    """Pods, each on a node of its own where the GPUs make it so; their work folder must be one (ReadWriteMany)."""
    gpus_per_node: int = Field(default=0, ge=0, le=64)
    """Processes of each pod, one a GPU; 0: one process on CPU."""
    sharded: bool = False
    """Split weights, gradients and moments over the processes (FSDP 2)."""

    @property
    def processes(self) -> int:
        """Of the whole training."""
        return self.nodes * max(1, self.gpus_per_node)

    @model_validator(mode="after")
    def _fits_its_kind(self) -> TrainerPods:
        if self.kind is TrainerKind.RUN:
            self._is_without_needs("a training with pods of its own (kind: job, jobset or trainjob)")
        if self.sharded and self.processes == 1:
            raise ValueError("sharded: needs several processes; give nodes or gpus_per_node over 1, or leave it out")
        return self


class EvaluatePods(PodsSpec):
    """The evaluation."""

    kind: StepKind = StepKind.RUN
    gpus: int = Field(default=0, ge=0, le=64)

    @model_validator(mode="after")
    def _fits_its_kind(self) -> EvaluatePods:
        if self.kind is StepKind.RUN:
            self._is_without_needs("an evaluation with a pod of its own (kind: job)")
        return self


class StoreVolume(Section):
    """How pods reach the store of the release; its address is in the release's settings."""

    volume: bool = True
    """Off for a release whose store.url is a bucket; then `work_claim` must be given."""
    claim: ObjectName | None = None
    """The volume claim, mounted at /store; None: that of the release."""
    credentials_secret: ObjectName | None = None
    """For a bucket: the Secret with the key `credentials`; None: what the service account is given."""


class ModelsVolume(Section):
    """How pods reach models."""

    volume: bool = True
    """Off for a release that keeps no models on a volume."""
    claim: ObjectName | None = None
    """The volume claim, mounted read-only at /models; None: that of the release."""
    offline: bool = True
    """Take Hub ids from what the sources downloaded to the volume. Off: ask the Hub, for corpora hf:… and data of
    tasks; the release's network policies must let it through."""


class SourceAccess(Section):
    """The Secrets of the release's `sourceAccess`, mounted as files into the run's pod."""

    token_secret: ObjectName | None = None
    tls_secret: ObjectName | None = None
    """With ca.crt, and with tls.crt and tls.key for `mutual`."""
    mutual: bool = False


class KubernetesSpec(Section):
    """A run in a cluster, beside a release of the chart. Decides no byte: in no digest."""

    namespace: Label | None = None
    """None: that of the kubectl command or of its context."""
    release: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,51}[a-z0-9])?$")] = "fusery"
    """Name of the release, as in helm install NAME."""
    fullname: Annotated[str, Field(pattern=_FULL_NAME)] | None = None
    """What the names of the release's objects begin with; None: its name, with -fusery unless it has it in it."""
    addressing: Addressing = Addressing.DNS
    image: str = Field(default=f"fusery:{__version__}", min_length=1)
    gpu_image: str | None = Field(default=None, min_length=1)
    """For pods with GPUs; None: the image with -gpu after its tag."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    image_pull_secrets: tuple[ObjectName, ...] = ()
    service_account: ObjectName | None = None
    """Of every pod that speaks with no Kubernetes API; None: that of the release."""
    run_service_account: ObjectName | None = None
    """Of the run's pod where it creates jobs, the only one with a token; None: RELEASE-run, which the chart makes."""
    retries: int = Field(default=4, ge=0, le=100)
    """Failures of a pod that are followed by another one."""
    grace_s: int = Field(default=300, ge=30, le=86_400)
    """For a pod that is stopped: the step at hand and a checkpoint."""
    ttl_s: int = Field(default=604_800, ge=60)
    """A finished job stays as long, to be followed; then the cluster deletes it. What it made stays."""
    user: int = Field(default=10001, ge=1)
    """The release's security.runAsUser."""
    fs_group: int = Field(default=10001, ge=1)
    """The release's security.fsGroup."""
    folder: str | None = Field(default=None, pattern=r"^/")
    """What relative paths of this file are relative to; None: /store, or /work where the store is a bucket."""
    store: StoreVolume = StoreVolume()
    work_claim: ObjectName | None = None
    """A volume claim for checkpoints, models and reports, mounted at /work; None: they lie beside the store."""
    models: ModelsVolume = ModelsVolume()
    broker_password_secret: ObjectName | None = None
    """The release's broker.existingSecret."""
    source_access: SourceAccess = SourceAccess()
    run: RunPod = RunPod()
    trainer: TrainerPods = TrainerPods()
    evaluate: EvaluatePods = EvaluatePods()

    @model_validator(mode="after")
    def _checkpoints_have_a_place(self) -> KubernetesSpec:
        if not self.store.volume and self.work_claim is None:
            raise ValueError(
                "work_claim: missing; a store in a bucket holds no checkpoints, so name a volume claim for them "
                "(ReadWriteMany where a training has pods of its own)"
            )
        if self.store.volume and self.store.credentials_secret is not None:
            raise ValueError(
                "store.credentials_secret: goes with store.volume: false, a release whose store is a bucket"
            )
        return self

    @model_validator(mode="after")
    def _is_addressable(self) -> KubernetesSpec:
        needs_dns = self.trainer.kind in (TrainerKind.JOBSET, TrainerKind.TRAINJOB)
        if self.addressing is Addressing.ENVIRONMENT and needs_dns and self.trainer.nodes > 1:
            raise ValueError(
                f"trainer.kind: {self.trainer.kind.value} finds its nodes by DNS, which addressing: environment says "
                "is not there; take kind: job"
            )
        return self

    @model_validator(mode="after")
    def _names_what_it_refers_to(self) -> KubernetesSpec:
        if not re.fullmatch(_FULL_NAME, self.full_name):
            raise ValueError(
                f"fullname: missing; the release {self.release!r} shortens the names of its objects: write what those "
                "that helm install prints begin with"
            )
        pods = (
            (self.run, self.run.gpus),
            (self.trainer, self.trainer.gpus_per_node),
            (self.evaluate, self.evaluate.gpus),
        )
        asks = any(gpus and spec.image is None for spec, gpus in pods)
        if asks and self.gpu_image is None and ("@" in self.image or ":" not in self.image.rpartition("/")[2]):
            raise ValueError(f"gpu_image: missing; the image {self.image!r} has no tag that -gpu could follow")
        return self

    @property
    def launches_jobs(self) -> bool:
        """Whether the run creates jobs, for which its pod needs a token of the Kubernetes API."""
        return self.trainer.kind is not TrainerKind.RUN or self.evaluate.kind is not StepKind.RUN

    @property
    def full_name(self) -> str:
        """`fullname`, or what the chart makes of a short release's name."""
        return self.fullname or (self.release if "fusery" in self.release else f"{self.release}-fusery")

    @property
    def home(self) -> str:
        """The folder in the pods that relative paths of the run's YAML are relative to."""
        return self.folder or ("/store" if self.store.volume else "/work")
