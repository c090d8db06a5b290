"""Peers of the metrics port that ask slowly, not at all, or without an end."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest
from prometheus_client import CollectorRegistry, Gauge

from fusery.runtime.errors import ConfigError
from fusery.source.server.metrics_port import MAX_CONNECTIONS, MetricsPort

SHORT_S = 0.5


@pytest.fixture
def registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    Gauge("fusery_answer", "For tests", registry=registry).set(42)
    return registry


@pytest.fixture
def port(registry: CollectorRegistry) -> Iterator[MetricsPort]:
    port = MetricsPort(registry, "127.0.0.1", 0, SHORT_S)
    yield port
    port.close()


def scraped(port: int, host: str = "127.0.0.1") -> str:
    connection = http.client.HTTPConnection(host, port, timeout=60)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    return text


def threads() -> int:
    return sum("process_request_thread" in thread.name for thread in threading.enumerate())


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"G",
        b"GET /metrics",
        b"GET /metrics HTTP/1.1\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: ",
        b"\x16\x03\x01\x02",
    ],
    ids=["nothing", "a byte", "a line", "no headers", "half a header", "TLS"],
)
def test_a_connection_that_stops_in_the_middle_is_ended(port: MetricsPort, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port.port), timeout=60) as half_open:
        half_open.sendall(sent)
        while half_open.recv(4096):
            pass
    assert "fusery_answer 42" in scraped(port.port)


def test_a_connection_that_sends_a_byte_now_and_then_is_ended_too(port: MetricsPort) -> None:
    with socket.create_connection(("127.0.0.1", port.port), timeout=0.05) as slow:
        slow.sendall(b"GET /metrics HTTP/1.1\r\nX: ")
        with pytest.raises((ConnectionError, EOFError)):  # noqa: PT012
            while True:
                slow.sendall(b"y")
                try:
                    if not slow.recv(4096):
                        raise EOFError
                except TimeoutError:
                    pass


@pytest.mark.parametrize("peers", [MAX_CONNECTIONS - 1, MAX_CONNECTIONS, 100])
def test_any_number_of_silent_peers_holds_few_threads_and_no_scraper(registry: CollectorRegistry, peers: int) -> None:
    port = MetricsPort(registry, "127.0.0.1", 0, 3600.0)
    before = threads()
    with ExitStack() as silent:
        for _ in range(peers):
            silent.enter_context(socket.create_connection(("127.0.0.1", port.port), timeout=60))
        assert "fusery_answer 42" in scraped(port.port)
        assert threads() - before <= MAX_CONNECTIONS
    port.close()


def test_a_peer_that_reads_no_answer_holds_its_thread_no_longer_than_others(registry: CollectorRegistry) -> None:
    Gauge("fusery_long", "more than the buffers of both ends hold " * 1_000_000, registry=registry)
    port = MetricsPort(registry, "127.0.0.1", 0, SHORT_S)
    before = set(threading.enumerate())
    with socket.create_connection(("127.0.0.1", port.port), timeout=60) as deaf:
        deaf.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        with suppress(ConnectionError):
            # On a busy machine it may be ended before it is answered.
            deaf.recv(1)
        for thread in set(threading.enumerate()) - before:
            thread.join(60)
            assert not thread.is_alive()
    port.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "::1", "::"])
def test_addresses_of_both_families_are_listened_on(registry: CollectorRegistry, host: str) -> None:
    if ":" in host and not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    try:
        port = MetricsPort(registry, host, 0)
    except ConfigError as error:
        if ":" in host:
            pytest.skip(str(error))
        raise
    assert "fusery_answer 42" in scraped(port.port, "::1" if ":" in host else "127.0.0.1")
    port.close()


@pytest.mark.parametrize(("host", "number"), [("203.0.113.7", 0), ("no.such.host.invalid", 0)])
def test_an_address_that_is_none_of_this_machine_is_refused(
    registry: CollectorRegistry, host: str, number: int
) -> None:
    with pytest.raises(ConfigError, match="can't be listened on"):
        MetricsPort(registry, host, number)
