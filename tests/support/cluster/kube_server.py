"""A stand-in for the Kubernetes API: a real HTTP server on loopback with objects, watches, logs, and its refusals.

    with kube_server(tmp_path) as kube:                      # kube.kubeconfig leads there
        cluster = from_kubeconfig("ml", str(kube.kubeconfig))

It is strict where the API is: tokens, names, namespaces, kinds that are not installed, versions that are forgotten.
`Kube.seen` has every verb on every resource that was asked for, as the rules of a Role name them.
"""

from __future__ import annotations

import json
import os
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import yaml

from support.cluster.kube_state import NAMESPACE, OPTIONS, Kube, Object, Refused
from support.source.certificates import Pair

TOKEN = "a-token-of-the-tests"
_PATH = re.compile(
    r"^/(?:api/(?P<core>v1)|apis/(?P<api>[^/]+/[^/]+))/namespaces/(?P<namespace>[^/]+)"
    r"/(?P<resource>[a-z]+)(?:/(?P<name>[^/]+)(?:/(?P<part>log))?)?$"
)
_NAME = re.compile(r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    kube: Kube

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        try:
            answer = self._answer(body)
        except Refused as refused:
            self._send(refused.status["code"], refused.status)
            return
        except KeyError as missing:
            name = missing.args[0][2] if isinstance(missing.args[0], tuple) else missing.args[0]
            self._send(404, Refused(404, "NotFound", f'"{name}" not found').status)
            return
        if isinstance(answer, dict):
            self._send(200, answer)
        else:
            self._stream(answer)

    def _answer(self, body: Any) -> Object | Iterator[bytes]:
        address = urlsplit(self.path)
        query, found = dict(parse_qsl(address.query)), _PATH.match(address.path)
        if self.headers.get("Authorization", "").lower() != f"bearer {TOKEN}":
            raise Refused(401, "Unauthorized", "Unauthorized")
        if self.kube.broken:
            raise Refused(self.kube.broken.pop(0), "InternalError", "etcdserver: request timed out")
        api = "" if found is None else found["core"] or found["api"]
        if found is None or (api, found["resource"]) not in self.kube.kinds:
            raise Refused(404, "NotFound", "the server could not find the requested resource")
        resource = found["resource"] + (f"/{found['part']}" if found["part"] else "")
        verb = _verb(self.command, found["name"], query)
        self._is_allowed(verb, api, resource, found["namespace"])
        self.kube.note(verb, resource, found["name"] or (body or {}).get("metadata", {}).get("name", ""))
        if self.command == "POST":
            return self._create(api, found["resource"], found["namespace"], body, query.get("dryRun") == "All")
        key = (api.rpartition("/")[0], found["resource"], found["name"] or "")
        if verb == "watch":
            if not self.kube.gone_as_event:
                self.kube.refuse_forgotten(query.get("resourceVersion", ""))
            return self.kube.changes(api, found["resource"], query)
        if verb == "list":
            return self.kube.listed(api, found["resource"], query)
        content = self.kube.objects[key]
        if verb == "delete":
            self.kube.delete(key, (body or {}).get("propagationPolicy"))
            return {"kind": "Status", "apiVersion": "v1", "status": "Success"}
        return self._log(content, query) if found["part"] else content

    def _create(self, api: str, resource: str, namespace: str, body: Any, is_rehearsal: bool) -> Object:
        if namespace not in self.kube.namespaces:
            raise Refused(404, "NotFound", f'namespaces "{namespace}" not found')
        metadata = body["metadata"]
        if (body["apiVersion"], body["kind"]) != (api, self.kube.kinds[api, resource]):
            raise Refused(400, "BadRequest", f"{body['kind']} in version {body['apiVersion']} cannot be handled here")
        if metadata.get("namespace", namespace) != namespace:
            raise Refused(400, "BadRequest", "the namespace of the provided object does not match the request")
        if not _NAME.match(metadata["name"]):
            raise Refused(422, "Invalid", f'{body["kind"]} "{metadata["name"]}" is invalid: metadata.name')
        created = self.kube.create(api, resource, body, is_rehearsal)
        if not is_rehearsal:
            self.kube.on_create(created)
        return created

    def _is_allowed(self, verb: str, api: str, resource: str, namespace: str) -> None:
        group = api.rpartition("/")[0]
        self.kube.seen.add((group, resource, verb))
        message = self.kube.denied.get((verb, resource))
        if message is None:
            return
        qualified = resource + (f".{group}" if group else "")
        usual = (
            f'{qualified} is forbidden: User "{self.kube.user}" cannot {verb} resource "{resource}" in API group '
            f'"{group}" in the namespace "{namespace}"'
        )
        raise Refused(403, "Forbidden", message or usual)

    def _log(self, pod: Object, query: dict[str, str]) -> Iterator[bytes]:
        statuses = pod["status"].get("containerStatuses", [])
        name = pod["metadata"]["name"]
        if query.get("container") not in [container["name"] for container in pod["spec"]["containers"]]:
            raise Refused(400, "BadRequest", f"container {query.get('container')} is not valid for pod {name}")
        if not statuses or "waiting" in statuses[0]["state"]:
            raise Refused(400, "BadRequest", f'container "{query["container"]}" in pod "{name}" is waiting to start')
        return self.kube.lines(name, query)

    def _send(self, status: int, content: Object) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, lines: Iterator[bytes]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        with suppress(OSError):
            try:
                # Whoever watches knows at once that it is heard, also when there is nothing to tell.
                self.wfile.flush()
                for line in lines:
                    self._chunk(line)
                self.wfile.write(b"0\r\n\r\n")
            except ConnectionAbortedError:
                self.close_connection = True
                # In the middle of a chunk, as a load balancer does that is restarted.
                self.wfile.write(b"ff\r\n{")
                self.connection.shutdown(socket.SHUT_RDWR)

    def _chunk(self, data: bytes) -> None:
        if data:
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            self.wfile.flush()

    do_GET = do_POST = do_DELETE = _serve

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _verb(method: str, name: str | None, query: dict[str, str]) -> str:
    if method == "GET":
        return "watch" if query.get("watch") == "true" else "get" if name else "list"
    return {"POST": "create", "DELETE": "delete"}[method]


@contextmanager
def kube_server(folder: Path, options: bool = False, pair: Pair | None = None) -> Iterator[Kube]:
    """A running stand-in, and in `folder` a kubeconfig that leads there. `options`: with JobSets and TrainJobs.

    `pair`: its certificate, for TLS; then `folder` also needs what signed it.
    """
    # A proxy of the machine's must not see loopback.
    os.environ.update({"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"})
    kube = Kube()
    kube.kinds |= OPTIONS if options else {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"kube": kube}))
    server.daemon_threads = True
    if pair is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.cert, pair.key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    kube.url = f"{'http' if pair is None else 'https'}://127.0.0.1:{server.server_port}"
    kube.kubeconfig = write_kubeconfig(folder / "kubeconfig", kube.url)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield kube
    finally:
        kube.cut()
        server.shutdown()
        thread.join()
        server.server_close()


def write_kubeconfig(path: Path, url: str, token: str = TOKEN, authority: Path | None = None) -> Path:
    """A kubeconfig with one context, as `kubectl config view` shows it."""
    cluster = {"server": url} | ({} if authority is None else {"certificate-authority": str(authority)})
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "tests", "cluster": cluster}],
        "users": [{"name": "person", "user": {"token": token}}],
        "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "person", "namespace": NAMESPACE}}],
        "current-context": "tests",
    }
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path
