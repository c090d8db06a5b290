from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from fusery.cluster.api.api import Cluster, from_kubeconfig
from support.cluster.kube_server import kube_server
from support.cluster.kube_state import Kube


@pytest.fixture
def kube(tmp_path: Path) -> Iterator[Kube]:
    """A stand-in for the Kubernetes API, without JobSets and TrainJobs."""
    with kube_server(tmp_path) as running:
        yield running


@pytest.fixture
def cluster(kube: Kube) -> Cluster:
    return from_kubeconfig("ml", str(kube.kubeconfig))


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port where nobody listens; nobody else can take it meanwhile."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield int(held.getsockname()[1])
