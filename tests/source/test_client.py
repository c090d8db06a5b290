"""The client: values in, values out, errors of our own tree, and patience where it helps."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from fusery.runtime import errors
from fusery.source import call, wire
from fusery.source.api import Document
from fusery.source.call import without_address
from fusery.source.client import SourceClient, read_token
from fusery.source.engines.transformers import load_engine
from fusery.source.pb import distributions_pb2 as pb
from fusery.source.pb import distributions_pb2_grpc as pb_grpc
from support.models.pico_models import TEXTS, pico_model
from support.source.source_servers import UniformEngine, running

DOCUMENTS = [Document(f"d{i}", text) for i, text in enumerate(TEXTS)]


def client_of(address: str, **named: Any) -> SourceClient:
    return SourceClient(address, **({"timeout_s": 60.0, "retry_for_s": 30.0} | named))


def test_the_client_gives_what_the_engine_computes() -> None:
    engine = load_engine(str(pico_model("llama")), device="cpu")
    expected = engine.compute(DOCUMENTS, 6)
    with running(engine) as server, client_of(server.address) as client:
        assert client.model() == engine.model
        assert client.tokenizer().definition() == engine.tokenizer.definition()
        answers = client.compute(DOCUMENTS, 6, "float32", engine.model.fingerprint)
    for answer, own in zip(answers, expected, strict=True):
        assert answer.document_id == own.document_id
        assert np.array_equal(answer.token_ids_T, own.token_ids_T)
        assert np.array_equal(answer.byte_ends_T, own.byte_ends_T)
        assert np.array_equal(answer.top.ids_RK, own.top.ids_RK)
        assert np.array_equal(answer.top.log_probs_RK, own.top.log_probs_RK)
        assert np.array_equal(answer.next_log_probs_T, own.next_log_probs_T)


def test_no_channel_exists_before_the_first_call_nor_after_closing() -> None:
    with running(UniformEngine()) as server:
        client = client_of(server.address)
        assert not client._channels
        client.model()
        assert len(client._channels) == 1
        client.close()
        assert not client._channels
        client.close()


def test_a_worker_that_imports_the_client_imports_no_torch() -> None:
    code = "import sys, fusery.source.client; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_errors_of_the_server_come_back_as_their_class() -> None:
    raised: list[Exception] = []

    def fail(_: Sequence[Document]) -> None:
        raise raised[-1]

    kinds = [errors.InvalidInput, errors.ModelError, errors.Mismatch, errors.TooLarge, errors.Degraded]
    with running(UniformEngine(fail)) as server, client_of(server.address) as client:
        for kind in kinds:
            raised.append(kind("what, got, expected"))
            with pytest.raises(kind, match=f"source {server.address}: what, got, expected") as caught:
                client.compute(DOCUMENTS, 2)
            assert type(caught.value) is kind
        assert len(raised) == len(kinds)
        raised.append(RuntimeError("secret"))
        with pytest.raises(errors.FuseryError, match="internal error") as caught:
            client.compute(DOCUMENTS, 2)
        assert not caught.value.retryable
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize("kind", [errors.Overloaded, errors.Unavailable, errors.Corrupt])
def test_what_a_retry_can_help_is_repeated_whole(kind: type[errors.FuseryError]) -> None:
    asked: list[list[str]] = []

    def fail_twice(documents: Sequence[Document]) -> None:
        asked.append([document.id for document in documents])
        if len(asked) < 3:
            raise kind("not now")

    with running(UniformEngine(fail_twice)) as server, client_of(server.address) as client:
        assert len(client.compute(DOCUMENTS, 2)) == len(DOCUMENTS)
    assert asked == [[document.id for document in DOCUMENTS]] * 3


def test_patience_ends_with_the_last_error() -> None:
    def fail(_: Sequence[Document]) -> None:
        raise errors.Overloaded("full")

    with (
        running(UniformEngine(fail)) as server,
        client_of(server.address, retry_for_s=0.5) as client,
        pytest.raises(errors.Overloaded, match="full"),
    ):
        client.compute(DOCUMENTS, 2)


def test_nobody_at_the_address_is_unavailable() -> None:
    with (
        client_of("127.0.0.1:1", retry_for_s=0.0) as client,
        pytest.raises(errors.Unavailable, match=r"127\.0\.0\.1:1"),
    ):
        client.model()


@pytest.mark.parametrize(
    ("details", "says"),
    [
        (
            "errors resolving a:1: [field:hostname lookup error:address lookup failed for a:1: Domain name not found]",
            "there is no such name: the release may not serve this source",
        ),
        ("getaddrinfo: Name or service not known", "there is no such name"),
        ("last error: UNKNOWN: ipv4:127.0.0.1:1: Failed to connect: Connection refused", "nothing listens there"),
        ("upstream connect error", "UNAVAILABLE: upstream connect error"),
    ],
)
def test_a_name_that_is_not_found_is_told_from_a_server_that_is_not_up(details: str, says: str) -> None:
    calls: list[int] = []
    with (
        lying_server(aborting(grpc.StatusCode.UNAVAILABLE, details, calls)) as address,
        client_of(address, retry_for_s=0.0) as client,
        pytest.raises(errors.Unavailable, match=says) as caught,
    ):
        client.compute(DOCUMENTS, 2)
    assert str(caught.value).count(address) == 1
    assert address not in without_address(caught.value)


def test_a_server_that_loads_says_so_and_not_that_its_name_is_not_found() -> None:
    go_on = threading.Event()

    def load() -> UniformEngine:
        go_on.wait(60)
        return UniformEngine()

    with running(load, wait=False) as server:
        with (
            client_of(server.address, retry_for_s=0.0) as client,
            pytest.raises(errors.Unavailable, match="is loading"),
        ):
            client.knock()
        go_on.set()
        server.loading.result(60)
        with client_of(server.address, retry_for_s=0.0) as client:
            client.knock()


def test_of_a_list_one_server_that_answers_is_enough() -> None:
    with running(UniformEngine()) as server:
        for address in (f"127.0.0.1:1,127.0.0.1:2,{server.address}", f"{server.address},127.0.0.1:1"):
            with client_of(address, retry_for_s=0.0) as client:
                client.knock()
    with client_of("127.0.0.1:1,127.0.0.1:2", retry_for_s=0.0) as client, pytest.raises(errors.Unavailable):
        client.knock()


def test_one_trouble_is_said_at_once_and_then_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    call._said_at.clear()
    caplog.set_level("INFO", "fusery.source.call")
    for _ in range(2):
        with client_of("127.0.0.1:1", retry_for_s=0.5) as client, pytest.raises(errors.Unavailable):
            client.model()
    [record] = caplog.records
    assert record.getMessage().count("127.0.0.1:1") == 1
    call._said_at.update(dict.fromkeys(call._said_at, time.monotonic() - call._WORD_S))
    with client_of("127.0.0.1:1", retry_for_s=0.5) as client, pytest.raises(errors.Unavailable):
        client.model()
    assert len(caplog.records) == 2


def test_a_deadline_holds_and_counts_as_unavailable() -> None:
    go_on = threading.Event()

    def hold(_: Sequence[Document]) -> None:
        go_on.wait(60)

    with running(UniformEngine(hold)) as server:
        impatient = client_of(server.address, timeout_s=0.3, retry_for_s=0.0)
        with impatient as client, pytest.raises(errors.Unavailable, match="DEADLINE_EXCEEDED"):
            client.compute(DOCUMENTS, 2)
        go_on.set()


def test_the_client_waits_for_a_model_that_is_loading() -> None:
    go_on = threading.Event()

    def load() -> UniformEngine:
        go_on.wait(60)
        return UniformEngine()

    with running(load, wait=False) as server, client_of(server.address) as client:
        timer = threading.Timer(0.5, go_on.set)
        timer.start()
        assert client.model().name == "uniform"
        timer.join()


def test_a_server_that_comes_back_at_its_port_is_found_again() -> None:
    with running(UniformEngine()) as first:
        port = int(first.address.rpartition(":")[2])
        client = client_of(first.address)
        client.model()
    began, results = threading.Event(), []

    def ask() -> None:
        began.set()
        results.append(client.compute(DOCUMENTS, 2))

    asking = threading.Thread(target=ask)
    asking.start()
    began.wait(60)
    time.sleep(1.0)
    with running(UniformEngine(), port=port):
        asking.join(60)
        client.close()
    assert len(results[0]) == len(DOCUMENTS)


def test_a_wrong_or_missing_token_is_an_error_of_the_setting() -> None:
    with running(UniformEngine(), token="right") as server:
        for token in (None, "wrong"):
            with (
                client_of(server.address, token=token) as client,
                pytest.raises(errors.ConfigError, match="TOKEN_FILE"),
            ):
                client.model()
        with client_of(server.address, token="right") as client:
            assert client.model().name == "uniform"


def test_a_token_file_holds_one_printable_line(tmp_path: Path) -> None:
    assert read_token(None) is None
    file = tmp_path / "token"
    file.write_text("  abc-123\n")
    assert read_token(file) == "abc-123"
    for content in ("", "two\nlines", "naïve"):
        file.write_text(content)
        with pytest.raises(errors.ConfigError, match="one line of printable ASCII"):
            read_token(file)
    with pytest.raises(errors.ConfigError, match="can't be read"):
        read_token(tmp_path / "absent")


Answer = Callable[[Any, Any], Iterator[pb.ComputeDistributionsResponse]]


@contextmanager
def lying_server(compute: Answer) -> Iterator[str]:
    """A server of the same contract whose ComputeDistributions is `compute`."""

    class Liar(pb_grpc.DistributionsServiceServicer):
        def GetModel(self, request: Any, context: Any) -> pb.GetModelResponse:
            return wire.write_model(UniformEngine().model)

        def GetTokenizer(self, request: Any, context: Any) -> Iterator[pb.GetTokenizerResponse]:
            from support.models.pico_models import pico_byte_tokenizer

            yield from wire.write_tokenizer(pico_byte_tokenizer("unigram"))

        def ComputeDistributions(self, request: Any, context: Any) -> Iterator[pb.ComputeDistributionsResponse]:
            return compute(request, context)

    server = grpc.server(futures.ThreadPoolExecutor(2))
    pb_grpc.add_DistributionsServiceServicer_to_server(Liar(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()


def true_messages(request: Any) -> list[pb.ComputeDistributionsResponse]:
    documents = wire.read_documents(request)
    answers = UniformEngine().compute(documents, request.top_k)
    log_probs = wire.read_log_probs(request.log_probs)
    return [wire.write_answer(*of, log_probs) for of in zip(answers, documents, strict=True)]


def test_damaged_swapped_and_missing_answers_are_corrupt_and_asked_for_again() -> None:
    def flipped(messages: list[pb.ComputeDistributionsResponse]) -> list[pb.ComputeDistributionsResponse]:
        messages[2].top_ids = bytes([messages[2].top_ids[0] ^ 1]) + messages[2].top_ids[1:]
        return messages

    lies: list[tuple[Callable[[Any], Any], str]] = [
        (flipped, "CRC-32"),
        (lambda messages: messages[::-1], "expected"),
        (lambda messages: messages[:-1], "5 answers to 6 documents"),
        (lambda messages: [*messages, messages[0]], "more answers than 6 documents"),
    ]
    for lie, message in lies:
        calls: list[int] = []

        def first_lies(request: Any, _: Any, lie: Callable[[Any], Any] = lie, calls: list[int] = calls) -> Any:
            calls.append(1)
            return iter(lie(true_messages(request)) if len(calls) == 1 else true_messages(request))

        with lying_server(first_lies) as address:
            with client_of(address, retry_for_s=0.0) as client, pytest.raises(errors.Corrupt, match=message):
                client.compute(DOCUMENTS, 2)
            calls.clear()
            with client_of(address) as client:
                assert len(client.compute(DOCUMENTS, 2)) == len(DOCUMENTS)
            assert len(calls) == 2


def test_a_stream_that_breaks_is_repeated_whole() -> None:
    calls: list[int] = []

    def breaks(request: Any, context: Any) -> Iterator[pb.ComputeDistributionsResponse]:
        calls.append(1)
        for i, message in enumerate(true_messages(request)):
            if i == 3 and len(calls) < 3:
                context.abort(grpc.StatusCode.UNKNOWN, "connection lost")
            yield message

    with lying_server(breaks) as address, client_of(address) as client:
        assert [answer.document_id for answer in client.compute(DOCUMENTS, 2)] == [d.id for d in DOCUMENTS]
    assert len(calls) == 3


def test_a_tokenizer_that_behaves_differently_here_is_refused() -> None:
    with (
        lying_server(lambda request, _: iter(true_messages(request))) as address,
        client_of(address) as client,
        pytest.raises(errors.Mismatch, match="tokenizer mismatch"),
    ):
        client.tokenizer()


def test_another_service_at_the_address_is_an_error_of_the_address() -> None:
    server = grpc.server(futures.ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with client_of(f"127.0.0.1:{port}") as client, pytest.raises(errors.AddressError, match="fusery source server"):
        client.model()
    server.stop(0).wait()


def aborting(code: grpc.StatusCode, details: str, calls: list[int], times: int = 1_000) -> Answer:
    def abort(request: Any, context: Any) -> Iterator[pb.ComputeDistributionsResponse]:
        calls.append(1)
        if len(calls) <= times:
            context.abort(code, details)
        yield from true_messages(request)

    return abort


@pytest.mark.parametrize(
    ("code", "details", "kind"),
    [
        (grpc.StatusCode.PERMISSION_DENIED, "RBAC: access denied", errors.ConfigError),
        (grpc.StatusCode.INVALID_ARGUMENT, "no", errors.InvalidInput),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "Received message larger than max (9 vs. 8)", errors.TooLarge),
    ],
)
def test_a_status_without_a_class_that_stays_is_not_repeated(
    code: grpc.StatusCode, details: str, kind: type[errors.FuseryError]
) -> None:
    calls: list[int] = []
    with lying_server(aborting(code, details, calls)) as address, client_of(address) as client:
        with pytest.raises(kind, match=code.name) as caught:
            client.compute(DOCUMENTS, 2)
        assert type(caught.value) is kind
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("code", "details"),
    [
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "Concurrent RPC limit exceeded!"),
        (grpc.StatusCode.INTERNAL, "RST_STREAM"),
        (grpc.StatusCode.UNAVAILABLE, "upstream connect error"),
    ],
)
def test_a_status_without_a_class_that_may_pass_is_repeated(code: grpc.StatusCode, details: str) -> None:
    calls: list[int] = []
    with lying_server(aborting(code, details, calls, times=2)) as address, client_of(address) as client:
        assert len(client.compute(DOCUMENTS, 2)) == len(DOCUMENTS)
    assert len(calls) == 3


def test_the_time_for_trying_again_counts_from_the_first_failure() -> None:
    """A long attempt that breaks is repeated, however long it took."""
    calls: list[int] = []

    def breaks_late(request: Any, context: Any) -> Iterator[pb.ComputeDistributionsResponse]:
        calls.append(1)
        if len(calls) == 1:
            threading.Event().wait(1.5)
            context.abort(grpc.StatusCode.UNAVAILABLE, "restarted")
        yield from true_messages(request)

    with lying_server(breaks_late) as address, client_of(address, retry_for_s=1.0) as client:
        assert len(client.compute(DOCUMENTS, 2)) == len(DOCUMENTS)
