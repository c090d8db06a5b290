"""`fusery run --on kubernetes`, from the command line to the exit code, against a stand-in for the API."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from fusery.cli import main
from fusery.cluster.manifests.manifests import run_objects
from fusery.cluster.manifests.names import base_name, run_name
from fusery.config.file import read_run_file
from fusery.runtime.settings import child_environment
from support.cluster.kube_server import write_kubeconfig
from support.cluster.kube_state import Kube

YAML = {
    "name": "pico",
    "target": {"model": "/models/docs"},
    "sources": [{"name": "docs", "model": "/models/docs", "address": "dns:///fusery-source-docs:50051"}],
    "corpus": {"train": [{"path": "text/train.jsonl"}], "held_out": [{"path": "text/held_out.jsonl"}]},
    "kubernetes": {"namespace": "ml"},
}

Play = Callable[[str], None]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_yaml(tmp_path)


@pytest.fixture(autouse=True)
def _kubeconfig(kube: Kube, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(kube.kubeconfig))


def write_yaml(folder: Path, **changes: Any) -> Path:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump({**YAML, **changes}), encoding="utf-8")
    return path


def command(file: Path, *options: str) -> int:
    return main(["run", str(file), "--on", "kubernetes", *options])


def job_name(file: Path) -> str:
    return run_name(read_run_file(file).config)


def play(kube: Kube, *lines: str, exit_code: int = 0) -> None:
    """Every Job that is created runs one pod to this end."""

    def on_create(created: dict[str, Any]) -> None:
        if created["kind"] == "Job":
            kube.runs(pod := kube.pod(created["metadata"]["name"]))
            kube.says(pod, *lines)
            kube.ends(pod, exit_code)
            reason = "PodFailurePolicy" if exit_code in (2, 3, 4) else "BackoffLimitExceeded"
            ending = ("Failed", reason) if exit_code else ("Complete", "")
            kube.finishes(created["metadata"]["name"], ending[0], reason=ending[1])

    kube.on_create = on_create


def test_a_run_is_created_followed_and_its_exit_code_is_the_commands(
    kube: Kube, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    play(kube, "run pico-1: 1 sources", "[08:00:00] capture docs 12/12", "registered  models:/pico@candidate")
    assert command(file) == 0
    shown = capsys.readouterr().out
    assert f"job/{job_name(file)} in namespace ml of {kube.url}: created" in shown
    assert "[08:00:00] capture docs 12/12\n" in shown
    assert "registered  models:/pico@candidate\n" in shown


def test_what_is_created_is_what_is_rendered(kube: Kube, file: Path) -> None:
    play(kube)
    command(file)
    config = read_run_file(file).config
    for manifest in run_objects(config, file.read_text()):
        created = kube.get(manifest["kind"], manifest["metadata"]["name"])
        assert {key: created.get(key) for key in ("spec", "data")} == {
            key: manifest.get(key) for key in ("spec", "data")
        }
        assert created["metadata"]["labels"] == manifest["metadata"]["labels"]


@pytest.mark.parametrize(
    ("exit_code", "says"),
    [(1, "it failed"), (2, "the input is wrong"), (3, "some shards failed for good"), (4, "gate did not pass")],
)
def test_a_failed_run_gives_its_exit_code_and_what_it_means(
    kube: Kube, file: Path, capsys: pytest.CaptureFixture[str], exit_code: int, says: str
) -> None:
    play(kube, "what went wrong", exit_code=exit_code)
    assert command(file) == exit_code
    shown = capsys.readouterr()
    assert "what went wrong" in shown.out
    assert says in shown.err
    assert ("then take it up with" in shown.err) == (exit_code != 4)


def test_the_same_command_finds_a_run_that_has_ended_and_says_how(
    kube: Kube, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    play(kube, "fused 1.234 bits per byte")
    command(file)
    capsys.readouterr()
    assert command(file) == 0
    shown = capsys.readouterr().out
    assert "has ended before" in shown
    assert "fused 1.234 bits per byte" in shown
    name = job_name(file)
    assert f"kubectl --namespace ml delete job/{name} configmap/{base_name(read_run_file(file).config)}" in shown
    assert [verb for verb, resource, _ in kube.requests if resource == "jobs"].count("create") == 1


def test_a_run_that_failed_is_started_again_by_the_same_command(
    kube: Kube, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    play(kube, exit_code=3)
    assert command(file) == 3
    play(kube, "shard 7 is done")
    assert command(file) == 0
    assert "it is deleted and started again" in capsys.readouterr().out


def test_options_of_the_run_reach_its_pod(kube: Kube, file: Path) -> None:
    play(kube)
    assert command(file, "--until", "fuse", "--accept-license", "gemma") == 0
    args = kube.get("Job", job_name(file))["spec"]["template"]["spec"]["containers"][0]["args"]
    assert args[-4:] == ["--until", "fuse", "--accept-license", "gemma"]


def test_for_programs_every_line_is_an_object(kube: Kube, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    play(kube, "a line of the run")
    assert command(file, "--json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {"event": "log", "text": "a line of the run"} in lines
    assert {line["event"] for line in lines} == {"state", "log"}


def test_without_a_namespace_in_the_yaml_the_contexts_is_taken(kube: Kube, tmp_path: Path) -> None:
    play(kube)
    assert command(write_yaml(tmp_path, kubernetes={})) == 0
    assert kube.names("Job")


def test_an_unknown_namespace_a_missing_right_and_no_api_are_one_line_each(
    kube: Kube, tmp_path: Path, closed_port: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command(write_yaml(tmp_path, kubernetes={"namespace": "elsewhere"})) == 2
    assert "kubectl create namespace elsewhere" in capsys.readouterr().err
    kube.deny("create", "configmaps")
    assert command(write_yaml(tmp_path)) == 2
    assert "may not create configmaps" in capsys.readouterr().err
    away = write_kubeconfig(tmp_path / "away", f"http://127.0.0.1:{closed_port}")
    monkeypatch.setenv("KUBECONFIG", str(away))
    assert command(write_yaml(tmp_path)) == 1
    assert "does not answer" in (err := capsys.readouterr().err)
    assert len(err.splitlines()) == 1
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nowhere"))
    assert command(write_yaml(tmp_path)) == 2
    assert "set KUBECONFIG" in capsys.readouterr().err


def test_a_run_without_addresses_is_refused_before_anything_is_made(
    kube: Kube, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_yaml(tmp_path, sources=[{"name": "docs", "model": "/models/docs"}])
    assert command(file) == 2
    assert "sources.0.address: missing" in capsys.readouterr().err
    assert kube.requests == []


def test_a_folder_of_this_machine_is_no_folder_of_a_pod(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(file, "--relative-to", ".") == 2
    assert "kubernetes.folder" in capsys.readouterr().err


def test_a_run_that_is_deleted_meanwhile_says_how_to_go_on(
    kube: Kube, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def on_create(created: dict[str, Any]) -> None:
        if created["kind"] == "Job":
            kube.delete(("batch", "jobs", created["metadata"]["name"]), "Background")

    kube.on_create = on_create
    assert command(file) == 1
    assert "was deleted; what is done is kept, and taken up with: fusery run" in capsys.readouterr().err


def test_ctrl_c_leaves_the_run_alone_and_the_same_command_takes_it_up(
    kube: Kube, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "fusery", "run", str(file), "--on", "kubernetes"],
        env=child_environment() | {"PYTHONFAULTHANDLER": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        kube.wait_for(lambda: kube.names("Job"))
        kube.runs(pod := kube.pod(job_name(file)))
        kube.says(pod, "capture docs 1/12")
        assert process.stdout is not None
        while "capture docs 1/12" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        try:
            _, err = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            # The stacks of all its threads say where it hangs.
            process.send_signal(signal.SIGABRT)
            _, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait(60)
    assert process.returncode == 130, err
    name = job_name(file)
    assert f"job/{name} goes on. Follow it again with: fusery run {file} --on kubernetes" in err
    assert f"kubectl --namespace ml delete job/{name}" in err
    assert "Traceback" not in err
    assert kube.names("Pod") == [pod]
    kube.ends(pod, 0)
    kube.finishes(name, "Complete")
    assert command(file) == 0
    assert [verb for verb, resource, _ in kube.requests if resource == "jobs"].count("create") == 1


def test_what_a_person_needs_to_be_allowed_is_this_and_no_more(kube: Kube, file: Path) -> None:
    play(kube, exit_code=3)
    command(file)
    play(kube)
    command(file)
    command(file)
    # Events are asked for only while something waits.
    kube.seen.discard(("", "events", "list"))
    assert kube.seen == {
        ("batch", "jobs", "create"),
        ("batch", "jobs", "get"),
        ("batch", "jobs", "list"),
        ("batch", "jobs", "watch"),
        ("batch", "jobs", "delete"),
        ("", "configmaps", "create"),
        ("", "configmaps", "get"),
        ("", "configmaps", "delete"),
        ("", "pods", "list"),
        ("", "pods", "watch"),
        ("", "pods/log", "get"),
    }
