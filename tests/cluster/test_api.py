"""The API over real HTTP: what it answers, and what its refusals say to whoever reads them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fusery.cluster.api import api
from fusery.cluster.api.api import Cluster, from_kubeconfig
from fusery.cluster.api.errors import JOB, POD, AlreadyThere, Asked, Expired, NotAllowed, Place, refusal
from fusery.runtime.errors import ConfigError, InvalidInput, Overloaded, Unavailable
from support.cluster.kube_server import TOKEN, kube_server, write_kubeconfig
from support.cluster.kube_state import Kube
from support.source.certificates import Authority

JOBSET = Place("jobset.x-k8s.io/v1alpha2", "JobSet")


def job(name: str = "train", **labels: str) -> dict[str, object]:
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "main"}]}}
    metadata = {"name": name, "labels": labels}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": {"template": template}}


def test_what_is_created_can_be_read_listed_and_deleted(cluster: Cluster, kube: Kube) -> None:
    created = cluster.create(job(of="one"))
    cluster.create(job("other", of="two"))
    assert cluster.get(JOB, "train") == created
    assert created["metadata"]["uid"]
    assert [found["metadata"]["name"] for found in cluster.list(JOB, labelSelector="of=two").items] == ["other"]
    cluster.delete(JOB, "train")
    cluster.delete(JOB, "train")
    assert cluster.get(JOB, "train") is None
    assert kube.names("Job") == ["other"]


def test_the_pods_of_a_deleted_job_go_with_it(cluster: Cluster, kube: Kube) -> None:
    cluster.create(job())
    kube.pod("train")
    cluster.delete(JOB, "train")
    assert kube.names("Pod") == []


def test_a_watch_goes_on_from_a_listing_and_ends_by_itself(cluster: Cluster, kube: Kube) -> None:
    cluster.create(job())
    version = cluster.list(JOB).version
    kube.finishes("train", "Complete")
    cluster.delete(JOB, "train")
    changes = list(cluster.watch(JOB, version, lasts_s=1))
    assert [kind for kind, _ in changes] == ["MODIFIED", "DELETED"]
    assert int(changes[-1][1]["metadata"]["resourceVersion"]) > int(version)


@pytest.mark.parametrize("as_event", [True, False])
def test_a_watch_from_a_forgotten_version_says_so(cluster: Cluster, kube: Kube, as_event: bool) -> None:
    version, kube.gone_as_event = cluster.list(JOB).version, as_event
    kube.forget()
    with pytest.raises(Expired, match="too old resource version"):
        list(cluster.watch(JOB, version, lasts_s=60))


def test_a_watch_that_breaks_off_is_told_from_one_that_ends(cluster: Cluster, kube: Kube) -> None:
    changes = cluster.watch(JOB, cluster.list(JOB).version, lasts_s=60)
    cluster.create(job())
    assert next(changes)[0] == "ADDED"
    kube.cut()
    with pytest.raises(Unavailable, match="does not answer"):
        next(changes)


def test_a_log_is_read_to_its_end_or_followed_until_the_container_ends(cluster: Cluster, kube: Kube) -> None:
    cluster.create(job())
    pod = kube.pod("train")
    with pytest.raises(InvalidInput, match="waiting to start"):
        list(cluster.log(pod, "main", follow=False))
    kube.runs(pod)
    kube.says(pod, "one", "two λ", "three")
    assert [line.partition(" ")[2] for line in cluster.log(pod, "main", follow=False, tailLines="2")] == [
        "two λ",
        "three",
    ]
    lines = cluster.log(pod, "main", follow=True)
    assert next(lines).endswith("Z one")
    kube.says(pod, "four")
    kube.ends(pod, 0)
    assert [line.partition(" ")[2] for line in lines] == ["two λ", "three", "four"]


def test_a_second_object_of_a_name_is_told_from_every_other_refusal(cluster: Cluster) -> None:
    cluster.create(job())
    with pytest.raises(AlreadyThere, match=r'jobs.batch "train" already exists'):
        cluster.create(job())


def test_a_missing_right_names_account_verb_resource_namespace_and_the_rule(cluster: Cluster, kube: Kube) -> None:
    kube.deny("create", "jobs")
    with pytest.raises(NotAllowed) as refused:
        cluster.create(job())
    said = str(refused.value)
    assert "system:serviceaccount:ml:fusery may not create jobs" in said
    assert '{apiGroups: ["batch"], resources: ["jobs"], verbs: ["create"]}' in said
    assert "namespace ml" in said
    assert "kubectl --namespace ml auth can-i create jobs.batch" in said
    assert TOKEN not in said


def test_a_missing_right_on_logs_names_the_part(cluster: Cluster, kube: Kube) -> None:
    cluster.create(job())
    pod = kube.pod("train")
    kube.deny("get", "pods/log")
    with pytest.raises(NotAllowed, match=r'resources: \["pods/log"\].*auth can-i get pods --subresource log'):
        list(cluster.log(pod, "main", follow=False))


def test_a_full_quota_is_worth_another_attempt_and_a_policy_is_not(cluster: Cluster, kube: Kube) -> None:
    kube.deny("create", "jobs", 'jobs.batch "train" is forbidden: exceeded quota: jobs, requested: count/jobs.batch=1')
    with pytest.raises(Overloaded, match="make room in the quota"):
        cluster.create(job())
    kube.deny("create", "jobs", 'admission webhook "policy" denied the request: no GPU for you')
    with pytest.raises(NotAllowed, match="no GPU for you"):
        cluster.create(job())


def test_an_unknown_namespace_is_named_with_the_command_that_makes_it(kube: Kube) -> None:
    with pytest.raises(ConfigError, match="kubectl create namespace elsewhere"):
        from_kubeconfig("elsewhere", str(kube.kubeconfig)).create(job())


def test_a_kind_that_the_cluster_does_not_have_is_named(cluster: Cluster) -> None:
    with pytest.raises(ConfigError, match=r"no JobSet \(jobset.x-k8s.io/v1alpha2\).*kind: job"):
        cluster.create({"apiVersion": JOBSET.api_version, "kind": "JobSet", "metadata": {"name": "train"}})


def test_kinds_that_were_installed_need_nothing_of_their_own(tmp_path: Path) -> None:
    with kube_server(tmp_path, options=True) as kube:
        cluster = from_kubeconfig("ml", str(kube.kubeconfig))
        cluster.create({"apiVersion": JOBSET.api_version, "kind": "JobSet", "metadata": {"name": "train"}})
        assert cluster.get(JOBSET, "train") is not None
        assert ("jobset.x-k8s.io", "jobsets", "create") in kube.seen


def test_a_wrong_token_says_to_log_in_and_does_not_show_it(kube: Kube, tmp_path: Path) -> None:
    path = write_kubeconfig(tmp_path / "stale", kube.url, token="a-stale-token")
    with pytest.raises(ConfigError, match="log in again") as refused:
        from_kubeconfig("ml", str(path)).list(POD)
    assert "a-stale-token" not in str(refused.value)


def test_an_api_that_nobody_answers_for_is_named_with_its_address(tmp_path: Path, closed_port: int) -> None:
    path = write_kubeconfig(tmp_path / "config", f"http://127.0.0.1:{closed_port}")
    with pytest.raises(Unavailable, match=f"127.0.0.1:{closed_port} does not answer: .*[Rr]efused"):
        from_kubeconfig("ml", str(path)).list(POD)


def test_an_answer_that_is_no_status_object_is_shown_as_it_is() -> None:
    asked = Asked("list", POD, "ml")
    assert "upstream is away" in str(refusal(502, b"<html>upstream is away</html>", asked, "http://here"))
    assert "HTTP 400" in str(refusal(400, b"", asked, "http://here"))


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_in_trouble_is_worth_another_attempt(cluster: Cluster, kube: Kube, status: int) -> None:
    kube.broken = [status]
    with pytest.raises(Unavailable, match="can't answer now"):
        cluster.list(POD)


def test_no_kubeconfig_at_all_says_what_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"nowhere.*KUBECONFIG"):
        from_kubeconfig("ml")


def test_the_namespace_of_the_context_is_the_one_unless_another_is_given(kube: Kube) -> None:
    assert from_kubeconfig(path=str(kube.kubeconfig)).namespace == "ml"
    assert from_kubeconfig("other", str(kube.kubeconfig)).namespace == "other"


def test_a_kubeconfig_without_a_current_context_says_how_to_choose_one(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text("apiVersion: v1\nkind: Config\nclusters: []\nusers: []\ncontexts: []\n")
    with pytest.raises(ConfigError, match="kubectl config use-context"):
        from_kubeconfig("ml", str(path))


@pytest.mark.parametrize(
    "content",
    [
        b"clusters: [",
        b"- a list\n",
        b"just words\n",
        b"clusters: 7\ncontexts: []\n",
        b"current-context: here\ncontexts: [{name: here, context: words}]\nclusters: []\n",
        b"current-context: here\ncontexts: [{name: here}]\nclusters: []\n",
        b"\xff\xfe\x00",
    ],
)
def test_a_file_that_is_no_kubeconfig_is_named_with_what_was_expected(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "config"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"kubeconfig {path}: .*expected a file of kind Config") as refused:
        from_kubeconfig("ml", str(path))
    assert "\n" not in str(refused.value)


def test_a_package_that_is_missing_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    # What is None there can't be imported.
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    with pytest.raises(ConfigError, match=r"kubernetes is not installed: .*'\.\[kubernetes\]' in a checkout"):
        from_kubeconfig("ml")


def test_a_pod_uses_its_service_account_over_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority(tmp_path)
    account = tmp_path / "account"
    account.mkdir()
    monkeypatch.setattr(api, "SERVICE_ACCOUNT", account)
    with kube_server(tmp_path, pair=authority.pair("server")) as kube:
        host, _, port = kube.url.removeprefix("https://").partition(":")
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
        with pytest.raises(ConfigError, match="automountServiceAccountToken"):
            api.from_service_account()
        for name, content in {"token": TOKEN, "namespace": "ml\n", "ca.crt": authority.cert.read_text()}.items():
            (account / name).write_text(content)
        cluster = api.from_service_account()
        assert cluster.namespace == "ml"
        assert cluster.list(POD).items == ()
        other = Authority(tmp_path, "other")
        (account / "ca.crt").write_text(other.cert.read_text())
        with pytest.raises(ConfigError, match="certificate that the kubeconfig's authority did not sign"):
            api.from_service_account().list(POD)
