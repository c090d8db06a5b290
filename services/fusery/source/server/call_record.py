"""What is known of a call when it ends: its log line, and what the metrics count.

The interceptor makes a `CallRecord`, the service fills it in by a context variable: every call is a task of its own.
"""

from __future__ import annotations

import contextvars
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from fusery.runtime import tracing

log = logging.getLogger(__name__)


@dataclass(slots=True)
class CallRecord:
    """One call of one method; what stays None was not reached."""

    method: str
    trace_id: str | None = None
    began: float = field(default_factory=time.perf_counter)
    code: str = "UNKNOWN"
    seconds: float = 0.0
    documents: int | None = None
    top_k: int | None = None
    tokens: int | None = None
    padded_tokens: int | None = None
    captured_mass: float | None = None
    wait_s: float | None = None
    compute_s: float | None = None

    def end(self, code: str) -> None:
        self.code = code
        self.seconds = time.perf_counter() - self.began


class Observer(Protocol):
    """Told of every call that has ended; must be quick and must not raise."""

    def observe(self, call: CallRecord) -> None: ...


current: contextvars.ContextVar[CallRecord] = contextvars.ContextVar("call")


def trace_id_of(metadata: Iterable[tuple[str, Any]]) -> str | None:
    """The trace id of a `traceparent` (W3C), 32 hexadecimal digits; None if there is no valid one."""
    value = next((value for key, value in metadata if key == tracing.HEADER), None)
    context = tracing.parse(value) if isinstance(value, str) else None
    return None if context is None else context.trace_id


class RequestLog:
    """One line per call, `name=value` with spaces between, times in milliseconds; nothing of the caller's text."""

    def observe(self, call: CallRecord) -> None:
        known: dict[str, str | int | float | None] = {
            "method": call.method,
            "code": call.code,
            "ms": _ms(call.seconds),
            "documents": call.documents,
            "tokens": call.tokens,
            "k": call.top_k,
            "wait_ms": _ms(call.wait_s),
            "compute_ms": _ms(call.compute_s),
            "trace_id": call.trace_id,
        }
        facts = {name: value for name, value in known.items() if value is not None}
        line = " ".join(f"{name}={value}" for name, value in facts.items())
        log.info("call %s", line, extra={"call": facts})


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 2)
