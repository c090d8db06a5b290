"""The server as a process of its own: killed, restarted at its port, drained by SIGTERM."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fusery.cli import main
from fusery.runtime.errors import ConfigError, ModelError
from fusery.source.api import Distributions, Document
from fusery.source.client import SourceClient
from fusery.source.server.serve import ServeConfig, serve
from fusery.source.server.server import Front
from fusery.source.tls import ServerTls
from support.models.pico_models import TEXTS, pico_model

DOCUMENTS = [Document(f"d{i}", text) for i, text in enumerate(TEXTS)]

PROGRAM = """
import logging, sys
from pathlib import Path
from fusery.source.server.serve import ServeConfig, serve
logging.basicConfig(level="INFO")
model, port, ready = sys.argv[1:]
sys.exit(serve(ServeConfig(model, port=int(port), ready_file=Path(ready), threads=1, device="cpu")))
"""


def start(port: int, ready: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", PROGRAM, str(pico_model("llama")), str(port), str(ready)])


def address_in(ready: Path, process: subprocess.Popen[bytes]) -> str:
    give_up = time.monotonic() + 200
    while not ready.exists():
        assert process.poll() is None, f"the server ended with {process.returncode}"
        assert time.monotonic() < give_up, "the server did not get ready"
        time.sleep(0.1)
    return ready.read_text()


def as_bytes(answers: list[Distributions]) -> list[bytes]:
    return [answer.top.ids_RK.tobytes() + answer.top.log_probs_RK.tobytes() for answer in answers]


def test_a_killed_and_restarted_server_costs_time_and_no_bytes_and_sigterm_ends_it_with_0(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    process = start(0, ready)
    try:
        address = address_in(ready, process)
        port = int(address.rpartition(":")[2])
        with SourceClient(address, timeout_s=100, retry_for_s=200) as client:
            before = as_bytes(client.compute(DOCUMENTS, 8, "float32"))
            os.kill(process.pid, signal.SIGKILL)
            process.wait(60)
            results: list[list[bytes]] = []
            asking = threading.Thread(target=lambda: results.append(as_bytes(client.compute(DOCUMENTS, 8, "float32"))))
            asking.start()
            ready.unlink()
            process = start(port, ready)
            asking.join(250)
            assert results == [before]
            assert address_in(ready, process) == address
        process.send_signal(signal.SIGTERM)
        assert process.wait(100) == 0
    finally:
        process.kill()
        process.wait(60)


def test_a_folder_that_is_no_model_ends_before_anything_listens(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        serve(ServeConfig(str(tmp_path), port=0))


def test_a_token_file_that_is_missing_ends_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="token file"):
        serve(ServeConfig(str(pico_model("llama")), port=0, token_file=tmp_path / "absent"))


def test_the_options_of_the_command_reach_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[ServeConfig] = []

    def noted(config: ServeConfig) -> int:
        given.append(config)
        return 0

    monkeypatch.setattr("fusery.source.server.serve.serve", noted)
    monkeypatch.setenv("FUSERY_SOURCE_TLS_KEY_FILE", "place.key")
    monkeypatch.setenv("FUSERY_SOURCE_TLS_CERT_FILE", "place.crt")
    assert main(["serve-source", "m"]) == 0
    options = "--tls-cert a.crt --tls-key a.key --tls-client-ca ca --health-port 1 --metrics-port 2 --reflection"
    times = "--hang-s 3 --drain-s 4 --max-connection-age-s 5 --waiting-requests 6"
    assert main(["serve-source", "m", *options.split(), *times.split()]) == 0
    tls = ServerTls(Path("place.crt"), Path("place.key"))
    assert given[0] == ServeConfig("m", front=Front(tls=tls))
    front = Front(
        tls=ServerTls(Path("a.crt"), Path("a.key"), Path("ca")),
        health_port=1,
        metrics_port=2,
        reflection=True,
        hang_s=3.0,
        max_connection_age_s=5.0,
    )
    assert given[1] == ServeConfig("m", waiting_requests=6, drain_s=4.0, front=front)


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "soon"])
def test_times_are_seconds_over_0(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["serve-source", "m", "--hang-s", seconds])
    assert "expected seconds, over 0" in capsys.readouterr().err


def test_a_checkpoint_whose_weights_are_missing_ends_it_and_leaves_no_ready_file(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    from support.models.pico_models import build_model

    folder = build_model(tmp_path / "model", "llama")
    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    ready = tmp_path / "ready"
    ready.write_text("127.0.0.1:1")
    with pytest.raises(ModelError, match=r"model\.norm\.weight"):
        serve(ServeConfig(str(folder), port=0, ready_file=ready, drain_s=5))
    assert not ready.exists()
