"""What every call passes: tokens that change, errors as status and details, bad input by the name of its field."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status
from hypothesis import given
from hypothesis import strategies as st

from fusery.runtime import errors
from fusery.source import wire
from fusery.source.api import Document, Limits
from fusery.source.engines.transformers import TransformersEngine, load_engine
from fusery.source.pb import distributions_pb2 as pb
from fusery.source.server import interceptor
from fusery.source.server.call_record import trace_id_of
from fusery.source.server.interceptor import field_of, status_of
from fusery.source.server.server import SERVICE, Front
from fusery.source.token import TokenFile
from support.models.pico_models import pico_model
from support.source.front_servers import DOCUMENTS, FrontServer, ask, class_of, fronted, refused, usual_request
from support.source.source_servers import UniformEngine

COMPUTE, MODEL = f"/{SERVICE}/ComputeDistributions", f"/{SERVICE}/GetModel"


def bearer(token: str) -> dict[str, Any]:
    return {"metadata": (("authorization", f"Bearer {token}"),)}


def asked_with(address: str, content: bytes, **named: Any) -> Any:
    """The status of a call whose request is these very bytes."""
    with grpc.insecure_channel(address) as channel:
        try:
            list(channel.unary_stream(COMPUTE, None, None)(content, timeout=60, **named))
        except grpc.RpcError as error:
            return error
    raise AssertionError("the call was answered")


def violation_of(error: Any) -> tuple[str, str]:
    """Field and description of the one violation in the details; the status in them is the call's own."""
    status = rpc_status.from_call(error)
    (packed,) = status.details
    found = error_details_pb2.BadRequest()
    assert packed.Unpack(found)
    (violation,) = found.field_violations
    assert violation.description == status.message == error.details()
    return violation.field, violation.description


def never(_: Sequence[Document]) -> None:
    raise AssertionError("the model was asked")


def test_without_the_token_neither_the_request_is_read_nor_the_handler_reached(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[bytes] = []
    parsed = interceptor._parsed

    def noted(content: bytes, handler: Any) -> Any:
        read.append(content)
        return parsed(content, handler)

    monkeypatch.setattr(interceptor, "_parsed", noted)
    with fronted(UniformEngine(never), token="s3cret") as server:
        for named in ({}, bearer("wrong"), {"metadata": (("authorization", "s3cret"),)}):
            error = asked_with(server.address, b"\xff" * 1000, **named)
            assert error.code() is grpc.StatusCode.UNAUTHENTICATED
            assert "s3cret" not in error.details()
        assert read == []
        assert asked_with(server.address, b"\xff" * 10, **bearer("s3cret")).code() is grpc.StatusCode.INVALID_ARGUMENT
        assert len(read) == 1


def test_a_changed_token_file_lets_the_new_token_in_and_refuses_the_old_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "token"
    file.write_text("first\n")
    with fronted(UniformEngine(), token=TokenFile(file)) as server, caplog.at_level(logging.INFO):
        assert ask(server.address, usual_request(), **bearer("first"))
        file.write_text("second one\n")
        assert ask(server.address, usual_request(), **bearer("second one"))
        assert refused(server.address, usual_request(), **bearer("first")).code() is grpc.StatusCode.UNAUTHENTICATED
        for broken in (lambda: file.write_text(""), file.unlink):
            broken()
            assert ask(server.address, usual_request(), **bearer("second one"))
            assert refused(server.address, usual_request()).code() is grpc.StatusCode.UNAUTHENTICATED
        file.write_text("third")
        assert refused(server.address, usual_request(), **bearer("second one")).code() is not None
        assert ask(server.address, usual_request(), **bearer("third"))
    assert "the former token stays valid" in caplog.text
    assert "second" not in caplog.text


def test_reflection_is_off_unless_asked_for_and_needs_the_token_too() -> None:
    def services(server: FrontServer, token: str | None = None) -> list[str]:
        with grpc.insecure_channel(server.address) as channel:
            given = channel if token is None else grpc.intercept_channel(channel, _Bearer(token))
            return list(ProtoReflectionDescriptorDatabase(given).get_services())

    with fronted(UniformEngine()) as server, pytest.raises(grpc.RpcError) as off:
        services(server)
    assert off.value.code() is grpc.StatusCode.UNIMPLEMENTED
    with fronted(UniformEngine(), Front(reflection=True), token="t") as server:
        assert SERVICE in services(server, "t")
        with pytest.raises(grpc.RpcError) as without:
            services(server)
    assert without.value.code() is grpc.StatusCode.UNAUTHENTICATED


class _Bearer(grpc.StreamStreamClientInterceptor):  # type: ignore[misc]  # grpc has no types
    def __init__(self, token: str) -> None:
        self._metadata = (("authorization", f"Bearer {token}"),)

    def intercept_stream_stream(self, continuation: Any, details: Any, requests: Iterator[Any]) -> Any:
        return continuation(details._replace(metadata=self._metadata), requests)


STATUSES: list[tuple[errors.FuseryError, Any]] = [
    (errors.FuseryError("x"), grpc.StatusCode.INTERNAL),
    (errors.InvalidInput("x"), grpc.StatusCode.INVALID_ARGUMENT),
    (errors.ModelError("x"), grpc.StatusCode.INVALID_ARGUMENT),
    (errors.CorpusError("x"), grpc.StatusCode.INVALID_ARGUMENT),
    (errors.Mismatch("x"), grpc.StatusCode.FAILED_PRECONDITION),
    (errors.TooLarge("x"), grpc.StatusCode.RESOURCE_EXHAUSTED),
    (errors.Unavailable("x"), grpc.StatusCode.UNAVAILABLE),
    (errors.Overloaded("x"), grpc.StatusCode.RESOURCE_EXHAUSTED),
    (errors.SourceAway("x"), grpc.StatusCode.UNAVAILABLE),
    (errors.SourceLost("x"), grpc.StatusCode.UNAVAILABLE),
    (errors.Corrupt("x"), grpc.StatusCode.DATA_LOSS),
    (errors.Degraded("x"), grpc.StatusCode.INTERNAL),
    (errors.Interrupted("x"), grpc.StatusCode.INTERNAL),
    (errors.GateFailed("x"), grpc.StatusCode.INTERNAL),
    (errors.StoreFull("x"), grpc.StatusCode.INTERNAL),
]


OF_THE_SERVER = (errors.ConfigError, errors.AddressError, errors.NoAnswer)


def test_every_class_of_the_tree_stands_in_the_table() -> None:
    ours = {kind for kind in wire.error_classes().values() if kind.__module__ == "fusery.runtime.errors"}
    assert {type(error) for error, _ in STATUSES} | set(OF_THE_SERVER) == ours


@pytest.fixture(scope="module")
def failing() -> Iterator[tuple[str, list[Exception]]]:
    """A server whose model raises the last of the list."""
    raised: list[Exception] = []

    def fail(_: Sequence[Document]) -> None:
        raise raised[-1]

    with fronted(UniformEngine(fail)) as server:
        yield server.address, raised


@pytest.mark.parametrize("kind", OF_THE_SERVER)
def test_what_only_the_operator_can_mend_is_a_defect_to_the_caller(
    failing: tuple[str, list[Exception]], kind: type[errors.FuseryError]
) -> None:
    address, raised = failing
    raised.append(kind("tgi:http://10.0.0.5/secret-path: HTTP 401"))
    got = refused(address, usual_request())
    assert (got.code(), class_of(got)) == (grpc.StatusCode.INTERNAL, "FuseryError")
    assert "secret-path" not in got.details()
    assert "internal error" in got.details()


@pytest.mark.parametrize(("error", "code"), STATUSES, ids=[type(error).__name__ for error, _ in STATUSES])
def test_an_error_has_its_status_trailer_and_message(
    failing: tuple[str, list[Exception]], error: errors.FuseryError, code: Any
) -> None:
    address, raised = failing
    raised.append(error)
    got = refused(address, usual_request())
    assert (got.code(), got.details(), class_of(got)) == (code, "x", type(error).__name__)
    assert status_of(error) is code
    assert (rpc_status.from_call(got) is not None) == (code is grpc.StatusCode.INVALID_ARGUMENT)


def test_a_defect_shows_an_error_id_and_no_path_no_traceback_and_no_text(
    failing: tuple[str, list[Exception]], caplog: pytest.LogCaptureFixture
) -> None:
    address, raised = failing
    raised.append(OSError(2, "No such file", "/secret/place/weights.bin"))
    got = refused(address, usual_request())
    assert (got.code(), class_of(got)) == (grpc.StatusCode.INTERNAL, "FuseryError")
    everything = f"{got.details()} {got.trailing_metadata()} {got.debug_error_string()}"
    for hidden in ("secret", "weights", "OSError", "Traceback", ".py", "No such file"):
        assert hidden not in everything
    error_id = got.details().split("internal error ")[1][:12]
    assert f"error {error_id} in ComputeDistributions" in caplog.text
    assert "/secret/place/weights.bin" in caplog.text


def test_a_long_message_is_cut_in_message_and_details_alike(failing: tuple[str, list[Exception]]) -> None:
    address, raised = failing
    for text in ("東" * 100_000, "x" * 100_000, "😀" * 100_000):
        raised.append(errors.InvalidInput(text, field="top_k"))
        got = refused(address, usual_request())
        field, description = violation_of(got)
        assert field == "top_k"
        assert description.startswith(text[:200])
        assert description.endswith(" …")


def with_documents(*documents: tuple[str, bytes]) -> pb.ComputeDistributionsRequest:
    sent = [pb.Document(id=name, text=text) for name, text in documents]
    return pb.ComputeDistributionsRequest(documents=sent, top_k=4, log_probs=pb.LOG_PROBS_FLOAT16)


INVALID: list[tuple[str, pb.ComputeDistributionsRequest, str, str]] = [
    ("no documents", with_documents(), "documents", "got none"),
    ("an empty text", with_documents(("a", b"x"), ("b", b"")), "documents[1].text", "'b': its text is empty"),
    ("bad UTF-8", with_documents(("a", b"x"), ("b", b"caf\xe9")), "documents[1].text", "not UTF-8 at byte 3"),
    ("an id twice", with_documents(("a", b"x"), ("b", b"x"), ("a", b"y")), "documents[2].id", "'a': the id stands"),
    ("one id, the second empty", with_documents(("a", b"x"), ("a", b"")), "documents[1].text", "its text is empty"),
    ("one id, the second bad", with_documents(("a", b"x"), ("a", b"\xff")), "documents[1].text", "not UTF-8"),
    ("a strange id", with_documents(("top_k: '\n", b"")), "documents[0].text", "its text is empty"),
    ("k = 0", usual_request(top_k=0), "top_k", "got 0, expected 1 to 420"),
    ("k over the vocabulary", usual_request(top_k=421), "top_k", "got 421, expected 1 to 420"),
    ("no number format", usual_request(log_probs=0), "log_probs", "got 0, expected LOG_PROBS_FLOAT16"),
    ("an unknown number format", usual_request(log_probs=7), "log_probs", "got 7"),
    ("too many tokens", with_documents(("a", b"x"), ("long", b"q" * 600)), "documents[1].text", "context of uniform"),
]


@pytest.fixture(scope="module")
def uniform() -> Iterator[str]:
    with fronted(UniformEngine(limits=Limits(max_documents=8))) as server:
        yield server.address


@pytest.mark.parametrize(("request_", "field", "text"), [row[1:] for row in INVALID], ids=[row[0] for row in INVALID])
def test_bad_input_is_refused_with_the_path_of_its_field(
    uniform: str, request_: pb.ComputeDistributionsRequest, field: str, text: str
) -> None:
    got = refused(uniform, request_)
    assert (got.code(), class_of(got)) == (grpc.StatusCode.INVALID_ARGUMENT, "InvalidInput")
    path, description = violation_of(got)
    assert path == field
    assert text in description


def test_too_many_tokens_says_limit_and_document(uniform: str) -> None:
    message = refused(uniform, with_documents(("long", b"q" * 600))).details()
    assert "'long': 600 tokens" in message
    assert "holds 512; split the document" in message


def test_too_many_documents_says_the_limit(uniform: str) -> None:
    got = refused(uniform, with_documents(*((f"d{i}", b"x") for i in range(9))))
    assert (got.code(), class_of(got)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TooLarge")
    assert "got 9, at most 8" in got.details()


def test_another_fingerprint_names_both(uniform: str) -> None:
    got = refused(uniform, usual_request(expected_fingerprint="f" * 64))
    assert (got.code(), class_of(got)) == (grpc.StatusCode.FAILED_PRECONDITION, "Mismatch")
    assert "f" * 12 in got.details()
    assert UniformEngine().model.fingerprint[:12] in got.details()


@pytest.mark.parametrize(
    ("limits", "text"),
    [(Limits(max_reply_bytes=4096), "its answer takes"), (Limits(max_tokens=16), "tokens with padding, at most 16")],
)
def test_size_bounds_are_computed_and_refused_before_the_forward(
    limits: Limits, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TransformersEngine, "_rows", lambda *_: pytest.fail("the forward was reached"))
    with fronted(load_engine(str(pico_model("llama")), device="cpu", limits=limits)) as server:
        got = refused(server.address, usual_request(top_k=64))
    assert (got.code(), class_of(got)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TooLarge")
    assert text in got.details()


def test_bytes_that_are_no_message_are_the_callers_fault(uniform: str, caplog: pytest.LogCaptureFixture) -> None:
    bad_id = b"\x0a\x04\x0a\x02\xff\xfe"
    for content in (b"\xff" * 64, b"\x0a\x7f", bad_id):
        got = asked_with(uniform, content)
        assert got.code() is grpc.StatusCode.INVALID_ARGUMENT
        field, description = violation_of(got)
        assert field == ""
        assert "not the message that this method takes" in description
    assert "Traceback" not in caplog.text


def test_a_request_over_the_size_of_a_message_is_refused() -> None:
    with fronted(UniformEngine(never), Front(max_request_bytes=10_000)) as server:
        got = asked_with(server.address, b"x" * 10_001)
    assert got.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_impossible_fronts_are_refused() -> None:
    for change in ({"hang_s": 0.0}, {"max_request_bytes": 0}, {"max_request_bytes": 1 << 40}):
        with pytest.raises(errors.ConfigError, match="expected"):
            Front(**change)  # type: ignore[arg-type]


def lines_of(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == "fusery.source.server.call_record"]


def wait_until(holds: Callable[[], bool], at_most_s: float = 30.0) -> None:
    end = time.monotonic() + at_most_s
    while not holds() and time.monotonic() < end:
        time.sleep(0.01)


def test_a_call_is_one_line_of_the_log_with_its_trace(uniform: str, caplog: pytest.LogCaptureFixture) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    with caplog.at_level(logging.INFO, "fusery.source.server.call_record"):
        ask(uniform, usual_request(), metadata=(("traceparent", f"00-{trace}-b7ad6b7169203331-01"),))
        refused(uniform, usual_request(top_k=0))
        # A line is written when the call is over, which the caller may know before.
        wait_until(lambda: len(lines_of(caplog)) == 2)
    answered, failed = lines_of(caplog)
    line = answered.getMessage()
    assert line.startswith("call method=ComputeDistributions code=OK ms=")
    for part in ("documents=6", "k=4", "tokens=", "wait_ms=", "compute_ms=", f"trace_id={trace}"):
        assert part in line
    assert "code=INVALID_ARGUMENT" in failed.getMessage()
    assert "trace_id" not in failed.getMessage()
    assert not any(document.text[:10] in caplog.text for document in DOCUMENTS)


HEX = "0123456789abcdef"


@given(st.text(HEX, min_size=32, max_size=32).filter(lambda digits: set(digits) != {"0"}))
def test_a_trace_id_is_read_from_its_header(digits: str) -> None:
    assert trace_id_of([("x", "y"), ("traceparent", f"00-{digits}-{'1' * 16}-01")]) == digits


@given(st.one_of(st.text(max_size=80), st.binary(max_size=80)))
def test_anything_else_is_no_trace_id(value: Any) -> None:
    assert trace_id_of([("traceparent", value)]) is None
    assert trace_id_of([]) is None


@pytest.mark.parametrize("header", [f"ff-{'1' * 32}-{'1' * 16}-01", f"00-{'0' * 32}-{'1' * 16}-01", "00-1-1-01"])
def test_invalid_headers_are_no_trace_id(header: str) -> None:
    assert trace_id_of([("traceparent", header)]) is None


def test_an_error_that_names_its_field_is_believed() -> None:
    assert field_of(errors.InvalidInput("anything", field="documents[3].text"), usual_request()) == "documents[3].text"
    assert field_of(errors.InvalidInput("anything"), usual_request()) is None
    assert field_of(errors.InvalidInput("top_k: no"), None) == "top_k"
