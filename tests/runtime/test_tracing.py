"""One trace from the command line to the metadata that a source server receives; spans only where asked for."""

from __future__ import annotations

import contextvars
import importlib.util
import json
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusery import cli
from fusery.run.local import start_broker
from fusery.runtime import tracing
from fusery.runtime.errors import ConfigError
from fusery.runtime.processes import Child, Supervisor, fusery_command
from fusery.runtime.telemetry import set_up_logging
from fusery.runtime.tracing import TraceContext
from fusery.source import wire
from fusery.source.api import Document
from fusery.source.client import SourceClient
from fusery.source.pb import distributions_pb2 as pb
from fusery.source.pb import distributions_pb2_grpc as pb_grpc
from support.source.source_servers import UniformEngine

GIVEN = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
FORM = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01")


@pytest.fixture(autouse=True)
def _own_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No trace of another test."""
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "TRACEPARENT"):
        monkeypatch.delenv(name, raising=False)
    tracing.stop()
    yield
    tracing.stop()


@given(trace=st.integers(1, 2**128 - 1), span=st.integers(1, 2**64 - 1), flags=st.integers(0, 255))
def test_a_header_is_read_as_it_was_written(trace: int, span: int, flags: int) -> None:
    context = TraceContext(f"{trace:032x}", f"{span:016x}", flags)
    assert tracing.parse(context.traceparent) == context


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "nonsense",
        GIVEN.upper(),
        GIVEN + "\n",
        GIVEN + "-more",
        "ff" + GIVEN[2:],
        GIVEN.replace("4bf92f3577b34da6a3ce929d0e0e4736", "0" * 32),
        GIVEN.replace("00f067aa0ba902b7", "0" * 16),
    ],
)
def test_what_is_no_header_starts_a_new_trace(header: str | None) -> None:
    assert tracing.parse(header) is None


def test_a_later_version_with_more_parts_is_understood() -> None:
    assert tracing.parse("01" + GIVEN[2:] + "-more") == tracing.parse(GIVEN)


def test_spans_share_the_trace_and_end_with_their_block() -> None:
    assert tracing.current() is None
    with tracing.span("outer") as outer, tracing.span("inner") as inner:
        assert inner.context.trace_id == outer.context.trace_id
        assert inner.context.span_id != outer.context.span_id
        assert tracing.outgoing() == inner.context.traceparent
    assert tracing.current() is None
    assert tracing.outgoing() != tracing.outgoing()


def test_a_header_that_says_not_sampled_is_handed_on_as_such() -> None:
    with tracing.span("task", tracing.parse(GIVEN[:-2] + "00")):
        assert tracing.outgoing().endswith("-00")


def test_a_command_is_one_trace_in_all_of_its_threads() -> None:
    tracing.start("run", whole_process=True)
    root = tracing.current()
    assert root is not None
    seen: list[TraceContext | None] = []
    # As in a new thread: nothing is inherited.
    contextvars.Context().run(lambda: seen.append(tracing.current()))
    assert seen == [root]


def test_a_command_continues_the_trace_of_who_started_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACEPARENT", GIVEN)
    tracing.start("evaluate", whole_process=True)
    context = tracing.current()
    assert context is not None
    assert context.trace_id == GIVEN[3:35]


def json_lines(caught: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in caught.splitlines() if line.startswith("{")]


def test_json_lines_carry_the_trace_id(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("worker", form="json")
    logging.getLogger("x").info("outside of any task")
    with tracing.span("task", tracing.parse(GIVEN)):
        logging.getLogger("x").info("inside")
    outside, inside = json_lines(capsys.readouterr().err)
    assert "trace_id" not in outside
    assert inside["trace_id"] == GIVEN[3:35]


def test_every_line_of_a_command_carries_the_same_trace_id(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("run", form="json")
    logging.getLogger("x").info("one")
    logging.getLogger("x").info("two")
    assert len({line["trace_id"] for line in json_lines(capsys.readouterr().err)}) == 1


@contextmanager
def noting_server() -> Iterator[tuple[str, list[str]]]:
    """A source server that is no part of fusery, and the `traceparent` of every call to it."""
    noted: list[str] = []

    class Servicer(pb_grpc.DistributionsServiceServicer):
        def GetModel(self, request: Any, context: Any) -> pb.GetModelResponse:
            self._note(context)
            return wire.write_model(UniformEngine().model)

        def ComputeDistributions(self, request: Any, context: Any) -> Iterator[pb.ComputeDistributionsResponse]:
            self._note(context)
            documents = wire.read_documents(request)
            for of in zip(UniformEngine().compute(documents, request.top_k), documents, strict=True):
                yield wire.write_answer(*of, wire.read_log_probs(request.log_probs))

        def _note(self, context: Any) -> None:
            noted.extend(value for key, value in context.invocation_metadata() if key == tracing.HEADER)

    server = grpc.server(futures.ThreadPoolExecutor(2))
    pb_grpc.add_DistributionsServiceServicer_to_server(Servicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}", noted
    finally:
        server.stop(0).wait()


def test_every_call_of_a_client_carries_a_header_of_its_own_in_the_callers_trace() -> None:
    with noting_server() as (address, noted), SourceClient(address, timeout_s=60.0) as client:
        with tracing.span("caller") as caller:
            client.model()
            list(client.compute_many([[Document("a", "one")], [Document("b", "two")]], 2))
        client.model()
    assert all(FORM.fullmatch(header) for header in noted)
    assert [header[3:35] == caller.context.trace_id for header in noted] == [True, True, True, False]
    assert len({header[36:52] for header in noted}) == 4


@contextmanager
def collector() -> Iterator[tuple[str, list[Any]]]:
    """An OTLP collector on loopback, and the spans that it was sent."""
    service = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc")
    messages = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
    received: list[Any] = []

    class Collector(service.TraceServiceServicer):  # type: ignore[misc,name-defined]
        def Export(self, request: Any, context: Any) -> Any:
            for resource in request.resource_spans:
                [name] = [a.value.string_value for a in resource.resource.attributes if a.key == "service.name"]
                received.extend((name, span) for scope in resource.scope_spans for span in scope.spans)
            return messages.ExportTraceServiceResponse()

    server = grpc.server(futures.ThreadPoolExecutor(2))
    service.add_TraceServiceServicer_to_server(Collector(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"http://127.0.0.1:{port}", received
    finally:
        server.stop(0).wait()


has_exporter = pytest.mark.skipif(
    importlib.util.find_spec("opentelemetry.exporter") is None, reason="the extra `tracing` is not installed"
)


@has_exporter
@pytest.mark.parametrize("variable", ["FUSERY_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"])
def test_spans_reach_the_collector_with_the_ids_that_are_handed_on(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with collector() as (endpoint, received), noting_server() as (address, noted):
        monkeypatch.setenv(variable, endpoint)
        tracing.start("query", whole_process=True)
        with SourceClient(address, timeout_s=60.0) as client:
            client.model()
        with pytest.raises(ZeroDivisionError), tracing.span("broken", documents=3):
            raise ZeroDivisionError("a text")
        tracing.stop()
    spans = {span.name: span for _, span in received}
    assert {name for name, _ in received} == {"fusery-query"}
    assert set(spans) == {"fusery query", "source GetModel", "broken"}
    assert len({span.trace_id for span in spans.values()}) == 1
    call = spans["source GetModel"]
    assert [header[:52] for header in noted] == [f"00-{call.trace_id.hex()}-{call.span_id.hex()}"]
    assert call.parent_span_id == spans["broken"].parent_span_id == spans["fusery query"].span_id
    assert spans["broken"].status.code == 2
    assert "a text" not in str(spans["broken"])


@has_exporter
def test_opentelemetry_switched_off_leaves_the_headers_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    monkeypatch.setenv("FUSERY_OTLP_ENDPOINT", "http://127.0.0.1:1")
    tracing.start("run", whole_process=True)
    assert FORM.fullmatch(tracing.outgoing())


def test_without_the_extra_traces_work_until_they_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.grpc.trace_exporter", None)
    tracing.start("run", whole_process=True)
    assert FORM.fullmatch(tracing.outgoing())
    monkeypatch.setenv("FUSERY_OTLP_ENDPOINT", "http://127.0.0.1:4317")
    assert cli.main(["query", "127.0.0.1:1", "a"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "FUSERY_OTLP_ENDPOINT asks for traces" in line
    assert "'.[tracing]'" in line


@pytest.mark.parametrize("endpoint", ["127.0.0.1:4317", "grpc://collector:4317"])
def test_an_address_of_a_collector_that_is_none_is_refused(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSERY_OTLP_ENDPOINT", endpoint)
    with pytest.raises(ConfigError, match=r"FUSERY_OTLP_ENDPOINT is .*; expected http://host:4317"):
        tracing.start("run", whole_process=True)


def test_nothing_of_opentelemetry_is_imported_before_a_collector_is_named() -> None:
    code = (
        "import sys; from fusery.runtime import tracing; tracing.start('run', whole_process=True); tracing.outgoing(); "
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


PUBLISH = """
import sys
from fusery.runtime import tracing
from fusery.runtime.telemetry import set_up_logging
from fusery.hops.worker.app import TASK_NAME
from fusery.hops.worker.app import make_app
from fusery.hops.plan import Hop

set_up_logging("run", form="json")
make_app(sys.argv[1]).send_task(TASK_NAME[Hop.CAPTURE], args=["r", "l", "s", 0], queue="capture", retry=False)
print(tracing.current().trace_id)
"""


def test_one_trace_from_a_commands_message_through_a_worker_to_the_source(tmp_path: Path) -> None:
    """A real broker, a real worker process and its child, and a real server."""
    with noting_server() as (address, noted), Supervisor() as supervisor:
        _plan(tmp_path / "store", address)
        url = start_broker(supervisor, tmp_path)
        place = {"FUSERY_BROKER_URL": url, "FUSERY_STORE": str(tmp_path / "store"), "FUSERY_LOG_FORMAT": "json"}
        environment = {**os.environ, **place, "PYTHONUNBUFFERED": "1"}
        command = fusery_command("worker", "--processes", "1", "--hops", "capture")
        worker = supervisor.start(Child("worker", command, environment, tmp_path / "worker.log"))
        done = subprocess.run([sys.executable, "-c", PUBLISH, url], capture_output=True, text=True, check=True)
        trace_id = done.stdout.strip()
        deadline = time.monotonic() + 120
        while not re.search("is done|failed", log := worker.log.read_text()) and time.monotonic() < deadline:
            time.sleep(0.1)
    assert {header[3:35] for header in noted} == {trace_id}, log
    [line] = [line for line in json_lines(log) if line["logger"] == "fusery.hops.worker.tasks"]
    assert line["message"] == "capture-s-00000 of run r is done"
    assert (line["service"], line["trace_id"]) == ("worker", trace_id)


def _plan(folder: Path, address: str) -> None:
    from fusery.config.sections import AlignmentSpec, CaptureSpec, FusionSpec
    from fusery.hops.launches import Launch
    from fusery.hops.plan import Plan, PlannedSource
    from fusery.hops.store import shards
    from fusery.hops.store.store import Store

    store, model = Store(str(folder)), UniformEngine().model
    source = PlannedSource(
        name="s",
        model_fingerprint=model.fingerprint,
        tokenizer_fingerprint=model.tokenizer_fingerprint,
        vocabulary_size=model.vocabulary_size,
    )
    plan = Plan(
        run_id="r",
        corpus_digest="c" * 64,
        corpus_shards=1,
        target_tokenizer_fingerprint="t" * 64,
        sources=(source,),
        capture=CaptureSpec(top_k=2),
        alignment=AlignmentSpec(),
        fusion=FusionSpec(),
    )
    store.publish(plan.corpus_shard(0), shards.write_corpus([shards.CorpusDocument("d", "x", "a text")], {}))
    Launch("l", plan, {"s": address}).write(store)
