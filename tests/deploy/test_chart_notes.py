"""What the notes say of a run's YAML makes a run that fits the release: the same image, addresses, secrets, volumes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import yaml

from fusery.cluster.manifests.manifests import run_objects
from fusery.config.file import read_run_file
from fusery.config.kubernetes import Resources
from fusery.config.run import RunConfig
from support.cluster.charts import CHART, ROOT, Helm, Manifest, variables

REST = """
name: my-fusion
target: {model: /models/docs}
corpus: {train: [{path: text/train.jsonl}], held_out: [{path: text/held_out.jsonl}], max_document_bytes: 2000}
training: {clm_weight: 0.5, sequence_length: 1024, batch_sequences: 8, learning_rate: 2.0e-5}
"""
EXAMPLES = ["environment", "everything", "external", "gpu", "s3", "tiny", "tls"]


def notes(helm: Helm, example: str, *options: str) -> str:
    values = str(CHART / f"ci/{example}-values.yaml")
    done = helm.run(
        "install", "demo", str(CHART), "--namespace", "ml", "--dry-run=client", "--values", values, *options
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.partition("\nNOTES:\n")[2]


def config(said: str, folder: Path) -> RunConfig:
    """The run whose YAML is completed by what the notes print."""
    (block,) = re.findall(r"^  2\. In the run's YAML.*:\n((?: {7}.*\n)+)", said, re.MULTILINE)
    content = yaml.safe_load(dedent(block))
    if content["kubernetes"].get("work_claim") == "CLAIM":
        content["kubernetes"]["work_claim"] = "work"
    file = folder / "run.yaml"
    text = yaml.safe_dump({**yaml.safe_load(REST), **content}, sort_keys=False)
    file.write_text(text.replace("IP:50051", "10.0.0.7:50051"))
    return read_run_file(file).config


def pod(run: RunConfig) -> Manifest:
    spec: Manifest = run_objects(run, "")[-1]["spec"]["template"]["spec"]
    return spec


def places(spec: Manifest) -> dict[str, Any]:
    """What is mounted where, without what a test and a run have of their own."""
    volumes = {volume.pop("name"): volume for volume in (dict(volume) for volume in spec["volumes"])}
    mounts = spec["containers"][0]["volumeMounts"]
    own = ("/etc/fusery/run", "/etc/fusery/test", "/work", "/models")
    return {mount["mountPath"]: volumes[mount["name"]] for mount in mounts if mount["mountPath"] not in own}


def claims(found: dict[str, Any]) -> dict[str, Any]:
    """Volumes; of Secrets their names, for the keys that a pod takes are looked at elsewhere."""
    return {path: volume["secret"]["secretName"] if "secret" in volume else volume for path, volume in found.items()}


@pytest.mark.parametrize("example", EXAMPLES)
def test_a_run_that_follows_the_notes_has_what_the_release_s_own_pods_have(
    helm4: Helm, tmp_path: Path, example: str
) -> None:
    run = pod(config(notes(helm4, example), tmp_path))
    (test,) = helm4.template(example).of("Pod")
    own = test["spec"]
    assert run["containers"][0]["image"] == own["containers"][0]["image"]
    assert run["containers"][0]["imagePullPolicy"] == own["containers"][0]["imagePullPolicy"]
    assert run["containers"][0]["envFrom"] == own["containers"][0]["envFrom"]
    for key in ("serviceAccountName", "enableServiceLinks", "securityContext", "imagePullSecrets"):
        assert run.get(key) == own.get(key), key
    assert claims(places(run)) == claims(places(own))


@pytest.mark.parametrize("example", EXAMPLES)
def test_a_run_that_follows_the_notes_asks_the_release_s_broker_and_mlflow(
    helm4: Helm, tmp_path: Path, example: str
) -> None:
    run = config(notes(helm4, example), tmp_path)
    (test,) = helm4.template(example).of("Pod")
    expected, given = variables(test["spec"]), variables(pod(run))
    for name, of_file in (
        ("FUSERY_BROKER_URL", run.services.broker_url),
        ("FUSERY_TRACKING_URI", run.services.tracking_uri),
    ):
        assert given.get(name, of_file) == expected[name].replace(".ml.svc.cluster.local", "")


def test_the_notes_name_every_secret_that_a_pod_mounts(helm4: Helm) -> None:
    said = notes(helm4, "everything")
    (line,) = re.findall(r"kubectl --namespace ml get secret (.*)", said)
    mounted = {
        volume["secret"]["secretName"]
        for _, _, spec in helm4.template("everything").pods()
        for volume in spec["volumes"]
        if "secret" in volume
    }
    assert set(line.split()) == mounted | {"registry", "other"}
    assert "get secret" not in notes(helm4, "tiny")


def test_the_notes_say_how_to_see_whether_a_node_has_gpus(helm4: Helm) -> None:
    said = notes(helm4, "gpu")
    assert "source-mistral, source-mixtral: pending until a node has as many nvidia.com/gpu" in said
    assert r".status.allocatable.nvidia\.com/gpu" in said
    assert "pending until" not in notes(helm4, "tiny")


def test_without_sources_the_notes_ask_for_one(helm4: Helm) -> None:
    assert "There is none yet" in notes(helm4, "default")


@pytest.mark.parametrize(("count", "said"), [(0, "0 sources"), (1, "1 source,"), (2, "2 sources,")])
def test_one_source_is_no_sources(helm4: Helm, count: int, said: str) -> None:
    sources = {name: {"model": f"/models/{name}"} for name in ("a", "b")[:count]}
    done = helm4.run("install", "demo", str(CHART), "--dry-run=client", "--set-json", f"sources={json.dumps(sources)}")
    assert done.returncode == 0, done.stderr
    assert said in done.stdout


def test_the_notes_say_what_the_pod_of_a_run_asks_for(helm4: Helm, tmp_path: Path) -> None:
    said = notes(helm4, "tiny")
    asked = pod(config(said, tmp_path))["containers"][0]["resources"]["requests"]
    assert f"Its pod asks for {asked['cpu']} CPUs and {asked['memory']} of memory" in said
    (less,) = re.findall(r"kubernetes: (\{run: .*)", said)
    given = yaml.safe_load(less)["run"]["resources"]
    assert Resources.model_validate(given).requests["cpu"] == "500m"


def test_the_docs_have_a_row_for_a_claim_without_a_volume_wherever_a_pod_may_wait_for_one() -> None:
    assert (ROOT / "docs/runbook.md").read_text().count("`unbound immediate PersistentVolumeClaims`") == 3
