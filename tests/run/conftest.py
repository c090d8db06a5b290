from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest


@pytest.fixture
def closed() -> Iterator[str]:
    """host:port where nobody listens; nobody else can take it meanwhile."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"
