"""Names and labels of a run's objects: functions of the run's YAML, so that they can be found again from it.

A pod of a JobSet is called NAME-node-0-999-xxxxx and its host name must have at most 63 characters; so NAME has at
most 46.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from enum import StrEnum

from fusery import __version__
from fusery.config.run import RunConfig

_NAME_CHARACTERS, _PART_CHARACTERS = 15, 14


class Step(StrEnum):
    """A step of a run that can have a job of its own; the value is its command."""

    TRAIN = "train"
    EVALUATE = "evaluate"


class Component(StrEnum):
    """What a pod is to the release's network policies, and what its container is called."""

    RUN = "run"
    TRAINER = "trainer"
    EVALUATE = "evaluate"


def base_name(config: RunConfig) -> str:
    """The beginning of the names of all objects of the run, and its ConfigMap; at most 31 characters.

    The same YAML beside another release has other names. What only measures or places the run is not in it.
    """
    identity = json.dumps([config.digest(), config.kubernetes.full_name])
    name = config.name[:_NAME_CHARACTERS].rstrip("-")
    return f"fusery-{name}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"


def run_name(config: RunConfig) -> str:
    """The Job that carries the run out."""
    return f"{base_name(config)}-run"


def step_name(config: RunConfig, step: Step, arguments: Sequence[str] = ()) -> str:
    """The job of a step with its arguments: `--clm-only` is another one than none."""
    part = "-".join([step.value, *(argument.lstrip("-") for argument in arguments)])
    if len(part) > _PART_CHARACTERS:
        part = f"{step.value}-{hashlib.sha256(part.encode()).hexdigest()[:5]}"
    return f"{base_name(config)}-{part}"


def labels(config: RunConfig, component: Component) -> dict[str, str]:
    """Of every object of a run and of its pods; the release's network policies know its pods by the first three."""
    return {
        "app.kubernetes.io/name": "fusery",
        "app.kubernetes.io/instance": config.kubernetes.release,
        "app.kubernetes.io/component": component.value,
        "app.kubernetes.io/part-of": "fusery",
        "app.kubernetes.io/version": __version__,
        "fusery/run": base_name(config),
    }
