"""Jobs: one pod, several with torchrun, a JobSet, a TrainJob; what ends them and what does not.

Several processes are started by `fusery.cli.steps.training_node` in every pod. They stand and fall together: when one
ends, the others end, all pods are made anew, meet at the first one, and go on from the newest checkpoint.
"""

from __future__ import annotations

import signal
from dataclasses import replace
from typing import Any

from fusery.cluster.manifests.names import Component
from fusery.cluster.manifests.pods import Manifest, Part, pod_template, service_host
from fusery.config.kubernetes import Addressing, TrainerKind
from fusery.config.run import RunConfig
from fusery.runtime.errors import Degraded, GateFailed, Interrupted, InvalidInput

RENDEZVOUS_PORT = 29500
TERMINATED = 128 + signal.SIGTERM
"""The exit code of a training that wrote its checkpoint, and of what SIGTERM ended before it could say more."""
_ENDS = {
    Component.RUN: (InvalidInput.exit_code, Degraded.exit_code, GateFailed.exit_code),
    Component.TRAINER: (InvalidInput.exit_code,),
    Component.EVALUATE: (InvalidInput.exit_code,),
}
"""Exit codes after which another pod would end in the same way."""
_STOPS = (Interrupted.exit_code, TERMINATED)
"""Exit codes of what was asked to stop: no failure, another pod goes on."""
_EVALUATE_GRACE_S = 30
_MEETING_S = 3600
"""Nodes wait as long for one another: some are scheduled later, or pull the image first."""
_NODE, _NODE_INDEX = "node", "batch.kubernetes.io/job-completion-index"


def evaluation_objects(config: RunConfig, metadata: Manifest, args: tuple[str, ...]) -> tuple[Manifest, ...]:
    """The Job of an evaluation. What is measured stays measured, so it is stopped without delay."""
    spec = config.kubernetes.evaluate
    part = Part(Component.EVALUATE, spec, spec.gpus, _EVALUATE_GRACE_S, (*args, *_THREADS), env=_cpus("evaluate"))
    return (job(config, metadata, part),)


def training_objects(config: RunConfig, metadata: Manifest, args: tuple[str, ...]) -> tuple[Manifest, ...]:
    """The objects of a training, by kind; the last one is the job."""
    trainer = config.kubernetes.trainer
    if trainer.kind is TrainerKind.TRAINJOB:
        return _train_job(config, metadata, args)
    if trainer.kind is TrainerKind.JOBSET:
        return (_job_set(config, metadata, args),)
    if trainer.nodes > 1:
        service = _meeting_place(config, metadata)
        host = service_host(config.kubernetes, metadata["name"])
        # A headless Service gives every pod a name of its own; else the Service's address is the first pod's.
        first = f"{metadata['name']}-0.{host}" if config.kubernetes.addressing is Addressing.DNS else host
        part = _trainer(config, args, first)
        spec = _indexed(config, part, retries=config.kubernetes.retries * trainer.nodes)
        spec["template"]["spec"]["subdomain"] = metadata["name"]
        return service, _job(config, metadata, spec, trainer.queue)
    return (job(config, metadata, _trainer(config, args, None)),)


def job(config: RunConfig, metadata: Manifest, part: Part) -> Manifest:
    """A Job of one pod."""
    spec = {"backoffLimit": config.kubernetes.retries, **_outcome(part), "template": pod_template(config, part)}
    return _job(config, metadata, spec, part.spec.queue)


def _job(config: RunConfig, metadata: Manifest, spec: Manifest, queue: str | None) -> Manifest:
    spec = {"ttlSecondsAfterFinished": config.kubernetes.ttl_s, **spec}
    return _queued("batch/v1", "Job", metadata, queue, spec)


def _indexed(config: RunConfig, part: Part, retries: int) -> Manifest:
    nodes = config.kubernetes.trainer.nodes
    return {
        "completionMode": "Indexed",
        "completions": nodes,
        "parallelism": nodes,
        "backoffLimit": retries,
        **_outcome(part),
        "template": pod_template(config, part),
    }


def _outcome(part: Part) -> Manifest:
    """What a pod's end means for its Job; the first rule that fits decides."""

    def codes(action: str, values: tuple[int, ...]) -> Manifest:
        chosen = {"containerName": part.container_name, "operator": "In", "values": sorted(values)}
        return {"action": action, "onExitCodes": chosen}

    drained = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    rules = [drained, codes("FailJob", _ENDS[part.component]), codes("Ignore", _STOPS)]
    return {"podFailurePolicy": {"rules": rules}}


def _trainer(config: RunConfig, args: tuple[str, ...], first: str | None, container: str = "") -> Part:
    """The pod of a training. `first`: where the first node is reached; None: there is one alone."""
    kubernetes, trainer = config.kubernetes, config.kubernetes.trainer
    part = Part(Component.TRAINER, trainer, trainer.gpus_per_node, kubernetes.grace_s, args, container=container)
    if trainer.processes == 1:
        return replace(part, args=(*args, *_THREADS), env=_cpus(part.container_name))
    options = ["--standalone"]
    env: dict[str, Any] = {}
    if first is not None:
        env = {"MASTER_ADDR": first, "NODE_RANK": {"fieldRef": {"fieldPath": f"metadata.annotations['{_NODE_INDEX}']"}}}
        options = [f"--nnodes={trainer.nodes}", "--node-rank=$(NODE_RANK)", "--master-addr=$(MASTER_ADDR)"]
        options += [f"--master-port={RENDEZVOUS_PORT}", f"--rdzv-conf=timeout={_MEETING_S}"]
    return _torchrun(config, part, [*options, f"--nproc-per-node={max(1, trainer.gpus_per_node)}"], env)


def _torchrun(config: RunConfig, part: Part, options: list[str], env: dict[str, Any]) -> Part:
    # The rest of the grace is for torchrun itself and for the pod's end.
    patience = f"--shutdown-timeout={config.kubernetes.grace_s - 15}"
    sharded = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"} if config.kubernetes.trainer.sharded else {}
    command = ("python3", "-m", "fusery.cli.steps.training_node")
    args = (*options, patience, "-m", "fusery", *part.args)
    if part.gpus == 0:
        # An image may show a node's GPUs to pods that asked for none.
        env = {**env, "ACCELERATE_USE_CPU": "true", **_cpus(part.container_name)}
        args = (*args, *_THREADS)
    return replace(part, command=command, args=args, env={**env, **sharded})


_THREADS = ("--threads", "$(CPUS)")


def _cpus(container: str) -> dict[str, Any]:
    """The CPU limit as a number of threads; without a limit it is what the node has."""
    field = {"containerName": container, "resource": "limits.cpu", "divisor": "1"}
    return {"CPUS": {"resourceFieldRef": field}}


def _meeting_place(config: RunConfig, metadata: Manifest) -> Manifest:
    """The Service by which the nodes of a training find the first one, before any of them is ready."""
    selector = {"batch.kubernetes.io/job-name": metadata["name"]}
    spec: Manifest = {
        "publishNotReadyAddresses": True,
        "selector": selector,
        "ports": [{"name": "rendezvous", "port": RENDEZVOUS_PORT, "targetPort": RENDEZVOUS_PORT, "protocol": "TCP"}],
    }
    if config.kubernetes.addressing is Addressing.DNS:
        spec["clusterIP"] = "None"
    else:
        selector[_NODE_INDEX] = "0"
    return {"apiVersion": "v1", "kind": "Service", "metadata": dict(metadata), "spec": spec}


def _job_set(config: RunConfig, metadata: Manifest, args: tuple[str, ...]) -> Manifest:
    trainer = config.kubernetes.trainer
    part = _trainer(config, args, f"{metadata['name']}-{_NODE}-0-0.{metadata['name']}" if trainer.nodes > 1 else None)
    spec = {"ttlSecondsAfterFinished": config.kubernetes.ttl_s, **_set(config, part)}
    return _queued("jobset.x-k8s.io/v1alpha2", "JobSet", metadata, trainer.queue, spec)


def _set(config: RunConfig, part: Part, labels: dict[str, str] | None = None) -> Manifest:
    """The spec of a JobSet with one Job. A pod that fails ends the Job, and all nodes are made anew."""
    hopeless = {"name": "hopeless", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    template: Manifest = {"spec": _indexed(config, part, retries=0)}
    if labels is not None:
        template["metadata"] = {"labels": labels}
    return {
        "failurePolicy": {"maxRestarts": config.kubernetes.retries, "rules": [hopeless]},
        "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
        "replicatedJobs": [{"name": _NODE, "replicas": 1, "template": template}],
    }


def _train_job(config: RunConfig, metadata: Manifest, args: tuple[str, ...]) -> tuple[Manifest, ...]:
    """A TrainingRuntime with the pod, and the TrainJob that says on how many nodes; Kubeflow adds where they meet."""
    trainer, api = config.kubernetes.trainer, "trainer.kubeflow.org/v1alpha1"
    base = _trainer(config, args, None, container=_NODE)
    if trainer.processes > 1:
        base = _torchrun(config, replace(base, args=args), [], {})
    spec = _set(config, base, {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"})
    runtime = {
        "apiVersion": api,
        "kind": "TrainingRuntime",
        "metadata": dict(metadata),
        "spec": {"mlPolicy": {"numNodes": trainer.nodes, "torch": {}}, "template": {"spec": spec}},
    }
    reference = {"apiGroup": "trainer.kubeflow.org", "kind": "TrainingRuntime", "name": metadata["name"]}
    spec = {
        "runtimeRef": reference,
        "trainer": {"numNodes": trainer.nodes, "numProcPerNode": max(1, trainer.gpus_per_node)},
    }
    return runtime, _queued(api, "TrainJob", metadata, trainer.queue, spec)


def _queued(api: str, kind: str, metadata: Manifest, queue: str | None, spec: Manifest) -> Manifest:
    """The job as the cluster is given it: with a queue it starts suspended, until Kueue admits it."""
    if queue is not None:
        metadata = {**metadata, "labels": {**metadata["labels"], "kueue.x-k8s.io/queue-name": queue}}
        spec = {"suspend": True, **spec}
    return {"apiVersion": api, "kind": kind, "metadata": dict(metadata), "spec": spec}
