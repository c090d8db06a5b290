"""A release keeps its addressing: the chart looks at the Services that stand, which only a server can show it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.cluster.charts import Helm

_SERVICES = {"name": "services", "singularName": "service", "namespaced": True, "kind": "Service", "verbs": ["get"]}
_DISCOVERY: dict[str, dict[str, Any]] = {
    "/version": {"major": "1", "minor": "32", "gitVersion": "v1.32.0"},
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
    "/api/v1": {"kind": "APIResourceList", "groupVersion": "v1", "resources": [_SERVICES]},
}


@contextmanager
def cluster(tmp_path: Path, addresses: dict[str, str]) -> Iterator[Path]:
    """The kubeconfig of an API that knows Services by name, with their cluster addresses."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            content = _DISCOVERY.get(path)
            name = path.rpartition("/")[2]
            if "/namespaces/ml/services/" in path and name in addresses:
                spec = {"clusterIP": addresses[name]}
                content = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}
            status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
            body = json.dumps(content or status).encode()
            self.send_response(200 if content else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "c",
    }
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    try:
        yield path
    finally:
        server.shutdown()
        server.server_close()


_HEADLESS, _ADDRESS = "None", "10.96.0.7"


@pytest.mark.parametrize(
    ("standing", "asked", "is_refused"),
    [
        (_HEADLESS, "dns", False),
        (_ADDRESS, "environment", False),
        (_HEADLESS, "environment", True),
        (_ADDRESS, "dns", True),
        (None, "environment", False),
        (None, "dns", False),
    ],
)
def test_a_release_that_stands_keeps_its_addressing(
    standing: str | None, asked: str, is_refused: bool, helm: Helm, tmp_path: Path
) -> None:
    values = {"addressing": asked, "sources": {"new": {"model": "/models/new"}, "old": {"model": "/models/old"}}}
    found = {} if standing is None else {"demo-fusery-source-old": standing}
    with cluster(tmp_path, found) as kubeconfig:
        rendered = helm.template(values=values, options=("--dry-run=server", "--kubeconfig", str(kubeconfig)))
    if is_refused:
        other = "dns" if asked == "environment" else "environment"
        assert f"addressing is {asked}, but the Service demo-fusery-source-old stands with addressing {other}" in (
            rendered.error
        )
        assert f"keep {other}, or uninstall the release" in rendered.error
    else:
        # Helm 4 goes on and asks the API of which kinds it knows; what the chart has to say is said before.
        assert "addressing" not in rendered.error
