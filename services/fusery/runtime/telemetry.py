"""Logs and traces of a process, set up once: lines for people or JSON for collectors, always on stderr."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

from fusery.runtime import tracing
from fusery.runtime.errors import ConfigError
from fusery.runtime.text.shown import shown

_LASTING = ("worker", "serve-source")
"""Services whose work belongs to the traces of those who ask for it; any other command is one trace."""


class _JsonFormatter(logging.Formatter):
    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
        }
        place = tracing.current()
        if place is not None:
            line["trace_id"] = place.trace_id
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


class _TextFormatter(logging.Formatter):
    """One line a record, whatever stands in its message; a traceback follows in lines of its own."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return shown(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        return shown(super().formatException(ei), keeps="\n\t")


def set_up_logging(service: str, level: str = "info", form: str = "text") -> None:
    """One handler on stderr for the whole process, and its trace; `form` is text or json.

    Raises:
        ConfigError: an unknown level or form; a collector of traces that can't be used.
    """
    if level.upper() not in logging.getLevelNamesMapping():
        raise ConfigError(f"FUSERY_LOG_LEVEL is {level!r}; expected debug, info, warning or error")
    if form not in ("text", "json"):
        raise ConfigError(f"FUSERY_LOG_FORMAT is {form!r}; expected text or json")
    handler = logging.StreamHandler(sys.stderr)
    text = _TextFormatter(f"%(asctime)s {service} %(levelname)s %(name)s: %(message)s", "%H:%M:%S")
    handler.setFormatter(_JsonFormatter(service) if form == "json" else text)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    tracing.start(service, whole_process=service not in _LASTING)
