"""The values: every key is known to the schema, and mistakes are refused by a sentence that names the key."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

SOURCE = {"model": "/models/docs"}
CERTIFICATE = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"

MISTAKES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("sorces", {"sorces": {}}),
    ("gpu", {"sources": {"docs": {**SOURCE, "gpu": 1}}}),
    ("sources docs gpus", {"sources": {"docs": {**SOURCE, "gpus": "two"}}}),
    ("sources docs model", {"sources": {"docs": {"model": ""}}}),
    ("model", {"sources": {"docs": {"gpus": 1}}}),
    ("Docs", {"sources": {"Docs": SOURCE}}),
    ("a-name-that-is-much-too-long", {"sources": {"a-name-that-is-much-too-long": SOURCE}}),
    ("sources docs dtype", {"sources": {"docs": {**SOURCE, "dtype": "int4"}}}),
    ("sources docs replicas", {"sources": {"docs": {**SOURCE, "replicas": -1}}}),
    (
        "sources docs resources limits memory",
        {"sources": {"docs": {**SOURCE, "resources": {"limits": {"memory": "4 GB"}}}}},
    ),
    ("sources docs sharedMemory", {"sources": {"docs": {**SOURCE, "sharedMemory": "much"}}}),
    ("workers align hops 0", {"workers": {"align": {"hops": ["aline"]}}}),
    ("workers align processes", {"workers": {"align": {"processes": 0}}}),
    ("workers align autoscaling enabled", {"workers": {"align": {"autoscaling": {"enabled": "yes"}}}}),
    ("broker external address", {"broker": {"enabled": False, "external": {"address": "redis://user:pw@host:6379"}}}),
    ("broker external ca", {"broker": {"external": {"ca": "/etc/ca.pem"}}}),
    ("broker external username", {"broker": {"external": {"username": "me:password"}}}),
    ("image digest", {"image": {"digest": "sha256:abc"}}),
    ("runAccess kinds 0", {"runAccess": {"kinds": ["pod"]}}),
    ("networkPolicy apiServerPorts 0", {"networkPolicy": {"apiServerPorts": [70000]}}),
    ("networkPolicy runsEgress 0", {"networkPolicy": {"runsEgress": [{"to": []}]}}),
    ("store url", {"store": {"url": "/data/store"}}),
    ("store persistence accessModes 0", {"store": {"persistence": {"accessModes": ["ReadWriteSome"]}}}),
    ("mlflow external", {"mlflow": {"external": "https://user:password@mlflow.example.com"}}),
    ("image pullPolicy", {"image": {"pullPolicy": "Sometimes"}}),
    ("addressing", {"addressing": "hosts"}),
    ("log level", {"log": {"level": "chatty"}}),
    ("security runAsUser", {"security": {"runAsUser": 0}}),
    ("imagePullSecrets", {"imagePullSecrets": "registry"}),
    ("password", {"broker": {"password": "hunter2"}}),
    ("fullnameOverride", {"fullnameOverride": "a-name-of-more-than-thirty-four-characters"}),
    ("networkPolicy storeTo 0", {"networkPolicy": {"storeTo": [{"cidr": "10.0.0.0/8"}]}}),
)

CROSSED: tuple[tuple[str, dict[str, Any]], ...] = (
    ("workers: nobody serves the hop align", {"workers": {"align": None}}),
    ("broker.enabled is false; name yours: broker.external.address", {"broker": {"enabled": False}}),
    ("sourceAccess.tls.mutual needs sourceAccess.tls.secret", {"sourceAccess": {"tls": {"mutual": True}}}),
    ("sourceAccess.tls.clientSecret is set", {"sourceAccess": {"tls": {"clientSecret": "client"}}}),
    ("store.s3.credentialsSecret is set", {"store": {"s3": {"credentialsSecret": "store"}}}),
    ("serviceAccount.annotations are set", {"serviceAccount": {"create": False, "annotations": {"a": "b"}}}),
    ("sources.docs.tokenizer is for tgi: and vllm:", {"sources": {"docs": {**SOURCE, "tokenizer": "/models/x"}}}),
    (
        "workers.align.autoscaling: minReplicas is 5, maxReplicas 2",
        {"workers": {"align": {"autoscaling": {"minReplicas": 5, "maxReplicas": 2}}}},
    ),
    (
        "broker.external is set, but broker.enabled is true",
        {"broker": {"external": {"address": "redis.example.com:6379"}}},
    ),
    (
        "broker.external.ca is set, but the connection is plain text",
        {"broker": {"enabled": False, "external": {"address": "host:6379", "ca": CERTIFICATE}}},
    ),
    (
        "broker.external.username needs broker.existingSecret",
        {"broker": {"enabled": False, "external": {"address": "host:6379", "username": "me"}}},
    ),
    (
        "broker.enabled is false; name yours: broker.external.address",
        {"broker": {"enabled": False, "existingSecret": "redis"}},
    ),
    (
        "KEDA finds the chart's broker by its DNS name",
        {"addressing": "environment", "workers": {"align": {"autoscaling": {"enabled": True}}}},
    ),
)


@pytest.mark.parametrize(("key", "values"), MISTAKES, ids=[key for key, _ in MISTAKES])
def test_a_mistake_is_refused_by_a_sentence_that_names_the_key(helm: Any, key: str, values: dict[str, Any]) -> None:
    error = helm.template(values=values).error
    assert "values don't meet the specifications of the schema" in error
    # Helm 3 writes a.b.0, Helm 4 /a/b/0.
    assert key in error.replace("/", " ").replace(".", " "), error


@pytest.mark.parametrize(("sentence", "values"), CROSSED, ids=[sentence for sentence, _ in CROSSED])
def test_values_that_do_not_go_together_are_refused(helm: Any, sentence: str, values: dict[str, Any]) -> None:
    assert sentence in helm.template(values=values).error


def test_a_message_of_the_schema_shows_no_password(helm: Any) -> None:
    error = helm.template(values={"broker": {"password": "hunter2"}}).error
    assert "password" in error
    assert "hunter2" not in error


def keys(values: Any, path: str = "") -> Iterator[str]:
    if not isinstance(values, dict):
        return
    for name, value in values.items():
        inner = f"{path}.{name}".removeprefix(".")
        yield inner
        # What stands below workers are names of ours, and a map of free keys has no keys of the schema.
        if inner not in ("workers",) and not inner.endswith(("requests", "limits")):
            yield from keys(value, inner)


def known(schema: Any, node: Any, path: str = "") -> Iterator[str]:
    if "$ref" in node:
        node = schema["definitions"][node["$ref"].rpartition("/")[2]]
    for name, inner in node.get("properties", {}).items():
        here = f"{path}.{name}".removeprefix(".")
        yield here
        yield from known(schema, inner, here)


def test_values_and_schema_know_the_same_keys(chart: Path) -> None:
    schema = json.loads((chart / "values.schema.json").read_text())
    values = yaml.safe_load((chart / "values.yaml").read_text())
    free = ("nodeSelector", "affinity.", "annotations", "labels", "podAnnotations", "podLabels", "requests", "limits")
    of_schema = {key for key in known(schema, schema) if ".affinity." not in key and not key.endswith((".limits",))}
    of_values = {key for key in keys(values) if not key.endswith(".limits")}
    of_schema.discard("global")
    assert {key for key in of_schema - of_values if not key.endswith(free)} == set()
    assert of_values - of_schema == set()


def test_every_object_of_the_schema_is_closed(chart: Path) -> None:
    schema = json.loads((chart / "values.schema.json").read_text())

    def check(node: Any, place: str) -> None:
        if isinstance(node, dict):
            if "properties" in node and "required" not in node.get("allOf", [{}])[0] and node.get("type") == "object":
                assert node.get("additionalProperties") is False, place
            for name, inner in node.items():
                check(inner, f"{place}.{name}")
        elif isinstance(node, list):
            for number, inner in enumerate(node):
                check(inner, f"{place}.{number}")

    check(schema, "")


def test_an_example_is_accepted(helm: Any, example: str) -> None:
    rendered = helm.template(example)
    assert rendered.error == ""
    assert rendered.manifests
