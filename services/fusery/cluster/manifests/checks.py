"""Finds what keeps a run that works on one machine out of a cluster."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from fusery.cluster.manifests.names import Step
from fusery.config.kubernetes import Addressing, KubernetesSpec, StepKind, TrainerKind
from fusery.config.run import RunConfig, SourceSpec
from fusery.registry.redaction import has_secret
from fusery.registry.tracking import SQLITE
from fusery.runtime.errors import ConfigError, TooLarge

_CONFIG_MAP_BYTES = 1_048_576
_ROOM_BYTES = 4096
"""For keys, labels and what the API adds."""
_LOOPBACK = re.compile(r"(^|,|/)\s*(localhost|127\.[0-9.]+|\[::1\]):")
_WORKING_FOLDER = "/tmp"
"""Of the image, gone with the pod."""


def check_size(text: str) -> None:
    """Returns if the run's YAML fits into a ConfigMap.

    Raises:
        TooLarge: it does not.
    """
    size = len(text.encode())
    if size > _CONFIG_MAP_BYTES - _ROOM_BYTES:
        raise TooLarge(
            f"the run's YAML has {size:,} bytes, a ConfigMap holds {_CONFIG_MAP_BYTES - _ROOM_BYTES:,}; name a folder "
            "of the corpus instead of its files, or leave comments out"
        )


def check_placement(config: RunConfig, step: Step | None = None) -> None:
    """Returns if the run, or the step in a job of its own, can be carried out in a cluster.

    Raises:
        ConfigError: one line for everything that is wrong, each with its key and what to write.
    """
    # Secrets alone, for the others show what they find.
    wrong = [*_secrets(config)] or [*_addresses(config), *_paths(config), *_loopbacks(config)]
    kubernetes = config.kubernetes
    if step is Step.TRAIN and kubernetes.trainer.kind is TrainerKind.RUN:
        wrong.append("kubernetes.trainer.kind: run trains in the run's own pod; write kind: job (or jobset, trainjob)")
    if step is Step.EVALUATE and kubernetes.evaluate.kind is StepKind.RUN:
        wrong.append("kubernetes.evaluate.kind: run measures in the run's own pod; write kind: job")
    if wrong:
        raise ConfigError("\n".join(wrong))


def _addresses(config: RunConfig) -> Iterator[str]:
    for number, source in enumerate(config.sources):
        if source.address is None:
            yield (
                f"sources.{number}.address: missing; in a cluster the workers ask source {source.name} at the "
                f"release's server of it: {_example(config.kubernetes, source)}"
            )
        elif _LOOPBACK.search(source.address):
            yield (
                f"sources.{number}.address: {source.address!r} is each pod's own loopback; name the release's server "
                f"of source {source.name}: {_example(config.kubernetes, source)}"
            )


def _example(kubernetes: KubernetesSpec, source: SourceSpec) -> str:
    service = f"{kubernetes.full_name}-source-{source.name}"
    if kubernetes.addressing is Addressing.ENVIRONMENT:
        return f"write address: IP:50051, with the IP that kubectl get service {service} shows"
    return f'write address: "dns:///{service}:50051"'


def _paths(config: RunConfig) -> Iterator[str]:
    """Paths that lead to this machine, or out of what the pods have."""
    kubernetes = config.kubernetes
    mounts = {
        "/store": kubernetes.store.volume,
        "/work": bool(kubernetes.work_claim),
        "/models": kubernetes.models.volume,
    }
    there = [mount for mount, is_there in mounts.items() if is_there]
    if not _lies_in(kubernetes.home, there):
        yield f"kubernetes.folder: {kubernetes.home} lies on none of the pods' volumes ({', '.join(there)})"
    for key, path in _named_paths(config):
        place = path.removeprefix("hf:")
        if "://" not in place and (
            place.startswith("~") or not _lies_in(posixpath.join(kubernetes.home, place), there)
        ):
            yield (
                f"{key}: {path} lies on none of the pods' volumes ({', '.join(there)}); put it on one of them and name "
                f"it there, or relative to {kubernetes.home}"
            )


def _named_paths(config: RunConfig) -> Iterator[tuple[str, str]]:
    """Keys and paths that pods of the run open; models of sources are opened by their servers."""
    yield "target.model", config.target.model
    for name, files in (("train", config.corpus.train), ("held_out", config.corpus.held_out)):
        yield from ((f"corpus.{name}.{number}.path", file.path) for number, file in enumerate(files))
    if config.evaluation.task_data is not None:
        yield "evaluation.task_data", config.evaluation.task_data
    services = config.services
    if services.work is not None and config.kubernetes.work_claim is None:
        yield "services.work", services.work
    if services.tracking_uri is not None and services.tracking_uri.startswith(SQLITE):
        path = services.tracking_uri.removeprefix(SQLITE)
        yield "services.tracking_uri", posixpath.join(_WORKING_FOLDER, path)


def _lies_in(path: str, mounts: list[str]) -> bool:
    return any(PurePosixPath(posixpath.normpath(path)).is_relative_to(mount) for mount in mounts)


def _secrets(config: RunConfig) -> Iterator[str]:
    for place, text in _texts(config.model_dump(mode="json")):
        if has_secret(text):
            yield (
                f"{place}: has a password or a token in a URL, which would stand in a ConfigMap; take it out (that of "
                "a broker goes into a Secret: kubernetes.broker_password_secret)"
            )


def _texts(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Every text of a configuration, with its key: sources.0.model."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _texts(inner, f"{place}.{key}" if place else str(key))


def _loopbacks(config: RunConfig) -> Iterator[str]:
    for key in ("broker_url", "tracking_uri"):
        url = getattr(config.services, key)
        if url is not None and _LOOPBACK.search(url):
            yield f"services.{key}: {url!r} is each pod's own loopback; leave it out, or name one of the network"
