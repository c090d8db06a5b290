"""A run as Kubernetes objects, plain data that serialises to YAML and JSON: the run's Job, and the jobs of its steps.

A job ends at once where another pod would fail in the same way, and goes on after anything else: what is done lies in
the store, and what a training did in its checkpoints. The same run has the same names, so nothing is started twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from fusery.cluster.manifests.checks import check_placement, check_size
from fusery.cluster.manifests.names import Component, Step, base_name, labels, run_name, step_name
from fusery.cluster.manifests.pods import Manifest, Part, command_args
from fusery.cluster.manifests.training import evaluation_objects, job, training_objects
from fusery.config.run import RunConfig

TEXT_DIGEST = "fusery/run-file-sha256"
"""The annotation by which two files of one name are told apart."""


def config_map(config: RunConfig, text: str) -> Manifest:
    """The run's YAML, as every pod of the run reads it.

    Raises:
        TooLarge: it is larger than a ConfigMap can be.
    """
    check_size(text)
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            **_metadata(config, base_name(config), Component.RUN),
            "annotations": {TEXT_DIGEST: hashlib.sha256(text.encode()).hexdigest()},
        },
        "data": {"run.yaml": text},
    }


def run_objects(config: RunConfig, text: str, arguments: Sequence[str] = ()) -> tuple[Manifest, ...]:
    """The run's ConfigMap and its Job, in the order in which they are created.

    `text`: the YAML that says `config`; `arguments`: of the command `run`, such as --until.

    Raises:
        ConfigError: the run can't be carried out in a cluster as it is.
        TooLarge: the text is larger than a ConfigMap can be.
    """
    check_placement(config)
    kubernetes = config.kubernetes
    args = command_args(config, "run", *arguments)
    part = Part(Component.RUN, kubernetes.run, kubernetes.run.gpus, kubernetes.grace_s, args)
    return config_map(config, text), job(config, _metadata(config, run_name(config), Component.RUN), part)


def step_objects(
    config: RunConfig, step: Step, arguments: Sequence[str] = (), owner: Manifest | None = None
) -> tuple[Manifest, ...]:
    """The objects of a step that has a job of its own, in the order in which they are created; the last is the job.

    `arguments`: of the command `train` or `evaluate`, such as --clm-only. The run's ConfigMap must be there. `owner`: a
    reference to the run's Job; deleting that deletes the jobs of its steps, which write a checkpoint.

    Raises:
        ConfigError: the step runs in the run's own pod, or the run can't be carried out in a cluster as it is.
    """
    check_placement(config, step)
    component = Component.TRAINER if step is Step.TRAIN else Component.EVALUATE
    metadata = _metadata(config, step_name(config, step, arguments), component)
    if owner is not None:
        metadata["ownerReferences"] = [owner]
    args = command_args(config, step.value, *arguments)
    objects = training_objects if step is Step.TRAIN else evaluation_objects
    return objects(config, metadata, args)


def _metadata(config: RunConfig, name: str, component: Component) -> Manifest:
    namespace = config.kubernetes.namespace
    place = {} if namespace is None else {"namespace": namespace}
    return {"name": name, **place, "labels": labels(config, component)}
