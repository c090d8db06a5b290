"""A run's source may be a list of servers or a DNS name; what does not fit is found before any work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fusery.run.open_run import open_run
from fusery.run.preflight.checks import check_run
from fusery.runtime.errors import AddressError, Mismatch, NoAnswer
from support.runs.pico_run import write_run
from support.runs.refusals import refused
from support.source.source_servers import UniformEngine, running


def served(address: str) -> list[dict[str, Any]]:
    return [{"name": "far", "model": "served/elsewhere", "address": address}]


def test_a_list_and_a_dns_name_pass(tmp_path: Path) -> None:
    with running(UniformEngine()) as one, running(UniformEngine()) as other:
        port = one.address.rpartition(":")[2]
        for number, address in enumerate((f"{one.address}, {other.address}", f"dns:///localhost:{port}")):
            check_run(open_run(write_run(tmp_path / str(number), sources=served(address))))


def test_a_list_with_two_models_is_refused_with_both_addresses(tmp_path: Path) -> None:
    engine = UniformEngine()
    engine.model = replace(engine.model, weights_fingerprint="1" * 64)
    with running(UniformEngine()) as one, running(engine) as other:
        file = write_run(tmp_path, sources=served(f"{one.address},{other.address}"))
        message = refused(file, Mismatch, "run.yaml: source far: source fingerprints: uniform at")
    assert one.address in message
    assert other.address in message


def test_a_list_of_which_one_does_not_answer_is_refused(tmp_path: Path, closed: str) -> None:
    with running(UniformEngine()) as one:
        file = write_run(tmp_path, sources=served(f"{one.address},{closed}"))
        refused(file, NoAnswer, f"run.yaml: source far: no source server answers at .*: source {closed}: UNAVAIL")


@pytest.mark.parametrize("address", ["nowhere", "a:1,,b:1", "dns:///a"])
def test_what_is_no_address_is_refused_with_the_forms_that_are(tmp_path: Path, address: str) -> None:
    refused(write_run(tmp_path, sources=served(address)), AddressError, "is no server; expected host:port, a list")
