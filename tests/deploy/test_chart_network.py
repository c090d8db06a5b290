"""The network policies allow exactly the edges of docs/deployment.md, seen from either end."""

from __future__ import annotations

from typing import Any

import pytest

from support.cluster.charts import Helm, Manifest, Rendered

ONCE = ("run", "trainer", "evaluate")
"""The pods of a run: none of the chart's, but they belong to the release by their labels."""

Edge = tuple[str, str, int]


def selects(selector: Manifest, labels: dict[str, str]) -> bool:
    if not selector.get("matchLabels", {}).items() <= labels.items():
        return False
    return all(labels.get(one["key"]) in one["values"] for one in selector.get("matchExpressions", []))


def pods(rendered: Rendered) -> dict[str, dict[str, str]]:
    """Labels by component and name."""
    found = {name.removeprefix("demo-fusery-"): metadata["labels"] for name, metadata, _ in rendered.pods()}
    own = {"app.kubernetes.io/name": "fusery", "app.kubernetes.io/instance": "demo"}
    return {**found, **{name: {**own, "app.kubernetes.io/component": name} for name in ONCE}}


def rules(rendered: Rendered, labels: dict[str, str], direction: str) -> list[Manifest] | None:
    """The rules that hold for a pod in one direction; None: no policy restricts it."""
    key = direction.lower()
    policies = [policy["spec"] for policy in rendered.of("NetworkPolicy")]
    mine = [p for p in policies if selects(p["podSelector"], labels) and direction in p["policyTypes"]]
    return [rule for policy in mine for rule in policy.get(key, [])] if mine else None


def allows(rules: list[Manifest] | None, side: str, labels: dict[str, str], port: int) -> bool:
    if rules is None:
        return True
    for rule in rules:
        ports = {entry["port"] for entry in rule.get("ports", [{"port": port}])}
        peers = rule.get(side)
        peer = peers is None or any(selects(p["podSelector"], labels) for p in peers if "podSelector" in p)
        if port in ports and peer:
            return True
    return False


def edges(rendered: Rendered, ports: tuple[int, ...]) -> set[Edge]:
    """Pairs of pods of the release that may speak: both ends must allow it."""
    found = set()
    everyone = pods(rendered)
    for one, its in everyone.items():
        for other, theirs in everyone.items():
            for port in ports:
                out = allows(rules(rendered, its, "Egress"), "to", theirs, port)
                into = allows(rules(rendered, theirs, "Ingress"), "from", its, port)
                if one != other and out and into:
                    found.add((one, other, port))
    return found


def test_the_edges_within_a_release_are_these_and_no_others(helm4: Helm) -> None:
    clients = ("worker-capture", "worker-align", "run", "test")
    to_sources = {(one, source, 50051) for one in clients for source in ("source-docs", "source-python")}
    to_broker = {(one, "broker", 6379) for one in clients}
    to_mlflow = {(one, "mlflow", 5000) for one in ("run", "trainer", "test")}
    found = edges(helm4.template("tiny"), (22, 443, 5000, 6379, 8080, 9090, 29500, 50051, 50052))
    assert found == to_sources | to_broker | to_mlflow


def test_the_nodes_of_a_training_speak_with_each_other_on_any_port(helm4: Helm) -> None:
    rendered = helm4.template("tiny")
    trainer = pods(rendered)["trainer"]
    for port in (29500, 40123):
        assert allows(rules(rendered, trainer, "Egress"), "to", trainer, port)
        assert allows(rules(rendered, trainer, "Ingress"), "from", trainer, port)
    for other in ("evaluate", "source-docs", "worker-align"):
        labels = pods(rendered)[other]
        assert not allows(rules(rendered, labels, "Egress"), "to", labels, 40123), other


def test_the_kubernetes_api_is_there_for_runs_that_launch_jobs_and_for_nobody_else(helm4: Helm) -> None:
    rendered = helm4.template("tiny")
    for name in pods(rendered):
        expected = {443, 6443} if name == "run" else set()
        assert to_outside(rendered, name).keys() - {53} == expected, name
    without = helm4.template("tiny", {"runAccess": {"create": False}})
    assert to_outside(without, "run") == {53: []}
    peers = [{"ipBlock": {"cidr": "10.0.0.1/32"}}]
    narrow = helm4.template("tiny", {"networkPolicy": {"apiServerTo": peers, "apiServerPorts": [6443], "dnsTo": peers}})
    assert to_outside(narrow, "run") == {53: peers, 6443: peers}


def test_what_runs_once_may_reach_what_the_values_add(helm4: Helm) -> None:
    hub = {"ports": [{"port": 443, "protocol": "TCP"}], "to": [{"ipBlock": {"cidr": "10.1.0.0/16"}}]}
    rendered = helm4.template("tiny", {"runAccess": {"create": False}, "networkPolicy": {"runsEgress": [hub]}})
    for name in ONCE:
        assert to_outside(rendered, name) == {53: [], 443: hub["to"]}, name
    assert 443 not in to_outside(rendered, "worker-align")


def test_every_pod_is_under_a_policy_in_both_directions(helm4: Helm, example: str) -> None:
    rendered = helm4.template(example)
    for name, labels in pods(rendered).items():
        assert rules(rendered, labels, "Ingress") is not None, name
        assert rules(rendered, labels, "Egress") is not None, name


API_SERVER: dict[int, Any] = {6443: []}


def to_outside(rendered: Rendered, name: str) -> dict[int, Any]:
    """Ports that a pod may reach outside the release, and the peers there; [] are all."""
    found = rules(rendered, pods(rendered)[name], "Egress") or []
    outside = [rule for rule in found if not any("app.kubernetes.io/name" in str(peer) for peer in rule.get("to", []))]
    # The narrower rule comes first, where two name a port.
    reached = [(entry["port"], rule.get("to", [])) for rule in outside for entry in rule["ports"]]
    return dict(sorted(reached, key=lambda pair: len(pair[1])))


@pytest.mark.parametrize(
    ("example", "pod", "expected"),
    [
        ("tiny", "worker-align", {53: []}),
        ("tiny", "source-docs", {53: []}),
        ("environment", "source-docs", {}),
        ("environment", "worker-align", {}),
        ("gpu", "source-mistral", {53: [], 443: [], 8000: []}),
        ("external", "worker-align", {53: [], 6380: [{"ipBlock": {"cidr": "10.20.0.0/24"}}]}),
        (
            "external",
            "run",
            {
                53: [],
                6380: [{"ipBlock": {"cidr": "10.20.0.0/24"}}],
                443: [{"ipBlock": {"cidr": "10.20.1.0/24"}}],
                **API_SERVER,
            },
        ),
        ("external", "trainer", {53: [], 443: [{"ipBlock": {"cidr": "10.20.1.0/24"}}]}),
        ("external", "evaluate", {53: []}),
        ("everything", "trainer", {53: [], 4317: [], 443: []}),
        ("everything", "evaluate", {53: [], 4317: [], 443: []}),
        ("environment", "trainer", {}),
        (
            "s3",
            "worker-align",
            {53: [], 9000: [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "storage"}}}]},
        ),
        ("everything", "worker-align", {53: [], 4317: [], 443: []}),
        ("everything", "broker", {53: []}),
    ],
)
def test_the_ports_to_the_outside_are_those_of_what_lies_there(
    helm4: Helm, example: str, pod: str, expected: dict[int, Any]
) -> None:
    assert to_outside(helm4.template(example), pod) == expected


def test_keda_may_ask_the_broker_only_where_it_scales(helm4: Helm) -> None:
    def from_keda(rendered: Rendered) -> bool:
        return "keda" in str(rules(rendered, pods(rendered)["broker"], "Ingress"))

    assert from_keda(helm4.template("everything"))
    assert not from_keda(helm4.template("tiny"))


def test_metrics_are_read_by_the_peers_of_the_values(helm4: Helm) -> None:
    rendered = helm4.template("everything")
    found = [
        rule
        for rule in rules(rendered, pods(rendered)["source-docs"], "Ingress") or []
        if rule["ports"][0]["port"] == 9090
    ]
    assert found[0]["from"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]


def test_policies_can_be_left_out(helm4: Helm) -> None:
    assert helm4.template(values={"networkPolicy": {"enabled": False}}).of("NetworkPolicy") == []
