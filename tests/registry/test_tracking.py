"""Tracking addresses are checked before any work, in milliseconds, with a clear line."""

from __future__ import annotations

import base64
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

from fusery.errors import AddressError
from fusery.registry.tracking import (
    check_tracking,
    default_artifact_folder,
    default_tracking_uri,
    without_secrets,
)


@contextmanager
def server(status: int = 200, body: bytes = b"OK") -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
    """Address of a server that answers every GET so, and the (path, Authorization) of each request."""
    seen: list[tuple[str, str | None]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append((self.path, self.headers.get("Authorization")))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

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
    assert [path for path, _ in seen] == ["/health", "/some/prefix/health"]


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
    assert seen == [("/health", "Basic " + base64.b64encode(b"mia:s@cret").decode())]
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
    code = f"import sys, fusery.pipeline.preflight, {imports}; assert 'mlflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
