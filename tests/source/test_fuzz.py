"""Some hundred mutated requests; `make fuzz` sends a hundred thousand."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

import grpc
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

from fuzz_source import Outcome, Request, fuzz, mutated

from fusery.source.api import Document
from fusery.source.engines.transformers import load_engine
from support.models.pico_models import pico_model
from support.source.front_servers import fronted
from support.source.source_servers import UniformEngine


def test_mutated_requests_find_no_defect_no_path_and_no_hang(caplog: pytest.LogCaptureFixture) -> None:
    with fronted(load_engine(str(pico_model("llama")), device="cpu")) as server:
        outcome = fuzz(server.address, 600, seed=1)
    assert outcome.faults == []
    assert sum(outcome.codes.values()) == 600
    assert min(outcome.codes["OK"], outcome.codes["INVALID_ARGUMENT"]) > 50
    assert "Traceback" not in caplog.text


def test_the_fuzzer_sees_a_defect_and_a_path() -> None:
    def fail(documents: Sequence[Document]) -> None:
        if len(documents) == 2:
            raise RuntimeError("a defect")

    with fronted(UniformEngine(fail)) as server:
        outcome = fuzz(server.address, 100, seed=1)
    assert outcome.faults
    assert all("INTERNAL" in fault for fault in outcome.faults)

    class Leak:
        def code(self) -> grpc.StatusCode:
            return grpc.StatusCode.INVALID_ARGUMENT

        def details(self) -> str:
            return 'File "/srv/engine.py", line 3'

        def trailing_metadata(self) -> tuple[()]:
            return ()

    leaked = Outcome()
    leaked.add(Request("GetModel", b""), Leak())
    assert len(leaked.faults) == 2


def test_a_seed_gives_the_same_requests_and_both_kinds_of_change() -> None:
    first, second = (list(itertools.islice(mutated(3, "f" * 64), 200)) for _ in range(2))
    assert first == second
    assert first != list(itertools.islice(mutated(4, "f" * 64), 200))
    assert {request.method for request in first} == {"ComputeDistributions", "GetModel", "GetTokenizer"}
