"""A whole run whose training and evaluation are jobs: real processes, and a stand-in for the Kubernetes API.

What a kubelet would do is done here: the container of every Job is started as a process of this machine.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from fusery import cli
from fusery.cluster.manifests.names import Step, step_name
from fusery.cluster.manifests.pods import RUN_FILE
from fusery.run.open_run import open_run
from fusery.run.steps import steps
from fusery.runtime.settings import child_environment
from fusery.source.engines.transformers import load_engine
from support.cluster.cluster_rules import BY_KIND
from support.cluster.kube_state import Kube
from support.cluster.pod_account import own_job, run_pod
from support.models.pico_models import pico_model
from support.runs.pico_run import SOURCES, write_run
from support.source.source_servers import running

pytestmark = [pytest.mark.timeout(1800), pytest.mark.usefixtures("warm")]


class Kubelet:
    """Runs the container of every Job that is created, with the paths of this machine for those of its pod."""

    def __init__(self, kube: Kube, file: Path) -> None:
        self._kube, self._file = kube, file
        self.threads: list[threading.Thread] = []

    def __call__(self, created: dict[str, Any]) -> None:
        if created["kind"] == "Job":
            self.threads.append(threading.Thread(target=self._run, args=(created,)))
            self.threads[-1].start()

    def _run(self, job: dict[str, Any]) -> None:
        name = job["metadata"]["name"]
        pod = self._kube.pod(name)
        args = self._kube.get("Pod", pod)["spec"]["containers"][0]["args"]
        here = {RUN_FILE: str(self._file), "/store": str(self._file.parent), "$(CPUS)": "1"}
        self._kube.runs(pod)
        done = subprocess.run(
            [sys.executable, "-m", "fusery", *(here.get(arg, arg) for arg in args)],
            env=child_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        self._kube.says(pod, *done.stdout.splitlines())
        self._kube.ends(pod, done.returncode)
        self._kube.finishes(
            name, "Failed" if done.returncode else "Complete", reason="" if done.returncode else "ended"
        )


def test_a_run_in_a_cluster_launches_its_steps_and_goes_on_with_their_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folders = {name: pico_model(*kind) for name, kind in SOURCES.items()}
    with (
        run_pod(tmp_path, monkeypatch) as kube,
        running(lambda: load_engine(str(folders["prose"]))) as prose,
        running(lambda: load_engine(str(folders["code"]))) as code,
    ):
        servers = {"prose": prose.address, "code": code.address}
        # An address of loopback is refused for a cluster; this one leads to the same servers.
        sources = [
            {"name": name, "model": str(folders[name]), "address": address.replace("127.0.0.1", "0.0.0.0")}
            for name, address in servers.items()
        ]
        file = write_run(
            tmp_path / "run",
            sources=sources,
            gate={"better_than": [], "domain_tolerance": 9},
            evaluation={"ensemble": False, "weight_merging": False},
            kubernetes={"trainer": {"kind": "job"}, "evaluate": {"kind": "job"}},
        )
        own_job(kube)
        kube.on_create = kubelet = Kubelet(kube, file)
        code_of_run = cli.main(["run", str(file)])
        shown = capfd.readouterr().out
        for thread in kubelet.threads:
            thread.join()
        assert code_of_run == 0, shown
        run = open_run(file)
        names = [step_name(run.config, Step.TRAIN, options) for options in ((), ("--clm-only",))]
        names.append(step_name(run.config, Step.EVALUATE))
        assert kube.names("Job") == sorted([*names, "the-run"])
        assert steps.evaluation_path(run).exists()
        assert f"train fused started as job/{names[0]}" in shown
        assert kube.seen <= BY_KIND["job"]
        # Done is done: nothing is launched again.
        assert cli.main(["run", str(file)]) == 0
        assert len(kubelet.threads) == 3
