"""Sources, workers, broker and MLflow as the chart renders them: arguments, probes, places, scaling, data."""

from __future__ import annotations

from typing import Any

import pytest

from support.cluster.charts import Helm, Manifest, Rendered, container, variables


def pod(rendered: Rendered, name: str) -> Manifest:
    spec: Manifest = rendered.one("Deployment", name)["spec"]["template"]["spec"]
    return spec


def arguments(rendered: Rendered, name: str) -> list[str]:
    given: list[str] = container(pod(rendered, name))["args"]
    return given


def source(helm: Helm, **values: Any) -> Rendered:
    return helm.template(values={"sources": {"docs": {"model": "/models/docs", **values}}})


def test_a_source_is_one_deployment_and_one_headless_service_and_needs_its_model_alone(helm4: Helm) -> None:
    rendered = source(helm4)
    assert rendered.one("Service", "source-docs")["spec"]["clusterIP"] == "None"
    assert arguments(rendered, "source-docs")[:2] == ["serve-source", "/models/docs"]
    assert "replicas" in rendered.one("Deployment", "source-docs")["spec"]


def test_without_dns_a_source_has_an_address_that_its_variables_name(helm4: Helm) -> None:
    rendered = helm4.template("environment")
    assert "clusterIP" not in rendered.one("Service", "source-docs")["spec"]
    (test,) = rendered.of("Pod")
    assert test["spec"]["enableServiceLinks"] is True
    assert variables(test["spec"])["SOURCES"].split() == [
        "code-2=$(DEMO_FUSERY_SOURCE_CODE_2_SERVICE_HOST):50051",
        "docs=$(DEMO_FUSERY_SOURCE_DOCS_SERVICE_HOST):50051",
    ]


def test_the_arguments_of_a_source_are_options_that_the_command_knows(helm4: Helm, example: str) -> None:
    from fusery.cli.entry import parser

    rendered = helm4.template(example)
    for manifest in rendered.of("Deployment"):
        given = container(manifest["spec"]["template"]["spec"]).get("args", [])
        if given[:1] == ["serve-source"]:
            # The kubelet puts a number in.
            parser().parse_args([argument.replace("$(CPU_LIMIT)", "4") for argument in given])


def test_the_arguments_of_a_worker_are_options_that_the_command_knows(helm4: Helm, example: str) -> None:
    from fusery.cli.entry import parser

    for manifest in helm4.template(example).of("Deployment"):
        given = container(manifest["spec"]["template"]["spec"]).get("args", [])
        if given[:1] == ["worker"]:
            parser().parse_args(given)


def test_a_source_may_load_for_as_long_as_its_values_say(helm4: Helm) -> None:
    probe = container(pod(source(helm4, startupMinutes=90), "source-docs"))["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] == 90 * 60
    assert probe["grpc"] == {"port": 50052, "service": "readiness"}


def test_probes_ask_the_plain_port_also_under_tls(helm4: Helm) -> None:
    box = container(pod(helm4.template("tls"), "source-docs"))
    assert "--health-port=50052" in box["args"]
    assert {box[probe]["grpc"]["port"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")} == {50052}
    assert box["livenessProbe"]["grpc"]["service"] == "liveness"


def test_a_source_has_longer_to_end_than_to_drain(helm4: Helm) -> None:
    rendered = source(helm4, drainSeconds=100)
    assert "--drain-s=100" in arguments(rendered, "source-docs")
    assert pod(rendered, "source-docs")["terminationGracePeriodSeconds"] > 100


@pytest.mark.parametrize(
    ("gpus", "device", "image"),
    [(0, ["--device=cpu"], "fusery:0.1.0"), (1, [], "fusery:0.1.0-gpu"), (2, ["--device=auto"], "fusery:0.1.0-gpu")],
)
def test_gpus_decide_image_device_and_resources(helm4: Helm, gpus: int, device: list[str], image: str) -> None:
    rendered = source(helm4, gpus=gpus)
    box = container(pod(rendered, "source-docs"))
    assert [argument for argument in box["args"] if argument.startswith("--device")] == device
    assert box["image"] == image
    wanted = {kind: box["resources"][kind].get("nvidia.com/gpu", 0) for kind in ("requests", "limits")}
    assert wanted == {"requests": gpus, "limits": gpus}
    assert box["resources"]["limits"]["memory"] == "4Gi"


def test_a_digest_ties_every_pod_to_one_image(helm4: Helm) -> None:
    cpu, gpu = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"
    image = {"digest": cpu, "gpuDigest": gpu}
    rendered = helm4.template("gpu", {"image": image})
    images = {name.removeprefix("demo-fusery-"): container(spec)["image"] for name, _, spec in rendered.pods()}
    assert images.pop("source-mistral") == f"registry.example.com/ml/fusery:0.1.0-gpu@{gpu}"
    assert images["worker-align"] == images["broker"] == images["test"] == f"registry.example.com/ml/fusery:0.1.0@{cpu}"


def test_keda_is_told_the_user_the_password_and_the_authorities_of_a_broker(helm4: Helm) -> None:
    rendered = helm4.template("external")
    (trigger, _) = rendered.one("ScaledObject", "worker-align")["spec"]["triggers"]
    assert trigger["metadata"]["address"] == "redis.example.com:6380"
    assert trigger["metadata"]["enableTLS"] == "true"
    assert variables(pod(rendered, "worker-align"))[trigger["metadata"]["usernameFromEnv"]] == "fusery"
    given = rendered.one("TriggerAuthentication", "broker")["spec"]
    assert given["secretTargetRef"] == [{"parameter": "password", "name": "redis", "key": "password"}]
    (ca,) = given["configMapTargetRef"]
    assert ca["key"] in rendered.one("ConfigMap", ca["name"].removeprefix("demo-fusery-"))["data"]


def test_threads_follow_the_cpu_limit_unless_they_are_given(helm4: Helm) -> None:
    assert "--threads=$(CPU_LIMIT)" in arguments(source(helm4), "source-docs")
    assert "--threads=3" in arguments(source(helm4, threads=3), "source-docs")


def test_places_are_those_of_the_values(helm4: Helm) -> None:
    spec = pod(helm4.template("gpu"), "source-mistral")
    assert spec["nodeSelector"] == {"accelerator": "h100"}
    assert spec["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert spec["priorityClassName"] == "batch"
    assert spec["runtimeClassName"] == "nvidia"
    (spread,) = spec["topologySpreadConstraints"]
    assert spread["labelSelector"]["matchLabels"]["fusery/source"] == "mistral"
    assert {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}} in spec["volumes"]


def test_a_hub_model_is_downloaded_first_and_served_offline(helm4: Helm) -> None:
    spec = pod(helm4.template("gpu"), "source-mistral")
    (download,) = spec["initContainers"]
    assert download["command"][:3] == ["hf", "download", "mistralai/Mistral-7B-v0.1"]
    assert "--revision=27d67f1b5f57dc0953326b2601d68371d40ea8da" in download["command"]
    assert "--exclude=*.bin" in download["command"]
    env = variables(spec)
    assert env["HF_HUB_OFFLINE"] == "1"
    assert {entry["name"]: entry["value"] for entry in download["env"]}["HF_HOME"] == env["HF_HOME"]
    mounts = {mount["name"]: mount.get("readOnly", False) for mount in container(spec)["volumeMounts"]}
    assert mounts["models"] is True


@pytest.mark.parametrize("model", ["/models/docs", "vllm:http://10.0.0.1:8000"])
def test_what_is_no_hub_id_is_not_downloaded(helm4: Helm, model: str) -> None:
    assert "initContainers" not in pod(source(helm4, model=model), "source-docs")


def test_an_inference_server_s_source_downloads_its_tokenizer_alone(helm4: Helm) -> None:
    spec = pod(helm4.template("everything"), "source-served")
    (download,) = spec["initContainers"]
    assert download["command"][2] == "mistralai/Mistral-7B-v0.1"
    assert "--include=tokenizer*" in download["command"]
    assert not [argument for argument in container(spec)["args"] if argument.startswith(("--device", "--threads"))]


def test_workers_serve_every_hop_and_say_that_they_live_by_a_file(helm4: Helm) -> None:
    rendered = helm4.template("tiny")
    assert arguments(rendered, "worker-align") == ["worker", "--hops=align,fuse", "--processes=2"]
    box = container(pod(rendered, "worker-capture"))
    file = variables(pod(rendered, "worker-capture"))["FUSERY_WORKER_HEARTBEAT_FILE"]
    # The others start when the first beat is there, and so none fails before it.
    waits = box["startupProbe"]["exec"]["command"][-1]
    assert waits.startswith("until test -n")
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert file in box[probe]["exec"]["command"][-1]
    assert "-600 seconds" in box["livenessProbe"]["exec"]["command"][-1]


def test_pods_start_again_when_the_settings_change(helm4: Helm) -> None:
    def checksums(rendered: Rendered) -> dict[str, str]:
        found = {m["metadata"]["name"]: m["spec"]["template"]["metadata"] for m in rendered.of("Deployment")}
        return {n: m["annotations"]["checksum/settings"] for n, m in found.items() if "settings" in str(m)}

    before, after = (checksums(helm4.template("tiny", {"log": {"level": level}})) for level in ("info", "debug"))
    assert before.keys() == {
        f"demo-fusery-{n}" for n in ("source-docs", "source-python", "worker-align", "worker-capture")
    }
    assert all(before[name] != after[name] for name in before)


def test_what_scales_has_no_number_of_pods_of_its_own(helm4: Helm) -> None:
    rendered = helm4.template("everything")
    assert "replicas" not in rendered.one("Deployment", "worker-align")["spec"]
    scaled = rendered.one("ScaledObject", "worker-align")["spec"]
    assert scaled["scaleTargetRef"]["name"] == "demo-fusery-worker-align"
    assert [trigger["metadata"]["listName"] for trigger in scaled["triggers"]] == ["align", "fuse"]
    assert {trigger["authenticationRef"]["name"] for trigger in scaled["triggers"]} == {"demo-fusery-broker"}
    assert rendered.one("TriggerAuthentication", "broker")["spec"]["secretTargetRef"][0]["name"] == "broker"
    assert rendered.of("HorizontalPodAutoscaler") == []


def test_queues_that_keda_looks_at_are_those_of_the_hops(helm4: Helm) -> None:
    from fusery.hops.plan import Hop

    scaled = helm4.template("everything").of("ScaledObject")
    names = {trigger["metadata"]["listName"] for one in scaled for trigger in one["spec"]["triggers"]}
    assert names == {hop.value for hop in Hop}


def test_data_outlives_the_release(helm4: Helm) -> None:
    claims = helm4.template("tiny").of("PersistentVolumeClaim")
    assert {claim["metadata"]["name"] for claim in claims} == {
        f"demo-fusery-{n}" for n in ("store", "models", "mlflow")
    }
    assert {claim["metadata"]["annotations"]["helm.sh/resource-policy"] for claim in claims} == {"keep"}


def test_claims_of_the_user_replace_those_of_the_chart(helm4: Helm) -> None:
    rendered = helm4.template("external")
    assert rendered.of("PersistentVolumeClaim") == []
    volumes = {volume["name"]: volume for volume in pod(rendered, "worker-align")["volumes"]}
    assert volumes["store"]["persistentVolumeClaim"]["claimName"] == "shared"


def test_without_volumes_of_the_chart_models_and_mlflow_live_as_long_as_their_pods(helm4: Helm) -> None:
    off = {"persistence": {"enabled": False}}
    rendered = helm4.template("s3", {"models": off, "mlflow": off})
    assert rendered.of("PersistentVolumeClaim") == []
    for name in ("mlflow", "source-docs"):
        assert not any("persistentVolumeClaim" in volume for volume in pod(rendered, name)["volumes"])


def test_a_bucket_needs_no_volume_and_its_credentials_are_a_file(helm4: Helm) -> None:
    rendered = helm4.template("s3")
    assert rendered.of("PersistentVolumeClaim", "store") == []
    settings = rendered.one("ConfigMap", "settings")["data"]
    assert settings["FUSERY_STORE"] == "s3://fusion/store"
    assert settings["AWS_ENDPOINT_URL"] == "http://minio.storage:9000"
    mounts = {mount["mountPath"] for mount in container(pod(rendered, "worker-align"))["volumeMounts"]}
    assert "/etc/fusery/store" in mounts
    assert settings["AWS_SHARED_CREDENTIALS_FILE"] == "/etc/fusery/store/credentials"


def test_a_storage_class_can_be_the_default_none_or_a_name(helm4: Helm) -> None:
    def of(name: str) -> Any:
        rendered = helm4.template(values={"store": {"persistence": {"storageClass": name}}})
        return rendered.one("PersistentVolumeClaim", "store")["spec"].get("storageClassName")

    assert [of(""), of("-"), of("fast")] == [None, "", "fast"]


@pytest.mark.parametrize("name", ["broker", "mlflow"])
def test_what_must_not_run_twice_is_replaced_and_not_rolled(helm4: Helm, name: str) -> None:
    spec = helm4.template("tiny").one("Deployment", name)["spec"]
    assert spec["strategy"] == {"type": "Recreate"}
    assert spec["replicas"] == 1


def test_mlflow_answers_to_the_names_of_its_service_alone(helm4: Helm) -> None:
    hosts = variables(pod(helm4.template("tiny"), "mlflow"))["ALLOWED_HOSTS"].split(",")
    assert "demo-fusery-mlflow.ml.svc.cluster.local:*" in hosts
    assert "*" not in hosts
    hosts = variables(pod(helm4.template("environment"), "mlflow"))["ALLOWED_HOSTS"].split(",")
    assert "$(DEMO_FUSERY_MLFLOW_SERVICE_HOST):*" in hosts


def test_a_drained_node_takes_one_pod_of_a_kind_at_a_time(helm4: Helm) -> None:
    budgets = helm4.template("tiny").of("PodDisruptionBudget")
    assert {budget["metadata"]["name"].removeprefix("demo-fusery-") for budget in budgets} == {
        *("source-docs", "source-python", "worker-align", "worker-capture"),
    }
    assert {budget["spec"]["maxUnavailable"] for budget in budgets} == {1}
    assert helm4.template("tiny", {"podDisruptionBudget": {"enabled": False}}).of("PodDisruptionBudget") == []


def test_settings_that_the_chart_sets_are_settings_that_fusery_reads(helm4: Helm, example: str) -> None:
    from fusery.runtime.settings import Settings, TraceSettings

    known = {f"FUSERY_{name.upper()}" for name in Settings.model_fields} | {
        name.upper() for name in TraceSettings.model_fields
    }
    rendered = helm4.template(example)
    given = set(rendered.one("ConfigMap", "settings")["data"])
    for _, _, spec in rendered.pods():
        given |= variables(spec).keys()
    ours = {name for name in given if name.startswith("FUSERY_")}
    assert ours <= known
