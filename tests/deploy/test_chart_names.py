"""Names fit, releases keep apart, and what can't change later does not change."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from support.cluster.charts import CHART, Helm, Manifest

SOURCES = {"sources": {"a" * 20: {"model": "/models/a"}}}
LABEL = re.compile(r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$")
SERVICE = re.compile(r"^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$")
RELEASES = ("a", "fusery", "1st-release", "with.dots", "a-release-with-a-name-of-fifty-three-characters-12345")


def labels(manifest: Manifest) -> Iterator[dict[str, str]]:
    yield manifest["metadata"].get("labels", {})
    template = manifest.get("spec", {}).get("template")
    if template:
        yield template["metadata"]["labels"]


@pytest.mark.parametrize("release", RELEASES)
def test_names_and_labels_fit_for_the_longest_source(helm4: Helm, release: str) -> None:
    rendered = helm4.template(values=SOURCES, release=release)
    assert rendered.error == ""
    for manifest in rendered.manifests:
        assert SERVICE.match(manifest["metadata"]["name"]), manifest["metadata"]["name"]
        assert all(LABEL.match(value) for group in labels(manifest) for value in group.values())


def test_two_releases_of_one_namespace_share_no_name_and_no_pod(helm4: Helm) -> None:
    long = "two-releases-with-the-same-beginning-of-their-names"
    releases = [("one", "two"), (f"{long}-1", f"{long}-2")]
    for first, second in releases:
        one, two = (helm4.template("everything", release=release) for release in (first, second))
        names = [{(m["kind"], m["metadata"]["name"]) for m in rendered.manifests} for rendered in (one, two)]
        assert not names[0] & names[1]
        selectors = [
            {tuple(sorted(m["spec"]["selector"]["matchLabels"].items())) for m in rendered.of("Deployment")}
            for rendered in (one, two)
        ]
        assert not selectors[0] & selectors[1]


def test_a_release_called_as_the_chart_does_not_say_its_name_twice(helm4: Helm) -> None:
    names = {m["metadata"]["name"] for m in helm4.template(release="fusery").of("Deployment")}
    assert names == {"fusery-broker", "fusery-mlflow", "fusery-worker-capture", "fusery-worker-align"}


def test_selectors_stay_the_same_over_upgrades(helm4: Helm, tmp_path: Any) -> None:
    """A Deployment's selector and a claim's spec can't be changed, so nothing that changes may be in them."""
    before = helm4.template("tiny")
    after = helm4.template(
        "tiny",
        {
            "image": {"tag": "9.9.9"},
            "log": {"level": "debug"},
            "sources": {"docs": {"podLabels": {"team": "x"}, "gpus": 1, "replicas": 3}},
            "workerDefaults": {"podLabels": {"team": "x"}},
        },
    )
    for kind in ("Deployment", "Service"):
        selectors = [{m["metadata"]["name"]: m["spec"]["selector"] for m in r.of(kind)} for r in (before, after)]
        assert selectors[0] == selectors[1]
    claims = [{m["metadata"]["name"]: m["spec"] for m in r.of("PersistentVolumeClaim")} for r in (before, after)]
    assert claims[0] == claims[1]
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["version"]
    assert all(version not in str(m["spec"]["selector"]) for m in before.of("Deployment"))


def test_a_selector_finds_the_pods_of_its_deployment_and_no_others(helm4: Helm, example: str) -> None:
    rendered = helm4.template(example)
    pods = [(name, metadata["labels"]) for name, metadata, _ in rendered.pods()]
    for owner in rendered.of("Deployment"):
        wanted = owner["spec"]["selector"]["matchLabels"].items()
        assert [name for name, given in pods if wanted <= given.items()] == [owner["metadata"]["name"]]
    for service in rendered.of("Service"):
        wanted = service["spec"]["selector"].items()
        assert [name for name, given in pods if wanted <= given.items()] == [service["metadata"]["name"]]


def test_labels_of_the_user_cannot_replace_those_of_a_selector(helm4: Helm) -> None:
    label = {"app.kubernetes.io/component": "worker"}
    rendered = helm4.template("tiny", {"sources": {"docs": {"podLabels": label}}})
    (pod,) = [m["spec"]["template"] for m in rendered.of("Deployment", "source-docs")]
    assert pod["metadata"]["labels"]["app.kubernetes.io/component"] == "source"


def test_a_name_of_its_own_replaces_the_releases(helm4: Helm) -> None:
    rendered = helm4.template(values={"fullnameOverride": "fusion"})
    assert all(m["metadata"]["name"].startswith("fusion") for m in rendered.manifests)


def test_no_value_changes_the_labels_by_which_the_policies_know_runs(helm4: Helm) -> None:
    for values in ({"nameOverride": "other"}, {"fullnameOverride": "fusion"}):
        deny = next(
            m for m in helm4.template(values=values).of("NetworkPolicy") if m["metadata"]["name"].endswith("deny")
        )
        expected = {"app.kubernetes.io/name": "fusery", "app.kubernetes.io/instance": "demo"}
        assert deny["spec"]["podSelector"]["matchLabels"] == expected


@pytest.mark.parametrize("addressing", ["dns", "environment"])
def test_an_address_in_a_pod_is_that_of_a_service_of_the_release(helm4: Helm, addressing: str) -> None:
    rendered = helm4.template("tiny", {"addressing": addressing})
    services = {m["metadata"]["name"] for m in rendered.of("Service")}
    text = yaml.safe_dump(rendered.of("Pod") + rendered.of("Deployment"))
    if addressing == "dns":
        used = set(re.findall(r"([a-z0-9-]+)\.ml\.svc\.cluster\.local", text))
    else:
        used = {name.lower().replace("_", "-") for name in re.findall(r"\$\(([A-Z0-9_]+)_SERVICE_HOST\)", text)}
        assert ".svc" not in text.replace("demo-fusery-mlflow.ml.svc", "")
    assert used == services
