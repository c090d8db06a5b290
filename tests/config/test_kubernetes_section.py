"""The section `kubernetes`: what it refuses, with file, line and key; and what a run must not have in a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from fusery.cluster.manifests.manifests import config_map, run_objects, step_objects
from fusery.cluster.manifests.names import Step
from fusery.config.file import read_run_file
from fusery.runtime.errors import ConfigError, TooLarge
from support.cluster.cluster_runs import configured, content


def refusal(folder: Path, kubernetes: Any) -> str:
    """What is said of a file with this section."""
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(content() | {"kubernetes": kubernetes}, sort_keys=False))
    with pytest.raises(ConfigError) as refused:
        read_run_file(path)
    line = next(number for number, text in enumerate(path.read_text().splitlines(), 1) if text.startswith("kubernetes"))
    first = str(refused.value).splitlines()[0]
    assert int(first.removeprefix(f"{path}:").partition(":")[0]) >= line
    return str(refused.value)


@pytest.mark.parametrize(
    ("kubernetes", "said"),
    [
        ({"namespcae": "ml"}, "kubernetes.namespcae: unknown key; did you mean 'namespace'?"),
        ({"namespace": "ML"}, "kubernetes.namespace"),
        ({"release": "My_Release"}, "kubernetes.release"),
        ({"release": "9lives"}, "fullname: missing; the release '9lives' shortens the names"),
        ({"release": "a" * 40}, "fullname: missing"),
        ({"image": "fusery", "run": {"gpus": 1}}, "gpu_image: missing; the image 'fusery' has no tag"),
        ({"image": "host:5000/f@sha256:ab", "run": {"gpus": 1}}, "gpu_image: missing"),
        ({"trainer": {"kind": "jobsets"}}, "did you mean 'jobset'?"),
        ({"trainer": {"kind": "job", "nodes": 0}}, "kubernetes.trainer.nodes"),
        ({"trainer": {"gpus_per_node": 8}}, "gpus_per_node: for a training with pods of its own"),
        ({"trainer": {"kind": "job", "sharded": True}}, "sharded: needs several processes"),
        ({"evaluate": {"gpus": 1}}, "gpus: for an evaluation with a pod of its own"),
        ({"run": {"resources": {"limits": {"memory": "16 GB"}}}}, "kubernetes.run.resources.limits.memory"),
        ({"run": {"resources": {"gpus": 1}}}, "kubernetes.run.resources.gpus: unknown key"),
        ({"run": {"env": {"HF_TOKEN": "x"}}}, "HF_TOKEN looks like a secret"),
        ({"run": {"tolerations": [{"operator": "Exist"}]}}, "did you mean 'Exists'?"),
        ({"store": {"volume": False}}, "work_claim: missing; a store in a bucket holds no checkpoints"),
        ({"store": {"credentials_secret": "s3"}}, "store.credentials_secret: goes with store.volume: false"),
        ({"folder": "work"}, "kubernetes.folder"),
        ({"grace_s": 5}, "kubernetes.grace_s"),
        ({"ttl_s": 0}, "kubernetes.ttl_s"),
        (
            {"addressing": "environment", "trainer": {"kind": "jobset", "nodes": 2}},
            "trainer.kind: jobset finds its nodes by DNS",
        ),
    ],
)
def test_a_wrong_key_is_named_with_its_line(tmp_path: Path, kubernetes: Any, said: str) -> None:
    assert said in refusal(tmp_path, kubernetes)


def test_a_number_is_a_quantity_too() -> None:
    config = configured({"run": {"resources": {"requests": {"cpu": 2}, "limits": {"memory": "1.5Gi"}}}})
    assert config.kubernetes.run.resources.requests == {"cpu": "2"}


def test_a_source_without_an_address_is_named_with_what_to_write() -> None:
    sources = content()["sources"]
    del sources[1]["address"]
    with pytest.raises(ConfigError) as refused:
        run_objects(configured({"release": "two"}, sources=sources), "x")
    assert str(refused.value) == (
        "sources.1.address: missing; in a cluster the workers ask source python at the release's server of it: write "
        'address: "dns:///two-fusery-source-python:50051"'
    )


def test_without_dns_the_message_says_where_the_address_stands() -> None:
    sources = content()["sources"]
    del sources[0]["address"]
    with pytest.raises(ConfigError, match="kubectl get service fusery-source-docs shows"):
        run_objects(configured({"addressing": "environment"}, sources=sources), "x")


@pytest.mark.parametrize("address", ["127.0.0.1:50051", "localhost:50051", "a:1,localhost:2", "dns:///localhost:50051"])
def test_a_loopback_address_is_refused(address: str) -> None:
    sources = content()["sources"]
    sources[0]["address"] = address
    with pytest.raises(ConfigError, match="is each pod's own loopback"):
        run_objects(configured(sources=sources), "x")


@pytest.mark.parametrize(
    "path",
    [
        "/home/me/train.jsonl",
        "../train.jsonl",
        "~/train.jsonl",
        "/store/../etc/passwd",
        "hf:/data/set",
        "hf:~/set",
        "/storeroom/a",
    ],
)
def test_a_path_of_this_machine_is_refused(path: str) -> None:
    split = {"split": "train"} if path.startswith("hf:") else {}
    corpus = content()["corpus"] | {"train": [{"path": path, **split}]}
    with pytest.raises(ConfigError, match=r"corpus\.train\.0\.path: .* lies on none of the pods' volumes"):
        run_objects(configured(corpus=corpus), "x")


def test_the_folder_of_relative_paths_must_be_a_volume() -> None:
    with pytest.raises(ConfigError, match=r"kubernetes\.folder: /data lies on none of the pods' volumes"):
        run_objects(configured({"folder": "/data", "store": {"claim": "mine"}}), "x")


@pytest.mark.parametrize("model", ["/models/docs", "work/tiny/models/docs", "google/gemma-3-270m", "/store/mine"])
def test_a_path_of_the_pods_is_taken(model: str) -> None:
    assert run_objects(configured(target={"model": model}), "x")


@pytest.mark.parametrize(
    ("services", "said"),
    [
        ({"broker_url": "redis://:hunter2@broker:6379/0"}, "services.broker_url: has a password"),
        ({"broker_url": "redis://broker:6379/0?password=hunter2"}, "services.broker_url: has a password"),
        ({"tracking_uri": "https://me:hunter2@mlflow"}, "services.tracking_uri: has a password"),
        ({"tracking_uri": "https://hunter2@mlflow"}, "services.tracking_uri: has a password or a token"),
        ({"broker_url": "redis://127.0.0.1:6379/0"}, "is each pod's own loopback"),
    ],
)
def test_a_service_that_pods_can_t_use_is_refused(services: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        run_objects(configured(services=services), "x")
    assert said in str(refused.value)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("name", ["FUSERY_TRACKING_URI", "HTTPS_PROXY"])
def test_a_password_in_a_variable_s_url_is_refused(name: str) -> None:
    with pytest.raises(ConfigError) as refused:
        run_objects(configured({"run": {"env": {name: "http://me:hunter2@there:80"}}}), "x")
    assert f"kubernetes.run.env.{name}: has a password" in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_no_message_shows_a_password_that_stands_beside_another_mistake() -> None:
    sources = content()["sources"]
    sources[0] |= {"model": "vllm:http://me:hunter2@there:8000", "address": "localhost:1,http://me:hunter3@there"}
    with pytest.raises(ConfigError) as refused:
        run_objects(configured(sources=sources), "x")
    places = [line.partition(": ")[0] for line in str(refused.value).splitlines()]
    assert places == ["sources.0.model", "sources.0.address"]
    assert "hunter" not in str(refused.value)


@pytest.mark.parametrize(
    "services",
    [
        {"broker_url": "rediss://fusery@broker:6379/0"},
        {"tracking_uri": "https://mlflow/team@home"},
        {"tracking_uri": "sqlite:////store/mlflow.db"},
        {"work": "/store/work"},
        {"work": "mine"},
    ],
)
def test_services_without_a_secret_and_on_a_volume_are_taken(services: dict[str, str]) -> None:
    assert run_objects(configured(services=services), "x")


@pytest.mark.parametrize(
    ("services", "said"),
    [
        ({"work": "/home/me/work"}, "services.work: /home/me/work lies on none of the pods' volumes"),
        ({"tracking_uri": "sqlite:////home/me/mlflow.db"}, "services.tracking_uri: /home/me/mlflow.db lies on none"),
        ({"tracking_uri": "sqlite:///mlflow.db"}, "services.tracking_uri: /tmp/mlflow.db lies on none"),
    ],
)
def test_a_place_to_write_that_is_on_no_volume_is_refused(services: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        run_objects(configured(services=services), "x")
    assert said in str(refused.value)


def test_a_work_folder_that_the_pods_do_not_use_may_lie_anywhere() -> None:
    assert run_objects(configured({"work_claim": "work"}, services={"work": "/home/me/work"}), "x")


def test_every_mistake_is_named_at_once() -> None:
    sources = [{key: value for key, value in source.items() if key != "address"} for source in content()["sources"]]
    with pytest.raises(ConfigError) as refused:
        run_objects(configured(sources=sources, target={"model": "~/docs"}), "x")
    assert len(str(refused.value).splitlines()) == 4


def test_a_step_that_runs_in_the_run_s_pod_has_no_job() -> None:
    with pytest.raises(
        ConfigError, match=r"kubernetes\.trainer\.kind: run trains in the run's own pod; write kind: job"
    ):
        step_objects(configured(), Step.TRAIN)
    with pytest.raises(ConfigError, match=r"kubernetes\.evaluate\.kind: run measures in the run's own pod"):
        step_objects(configured(), Step.EVALUATE)


def test_a_text_that_no_configmap_holds_is_refused_with_its_size() -> None:
    assert config_map(configured(), "#" * 1_044_480)
    with pytest.raises(TooLarge, match=r"has 1,044,482 bytes, a ConfigMap holds 1,044,480"):
        config_map(configured(), "ä" * 522_241)
