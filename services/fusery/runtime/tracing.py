"""One trace from the command line through broker and worker to a source server.

A trace context in W3C form (https://www.w3.org/TR/trace-context/) is made and handed on always, so that the logs of
all processes can be joined by trace id; it costs two random numbers. Spans go to a collector only where one is named
and the extra `tracing` is installed. The tracer provider is our own and never OpenTelemetry's global one: other
libraries set that, and their spans would mix with ours.
"""

from __future__ import annotations

import atexit
import re
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from fusery.runtime.errors import ConfigError, how_to_install
from fusery.runtime.settings import TraceSettings

HEADER = "traceparent"
"""Name of the message header and the gRPC metadata that carry a context."""

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 1
_LAST_SENDING_S = 3.0


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A place in a trace, in lower-case hexadecimal digits: the trace (32) and the span in it (16)."""

    trace_id: str
    span_id: str
    flags: int = _SAMPLED

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"


@dataclass(slots=True)
class Span:
    """A piece of work under way. `recorded`: OpenTelemetry's span, None where nothing is exported."""

    context: TraceContext
    recorded: Any = None

    def fail(self, error: BaseException) -> None:
        """Marks the work as failed. The message stays in the log: it may hold text of documents."""
        if self.recorded is not None:
            from opentelemetry.trace import StatusCode

            self.recorded.set_attribute("error.type", type(error).__name__)
            self.recorded.set_status(StatusCode.ERROR)

    def end(self) -> None:
        if self.recorded is not None:
            self.recorded.end()


@dataclass(slots=True)
class _Process:
    """What this process has: the span that all of it belongs to, and who exports."""

    root: Span | None = None
    provider: Any = None
    exporter: Any = None


_process = _Process()
_current: ContextVar[TraceContext | None] = ContextVar("fusery_trace_context", default=None)


def parse(traceparent: str | None) -> TraceContext | None:
    """The context that a header stands for; None if it is missing or no such header, as the standard asks."""
    found = _TRACEPARENT.fullmatch(traceparent or "")
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or not int(trace_id, 16) or not int(span_id, 16):
        return None
    return TraceContext(trace_id, span_id, int(flags, 16))


def current() -> TraceContext | None:
    """Where this code is: in a span, else in the process's own one, else nowhere."""
    return _current.get() or (_process.root.context if _process.root is not None else None)


def begin(name: str, parent: TraceContext | None = None, **attributes: str | int) -> Span:
    """A new span under `parent`, else under `current()`, else in a trace of its own. The caller ends it."""
    parent = parent or current()
    return Span(_child_of(parent)) if _process.provider is None else _recorded(name, parent, attributes)


@contextmanager
def span(name: str, parent: TraceContext | None = None, **attributes: str | int) -> Iterator[Span]:
    """`begin`, and what runs inside is in it."""
    begun = begin(name, parent, **attributes)
    before = _current.set(begun.context)
    try:
        yield begun
    except BaseException as error:
        begun.fail(error)
        raise
    finally:
        _current.reset(before)
        begun.end()


def outgoing() -> str:
    """The header for a message that is sent now."""
    return (current() or _child_of(None)).traceparent


def start(service: str, whole_process: bool) -> None:
    """Sets this process up. `whole_process`: all of it is one span, under that of the variable TRACEPARENT if set.

    Raises:
        ConfigError: a collector is named, but its address or the installed packages can't be used.
    """
    stop()
    place = TraceSettings()
    variable, endpoint = place.collector()
    if endpoint is not None:
        _export(service, variable, endpoint)
    if whole_process:
        _process.root = begin(f"fusery {service}", parse(place.traceparent))


def stop() -> None:
    """Ends the process's span and sends what is not sent yet; a collector that does not answer gets 3 s."""
    root, provider, exporter = _process.root, _process.provider, _process.exporter
    _process.root = _process.provider = _process.exporter = None
    if root is not None:
        root.end()
    if provider is not None:
        # Else it tries for 10 s and more, and the user waits for a prompt.
        patience = threading.Timer(_LAST_SENDING_S, exporter.shutdown)
        patience.daemon = True
        patience.start()
        provider.shutdown()
        patience.cancel()


# A process that is told to end still says what it did.
atexit.register(stop)


def _export(service: str, variable: str, endpoint: str) -> None:
    """From now on spans are sent, in a thread of its own, to `endpoint` or where OpenTelemetry's variables say."""
    if not endpoint.startswith(("http://", "https://")):
        raise ConfigError(f"{variable} is {endpoint!r}; expected http://host:4317 (plain) or https://host:4317 (TLS)")
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{variable} asks for traces, but OpenTelemetry's exporter is not installed; "
            f"{how_to_install('tracing')}, or unset the variable"
        ) from error
    _process.exporter = OTLPSpanExporter(None if variable.startswith("OTEL_") else endpoint)
    resource = Resource.create({"service.name": f"fusery-{service}"})
    _process.provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    _process.provider.add_span_processor(BatchSpanProcessor(_process.exporter))


def _recorded(name: str, parent: TraceContext | None, attributes: dict[str, str | int]) -> Span:
    from opentelemetry import trace
    from opentelemetry.context import Context

    above = Context()
    if parent is not None:
        ids = int(parent.trace_id, 16), int(parent.span_id, 16)
        remote = trace.SpanContext(*ids, is_remote=True, trace_flags=trace.TraceFlags(parent.flags))
        above = trace.set_span_in_context(trace.NonRecordingSpan(remote), above)
    recorded = _process.provider.get_tracer("fusery").start_span(name, above, attributes=attributes)
    found = recorded.get_span_context()
    if not found.is_valid:
        # An empty span, of a provider that OTEL_SDK_DISABLED switched off.
        return Span(_child_of(parent), recorded)
    return Span(TraceContext(f"{found.trace_id:032x}", f"{found.span_id:016x}", int(found.trace_flags)), recorded)


def _child_of(parent: TraceContext | None) -> TraceContext:
    span_id = secrets.token_hex(8)
    if parent is None:
        return TraceContext(secrets.token_hex(16), span_id)
    return TraceContext(parent.trace_id, span_id, parent.flags)
