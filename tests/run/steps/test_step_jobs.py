"""A run in a cluster launches its trainings as jobs, waits for them, and takes them up when it is started again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from rich.console import Console

from fusery.cluster.api.errors import NotAllowed
from fusery.cluster.manifests.names import Step, step_name
from fusery.config.file import read_run_file
from fusery.hops.store.store import Store
from fusery.run.board import Board
from fusery.run.open_run import Run
from fusery.run.steps import jobs as step_jobs
from fusery.run.steps.jobs import StepJobs, check_jobs, has_job
from fusery.runtime.errors import ConfigError, FuseryError, InvalidInput
from support.cluster.cluster_jobs import QUICK
from support.cluster.cluster_rules import BY_KIND
from support.cluster.kube_state import Kube
from support.cluster.pod_account import own_job, run_pod

FUSED: Mapping[str, Sequence[str]] = {"train fused": ()}
BOTH: Mapping[str, Sequence[str]] = {"train fused": (), "train clm": ("--clm-only",)}
Cloud = Callable[..., Kube]


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    """Starts the cluster that this process is in; `options`: with JobSets and TrainJobs."""
    with ExitStack() as stack:

        def start(options: bool = False) -> Kube:
            running: AbstractContextManager[Kube] = run_pod(tmp_path, monkeypatch, options)
            return stack.enter_context(running)

        yield start


def a_run(folder: Path, **kubernetes: Any) -> Run:
    """A run whose hops are done, as far as its trainings as jobs ask."""
    content = {
        "name": "pico",
        "target": {"model": "/models/docs"},
        "sources": [{"name": "docs", "model": "/models/docs", "address": "dns:///fusery-source-docs:50051"}],
        "corpus": {"train": [{"path": "train.jsonl"}], "held_out": [{"path": "held_out.jsonl"}]},
        "kubernetes": kubernetes or {"trainer": {"kind": "job"}},
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(content))
    nothing = cast(Any, None)
    return Run(read_run_file(path), Store(str(folder / "store")), nothing, "pico-1", folder / "work", nothing)


def jobs_of(run: Run, done: Callable[[str], bool] = lambda _: True, **given: Any) -> tuple[StepJobs, StringIO]:
    """Jobs of the run's training, and what its board shows."""
    shown = StringIO()
    board = Board(Console(file=shown, width=1000))
    options = given.pop("options", FUSED)
    return StepJobs(run, board, Step.TRAIN, options, lambda: None, done, QUICK, **given), shown


def play(kube: Kube, *lines: str, exit_codes: Sequence[int] = (0,)) -> None:
    """Every job that is created ends in this way, each in its turn."""
    codes = list(exit_codes)

    def on_create(created: dict[str, Any]) -> None:
        kind, name = created["kind"], created["metadata"]["name"]
        if kind not in ("Job", "JobSet", "TrainJob"):
            return
        code = codes.pop(0) if len(codes) > 1 else codes[0]
        if kind == "Job":
            kube.runs(pod := kube.pod(name))
            kube.says(pod, *lines)
            kube.ends(pod, code)
        ending = "Failed" if code else "Completed" if kind == "JobSet" else "Complete"
        kube.finishes(name, ending, kind=kind, reason="because")

    kube.on_create = on_create


def test_a_step_is_a_job_only_in_a_cluster_and_only_if_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert not has_job(a_run(tmp_path), Step.TRAIN)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert has_job(a_run(tmp_path), Step.TRAIN)
    assert not has_job(a_run(tmp_path), Step.EVALUATE)
    assert has_job(a_run(tmp_path, evaluate={"kind": "job"}), Step.EVALUATE)
    assert not has_job(a_run(tmp_path, release="fusery"), Step.TRAIN)


def test_trainings_are_jobs_that_belong_to_the_runs_own(cloud: Cloud, tmp_path: Path) -> None:
    kube, run = cloud(), a_run(tmp_path)
    mine = own_job(kube)
    play(kube)
    jobs, shown = jobs_of(run, options=BOTH)
    jobs.carry_out()
    names = [step_name(run.config, Step.TRAIN, options) for options in BOTH.values()]
    assert kube.names("Job") == sorted([*names, "the-run"])
    for name in names:
        [owner] = kube.get("Job", name)["metadata"]["ownerReferences"]
        assert owner["uid"] == mine["metadata"]["uid"]
    assert f"train clm started as job/{names[1]}" in shown.getvalue()
    kube.delete(("batch", "jobs", "the-run"), "Background")
    assert kube.names("Job") == []


def test_a_coordinator_that_is_started_again_takes_the_job_up(cloud: Cloud, tmp_path: Path) -> None:
    kube, run = cloud(), a_run(tmp_path)
    name = step_name(run.config, Step.TRAIN)

    class Killed(Exception):
        pass

    def die() -> None:
        raise Killed

    first, _ = jobs_of(run)
    with pytest.raises(Killed):
        replace(first, show=die).carry_out()
    made = kube.get("Job", name)
    kube.runs(pod := kube.pod(name))

    def end() -> None:
        if "running" in kube.get("Pod", pod)["status"]["containerStatuses"][0]["state"]:
            kube.ends(pod, 0)
            kube.finishes(name, "Complete")

    second, shown = jobs_of(run)
    replace(second, show=end).carry_out()
    assert kube.get("Job", name)["metadata"]["uid"] == made["metadata"]["uid"]
    assert f"train fused goes on as job/{name}" in shown.getvalue()
    assert [verb for verb, resource, _ in kube.requests if resource == "jobs"].count("create") == 1


@pytest.mark.parametrize(("exit_code", "kind"), [(2, InvalidInput), (1, FuseryError), (137, FuseryError)])
def test_the_exit_code_of_a_training_becomes_the_runs(
    cloud: Cloud, tmp_path: Path, exit_code: int, kind: type[FuseryError]
) -> None:
    play(cloud(), "the loss is not a number", exit_codes=[exit_code])
    jobs, _ = jobs_of(a_run(tmp_path))
    with pytest.raises(
        kind, match=rf"exit code {exit_code}: because; the end of its log:\nthe loss is not a number"
    ) as e:
        jobs.carry_out()
    assert e.value.exit_code == (2 if exit_code == 2 else 1)


def test_a_job_that_failed_before_is_made_anew(cloud: Cloud, tmp_path: Path) -> None:
    play(cloud(), exit_codes=[1, 0])
    jobs, shown = jobs_of(a_run(tmp_path))
    with pytest.raises(FuseryError):
        jobs.carry_out()
    jobs.carry_out()
    assert "it is deleted and started again" in shown.getvalue()


def test_a_job_that_somebody_deletes_is_started_again_a_few_times(cloud: Cloud, tmp_path: Path) -> None:
    kube, run = cloud(), a_run(tmp_path)
    name = step_name(run.config, Step.TRAIN)
    made: list[str] = []

    def on_create(created: dict[str, Any]) -> None:
        made.append(created["metadata"]["name"])
        if len(made) < 3:
            kube.delete(("batch", "jobs", name), "Background")
        else:
            kube.finishes(name, "Complete")

    kube.on_create = on_create
    jobs, shown = jobs_of(run)
    jobs.carry_out()
    assert made == [name] * 3
    assert f"job/{name} in namespace ml was deleted; it is started again" in shown.getvalue()
    made[:] = ["", ""]
    kube.on_create = lambda created: kube.delete(("batch", "jobs", created["metadata"]["name"]), "Background")
    with pytest.raises(FuseryError, match="was deleted"):
        jobs_of(run)[0].carry_out()


def test_what_keeps_a_training_waiting_is_shown_on_the_board(cloud: Cloud, tmp_path: Path) -> None:
    kube, run = cloud(), a_run(tmp_path)
    name = step_name(run.config, Step.TRAIN)
    looks: list[int] = []

    def unfold() -> None:
        looks.append(1)
        if len(looks) == 1:
            kube.unschedulable(kube.pod(name, name="waits"), "0/3 nodes are available: 3 Insufficient nvidia.com/gpu")
        elif "Insufficient" in shown.getvalue() and not kube.get("Pod", "waits")["status"].get("containerStatuses"):
            kube.runs("waits")
            kube.ends("waits", 0)
            kube.finishes(name, "Complete")

    jobs, shown = jobs_of(run)
    replace(jobs, show=unfold).carry_out()
    assert "pod waits waits for a node: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu" in shown.getvalue()


def test_a_result_that_can_not_be_seen_here_says_what_both_pods_must_share(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_jobs, "_SEEN_S", 0.01)
    play(cloud())
    jobs, _ = jobs_of(a_run(tmp_path), done=lambda _: False)
    with pytest.raises(ConfigError, match=r"its result is not in .*kubernetes.work_claim"):
        jobs.carry_out()


def test_a_missing_right_is_found_before_the_hops_and_not_after_them(cloud: Cloud, tmp_path: Path) -> None:
    kube, run = cloud(), a_run(tmp_path)
    check_jobs(run)
    assert kube.names("Job") == []
    kube.deny("create", "jobs")
    with pytest.raises(NotAllowed, match=r'resources: \["jobs"\], verbs: \["create"\]'):
        check_jobs(run)


def test_a_kind_of_job_that_is_not_installed_is_found_before_the_hops(cloud: Cloud, tmp_path: Path) -> None:
    cloud()
    with pytest.raises(ConfigError, match=r"no JobSet .*kubernetes.trainer.kind: job"):
        check_jobs(a_run(tmp_path, trainer={"kind": "jobset"}))


def test_a_quota_that_is_full_at_the_start_is_no_reason_to_stop(cloud: Cloud, tmp_path: Path) -> None:
    cloud().deny("create", "jobs", 'jobs.batch "x" is forbidden: exceeded quota: jobs')
    check_jobs(a_run(tmp_path))


def test_a_pod_without_a_token_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    with pytest.raises(ConfigError, match="automountServiceAccountToken"):
        check_jobs(a_run(tmp_path))


@pytest.mark.parametrize(("kind", "made"), [("job", "Job"), ("jobset", "JobSet"), ("trainjob", "TrainJob")])
def test_the_account_of_a_runs_pod_needs_exactly_these_rights(
    cloud: Cloud, tmp_path: Path, kind: str, made: str
) -> None:
    """A whole life on two nodes: made, looked after while it waits, failed, made anew, done."""
    kube, run = cloud(options=True), a_run(tmp_path, trainer={"kind": kind, "nodes": 2})
    own_job(kube)
    name = step_name(run.config, Step.TRAIN)

    def fail_when_all_was_asked() -> None:
        watched = {resource for _, resource, verb in kube.seen if verb == "watch"}
        if len(watched) == 2 and ("", "events", "list") in kube.seen and "status" not in kube.get(made, name):
            kube.runs(pod := kube.pod(name, kind=made))
            kube.ends(pod, 1)
            kube.finishes(name, "Failed", kind=made, reason="because")

    check_jobs(run)
    jobs, _ = jobs_of(run)
    with pytest.raises(FuseryError, match="because"):
        replace(jobs, show=fail_when_all_was_asked).carry_out()
    play(kube)
    jobs.carry_out()
    assert kube.seen == BY_KIND[kind]
