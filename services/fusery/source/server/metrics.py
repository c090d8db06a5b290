"""Prometheus metrics of a source server, on a port and in threads of their own (`metrics_port`).

They answer while the model computes and even while it hangs. Labels take values from fixed sets only: method, status
code, kind of memory. Tokens per second: rate(fusery_source_tokens_total); the share of padding: 1 - tokens / padded
tokens; mean captured mass: the histogram's sum / count.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, PlatformCollector, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from fusery.source.api import ModelDescription
from fusery.source.server.call_record import CallRecord

_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_COUNTS = tuple(4**power for power in range(11))
_MASSES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999, 1.0)
_SHARES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


class Metrics:
    """Counts every call that ends; the functions given are asked at every scrape."""

    def __init__(self, waiting: Callable[[], int], busy_s: Callable[[], float], ready: Callable[[], bool]) -> None:
        self.registry = CollectorRegistry()
        self._requests = self._counter("requests", "Calls that ended, by method and status code", ("method", "code"))
        self._seconds = self._histogram("request_seconds", "Time from call to end", _SECONDS, ("method",))
        self._wait = self._histogram("queue_wait_seconds", "Time in the model's queue", _SECONDS)
        self._compute = self._histogram("compute_seconds", "Time in the model's thread", _SECONDS)
        self._documents = self._histogram("batch_documents", "Documents of a computed request", _COUNTS)
        self._batch_tokens = self._histogram("batch_tokens", "Tokens of a computed request, without padding", _COUNTS)
        self._tokens = self._counter("tokens", "Tokens computed, without padding")
        self._padded = self._counter("padded_tokens", "Tokens computed, padding included")
        self._padding = self._histogram("padding_share", "Share of padding in a computed request", _SHARES)
        self._mass = self._histogram("captured_mass", "Mean mass of the kept entries of a computed request", _MASSES)
        self._model = Info("fusery_source_model", "What is served", registry=self.registry)
        self._gauge("queue_depth", "Requests that wait for the model", waiting)
        self._gauge("model_busy_seconds", "How long the model's thread has been at its present job", busy_s)
        self._gauge("ready", "1 while calls are served", ready)
        self.registry.register(_DeviceMemory())
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)

    def observe(self, call: CallRecord) -> None:
        self._requests.labels(call.method, call.code).inc()
        self._seconds.labels(call.method).observe(call.seconds)
        for histogram, value in (
            (self._wait, call.wait_s),
            (self._compute, call.compute_s),
            (self._mass, call.captured_mass),
        ):
            if value is not None:
                histogram.observe(value)
        if call.tokens is not None and call.padded_tokens:
            self._documents.observe(call.documents or 0)
            self._batch_tokens.observe(call.tokens)
            self._tokens.inc(call.tokens)
            self._padded.inc(call.padded_tokens)
            self._padding.observe(1 - call.tokens / call.padded_tokens)

    def describe(self, model: ModelDescription) -> None:
        """From now on the metrics say which model is served."""
        self._model.info(
            {
                "name": model.name,
                "revision": model.revision or "",
                "fingerprint": model.fingerprint,
                "weights_fingerprint": model.weights_fingerprint,
                "tokenizer_fingerprint": model.tokenizer_fingerprint,
                "architecture": model.architecture,
                "dtype": model.dtype,
            }
        )

    def _counter(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(f"fusery_source_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], labels: tuple[str, ...] = ()) -> Histogram:
        return Histogram(f"fusery_source_{name}", text, labels, buckets=buckets, registry=self.registry)

    def _gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        Gauge(f"fusery_source_{name}", text, registry=self.registry).set_function(value)


class _DeviceMemory(Collector):
    """Bytes of the GPU that this process computes on; nothing where torch uses none."""

    def collect(self) -> Iterator[GaugeMetricFamily]:
        cuda: Any = getattr(sys.modules.get("torch"), "cuda", None)
        if cuda is None or not cuda.is_initialized():
            return
        free, total = cuda.mem_get_info()
        family = GaugeMetricFamily("fusery_source_device_memory_bytes", "Memory of the GPU", labels=("kind",))
        for kind, size in (
            ("total", total),
            ("free", free),
            ("allocated", cuda.memory_allocated()),
            ("reserved", cuda.memory_reserved()),
            ("peak", cuda.max_memory_allocated()),
        ):
            family.add_metric((kind,), size)
        yield family
