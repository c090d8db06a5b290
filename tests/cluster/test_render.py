"""`fusery k8s render`: complete manifests on standard output, or one line that says what is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fusery.cli import main
from fusery.cluster.manifests.names import base_name
from fusery.config.run import RunConfig
from support.cluster.charts import ROOT, Manifest
from support.cluster.cluster_runs import TINY, content


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text("# a comment\n" + yaml.safe_dump(content({"trainer": {"kind": "job"}}), sort_keys=False))
    return path


def rendered(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[Manifest]:
    assert main(["k8s", "render", *arguments]) == 0
    return list(yaml.safe_load_all(capsys.readouterr().out))


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["k8s", "render", *arguments]) == 2
    return capsys.readouterr().err


def test_a_run_is_a_configmap_with_the_file_and_a_job(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config_map, job = rendered(capsys, str(file))
    assert config_map["data"]["run.yaml"] == file.read_text()
    assert (job["kind"], job["metadata"]["name"]) == ("Job", f"{config_map['metadata']['name']}-run")
    assert "namespace" not in job["metadata"]


def test_every_option_reaches_the_pods_and_the_file_that_they_read(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--namespace", "ml", "--release", "two", "--image", "registry.example/fusery:1"]
    config_map, job = rendered(capsys, str(file), *options)
    assert config_map["metadata"]["namespace"] == job["metadata"]["namespace"] == "ml"
    (box,) = job["spec"]["template"]["spec"]["containers"]
    assert box["image"] == "registry.example/fusery:1"
    inside = RunConfig.model_validate(yaml.safe_load(config_map["data"]["run.yaml"]))
    assert (inside.kubernetes.namespace, inside.kubernetes.release) == ("ml", "two")
    assert inside.kubernetes.trainer.kind == "job"
    assert base_name(inside) == config_map["metadata"]["name"]


def test_a_baseline_s_training_is_rendered_by_its_option(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, fused = rendered(capsys, str(file), "--job", "train")
    _, clm = rendered(capsys, str(file), "--job", "train", "--clm-only")
    assert fused["metadata"]["name"] != clm["metadata"]["name"]
    assert "--clm-only" in clm["spec"]["template"]["spec"]["containers"][0]["args"]


def test_a_run_for_one_machine_is_refused_with_file_and_keys(capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, str(TINY))
    assert [line.partition("; ")[0] for line in said.splitlines()] == [
        f"{'fusery k8s: ' if number == 0 else ''}{TINY}: sources.{number}.address: missing" for number in range(3)
    ]


def test_a_wrong_option_is_named(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--namespace: " in refused(capsys, str(file), "--namespace", "My Space")
    assert "--clm-only: goes with --job train" in refused(capsys, str(file), "--clm-only")
    assert "write kind: job" in refused(capsys, str(file), "--job", "evaluate")


def test_a_missing_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"{tmp_path / 'none.yaml'}" in refused(capsys, str(tmp_path / "none.yaml"))


def test_the_files_of_k8s_are_what_the_command_prints_of_the_examples() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/k8s.py", "--check"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_example_for_a_cluster_is_rendered() -> None:
    script = (ROOT / "scripts/k8s.py").read_text()
    assert all(f'"{path.stem}"' in script for path in (ROOT / "examples/kubernetes").glob("*.yaml"))
