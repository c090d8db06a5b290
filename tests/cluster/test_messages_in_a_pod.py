"""What a process in a pod tells people to do is what they can do: not on the pod's own files, not with its keyboard."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from fusery.cluster.manifests.pods import RUN_FILE
from fusery.config import file as run_file
from fusery.config.file import RunFile, command_on, read_run_file
from fusery.hops.worker.broker import check_broker
from fusery.registry.tracking import check_tracking
from fusery.run import run as run_command
from fusery.runtime.errors import AddressError
from support.cluster.cluster_runs import configured
from support.runs.pico_run import write_run


@pytest.mark.parametrize(
    ("path", "command", "options", "line"),
    [
        (RUN_FILE, "run", [], "fusery run FILE.yaml --on kubernetes"),
        (RUN_FILE, "run", ["--until", "fuse"], "fusery run FILE.yaml --on kubernetes --until fuse"),
        (RUN_FILE, "status", [], "fusery status FILE.yaml"),
        (RUN_FILE, "register", [], "fusery register FILE.yaml"),
        ("/home/mia/run.yaml", "run", [], "fusery run /home/mia/run.yaml"),
        (
            "/home/mia/my run.yaml",
            "run",
            ["--accept-license", "a b"],
            "fusery run '/home/mia/my run.yaml' --accept-license 'a b'",
        ),
    ],
)
def test_a_command_names_the_file_that_people_have(path: str, command: str, options: list[str], line: str) -> None:
    assert command_on(Path(path), command, *options) == line
    assert RunFile(configured(), Path(path)).command(command, *options) == line


@pytest.fixture
def config_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The YAML as a ConfigMap mounts it: a link to a link into a folder with a time."""
    store, mounted = tmp_path / "store", tmp_path / "run"
    inner = mounted / "..2026_11_30_23_00_00.123"
    inner.mkdir(parents=True)
    write_run(store).rename(inner / "run.yaml")
    (mounted / "..data").symlink_to(inner.name)
    (mounted / "run.yaml").symlink_to("..data/run.yaml")
    monkeypatch.setattr(run_file, "MOUNTED", mounted)
    monkeypatch.setattr(run_command, "MOUNTED", mounted)
    return mounted / "run.yaml"


def test_a_mounted_file_keeps_its_name(config_map: Path) -> None:
    found = read_run_file(config_map, config_map.parents[1] / "store")
    assert found.path == config_map
    assert Path(found.resolve("corpus/train.jsonl")).exists()
    assert ".." not in found.command("run")


def test_a_link_to_a_file_elsewhere_keeps_that_file_s_folder(tmp_path: Path) -> None:
    file = write_run(tmp_path / "there")
    (tmp_path / "link.yaml").symlink_to(file)
    assert read_run_file(tmp_path / "link.yaml").folder == file.parent


@pytest.mark.parametrize("namespace", [None, "ml"])
def test_a_run_in_a_pod_is_stopped_with_kubectl(namespace: str | None) -> None:
    class Run:
        file = RunFile(configured({} if namespace is None else {"namespace": namespace}), Path(RUN_FILE))
        config = file.config

    space = "" if namespace is None else f" --namespace {namespace}"
    stop = run_command._stop(Run())  # type: ignore[arg-type]
    assert stop.startswith(f"kubectl{space} delete job fusery-")
    assert stop.endswith("-run")
    assert run_command._again(Path(RUN_FILE), Path("/store"), None) == "fusery run FILE.yaml --on kubernetes"


@pytest.fixture
def closed() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.mark.parametrize("host", [None, "10.0.0.1"])
def test_a_server_of_the_release_is_looked_for_among_its_pods(
    host: str | None, closed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    if host is not None:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    asked = {
        "broker": lambda: check_broker(f"redis://127.0.0.1:{closed}/0"),
        "mlflow": lambda: check_tracking(f"http://127.0.0.1:{closed}"),
    }
    for component, ask in asked.items():
        with pytest.raises(AddressError) as refused:
            ask()
        said = str(refused.value)
        assert (f"kubectl get pods --selector app.kubernetes.io/component={component}" in said) is (host is not None)
        assert ("start it" in said) is (host is None)
        assert "embedded" not in said or host is None
