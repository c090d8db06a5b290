"""The broker's messages, checked: every client that reaches the broker can write some.

A message is read by its few fields and written anew, so that nothing else of it reaches Celery: no other task, no
chain, no compressed body, no date in a year's time, no time limit. What is none of ours is dropped with a log line.
Fields that a launch's plan must know are checked against the plan, in `tasks`.
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from fusery.hops.plan import Hop, ShardTask

log = logging.getLogger(__name__)

TASK_NAME = {hop: f"fusery.{hop.value}_shard" for hop in Hop}
"""One task and one queue a hop, so that GPU-bound capture and CPU-bound alignment scale apart."""
MAX_BYTES = 64 * 1024
"""Of a whole message; ours have less than 2,000."""
_HOP = {name: hop for hop, name in TASK_NAME.items()}

_Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
_Source = Annotated[str, Field(pattern=r"^([a-z0-9][a-z0-9-]{0,63})?$")]
_Count = Annotated[int, Field(ge=0, lt=10**9)]


class _Checked(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)


class Asked(_Checked):
    """The arguments of a message. `failures`: how often the task was tried before, in vain."""

    run_id: _Id
    launch: _Id
    source: _Source
    shard: _Count
    failures: _Count = 0


class _Headers(_Checked):
    task: str
    id: _Id
    traceparent: str | None = None
    redelivered: bool = False


class _Properties(_Checked):
    delivery_tag: _Id


class _Envelope(_Checked):
    body: str
    headers: _Headers
    properties: _Properties


_Body = TypeAdapter(tuple[list[Any], dict[str, Any], dict[str, Any]], config=ConfigDict(strict=True))


def asked(hop: Hop, arguments: Sequence[Any], named: Mapping[str, Any]) -> tuple[Asked, ShardTask] | None:
    """What a message of `hop` asks for; None, and a log line, if its arguments are no such thing."""
    names = list(Asked.model_fields)
    try:
        if len(arguments) > len(names) or set(named) & set(names[: len(arguments)]) or set(named) - set(names):
            raise ValueError("other arguments than those of a task")
        found = Asked.model_validate({**dict(zip(names, arguments, strict=False)), **named})
    except ValueError as error:
        log.warning("a message of hop %s is dropped: %s", hop.value, _said(error))
        return None
    return found, ShardTask(hop, found.source, found.shard)


def rewritten(item: bytes | str) -> bytes | None:
    """The message that lies in a queue as `item`, our fields alone; None, and a log line, if it is none of ours."""
    message = _read(item)
    return None if message is None else json.dumps(message).encode()


def rewritten_unacked(item: bytes | str | None) -> bytes | None:
    """As `rewritten`, for a message that was delivered and goes back: [message, exchange, routing key]."""
    message = None if item is None else _read(item, is_unacked=True)
    if message is None:
        return None
    return json.dumps([message, "", message["properties"]["delivery_info"]["routing_key"]]).encode()


def _read(item: bytes | str, is_unacked: bool = False) -> dict[str, Any] | None:
    try:
        if len(item) > MAX_BYTES:
            raise ValueError(f"{len(item)} bytes, a task has at most {MAX_BYTES}")
        envelope = _Unacked.validate_json(item)[0] if is_unacked else _Envelope.model_validate_json(item)
        hop = _HOP.get(envelope.headers.task)
        if hop is None:
            raise ValueError("it is for another task")
        arguments, named, _ = _Body.validate_json(base64.b64decode(envelope.body, validate=True))
    except (ValueError, binascii.Error) as error:
        log.warning("a message of the broker is dropped, for it is none of fusery's: %s", _said(error))
        return None
    found = asked(hop, arguments, named)
    return None if found is None else _message(envelope, hop, found[0])


_Unacked = TypeAdapter(tuple[_Envelope, str, str], config=ConfigDict(strict=True))


def _message(envelope: _Envelope, hop: Hop, asks: Asked) -> dict[str, Any]:
    body = [list(asks.model_dump().values()), {}, {}]
    given = envelope.headers
    return {
        "body": base64.b64encode(json.dumps(body).encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py",
            "task": given.task,
            "id": given.id,
            "root_id": given.id,
            "retries": 0,
            "timelimit": [None, None],
            "traceparent": given.traceparent,
            "redelivered": given.redelivered,
        },
        "properties": {
            "correlation_id": given.id,
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": hop.value, "redelivered": given.redelivered},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": envelope.properties.delivery_tag,
        },
    }


def _said(error: ValueError) -> str:
    """Where and of which kind, and nothing of what stands there: that is text from outside."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    # Names of unknown keys are text from outside too.
    place = ".".join(str(part) for part in first["loc"] if isinstance(part, int) or part in _KNOWN)
    return f"{place or 'message'}: {first['type']}"


_KNOWN = {name for kind in (Asked, _Headers, _Properties, _Envelope) for name in kind.model_fields}
