"""What a scraper reads: counts that can be worked out by hand, from fixed sets of labels."""

from __future__ import annotations

import http.client
import socket
from typing import Any

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from fusery.runtime.errors import ConfigError
from fusery.source.server.server import SERVICE, Front
from support.source.front_servers import DOCUMENTS, Hold, ask, fronted, refused, usual_request
from support.source.source_servers import UniformEngine


def scraped(address: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Value by name and labels."""
    connection = http.client.HTTPConnection(address, timeout=60)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    return {
        (sample.name.removeprefix("fusery_source_"), tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: dict[Any, float], name: str, **labels: str) -> float:
    return samples[name, tuple(sorted(labels.items()))]


def test_calls_are_counted_by_method_and_code_and_their_batches_measured() -> None:
    engine = UniformEngine()
    with fronted(engine, Front(metrics_port=0)) as server:
        before = scraped(server.metrics_address)
        assert value(before, "ready") == 1
        for _ in range(3):
            messages = ask(server.address, usual_request())
        refused(server.address, usual_request(top_k=0))
        after = scraped(server.metrics_address)
    lengths = [message.tokens for message in messages]
    assert value(after, "requests_total", method="ComputeDistributions", code="OK") == 3
    assert value(after, "requests_total", method="ComputeDistributions", code="INVALID_ARGUMENT") == 1
    assert value(after, "request_seconds_count", method="ComputeDistributions") == 4
    assert value(after, "tokens_total") == 3 * sum(lengths)
    assert value(after, "padded_tokens_total") == 3 * max(lengths) * len(lengths)
    assert value(after, "batch_documents_sum") == 3 * len(DOCUMENTS)
    assert value(after, "batch_tokens_sum") == 3 * sum(lengths)
    assert value(after, "padding_share_sum") == pytest.approx(3 * (1 - sum(lengths) / (max(lengths) * len(lengths))))
    assert value(after, "captured_mass_sum") == pytest.approx(3 * 4 / engine.model.vocabulary_size)
    for name in ("queue_wait_seconds_count", "compute_seconds_count", "captured_mass_count"):
        assert value(after, name) == 3
    assert value(after, "queue_depth") == value(after, "model_busy_seconds") == 0


def test_the_model_is_described_by_its_fingerprints_once_it_is_loaded() -> None:
    engine = UniformEngine()
    with fronted(engine, Front(metrics_port=0)) as server:
        labels = next(dict(labels) for name, labels in scraped(server.metrics_address) if name == "model_info")
    assert labels["fingerprint"] == engine.model.fingerprint
    assert labels["weights_fingerprint"] == engine.model.weights_fingerprint
    assert labels["tokenizer_fingerprint"] == engine.model.tokenizer_fingerprint
    assert labels["name"] == "uniform"


def test_metrics_answer_while_the_model_is_busy() -> None:
    hold = Hold()
    with (
        fronted(UniformEngine(hold), Front(metrics_port=0)) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        call = channel.unary_stream(f"/{SERVICE}/ComputeDistributions", None, None)
        calls = [call(usual_request().SerializeToString(), timeout=60) for _ in range(3)]
        assert hold.begun.wait(60)
        while value(samples := scraped(server.metrics_address), "queue_depth") < 2:
            pass
        assert value(samples, "model_busy_seconds") > 0
        hold.release()
        for answer in calls:
            assert len(list(answer)) == len(DOCUMENTS)


def test_nothing_that_a_caller_sends_becomes_a_label() -> None:
    with fronted(UniformEngine(), Front(metrics_port=0), token="t") as server:
        with grpc.insecure_channel(server.address) as channel:
            for i in range(20):
                for method in (f"/{SERVICE}/Made{i}", f"/other.Service{i}/Get"):
                    with pytest.raises(grpc.RpcError):
                        channel.unary_unary(method, None, None)(b"", timeout=60)
        samples = scraped(server.metrics_address)
    seen = {dict(labels)["method"] for name, labels in samples if name == "requests_total"}
    assert seen == {"other"}


def test_without_a_port_there_are_no_metrics_and_a_taken_one_is_refused() -> None:
    with fronted(UniformEngine()) as server:
        assert server._server.metrics_address is None
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(ConfigError, match="is another server there"),
            fronted(UniformEngine(), Front(metrics_port=port)),
        ):
            pass
