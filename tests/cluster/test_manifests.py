"""What a run's objects say: names, exit codes, who gets a token or a secret, how the nodes of a training meet."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusery.cluster.manifests.manifests import run_objects, step_objects
from fusery.cluster.manifests.names import Step, base_name, run_name, step_name
from fusery.cluster.manifests.training import TERMINATED
from fusery.config.file import read_run_file
from fusery.config.run import RunConfig
from support.cluster.charts import ROOT
from support.cluster.cluster_runs import PLACEMENTS, SECRETS, TINY, TRAINERS, configured, jobs, objects, pods


@pytest.fixture(params=PLACEMENTS.values(), ids=PLACEMENTS)
def config(request: pytest.FixtureRequest) -> RunConfig:
    """A run in each placement."""
    return configured(request.param)


def container(template: dict[str, Any]) -> dict[str, Any]:
    (only,) = template["spec"]["containers"]
    found: dict[str, Any] = only
    return found


def variables(template: dict[str, Any]) -> dict[str, Any]:
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container(template)["env"]}


def train(trainer: dict[str, Any], **kubernetes: Any) -> tuple[Any, ...]:
    return step_objects(configured({**kubernetes, "trainer": trainer}), Step.TRAIN)


def test_placement_changes_neither_the_digest_nor_the_names(config: RunConfig) -> None:
    local = read_run_file(TINY).config
    assert config.digest() == local.digest()
    assert base_name(config) == base_name(configured())


def test_another_run_or_another_release_has_other_names() -> None:
    names = {base_name(configured()), base_name(configured(seed=1)), base_name(configured({"release": "fusery-two"}))}
    assert len(names) == 3


@given(
    name=st.from_regex(r"[a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?", fullmatch=True),
    source=st.from_regex(r"[a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?", fullmatch=True),
    release=st.from_regex(r"[a-z]([a-z0-9-]{0,25}[a-z0-9])?", fullmatch=True),
)
def test_every_name_is_one_that_the_api_takes_and_leaves_room_for_what_a_jobset_adds(
    name: str, source: str, release: str
) -> None:
    config = configured({"release": release}, name=name)
    steps = [step_name(config, Step.TRAIN, given) for given in ((), ("--clm-only",), ("--only-source", source))]
    for made in (run_name(config), step_name(config, Step.EVALUATE), *steps):
        assert made.startswith(base_name(config))
        assert len(f"{made}-node-0-999-xxxxx") <= 63
        assert re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", made)


def test_each_training_of_a_run_has_a_job_of_its_own() -> None:
    config = configured({"trainer": {"kind": "job"}})
    given = [(), ("--clm-only",), ("--only-source", "docs"), ("--only-source", "python")]
    assert len({step_name(config, Step.TRAIN, arguments) for arguments in given}) == len(given)
    (job,) = step_objects(config, Step.TRAIN, ("--only-source", "docs"))
    args = container(job["spec"]["template"])["args"]
    assert args[:4] == ["train", "/etc/fusery/run/run.yaml", "--relative-to", "/store"]
    assert args[4:6] == ["--only-source", "docs"]


def test_every_object_serialises_to_json_and_is_made_anew_alike(config: RunConfig) -> None:
    assert json.loads(json.dumps(objects(config))) == list(objects(config))


def test_every_pod_meets_the_restricted_standard_with_a_read_only_root(config: RunConfig) -> None:
    for template in pods(objects(config)):
        spec, box = template["spec"], container(template)
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] == 10001
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert box["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC"}
        assert all(
            volume.keys() & {"emptyDir", "configMap", "secret", "persistentVolumeClaim"} for volume in spec["volumes"]
        )


def test_every_mount_has_its_volume_and_nothing_stands_twice(config: RunConfig) -> None:
    for template in pods(objects(config)):
        volumes = [volume["name"] for volume in template["spec"]["volumes"]]
        mounts = [mount["name"] for mount in container(template)["volumeMounts"]]
        assert sorted(volumes) == sorted(mounts)
        assert len(set(volumes)) == len(volumes)
        names = [entry["name"] for entry in container(template)["env"]]
        assert len(set(names)) == len(names)


def test_only_the_pod_that_creates_jobs_gets_a_token_and_an_account_of_its_own(config: RunConfig) -> None:
    for template in pods(objects(config)):
        spec, component = template["spec"], template["metadata"]["labels"]["app.kubernetes.io/component"]
        launches = component == "run" and config.kubernetes.launches_jobs
        assert spec["automountServiceAccountToken"] is launches
        assert spec["serviceAccountName"] == ("fusery-run" if launches else "fusery")


def test_secrets_are_named_and_mounted_as_files_where_they_are_needed(config: RunConfig) -> None:
    for template in pods(objects(config)):
        component = template["metadata"]["labels"]["app.kubernetes.io/component"]
        mounted = {v["secret"]["secretName"] for v in template["spec"]["volumes"] if "secret" in v}
        assert "secretKeyRef" not in json.dumps(template)
        assert mounted <= SECRETS
        if component != "run":
            assert mounted <= {"store-secret"}
        elif config.kubernetes.broker_password_secret is not None:
            assert mounted == SECRETS - {"pull-secret"}


def test_a_stopped_pod_is_no_failure_and_a_hopeless_one_ends_its_job(config: RunConfig) -> None:
    expected = {"run": [2, 3, 4], "trainer": [2], "evaluate": [2]}
    for spec in jobs(objects(config)):
        component = spec["template"]["metadata"]["labels"]["app.kubernetes.io/component"]
        drained, hopeless, stopped = spec["podFailurePolicy"]["rules"]
        assert drained["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
        assert (hopeless["action"], hopeless["onExitCodes"]["values"]) == ("FailJob", expected[component])
        assert (stopped["action"], stopped["onExitCodes"]["values"]) == ("Ignore", [130, 143])
        assert {rule["onExitCodes"]["containerName"] for rule in (hopeless, stopped)} == {
            container(spec["template"])["name"]
        }
        assert spec["template"]["spec"]["restartPolicy"] == "Never"


def test_the_trainer_says_that_it_was_stopped_with_the_code_that_jobs_ignore() -> None:
    # Read, for importing it takes torch.
    source = (ROOT / "services/fusery/trainer/job.py").read_text()
    assert f"\nTERMINATED_EXIT_CODE = {TERMINATED}\n" in source


def test_a_training_has_the_whole_grace_for_its_checkpoint() -> None:
    (job,) = train({"kind": "job", "gpus_per_node": 2}, grace_s=900)
    assert job["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 900
    assert "--shutdown-timeout=885" in container(job["spec"]["template"])["args"]


def test_one_process_runs_without_torchrun_and_several_with_it() -> None:
    (one,) = train({"kind": "job", "gpus_per_node": 1})
    assert "command" not in container(one["spec"]["template"])
    (many,) = train({"kind": "job", "gpus_per_node": 8})
    box = container(many["spec"]["template"])
    assert box["command"] == ["python3", "-m", "fusery.cli.steps.training_node"]
    assert box["args"][:2] == ["--standalone", "--nproc-per-node=8"]
    assert box["args"][3:6] == ["-m", "fusery", "train"]
    assert box["resources"]["limits"]["nvidia.com/gpu"] == "8"
    assert box["image"].endswith("-gpu")
    assert any(mount["mountPath"] == "/dev/shm" for mount in box["volumeMounts"])


@pytest.mark.parametrize("kind", ["job", "jobset", "trainjob"])
def test_several_nodes_without_a_gpu_train_on_their_cpus(kind: str) -> None:
    whole = train({"kind": kind, "nodes": 2})
    (template,) = pods(whole)
    assert variables(template)["ACCELERATE_USE_CPU"] == "true"
    assert container(template)["args"][-2:] == ["--threads", "$(CPUS)"]
    (template,) = pods(train({"kind": kind, "nodes": 2, "gpus_per_node": 1}))
    assert "ACCELERATE_USE_CPU" not in variables(template)


def test_the_nodes_of_a_job_meet_at_the_first_one_by_its_name() -> None:
    service, job = train({"kind": "job", "nodes": 3, "gpus_per_node": 2, "sharded": True})
    name, spec = job["metadata"]["name"], job["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 3, 3)
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": name}
    assert spec["template"]["spec"]["subdomain"] == service["metadata"]["name"] == name
    given = variables(spec["template"])
    assert given["MASTER_ADDR"] == f"{name}-0.{name}"
    assert "job-completion-index" in given["NODE_RANK"]["fieldRef"]["fieldPath"]
    assert given["ACCELERATE_USE_FSDP"] == "true"
    assert "--node-rank=$(NODE_RANK)" in container(spec["template"])["args"]


def test_without_dns_the_nodes_meet_at_a_service_in_front_of_the_first_one() -> None:
    service, job = train({"kind": "job", "nodes": 2}, addressing="environment")
    assert "clusterIP" not in service["spec"]
    assert service["spec"]["selector"]["batch.kubernetes.io/job-completion-index"] == "0"
    variable = service["metadata"]["name"].upper().replace("-", "_")
    assert variables(job["spec"]["template"])["MASTER_ADDR"] == f"$({variable}_SERVICE_HOST)"
    assert job["spec"]["template"]["spec"]["enableServiceLinks"] is True


def test_a_variable_stands_after_those_that_it_refers_to(config: RunConfig) -> None:
    for template in pods(objects(config)):
        names = [entry["name"] for entry in container(template)["env"]]
        for entry in container(template)["env"]:
            for position, name in enumerate(names):
                if f"$({name})" in str(entry.get("value")):
                    assert position < names.index(entry["name"])


def test_a_jobset_ends_with_a_hopeless_pod_and_starts_anew_after_any_other() -> None:
    (made,) = train(TRAINERS["jobset"])
    policy = made["spec"]["failurePolicy"]
    assert policy["rules"][0]["onJobFailureReasons"] == ["PodFailurePolicy"]
    (job,) = made["spec"]["replicatedJobs"]
    assert job["template"]["spec"]["backoffLimit"] == 0
    name = made["metadata"]["name"]
    assert variables(job["template"]["spec"]["template"])["MASTER_ADDR"] == f"{name}-node-0-0.{name}"


def test_a_trainjob_leaves_the_meeting_to_kubeflow() -> None:
    runtime, made = train(TRAINERS["trainjob"])
    assert made["spec"]["runtimeRef"]["name"] == runtime["metadata"]["name"]
    assert made["spec"]["trainer"] == {"numNodes": 2, "numProcPerNode": 8}
    (job,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    assert job["template"]["metadata"]["labels"] == {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}
    box = container(job["template"]["spec"]["template"])
    assert box["name"] == "node"
    assert not [argument for argument in box["args"] if argument.startswith(("--nnodes", "--master", "--nproc"))]


@pytest.mark.parametrize("trainer", ["job with gpus", "jobset", "trainjob"])
def test_a_job_in_a_queue_starts_suspended(trainer: str) -> None:
    job = train(TRAINERS[trainer])[-1]
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    assert job["spec"]["suspend"] is True
    assert "suspend" not in train(TRAINERS["nodes"])[-1]["spec"]


def test_a_step_belongs_to_the_run_that_created_it() -> None:
    config = configured({"trainer": {"kind": "job", "nodes": 2}})
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": run_name(config), "uid": "11-22"}
    for manifest in step_objects(config, Step.TRAIN, owner=owner):
        assert manifest["metadata"]["ownerReferences"] == [owner]


def test_the_run_s_yaml_travels_word_for_word_and_keeps_its_plan(tmp_path: Any) -> None:
    text = TINY.read_text()
    for name in ("docs", "python", "cpp"):
        address = f'name: {name}, address: "dns:///fusery-source-{name}:50051"'
        text = text.replace(f"name: {name}", address)
    path = tmp_path / "run.yaml"
    path.write_text(text)
    made, _ = run_objects(read_run_file(path).config, text)
    (tmp_path / "mounted.yaml").write_text(made["data"]["run.yaml"])
    assert made["data"]["run.yaml"] == text
    assert read_run_file(tmp_path / "mounted.yaml").config.digest() == read_run_file(TINY).config.digest()


def test_addresses_and_places_do_not_change_the_plan_s_artefacts() -> None:
    from fusery.hops.plan import Hop, Plan, PlannedSource

    def fused(config: RunConfig) -> str:
        sources = tuple(
            PlannedSource(name=s.name, model_fingerprint=s.name, tokenizer_fingerprint=s.name, vocabulary_size=9)
            for s in config.sources
        )
        sections = {"capture": config.capture, "alignment": config.alignment, "fusion": config.fusion}
        plan = Plan(
            run_id="r",
            corpus_digest="c",
            corpus_shards=1,
            target_tokenizer_fingerprint="t",
            sources=sources,
            **sections,
        )
        return plan.folder(Hop.FUSE)

    everywhere = {fused(configured(placement)) for placement in PLACEMENTS.values()}
    assert everywhere == {fused(read_run_file(TINY).config)}


def test_services_of_one_s_own_are_left_to_the_yaml() -> None:
    own = {"broker_url": "redis://broker.example:6379/0", "tracking_uri": "https://mlflow.example"}
    config = configured(services=own)
    (template,) = pods(run_objects(config, "x"))
    assert not variables(template).keys() & {"FUSERY_BROKER_URL", "FUSERY_TRACKING_URI"}
    (template,) = pods(run_objects(configured(), "x"))
    assert variables(template)["FUSERY_BROKER_URL"] == "redis://fusery-broker:6379/0"


def test_a_run_takes_its_labels_from_the_release() -> None:
    (template,) = pods(run_objects(configured({"release": "two"}), "x"))
    given = template["metadata"]["labels"]
    assert given["app.kubernetes.io/instance"] == "two"
    assert container(template)["envFrom"] == [{"configMapRef": {"name": "two-fusery-settings"}}]
