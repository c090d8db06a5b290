"""The same objects, launched by whoever and however often, are one Job; what failed is made anew."""

from __future__ import annotations

import threading

import pytest

from fusery.cluster.api.api import Cluster
from fusery.cluster.api.errors import JOB, NotAllowed
from fusery.cluster.api.follow import Kind
from fusery.cluster.api.launch import deletion, launch, patiently, rehearse
from fusery.runtime.errors import Mismatch, Overloaded, Unavailable
from support.cluster.cluster_jobs import Ear, config_map, job
from support.cluster.kube_state import Kube

TEXT = "name: pico\n"


@pytest.fixture
def ear() -> Ear:
    return Ear()


def objects(text: str = TEXT, args: tuple[str, ...] = ()) -> tuple[dict[str, object], ...]:
    return config_map(text), job(args=args)


def ended(kube: Kube, exit_code: int) -> None:
    kube.runs(pod := kube.pod("train"))
    kube.says(pod, "the last word")
    kube.ends(pod, exit_code)
    kube.finishes("train", "Failed" if exit_code else "Complete")


def test_what_is_not_there_is_created_in_order(cluster: Cluster, kube: Kube, ear: Ear) -> None:
    assert launch(cluster, objects(), ear).is_new
    created = [name for verb, _, name in kube.requests if verb == "create"]
    assert created == ["fusery-pico-1", "train"]


@pytest.mark.parametrize("suspend", [True, False])
def test_a_job_that_goes_on_is_taken_up(cluster: Cluster, kube: Kube, ear: Ear, suspend: bool) -> None:
    launch(cluster, objects(), ear)
    kube.change("Job", "train", lambda found: found["spec"].update(suspend=suspend))
    before = kube.get("Job", "train")
    launched = launch(cluster, objects(), ear)
    assert not launched.is_new
    assert launched.outcome is None
    assert kube.get("Job", "train") == before


def test_two_that_launch_at_the_same_moment_follow_one_job(cluster: Cluster, kube: Kube, ear: Ear) -> None:
    news: list[bool] = []
    threads = [threading.Thread(target=lambda: news.append(launch(cluster, (job(),), ear).is_new)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(news) == [False] * 7 + [True]


def test_a_job_that_goes_on_with_another_yaml_is_not_touched(cluster: Cluster, kube: Kube, ear: Ear) -> None:
    launch(cluster, objects(), ear)
    with pytest.raises(Mismatch, match="kubectl --namespace ml delete job/train configmap/fusery-pico-1"):
        launch(cluster, objects("name: pico\nseed: 1\n"), ear)
    with pytest.raises(Mismatch, match="other options"):
        launch(cluster, objects(args=("--until", "fuse")), ear)
    assert kube.get("ConfigMap", "fusery-pico-1")["data"] == {"run.yaml": TEXT}


def test_an_object_of_somebody_else_is_not_touched(cluster: Cluster, kube: Kube, ear: Ear) -> None:
    cluster.create(job(run="another"))
    with pytest.raises(Mismatch, match="its label fusery/run is 'another'"):
        launch(cluster, objects(), ear)
    cluster.delete(JOB, "train")
    cluster.create(config_map("theirs", run="another"))
    with pytest.raises(Mismatch, match="configmap/fusery-pico-1 in namespace ml is not of this run"):
        launch(cluster, objects(), ear)
    assert kube.get("ConfigMap", "fusery-pico-1")["data"] == {"run.yaml": "theirs"}


def test_a_job_that_is_done_says_its_result(cluster: Cluster, kube: Kube, ear: Ear) -> None:
    launch(cluster, objects(), ear)
    ended(kube, 0)
    launched = launch(cluster, objects(), ear)
    assert launched.outcome is not None
    assert launched.outcome.succeeded
    assert launched.outcome.last_lines == ("the last word",)


def test_a_run_that_did_not_pass_its_gate_is_not_run_again(cluster: Cluster, kube: Kube, ear: Ear) -> None:
    launch(cluster, objects(), ear)
    ended(kube, 4)
    launched = launch(cluster, objects(), ear)
    assert launched.outcome is not None
    assert launched.outcome.exit_code == 4


@pytest.mark.parametrize("exit_code", [1, 2, 3, 137])
def test_a_job_that_failed_is_made_anew_with_a_word(cluster: Cluster, kube: Kube, ear: Ear, exit_code: int) -> None:
    launch(cluster, objects(), ear)
    before = kube.get("Job", "train")["metadata"]["uid"]
    ended(kube, exit_code)
    assert launch(cluster, objects(), ear).is_new
    assert kube.get("Job", "train")["metadata"]["uid"] != before
    assert kube.names("Pod") == []
    assert "job/train failed" in ear.texts(Kind.STATE)[0]


def test_a_job_that_is_done_is_made_anew_for_another_yaml_and_where_it_is_not_enough(
    cluster: Cluster, kube: Kube, ear: Ear
) -> None:
    launch(cluster, objects(), ear)
    ended(kube, 0)
    assert launch(cluster, objects("name: pico\nseed: 1\n"), ear).is_new
    assert kube.get("ConfigMap", "fusery-pico-1")["data"] == {"run.yaml": "name: pico\nseed: 1\n"}
    ended(kube, 0)
    assert launch(cluster, objects("name: pico\nseed: 1\n"), ear, keeps_done=False).is_new


def test_a_job_on_its_way_out_is_waited_for(cluster: Cluster, kube: Kube, ear: Ear) -> None:
    launch(cluster, (job(),), ear)
    kube.holds_deletions = True
    cluster.delete(JOB, "train")
    asked = len(kube.requests)
    thread = threading.Thread(target=lambda: launch(cluster, (job(),), ear))
    thread.start()
    kube.wait_for(lambda: len(kube.requests) > asked)
    assert "deletionTimestamp" in kube.get("Job", "train")["metadata"]
    kube.let_go()
    thread.join()
    assert "deletionTimestamp" not in kube.get("Job", "train")["metadata"]


def test_what_a_job_needs_is_made_anew_with_it(cluster: Cluster, kube: Kube, ear: Ear) -> None:
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "gone", "uid": "uid-gone"}
    old = config_map(TEXT)
    old["metadata"]["ownerReferences"] = [owner]
    cluster.create(old)
    launch(cluster, objects(), ear)
    assert "ownerReferences" not in kube.get("ConfigMap", "fusery-pico-1")["metadata"]


def test_a_rehearsal_makes_nothing_and_says_what_would_be_refused(cluster: Cluster, kube: Kube, ear: Ear) -> None:
    rehearse(cluster, objects())
    assert kube.names("Job") == kube.names("ConfigMap") == []
    launch(cluster, objects(), ear)
    rehearse(cluster, objects())
    kube.deny("create", "jobs")
    with pytest.raises(NotAllowed):
        rehearse(cluster, objects())


def test_a_server_in_trouble_is_asked_again_and_it_is_said_once(cluster: Cluster, kube: Kube, ear: Ear) -> None:
    kube.broken = [503, 503]
    assert patiently(lambda: launch(cluster, objects(), ear), ear, pause_s=0.01).is_new
    assert len(ear.texts(Kind.TROUBLE)) == 1
    assert "503" in ear.texts(Kind.TROUBLE)[0]


def test_patience_has_an_end(cluster: Cluster, kube: Kube, ear: Ear) -> None:
    kube.deny("create", "jobs", "exceeded quota: jobs")
    with pytest.raises(Overloaded):
        patiently(lambda: launch(cluster, (job(),), ear), ear, patience_s=0.05, pause_s=0.01)
    kube.broken = [503] * 50
    with pytest.raises(Unavailable):
        launch(cluster, (job(),), ear)


def test_the_command_that_deletes_names_everything(cluster: Cluster) -> None:
    assert deletion(cluster, objects()) == "kubectl --namespace ml delete job/train configmap/fusery-pico-1"
