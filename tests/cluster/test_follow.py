"""Whoever follows a Job hears what it does and waits for, through every interruption, and how it ended."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fusery.cluster.api.api import Cluster, from_kubeconfig
from fusery.cluster.api.errors import JOB, NotAllowed, Place
from fusery.cluster.api.follow import Deleted, Follower, Kind
from support.cluster.cluster_jobs import QUICK, Ear, job, look_to_the_end, look_until
from support.cluster.kube_server import kube_server
from support.cluster.kube_state import Kube

JOBSET = Place("jobset.x-k8s.io/v1alpha2", "JobSet")


@pytest.fixture
def ear() -> Ear:
    return Ear()


@pytest.fixture
def follower(cluster: Cluster, ear: Ear) -> Iterator[Follower]:
    cluster.create(job())
    with Follower(cluster, JOB, "train", ear, tail=0, pace=QUICK) as following:
        yield following


def test_a_job_is_followed_from_its_first_pod_to_its_end(follower: Follower, ear: Ear, kube: Kube) -> None:
    pod = kube.pod("train")
    look_until(follower, lambda: ear.heard(f"pod {pod} is being started"))
    kube.runs(pod)
    kube.says(pod, "capture prose 3/12", "capture prose 12/12")
    look_until(follower, lambda: ear.heard("capture prose 12/12"))
    kube.ends(pod, 0)
    kube.finishes("train", "Complete")
    outcome = look_to_the_end(follower)
    assert outcome.succeeded
    assert outcome.exit_code == 0
    assert ear.texts(Kind.LOG) == ["capture prose 3/12", "capture prose 12/12"]
    assert ear.texts(Kind.STATE) == [
        f"pod {pod} is being started",
        f"pod {pod} runs",
        f"pod {pod} ended with exit code 0",
    ]
    assert ear.texts(Kind.TROUBLE) == []


def test_a_failed_job_says_exit_code_reason_and_the_end_of_its_log(cluster: Cluster, kube: Kube, ear: Ear) -> None:
    cluster.create(job())
    pod = kube.pod("train")
    kube.runs(pod)
    kube.says(pod, *[f"line {number}" for number in range(40)])
    kube.ends(pod, 2)
    kube.finishes("train", "Failed", reason="PodFailurePolicy", message="Container trainer failed with exit code 2")
    with Follower(cluster, JOB, "train", ear, pace=QUICK) as follower:
        outcome = look_to_the_end(follower)
    assert not outcome.succeeded
    assert outcome.exit_code == 2
    assert outcome.reason == "PodFailurePolicy: Container trainer failed with exit code 2"
    assert outcome.last_lines == tuple(f"line {number}" for number in range(28, 40))
    assert ear.heard(f"pod {pod} ended with exit code 2: the input is wrong")
    assert ear.texts(Kind.LOG) == []


def test_a_pod_that_finds_no_node_is_told_with_the_reason(follower: Follower, ear: Ear, kube: Kube) -> None:
    pod = kube.pod("train")
    kube.unschedulable(pod, "0/3 nodes are available: 3 Insufficient nvidia.com/gpu")
    look_until(follower, lambda: ear.heard("Insufficient nvidia.com/gpu"))
    kube.runs(pod)
    look_until(follower, lambda: ear.heard(f"pod {pod} runs"))
    assert len(ear.texts(Kind.TROUBLE)) == 1


@pytest.mark.parametrize("reason", ["ErrImagePull", "ImagePullBackOff"])
def test_an_image_that_can_not_be_pulled_is_told(follower: Follower, ear: Ear, kube: Kube, reason: str) -> None:
    pod = kube.pod("train")
    kube.waits(pod, reason, "fusery:1: not found")
    look_until(follower, lambda: ear.heard(f"pod {pod} can't pull its image ({reason}): fusery:1: not found"))


def test_a_config_map_that_is_missing_is_told(follower: Follower, ear: Ear, kube: Kube) -> None:
    pod = kube.pod("train")
    kube.waits(pod, "CreateContainerConfigError", 'configmap "fusery-settings" not found')
    look_until(follower, lambda: ear.heard('configmap "fusery-settings" not found'))


def test_a_secret_that_can_not_be_mounted_stands_in_events_alone(follower: Follower, ear: Ear, kube: Kube) -> None:
    pod = kube.pod("train")
    kube.warns(
        "Pod", pod, "FailedMount", 'MountVolume.SetUp failed for volume "token": secret "source-token" not found'
    )
    look_until(follower, lambda: ear.heard('secret "source-token" not found'))
    assert ear.texts(Kind.TROUBLE)[0].startswith(f"pod {pod} FailedMount")


def test_a_job_that_gets_no_pods_says_why(follower: Follower, ear: Ear, kube: Kube) -> None:
    kube.warns("Job", "train", "FailedCreate", "pods is forbidden: exceeded quota: gpus")
    look_until(follower, lambda: ear.heard("job/train FailedCreate: pods is forbidden: exceeded quota: gpus"))


def test_events_of_an_earlier_job_of_the_name_are_not_its(follower: Follower, ear: Ear, kube: Kube) -> None:
    kube.warns("Job", "train", "FailedCreate", "of this one")
    kube.change("Event", kube.names("Event")[0], lambda event: event["involvedObject"].update(uid="uid-of-another"))
    kube.warns("Job", "train", "Other", "of this one too")
    look_until(follower, lambda: ear.heard("of this one too"))
    assert not ear.heard("FailedCreate")


def test_a_job_in_a_queue_says_which_and_goes_on_when_it_is_admitted(cluster: Cluster, ear: Ear, kube: Kube) -> None:
    queued = job(suspend=True)
    queued["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "gpus"
    cluster.create(queued)
    with Follower(cluster, JOB, "train", ear, pace=QUICK) as follower:
        look_until(follower, lambda: ear.heard("job/train waits in queue gpus until Kueue admits it"))
        kube.change("Job", "train", lambda found: found["spec"].update(suspend=False))
        kube.runs(pod := kube.pod("train"))
        look_until(follower, lambda: ear.heard(f"pod {pod} runs"))


def test_connections_that_break_cost_no_line_and_repeat_none(follower: Follower, ear: Ear, kube: Kube) -> None:
    kube.runs(pod := kube.pod("train"))
    for number in range(30):
        kube.says(pod, f"line {number}")
        if number % 10 == 5:
            look_until(follower, lambda wanted=number: ear.heard(f"line {wanted}"))  # type: ignore[misc]
            kube.cut()
    kube.broken = [503, 500]
    kube.ends(pod, 0)
    kube.finishes("train", "Complete")
    assert look_to_the_end(follower).succeeded
    assert ear.texts(Kind.LOG) == [f"line {number}" for number in range(30)]
    assert any("trying again" in text for text in ear.texts(Kind.TROUBLE))


def test_a_pod_that_a_drained_node_takes_along_is_followed_by_the_next(
    follower: Follower, ear: Ear, kube: Kube
) -> None:
    kube.runs(first := kube.pod("train", name="train-first"))
    kube.says(first, "of the first")
    look_until(follower, lambda: ear.heard("of the first"))
    kube.delete(("", "pods", first), None)
    kube.runs(second := kube.pod("train", name="train-second"))
    kube.says(second, "of the second")
    look_until(follower, lambda: ear.heard("of the second"))
    assert ear.texts(Kind.TROUBLE) == []


def test_who_may_not_read_logs_still_hears_of_the_pods(follower: Follower, ear: Ear, kube: Kube) -> None:
    kube.deny("get", "pods/log")
    kube.runs(pod := kube.pod("train"))
    look_until(follower, lambda: ear.heard(f"pod {pod} its log can't be read"))
    kube.ends(pod, 0)
    kube.finishes("train", "Complete")
    assert look_to_the_end(follower).succeeded


def test_trouble_at_the_very_end_does_not_hide_how_it_ended(follower: Follower, ear: Ear, kube: Kube) -> None:
    kube.runs(pod := kube.pod("train"))
    look_until(follower, lambda: kube.requests.count(("watch", "jobs", "")) and ear.heard(f"pod {pod} runs"))
    kube.ends(pod, 3)
    kube.broken = [503, 503]
    kube.finishes("train", "Failed", reason="PodFailurePolicy")
    assert look_to_the_end(follower).exit_code == 3


def test_who_may_not_read_events_still_hears_of_the_pods(follower: Follower, ear: Ear, kube: Kube) -> None:
    kube.deny("list", "events")
    pod = kube.pod("train")
    look_until(follower, lambda: ear.heard('resources: ["events"], verbs: ["list"]'))
    kube.runs(pod)
    look_until(follower, lambda: ear.heard(f"pod {pod} runs"))


@pytest.mark.parametrize("as_event", [True, False])
def test_a_forgotten_version_is_followed_by_a_new_list(
    follower: Follower, ear: Ear, kube: Kube, as_event: bool
) -> None:
    kube.gone_as_event = as_event
    kube.runs(pod := kube.pod("train"))
    look_until(follower, lambda: ear.heard(f"pod {pod} runs"))
    kube.forget()
    kube.ends(pod, 0)
    kube.finishes("train", "Complete")
    assert look_to_the_end(follower).succeeded


def test_a_pod_that_follows_a_failed_one_is_followed_too(follower: Follower, ear: Ear, kube: Kube) -> None:
    kube.runs(first := kube.pod("train", name="train-first"))
    kube.says(first, "of the first")
    look_until(follower, lambda: ear.heard("of the first"))
    kube.ends(first, 137, reason="OOMKilled")
    kube.runs(second := kube.pod("train", name="train-second"))
    kube.says(second, "of the second")
    look_until(follower, lambda: ear.heard("of the second"))
    assert ear.heard("pod train-first ended with exit code 137: it needed more memory than its limit")
    kube.ends(second, 0)
    kube.finishes("train", "Complete")
    assert look_to_the_end(follower).succeeded


def test_who_comes_late_hears_the_end_of_the_log_only(cluster: Cluster, ear: Ear, kube: Kube) -> None:
    cluster.create(job())
    kube.runs(pod := kube.pod("train"))
    kube.says(pod, *[f"line {number}" for number in range(100)])
    with Follower(cluster, JOB, "train", ear, tail=3, pace=QUICK) as follower:
        look_until(follower, lambda: ear.heard("line 99"))
    assert ear.texts(Kind.LOG) == ["line 97", "line 98", "line 99"]


def test_a_job_that_is_deleted_meanwhile_is_told_from_one_that_ends(
    follower: Follower, cluster: Cluster, ear: Ear, kube: Kube
) -> None:
    look_until(follower, lambda: kube.requests.count(("watch", "jobs", "")))
    cluster.delete(JOB, "train")
    with pytest.raises(Deleted, match="job/train in namespace ml was deleted"):
        look_to_the_end(follower)


@pytest.mark.parametrize("condition", ["Complete", "Failed"])
def test_a_job_that_was_deleted_after_its_end_has_ended_and_is_not_gone(
    follower: Follower, kube: Kube, condition: str
) -> None:
    look_until(follower, lambda: kube.requests.count(("watch", "jobs", "")))
    with kube.lock:
        # Its pods can't be asked for at once, so the deletion is seen before its end is told.
        kube.broken = [503] * 10
        kube.finishes("train", condition)
        kube.delete(("batch", "jobs", "train"), "Background")
    assert look_to_the_end(follower).succeeded == (condition == "Complete")


def test_another_job_of_the_name_does_not_change_the_end_that_was_seen(follower: Follower, kube: Kube) -> None:
    look_until(follower, lambda: kube.requests.count(("watch", "jobs", "")))
    with kube.lock:
        kube.broken = [503] * 10
        kube.finishes("train", "Complete")
        kube.delete(("batch", "jobs", "train"), "Background")
        kube.create("batch/v1", "jobs", job())
    assert look_to_the_end(follower).succeeded


def test_a_right_that_is_missing_ends_the_following(cluster: Cluster, ear: Ear, kube: Kube) -> None:
    cluster.create(job())
    kube.deny("list", "pods")
    with (
        Follower(cluster, JOB, "train", ear, pace=QUICK) as follower,
        pytest.raises(NotAllowed, match=r'resources: \["pods"\], verbs: \["list"\]'),
    ):
        look_to_the_end(follower)


def test_a_right_that_is_taken_away_for_a_while_is_waited_for(follower: Follower, ear: Ear, kube: Kube) -> None:
    kube.runs(pod := kube.pod("train"))
    look_until(follower, lambda: ear.heard(f"pod {pod} runs"))
    kube.deny("list", "pods")
    kube.cut()
    look_until(follower, lambda: ear.heard("may not list pods"))
    kube.denied.clear()
    kube.ends(pod, 0)
    kube.finishes("train", "Complete")
    assert look_to_the_end(follower).succeeded


def test_the_pods_of_a_job_set_are_found_by_its_name(tmp_path: Path, ear: Ear) -> None:
    with kube_server(tmp_path, options=True) as kube:
        cluster = from_kubeconfig("ml", str(kube.kubeconfig))
        cluster.create({**job(), "apiVersion": JOBSET.api_version, "kind": "JobSet"})
        with Follower(cluster, JOBSET, "train", ear, pace=QUICK) as follower:
            kube.runs(pod := kube.pod("train", kind="JobSet"))
            look_until(follower, lambda: ear.heard(f"pod {pod} runs"))
            kube.ends(pod, 0)
            kube.finishes("train", "Completed", kind="JobSet")
            assert look_to_the_end(follower).succeeded


def test_what_keeps_one_pod_is_not_told_again_of_the_next_one(follower: Follower, ear: Ear, kube: Kube) -> None:
    for number, name in enumerate(("train-abc12", "train-xyz34"), start=1):
        pod = kube.pod("train", name=name)
        kube.unschedulable(pod, f"0/{number} nodes are available: {number} Insufficient cpu.")
        kube.warns("Pod", pod, "FailedScheduling", f"0/{number} nodes are available: {number} Insufficient cpu.")
        kube.warns(
            "Pod", pod, "FailedMount", f'mounting for {pod} failed, back-off {number}0s: secret "token" not found'
        )
        kube.warns("Pod", pod, "Seen" + "AB"[number - 1], "that events were read")
        look_until(follower, lambda seen="Seen" + "AB"[number - 1]: ear.heard(seen))  # type: ignore[misc]
        kube.delete(("", "pods", pod), None)
    troubles = ear.texts(Kind.TROUBLE)
    assert [sum(part in text for text in troubles) for part in ("Insufficient cpu", "token")] == [1, 1]


def test_an_image_that_can_not_be_pulled_is_one_trouble_under_all_its_reasons(
    follower: Follower, ear: Ear, kube: Kube
) -> None:
    pod = kube.pod("train")
    kube.waits(pod, "ErrImagePull", "fusery:1: not found")
    look_until(follower, lambda: ear.heard("can't pull its image"))
    kube.waits(pod, "ImagePullBackOff", 'Back-off pulling image "fusery:1"')
    kube.warns("Pod", pod, "Failed", "Error: ErrImagePull")
    kube.warns("Pod", pod, "BackOff", 'Back-off pulling image "fusery:1"')
    kube.warns("Pod", pod, "Other", "that events were read")
    look_until(follower, lambda: ear.heard("Other"))
    assert len(ear.texts(Kind.TROUBLE)) == 2


def test_every_pod_that_ends_is_told(follower: Follower, ear: Ear, kube: Kube) -> None:
    for name in ("train-abc12", "train-xyz34"):
        kube.runs(pod := kube.pod("train", name=name))
        kube.ends(pod, 1)
        look_until(follower, lambda wanted=name: ear.heard(f"pod {wanted} ended with exit code 1"))  # type: ignore[misc]


def test_nodes_that_wait_for_one_another_are_counted(cluster: Cluster, ear: Ear, kube: Kube) -> None:
    cluster.create(job(completions=2))
    with Follower(cluster, JOB, "train", ear, pace=QUICK) as follower:
        kube.runs(first := kube.pod("train", name="train-0"))
        second = kube.pod("train", name="train-1", index=1)
        look_until(follower, lambda: ear.heard("job/train: 1 of 2 nodes run, and wait for the others"))
        kube.runs(second)
        look_until(follower, lambda: ear.heard(f"pod {second} runs"))
        kube.ends(first, 0)
        look_until(follower, lambda: ear.heard("job/train: 1 of 2 nodes have finished"))
    assert len([text for text in ear.texts(Kind.STATE) if "nodes" in text]) == 2
