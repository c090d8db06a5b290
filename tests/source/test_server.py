"""The server on loopback: health, limits of its queue, errors as status codes, draining."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from fusery.runtime import errors
from fusery.source import wire
from fusery.source.api import ERROR_KEY, Document, Limits
from fusery.source.engines.transformers import load_engine
from fusery.source.pb import distributions_pb2 as pb
from fusery.source.pb import distributions_pb2_grpc as pb_grpc
from fusery.source.server.interceptor import status_of
from fusery.source.server.server import SERVICE
from support.models.pico_models import TEXTS, pico_model
from support.source.source_servers import UniformEngine, running

DOCUMENTS = [Document(f"d{i}", text) for i, text in enumerate(TEXTS)]


def ask(address: str, request: pb.ComputeDistributionsRequest, **named: Any) -> list[pb.ComputeDistributionsResponse]:
    with grpc.insecure_channel(address) as channel:
        return list(pb_grpc.DistributionsServiceStub(channel).ComputeDistributions(request, timeout=60, **named))


def refusal(address: str, request: pb.ComputeDistributionsRequest, **named: Any) -> tuple[Any, str, str | None]:
    """Status, message and error class of a call that fails."""
    with pytest.raises(grpc.RpcError) as caught:
        ask(address, request, **named)
    metadata = dict(caught.value.trailing_metadata() or ())
    return caught.value.code(), caught.value.details(), metadata.get(ERROR_KEY)


def health_of(address: str, service: str) -> str:
    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        status = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=60).status
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(status))


def usual_request(**changes: Any) -> pb.ComputeDistributionsRequest:
    request = wire.write_request(DOCUMENTS, 4, "float16", None)
    for name, value in changes.items():
        setattr(request, name, value)
    return request


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_the_same_request_gives_the_same_bytes_alone_and_among_others(architecture: str) -> None:
    engine = load_engine(str(pico_model(architecture)), device="cpu")
    requests = [wire.write_request(DOCUMENTS[i % 4 : i % 4 + 3], 8, "float32", None) for i in range(64)]
    with running(engine, waiting_requests=64) as server:
        alone = [ask(server.address, request) for request in requests[:4]]
        with ThreadPoolExecutor(64) as pool:
            together = list(pool.map(lambda request: ask(server.address, request), requests))
    for i, messages in enumerate(together):
        assert [m.SerializeToString() for m in messages] == [m.SerializeToString() for m in alone[i % 4]]


def test_answers_come_in_the_order_of_the_request() -> None:
    with running(UniformEngine()) as server:
        request = wire.write_request(DOCUMENTS[::-1], 4, "float16", None)
        assert [m.document_id for m in ask(server.address, request)] == [d.id for d in DOCUMENTS[::-1]]


def test_health_is_not_serving_until_the_model_is_loaded() -> None:
    loaded = threading.Event()

    def load() -> UniformEngine:
        loaded.wait(60)
        return UniformEngine()

    with running(load, wait=False) as server:
        for service in ("", SERVICE, "readiness"):
            assert health_of(server.address, service) == "NOT_SERVING"
        assert health_of(server.address, "liveness") == "SERVING"
        code, message, kind = refusal(server.address, usual_request())
        assert (code, kind) == (grpc.StatusCode.UNAVAILABLE, "Unavailable")
        assert "loading" in message
        loaded.set()
        server.loading.result(60)
        for service in ("", SERVICE, "readiness", "liveness"):
            assert health_of(server.address, service) == "SERVING"
        assert ask(server.address, usual_request())


def test_a_model_that_can_not_be_loaded_ends_the_server_with_its_error() -> None:
    def load() -> UniformEngine:
        raise errors.ModelError("no such folder")

    with running(load, wait=False) as server, pytest.raises(errors.ModelError, match="no such folder"):
        server.loading.result(60)


def test_a_watch_takes_little_because_it_needs_no_token() -> None:
    with running(UniformEngine()) as server, grpc.insecure_channel(server.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        with pytest.raises(grpc.RpcError) as too_long:
            next(stub.Watch(health_pb2.HealthCheckRequest(service="x" * 201), timeout=60))
        assert too_long.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        watches = [stub.Watch(health_pb2.HealthCheckRequest(), timeout=60) for _ in range(256)]
        assert {next(watch).status for watch in watches} == {health_pb2.HealthCheckResponse.SERVING}
        with pytest.raises(grpc.RpcError) as too_many:
            next(stub.Watch(health_pb2.HealthCheckRequest(), timeout=60))
        assert too_many.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        for watch in watches:
            watch.cancel()


def test_draining_answers_what_was_begun_and_refuses_the_rest() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def hold(_: Sequence[Document]) -> None:
        begun.set()
        go_on.wait(60)

    with running(UniformEngine(hold)) as server, ThreadPoolExecutor(2) as pool:
        with grpc.insecure_channel(server.address) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=60)
            assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
            answer = pool.submit(ask, server.address, usual_request())
            assert begun.wait(60)
            drained = pool.submit(server.drain, 30.0)
            assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
            watch.cancel()
        code, _, _ = refusal(server.address, usual_request())
        assert code is grpc.StatusCode.UNAVAILABLE
        go_on.set()
        assert len(answer.result(60)) == len(DOCUMENTS)
        drained.result(60)


def test_a_full_queue_is_resource_exhausted_and_overloaded() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def hold(_: Sequence[Document]) -> None:
        begun.set()
        go_on.wait(60)

    with running(UniformEngine(hold), waiting_requests=1) as server, ThreadPoolExecutor(8) as pool:
        first = pool.submit(ask, server.address, usual_request())
        assert begun.wait(60)
        others = [pool.submit(ask, server.address, usual_request()) for _ in range(6)]
        refused = []
        for other in others:
            # One of them waits in the queue and must not be waited for before the model goes on.
            try:
                other.result(5 if len(refused) < 5 else 0.01)
            except grpc.RpcError as error:
                refused.append(error)
            except TimeoutError:
                pass
        go_on.set()
        assert len(first.result(60)) == len(DOCUMENTS)
    assert len(refused) == 5
    for error in refused:
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert dict(error.trailing_metadata())[ERROR_KEY] == "Overloaded"


ERRORS: list[tuple[errors.FuseryError, Any]] = [
    (errors.InvalidInput("x"), grpc.StatusCode.INVALID_ARGUMENT),
    (errors.ModelError("x"), grpc.StatusCode.INVALID_ARGUMENT),
    (errors.CorpusError("x"), grpc.StatusCode.INVALID_ARGUMENT),
    (errors.Mismatch("x"), grpc.StatusCode.FAILED_PRECONDITION),
    (errors.TooLarge("x"), grpc.StatusCode.RESOURCE_EXHAUSTED),
    (errors.Overloaded("x"), grpc.StatusCode.RESOURCE_EXHAUSTED),
    (errors.Unavailable("x"), grpc.StatusCode.UNAVAILABLE),
    (errors.Corrupt("x"), grpc.StatusCode.DATA_LOSS),
    (errors.Degraded("x"), grpc.StatusCode.INTERNAL),
]


def test_every_class_of_the_tree_has_its_status_and_travels_by_name() -> None:
    raised: list[Exception] = []

    def fail(_: Sequence[Document]) -> None:
        raise raised[-1]

    with running(UniformEngine(fail)) as server:
        for error, expected in ERRORS:
            raised.append(error)
            assert status_of(error) is expected
            assert refusal(server.address, usual_request()) == (expected, "x", type(error).__name__)


def test_the_text_of_a_defect_stays_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: Sequence[Document]) -> None:
        raise RuntimeError("the password is 1234")

    with running(UniformEngine(fail)) as server:
        code, message, kind = refusal(server.address, usual_request())
    assert (code, kind) == (grpc.StatusCode.INTERNAL, "FuseryError")
    assert "1234" not in message
    assert "RuntimeError" not in message
    error_id = message.split("internal error ")[1][:12]
    assert error_id in caplog.text
    assert "the password is 1234" in caplog.text


def test_a_very_long_message_is_cut_and_still_arrives() -> None:
    def fail(_: Sequence[Document]) -> None:
        raise errors.InvalidInput("東" * 100_000)

    with running(UniformEngine(fail)) as server:
        code, message, kind = refusal(server.address, usual_request())
    assert (code, kind) == (grpc.StatusCode.INVALID_ARGUMENT, "InvalidInput")
    assert message.startswith("東東")
    assert message.endswith("…")


def test_bad_utf8_is_the_callers_fault_and_names_the_document() -> None:
    request = usual_request()
    request.documents[3].text = b"caf\xe9"
    with running(UniformEngine()) as server:
        code, message, _ = refusal(server.address, request)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "'d3'" in message
    assert "byte 3" in message


def test_another_fingerprint_is_a_failed_precondition() -> None:
    engine = UniformEngine()
    with running(engine) as server:
        code, message, kind = refusal(server.address, usual_request(expected_fingerprint="f" * 64))
        assert (code, kind) == (grpc.StatusCode.FAILED_PRECONDITION, "Mismatch")
        assert engine.model.fingerprint[:12] in message
        assert "f" * 12 in message
        assert ask(server.address, usual_request(expected_fingerprint=engine.model.fingerprint))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"top_k": 0}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"top_k": 100_000}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"top_k": 9}, grpc.StatusCode.RESOURCE_EXHAUSTED),
        ({"log_probs": 0}, grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
def test_requests_that_can_never_be_answered_do_not_reach_the_model(changes: dict[str, int], code: Any) -> None:
    def fail(_: Sequence[Document]) -> None:
        raise AssertionError("the model was asked")

    with running(UniformEngine(fail, Limits(max_top_k=8))) as server:
        assert refusal(server.address, usual_request(**changes))[0] is code


def test_an_empty_request_is_the_callers_fault() -> None:
    with running(UniformEngine()) as server:
        request = pb.ComputeDistributionsRequest(top_k=1, log_probs=pb.LOG_PROBS_FLOAT16)
        assert refusal(server.address, request)[0] is grpc.StatusCode.INVALID_ARGUMENT


def test_calls_need_the_token_and_health_checks_do_not() -> None:
    with running(UniformEngine(), token="s3cret") as server:
        for metadata in (None, (("authorization", "Bearer wrong"),), (("authorization", "s3cret"),)):
            code, message, _ = refusal(server.address, usual_request(), metadata=metadata)
            assert code is grpc.StatusCode.UNAUTHENTICATED
            assert "FUSERY_SOURCE_TOKEN_FILE" in message
            assert "s3cret" not in message
        assert ask(server.address, usual_request(), metadata=(("authorization", "Bearer s3cret"),))
        assert health_of(server.address, "") == "SERVING"


def test_a_second_server_on_the_same_port_is_refused() -> None:
    with running(UniformEngine()) as server:
        port = int(server.address.rpartition(":")[2])
        with pytest.raises(errors.ConfigError, match="is another server there"), running(UniformEngine(), port=port):
            pass
