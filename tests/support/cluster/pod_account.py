"""A process that is a pod of the stand-in for the Kubernetes API: its service account's files and its environment."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fusery.cluster.api import api
from support.cluster.kube_server import TOKEN, kube_server
from support.cluster.kube_state import Kube
from support.source.certificates import Authority


@contextmanager
def run_pod(folder: Path, monkeypatch: pytest.MonkeyPatch, options: bool = False) -> Iterator[Kube]:
    """The cluster that this process is in: it has a token, and the API speaks TLS, as every cluster's."""
    authority, account = Authority(folder), folder / "account"
    account.mkdir()
    for name, content in {"token": TOKEN, "namespace": "ml\n", "ca.crt": authority.cert.read_text()}.items():
        (account / name).write_text(content)
    monkeypatch.setattr(api, "SERVICE_ACCOUNT", account)
    with kube_server(folder, options=options, pair=authority.pair("server")) as kube:
        host, _, port = kube.url.removeprefix("https://").partition(":")
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
        yield kube


def own_job(kube: Kube) -> dict[str, Any]:
    """Makes the Job and the pod that this process is; the Job."""
    template = {"metadata": {}, "spec": {"containers": [{"name": "run"}]}}
    body = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "the-run"}, "spec": {"template": template}}
    made = kube.create("batch/v1", "jobs", body)
    kube.pod("the-run", name=socket.gethostname())
    return made
