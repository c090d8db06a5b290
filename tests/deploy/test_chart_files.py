"""What the chart carries beside its templates: the test of a release, alerts, the dashboard, notes, its README."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.cluster.charts import CHART, ROOT, Helm, variables


def alerts() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load((CHART / "files/alerts.yaml").read_text())
    return found


def metrics() -> set[str]:
    """The metrics of a source server, as Prometheus sees them."""
    from fusery.source.server.metrics import Metrics

    registry = Metrics(waiting=lambda: 0, busy_s=lambda: 0.0, ready=lambda: True).registry
    names = {metric.name: metric.type for metric in registry.collect()}
    parts = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "info": ("_info",)}
    made = {f"{name}{part}" for name, kind in names.items() for part in parts.get(kind, ("",))}
    # Only where there is a GPU.
    return made | {"fusery_source_device_memory_bytes"}


def used(text: str) -> set[str]:
    return set(re.findall(r"\bfusery_[a-z_]+\b", text))


def test_alerts_and_dashboard_ask_for_metrics_that_there_are() -> None:
    texts = [alert["expr"] for alert in alerts()]
    dashboard = json.loads((CHART / "files/dashboard.json").read_text())
    texts += [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    asked = set().union(*(used(text) for text in texts))
    assert asked
    assert asked - metrics() == set()


def test_every_alert_has_its_section_in_the_runbook_and_no_section_is_left_over() -> None:
    sections = re.findall(r"^## (Fusery\w+)$", (ROOT / "docs/runbook.md").read_text(), re.MULTILINE)
    assert sorted(sections) == sorted(alert["alert"] for alert in alerts())


def test_alerts_are_those_of_one_release(helm4: Helm) -> None:
    (rule,) = helm4.template("everything").of("PrometheusRule")
    text = yaml.safe_dump(rule)
    assert "NAMESPACE" not in text
    assert "RELEASE" not in text
    rendered = [alert["alert"] for group in rule["spec"]["groups"] for alert in group["rules"]]
    assert rendered == [alert["alert"] for alert in alerts()]


def test_the_alert_of_a_failed_run_knows_the_names_of_its_jobs() -> None:
    from fusery.cluster.manifests.names import Step, run_name, step_name
    from fusery.config.file import read_run_file

    (found,) = [alert["expr"] for alert in alerts() if alert["alert"] == "FuseryRunFailed"]
    (pattern,) = re.findall(r'job_name=~"([^"]+)"', found)
    config = read_run_file(ROOT / "examples/tiny-services.yaml").config
    for name in (
        run_name(config),
        *(step_name(config, step, ["--clm-only"]) for step in Step),
        step_name(config, Step.TRAIN),
    ):
        assert re.fullmatch(pattern, name), name
    assert not re.fullmatch(pattern, "demo-fusery-worker-align")


def test_the_service_monitor_finds_the_services_of_sources(helm4: Helm) -> None:
    rendered = helm4.template("everything")
    (monitor,) = rendered.of("ServiceMonitor")
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    found = [m["metadata"]["name"] for m in rendered.of("Service") if wanted <= m["metadata"]["labels"].items()]
    assert found == ["demo-fusery-source-docs", "demo-fusery-source-served"]
    ports = {port["name"] for port in rendered.one("Service", "source-docs")["spec"]["ports"]}
    assert {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]} <= ports
    assert monitor["metadata"]["labels"]["release"] == "prometheus"


def test_the_dashboard_is_found_by_grafana(helm4: Helm) -> None:
    found = helm4.template("everything").one("ConfigMap", "dashboard")
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(found["data"]["fusery.json"])["title"] == "fusery"


def test_monitoring_is_off_unless_it_is_asked_for(helm4: Helm) -> None:
    kinds = {manifest["kind"] for manifest in helm4.template("tiny").manifests}
    assert not kinds & {"ServiceMonitor", "PrometheusRule", "ScaledObject", "TriggerAuthentication"}


def test_one_object_alone_is_a_hook_of_the_test(helm: Helm) -> None:
    """Helm 3.17 prints the log of the pod that has a hook's name, once for each hook, and fails where there is none."""
    rendered = helm.template("everything")
    hooks = [m for m in rendered.manifests if "helm.sh/hook" in m["metadata"].get("annotations", {})]
    assert [hook["kind"] for hook in hooks] == ["Pod"]
    (mounted,) = [v["configMap"]["name"] for v in hooks[0]["spec"]["volumes"] if v["name"] == "check"]
    assert "check.py" in rendered.one("ConfigMap", mounted.removeprefix("demo-fusery-"))["data"]


def test_helm_test_runs_the_chart_s_own_image_with_the_settings_of_a_worker(helm4: Helm) -> None:
    rendered = helm4.template("everything")
    (test,) = rendered.of("Pod")
    assert test["metadata"]["annotations"]["helm.sh/hook"] == "test"
    assert test["spec"]["containers"][0]["image"] == "registry.example.com/ml/fusery:1.2.3"
    env = variables(test["spec"])
    worker = variables(rendered.one("Deployment", "worker-align")["spec"]["template"]["spec"])
    assert env["FUSERY_BROKER_URL"] == worker["FUSERY_BROKER_URL"]
    assert [line.partition("=")[0] for line in env["SOURCES"].split()] == ["docs", "served"]


# Helm 3 prints notes only where it reaches a cluster.
def notes(helm: Helm, *options: str) -> str:
    done = helm.run("install", "demo", str(CHART), "--namespace", "ml", "--dry-run=client", *options)
    assert done.returncode == 0, done.stderr
    return done.stdout.partition("\nNOTES:\n")[2]


def test_notes_name_the_next_commands_and_the_addresses_for_the_run(helm4: Helm) -> None:
    said = notes(helm4, "--values", str(CHART / "ci/tiny-values.yaml"))
    assert "helm test demo --namespace ml" in said
    assert (
        '{name: docs, model: "/models/docs", address: "dns:///demo-fusery-source-docs.ml.svc.cluster.local:50051"}'
        in said
    )
    assert "port-forward service/demo-fusery-mlflow 5000" in said


def test_the_addresses_of_the_notes_are_addresses_of_sources(helm4: Helm) -> None:
    from fusery.source.address import parse_address

    said = notes(helm4, "--values", str(CHART / "ci/tiny-values.yaml"))
    found = re.findall(r'address: "([^"]+)"', said)
    assert len(found) == 2
    assert all(parse_address(address).balanced for address in found)


@pytest.mark.parametrize(
    ("option", "warning"),
    [
        ("log.level=info", "Source servers ask for no token"),
        ("log.level=info", "Texts and distributions cross the network unencrypted"),
        ("log.level=info", "The broker asks for no password"),
        ("log.level=info", "The store's volume is ReadWriteOnce"),
        ("mlflow.persistence.enabled=false", "What MLflow holds is gone with its pod"),
        ("networkPolicy.enabled=false", "networkPolicy.enabled is false"),
        ("image.tag=latest", "The image's tag latest can change"),
        ("sources.docs.model=org/model", "sources.docs.revision is empty"),
        ("sourceAccess.tls.secret=a,sourceAccess.tls.mutual=true", "Clients show the servers' own certificate"),
    ],
)
def test_notes_warn_of_a_weak_setting(helm4: Helm, option: str, warning: str) -> None:
    assert warning in notes(helm4, "--values", str(CHART / "ci/tiny-values.yaml"), "--set", option)


def test_strong_settings_are_not_warned_of(helm4: Helm) -> None:
    said = notes(helm4, "--values", str(CHART / "ci/everything-values.yaml")).partition("Warnings:")[2]
    (warning,) = re.findall(r"^  - (.*)$", said, re.MULTILINE)
    assert warning.startswith("The chart's MLflow asks for no login")


def test_the_readme_is_what_the_values_say() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/chart_readme.py", "--check"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_every_value_of_the_top_is_in_the_readme(chart: Path) -> None:
    readme = (chart / "README.md").read_text()
    for key in yaml.safe_load((chart / "values.yaml").read_text()):
        assert f"| `{key}" in readme, key


def test_the_chart_is_of_the_version_of_fusery(chart: Path) -> None:
    from fusery import __version__

    assert yaml.safe_load((chart / "Chart.yaml").read_text())["appVersion"] == __version__


def test_a_package_of_the_chart_holds_what_the_templates_read(helm: Helm, tmp_path: Path) -> None:
    done = helm.run("package", str(CHART), "--destination", str(tmp_path))
    assert done.returncode == 0, done.stderr
    (package,) = tmp_path.glob("*.tgz")
    again = helm.run("template", "demo", str(package), "--set", "metrics.rules=true,metrics.dashboard=true")
    assert "FuserySourceDown" in again.stdout
    assert "def check_broker" not in again.stdout
    assert "check_broker(" in again.stdout
