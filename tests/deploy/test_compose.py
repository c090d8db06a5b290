"""compose.yaml: hardened as the chart's pods, and the demo's run on services has the digest of the one without."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from fusery.config.file import read_run_file
from fusery.runtime.settings import Settings
from support.cluster.charts import ROOT

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_has_a_read_only_root_and_no_capabilities(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["image"] == "${FUSERY_IMAGE:-fusery:0.1.0}"


@pytest.mark.parametrize("name", [name for name in SERVICES if name != "run"])
def test_every_service_that_stays_says_when_it_is_healthy(name: str) -> None:
    assert SERVICES[name]["healthcheck"]["test"]
    assert SERVICES[name]["restart"] == "unless-stopped"


def test_ports_are_published_to_this_machine_alone() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_volumes_that_are_used_are_declared_and_their_folders_belong_to_the_image_s_user() -> None:
    used = [volume.split(":") for service in SERVICES.values() for volume in service.get("volumes", [])]
    named = {parts[0] for parts in used if not parts[0].startswith(".")}
    assert named == set(COMPOSE["volumes"])
    # A new volume takes owner and mode of the folder of the image that it covers.
    made = (ROOT / "Dockerfile").read_text()
    assert all(parts[1] in made for parts in used if parts[0] in named)


def test_the_run_s_services_are_there_and_waited_for() -> None:
    run = read_run_file(ROOT / "examples/tiny-services.yaml").config
    hosts = {source.address.partition(":")[0] for source in run.sources if source.address}
    assert len(hosts) == len(run.sources)
    assert hosts | {"broker", "mlflow", "worker"} == set(SERVICES["run"]["depends_on"])
    assert set(SERVICES["run"]["depends_on"]) <= set(SERVICES)
    for source in run.sources:
        assert SERVICES[f"source-{source.name}"]["command"][1] == f"/examples/{source.model}"


def test_the_run_on_services_has_the_digest_of_the_demo() -> None:
    with_services, alone = (read_run_file(ROOT / f"examples/{name}.yaml").config for name in ("tiny-services", "tiny"))
    assert with_services.digest() == alone.digest()


def test_settings_are_settings_that_fusery_reads() -> None:
    known = {f"FUSERY_{name.upper()}" for name in Settings.model_fields}
    given = {name for service in SERVICES.values() for name in service.get("environment", {})}
    assert {name for name in given if name.startswith("FUSERY_")} <= known
