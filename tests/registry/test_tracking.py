"""Tracking addresses are checked before any work, in milliseconds, with a clear line."""

from __future__ import annotations

import base64
import importlib.util
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from fusery.registry.tracking import (
    check_tracking,
    default_artifact_folder,
    default_tracking_uri,
    without_secrets,
)
from fusery.runtime.errors import AddressError


@contextmanager
def server(
    status: int = 200, body: bytes = b"OK", api: tuple[int, bytes] | None = None
) -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
    """Address of a server that answers every GET so (its API as `api` says); (path, Authorization) of each."""
    seen: list[tuple[str, str | None]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append((self.path, self.headers.get("Authorization")))
            code, said = api if api is not None and self.path.startswith("/api/") else (status, body)
            self.send_response(code)
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, format: str, *args: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"127.0.0.1:{running.server_port}", seen
        finally:
            running.shutdown()
            thread.join()


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_a_server_that_is_well_passes_by_its_health_address() -> None:
    with server() as (address, seen):
        check_tracking(f"http://{address}")
        check_tracking(f"http://{address}/some/prefix/")
    api = "/api/2.0/mlflow/experiments/search?max_results=1"
    assert [path for path, _ in seen] == ["/health", api, "/some/prefix/health", f"/some/prefix{api}"]


def test_a_closed_port_is_one_clear_line_at_once() -> None:
    port = closed_port()
    with pytest.raises(AddressError, match=rf"^http://127\.0\.0\.1:{port}: no MLflow server answers .*; start it") as e:
        check_tracking(f"http://127.0.0.1:{port}")
    assert "\n" not in str(e.value)


def test_a_server_that_accepts_and_says_nothing_is_given_up_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        begun = time.monotonic()
        with pytest.raises(AddressError, match=r"answers within 0\.2 s"):
            check_tracking(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.2)
        # No measure of speed: MLflow's own client takes minutes.
        assert time.monotonic() - begun < 60


@pytest.mark.parametrize(("status", "body"), [(404, b"no"), (500, b"OK"), (200, b"<html>a shop</html>")])
def test_a_server_that_is_no_mlflow_is_told_apart(status: int, body: bytes) -> None:
    with server(status, body) as (address, _), pytest.raises(AddressError, match="no MLflow server\\?"):
        check_tracking(f"http://{address}")


@pytest.mark.parametrize("status", [401, 403])
def test_a_proxy_that_wants_credentials_counts_as_an_answer(status: int) -> None:
    with server(status) as (address, _):
        check_tracking(f"http://{address}")


def test_user_and_password_are_sent_and_never_shown() -> None:
    with server() as (address, seen):
        check_tracking(f"http://mia:s%40cret@{address}")
    assert {basic for _, basic in seen} == {"Basic " + base64.b64encode(b"mia:s@cret").decode()}
    with pytest.raises(AddressError) as error:
        check_tracking(f"http://mia:s%40cret@127.0.0.1:{closed_port()}")
    assert "cret" not in str(error.value)
    assert without_secrets("https://mia:x@host:5/p") == "https://host:5/p"


@pytest.mark.parametrize(
    "uri", ["ftp://host/x", "postgresql://u:secret@host/db", "databricks", "/some/folder", "file:/x", ""]
)
def test_other_schemes_are_refused_with_those_that_work(uri: str) -> None:
    with pytest.raises(AddressError, match=r"expected http\(s\)://.*sqlite:///") as error:
        check_tracking(uri)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("uri", ["http://", "http://host:port", "http://[::1"])
def test_what_is_no_address_is_an_address_error(uri: str) -> None:
    with pytest.raises(AddressError):
        check_tracking(uri, timeout_s=1)


def test_sqlite_in_a_folder_yet_to_be_made_passes_and_makes_nothing(tmp_path: Path) -> None:
    check_tracking(default_tracking_uri(tmp_path / "store" / "a b"))
    assert list(tmp_path.iterdir()) == []


def test_sqlite_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(AddressError, match="file is not a folder"):
        check_tracking(f"sqlite:///{tmp_path}/file/mlflow.db")


def test_sqlite_in_a_read_only_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(AddressError, match="is not writable; choose another folder"):
        check_tracking(default_tracking_uri(tmp_path))


def test_the_defaults_stand_beside_each_other_and_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert default_tracking_uri(Path("store")) == f"sqlite:///{tmp_path}/store/mlflow.db"
    assert default_artifact_folder(Path("store")) == tmp_path / "store" / "mlflow-artifacts"


def test_a_check_never_imports_mlflow() -> None:
    modules = ("tracking", "register", "names", "promote")
    imports = ", ".join(f"fusery.registry.{module}" for module in modules)
    code = f"import sys, fusery.run.open_run, {imports}; assert 'mlflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


_REFUSED_HOST = b"Invalid Host header - possible DNS rebinding attack detected"


def test_mlflow_refuses_a_host_name_in_the_words_that_are_looked_for() -> None:
    found = importlib.util.find_spec("mlflow")
    assert found is not None
    assert found.origin is not None
    assert _REFUSED_HOST.decode() in (Path(found.origin).parent / "server/security_utils.py").read_text()


@pytest.mark.parametrize(
    ("api", "message"),
    [
        ((403, _REFUSED_HOST), r"refuses this host name \(Invalid Host header.*--allowed-hosts.*mlflow\.allowedHosts"),
        ((500, b"database is locked"), r"answers 500 \(database is locked\); see to its database"),
        ((503, b""), "answers 503"),
    ],
)
def test_a_server_that_is_well_and_whose_api_refuses_is_told(api: tuple[int, bytes], message: str) -> None:
    with server(api=api) as (address, _), pytest.raises(AddressError, match=message):
        check_tracking(f"http://{address}")


@pytest.mark.parametrize("api", [(401, b"who are you"), (403, b"not yours"), (404, b"")])
def test_an_api_that_wants_credentials_or_lists_nothing_is_left_to_mlflow(api: tuple[int, bytes]) -> None:
    with server(api=api) as (address, _):
        check_tracking(f"http://{address}")
