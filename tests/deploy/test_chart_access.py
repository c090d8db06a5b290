"""Who of a release may ask the Kubernetes API, for what, and which pods are given a cloud's role for the store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fusery.cluster.manifests.manifests import run_objects, step_objects
from fusery.cluster.manifests.names import Step
from fusery.config.file import read_run_file
from fusery.config.kubernetes import TrainerKind
from fusery.config.run import RunConfig
from support.cluster.charts import ROOT, Helm, Rendered

Rule = tuple[str, str]

ALWAYS: dict[Rule, set[str]] = {("", "pods"): {"list", "watch"}, ("", "pods/log"): {"get"}, ("", "events"): {"list"}}
OF_JOBS: set[str] = {"create", "delete", "get", "list", "watch"}
OF_PARTS: set[str] = {"create", "delete", "get"}
OF_KIND: dict[str, dict[Rule, set[str]]] = {
    "job": {("batch", "jobs"): OF_JOBS, ("", "services"): OF_PARTS},
    "jobset": {("jobset.x-k8s.io", "jobsets"): OF_JOBS},
    "trainjob": {
        ("trainer.kubeflow.org", "trainjobs"): OF_JOBS,
        ("trainer.kubeflow.org", "trainingruntimes"): OF_PARTS,
    },
}


def rules(rendered: Rendered) -> dict[Rule, set[str]]:
    (role,) = rendered.of("Role")
    return {
        (group, resource): set(rule["verbs"])
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


@pytest.mark.parametrize("kinds", [["job"], ["jobset"], ["trainjob"], ["job", "jobset", "trainjob"]])
def test_the_role_of_a_run_allows_exactly_this(helm4: Helm, kinds: list[str]) -> None:
    expected = dict(ALWAYS)
    for kind in kinds:
        expected |= OF_KIND[kind]
    assert rules(helm4.template("tiny", {"runAccess": {"kinds": kinds}})) == expected


def documented() -> dict[Rule, set[str]]:
    """The table of docs/deployment.md."""
    text = (
        (ROOT / "docs/deployment.md")
        .read_text()
        .partition("The rights of the run's account")[2]
        .partition("\n\nYou")[0]
    )
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in text.splitlines() if "| `" in line]
    return {("" if row[0] == "core" else row[0], row[1]): set(row[2].split(", ")) for row in rows}


def test_the_documentation_names_the_rules_of_the_role(helm4: Helm) -> None:
    assert documented() == rules(helm4.template("tiny", {"runAccess": {"kinds": list(OF_KIND)}}))


def test_no_rule_has_a_wildcard_and_none_opens_secrets(helm4: Helm, example: str) -> None:
    for (group, resource), verbs in rules(helm4.template(example)).items():
        assert "*" not in {group, resource} | verbs
        assert resource not in {"secrets", "configmaps", "pods/exec", "serviceaccounts/token"}


def test_the_role_is_bound_to_the_account_of_runs_alone(helm4: Helm) -> None:
    rendered = helm4.template("tiny")
    (binding,) = rendered.of("RoleBinding")
    assert binding["roleRef"]["name"] == "demo-fusery-run"
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "demo-fusery-run", "namespace": "ml"}]
    assert rendered.one("ServiceAccount", "run")["automountServiceAccountToken"] is False


def test_the_role_can_be_left_out(helm4: Helm) -> None:
    rendered = helm4.template("tiny", {"runAccess": {"create": False}})
    assert [*rendered.of("Role"), *rendered.of("RoleBinding"), *rendered.of("ServiceAccount", "run")] == []


def test_a_cloud_s_role_for_the_store_is_not_given_to_servers(helm4: Helm) -> None:
    rendered = helm4.template("everything")
    annotated = {one["metadata"]["name"] for one in rendered.of("ServiceAccount") if one["metadata"].get("annotations")}
    assert annotated == {"demo-fusery", "demo-fusery-run"}
    accounts = {name.removeprefix("demo-fusery-"): spec["serviceAccountName"] for name, _, spec in rendered.pods()}
    servers = {name for name, account in accounts.items() if account == "demo-fusery-server"}
    assert servers == {"source-docs", "source-served", "broker", "mlflow"}
    assert {accounts[name] for name in accounts.keys() - servers} == {"demo-fusery"}


def test_an_account_of_one_s_own_is_that_of_all_pods(helm4: Helm) -> None:
    rendered = helm4.template("external")
    assert {spec["serviceAccountName"] for _, _, spec in rendered.pods()} == {"research"}
    assert [account["metadata"]["name"] for account in rendered.of("ServiceAccount")] == ["demo-fusery-run"]


RUN = """
name: my-fusion
target: {model: /models/docs}
sources: [{name: docs, model: /models/docs, address: "dns:///demo-fusery-source-docs:50051"}]
corpus: {train: [{path: /store/train.jsonl}], held_out: [{path: /store/held_out.jsonl}], max_document_bytes: 2000}
training: {clm_weight: 0.5, sequence_length: 1024, batch_sequences: 8, learning_rate: 2.0e-5}
"""


def run(tmp_path: Path, trainer: dict[str, Any]) -> RunConfig:
    file = tmp_path / "run.yaml"
    file.write_text(f"{RUN}kubernetes: {json.dumps({'release': 'demo', 'trainer': trainer})}\n")
    return read_run_file(file).config


@pytest.mark.parametrize("kind", [kind for kind in TrainerKind if kind is not TrainerKind.RUN])
def test_a_run_may_create_what_its_training_needs(helm4: Helm, tmp_path: Path, kind: TrainerKind) -> None:
    config = run(tmp_path, {"kind": kind.value, "nodes": 2, "gpus_per_node": 1})
    allowed = rules(helm4.template("tiny", {"runAccess": {"kinds": [kind.value]}}))
    for manifest in step_objects(config, Step.TRAIN, owner={"kind": "Job", "name": "run", "uid": "uid"}):
        group = manifest["apiVersion"].rpartition("/")[0]
        assert allowed[group, f"{manifest['kind'].lower()}s"] >= OF_PARTS


def test_the_pod_of_a_run_names_the_account_and_wears_the_labels_of_the_chart(helm4: Helm, tmp_path: Path) -> None:
    rendered = helm4.template("tiny")
    pod = run_objects(run(tmp_path, {"kind": "job"}), RUN)[-1]["spec"]["template"]
    (role,) = rendered.of("RoleBinding")
    assert pod["spec"]["serviceAccountName"] == role["subjects"][0]["name"]
    (deny,) = rendered.of("NetworkPolicy", "deny")
    assert deny["spec"]["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
