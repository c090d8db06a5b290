"""What every call passes: the bearer token, admission, the translation of errors into gRPC status codes, and a record.

A call without the token, or one that finds the queue full, is refused before its request is read. The class of an
error decides its status. What is not of our tree is a defect: its text stays in the log, under an id that the caller
gets. gRPC itself would send the text of any exception to the caller.
"""

from __future__ import annotations

import asyncio
import logging
import re
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from fusery.runtime.errors import (
    AddressError,
    ConfigError,
    Corrupt,
    FuseryError,
    InvalidInput,
    Mismatch,
    Overloaded,
    TooLarge,
    Unavailable,
)
from fusery.source.api import ERROR_KEY
from fusery.source.server.call_record import CallRecord, Observer, current, trace_id_of

log = logging.getLogger(__name__)

_STATUS: tuple[tuple[type[FuseryError], grpc.StatusCode], ...] = (
    (Mismatch, grpc.StatusCode.FAILED_PRECONDITION),
    (TooLarge, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (InvalidInput, grpc.StatusCode.INVALID_ARGUMENT),
    (Overloaded, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (Unavailable, grpc.StatusCode.UNAVAILABLE),
    (Corrupt, grpc.StatusCode.DATA_LOSS),
)
"""The first class that fits decides, so the particular ones stand before the general ones."""

_MAX_MESSAGE_CHARACTERS, _MAX_MESSAGE_BYTES = 600, 900
"""A client takes 8 KiB of trailing metadata in all. A message is in it percent-encoded, and for InvalidInput twice
more in base64."""

_OF_THE_SERVER = (ConfigError, AddressError)
"""What only its operator can mend, such as the token for an inference server behind it: a defect to the caller."""

_LEADING_FIELD = re.compile(r"(documents|top_k|log_probs): ")
_HEALTH = "/grpc.health.v1.Health/"


class Token(Protocol):
    def allows(self, given: str | bytes) -> bool:
        """Whether a call with this `authorization` is let in."""
        ...


class _WrongToken(Exception):
    """Kept out of our tree: the status says it all, and gRPC's own clients know it."""


def status_of(error: FuseryError) -> grpc.StatusCode:
    return next((code for kind, code in _STATUS if isinstance(error, kind)), grpc.StatusCode.INTERNAL)


class AuthInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Applies to everything but health checks, which need no token; `service` is what it counts and logs.

    `admit` raises what a call of a method is refused with before its request is read.
    """

    def __init__(
        self, service: str, token: Token, admit: Callable[[str], None], observers: Sequence[Observer] = ()
    ) -> None:
        self._prefix = f"/{service}/"
        self._token = token
        self._admit = admit
        self._observers = observers

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        if details.method.startswith(_HEALTH):
            return await continuation(details)
        metadata = details.invocation_metadata or ()
        given = next((value for key, value in metadata if key == "authorization"), "")
        handler = await continuation(details)
        ours = handler is not None and details.method.startswith(self._prefix)
        call = CallRecord(details.method.removeprefix(self._prefix) if ours else "other", trace_id_of(metadata))
        if not self._token.allows(given):
            return self._refusing(call, _WrongToken())
        if not ours:
            return handler
        try:
            self._admit(call.method)
        except FuseryError as error:
            return self._refusing(call, error)
        return self._guarded(call, handler)

    def _refusing(self, call: CallRecord, error: Exception) -> Any:
        """As a method that reads its requests one by one, because gRPC reads the only request of others first."""

        async def refuse(_requests: Any, context: Any) -> None:
            async with self._recorded(call, context, []):
                raise error

        return grpc.stream_stream_rpc_method_handler(refuse)

    def _guarded(self, call: CallRecord, handler: Any) -> Any:
        """The handler, reading the request itself: bytes that are none are the caller's fault, and no defect."""

        async def unary(content: bytes, context: Any) -> Any:
            async with self._recorded(call, context, requests := []):
                requests.append(_parsed(content, handler))
                return await handler.unary_unary(requests[0], context)

        async def stream(content: bytes, context: Any) -> None:
            async with self._recorded(call, context, requests := []):
                requests.append(_parsed(content, handler))
                async for response in handler.unary_stream(requests[0], context):
                    await context.write(response)

        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(stream, None, handler.response_serializer)
        return grpc.unary_unary_rpc_method_handler(unary, None, handler.response_serializer)

    @asynccontextmanager
    async def _recorded(self, call: CallRecord, context: Any, requests: list[Any]) -> AsyncIterator[None]:
        """Ends the call with the status of what is raised inside; `requests` holds its request once that is read."""
        current.set(call)
        try:
            yield
            call.end("OK")
        except asyncio.CancelledError:
            left_s = context.time_remaining()
            call.end("CANCELLED" if left_s is None or left_s > 0 else "DEADLINE_EXCEEDED")
            raise
        except grpc.aio.BaseError:
            call.end("CANCELLED")
            raise
        except GeneratorExit:
            raise
        except BaseException as error:  # a panic of a library is one too, and the caller waits for an end
            code, message, metadata = _answer(error, call.method, requests[0] if requests else None)
            call.end(code.name)
            await context.abort(code, message, metadata)
        finally:
            for observer in self._observers:
                observer.observe(call)


def _parsed(content: bytes, handler: Any) -> Any:
    try:
        return handler.request_deserializer(content)
    except DecodeError as error:
        raise InvalidInput(
            "request: its bytes are not the message that this method takes; make the client from the same proto file"
        ) from error


def _answer(
    error: BaseException, method: str, request: Any
) -> tuple[grpc.StatusCode, str, tuple[tuple[str, Any], ...]]:
    """Status, message and trailing metadata that a caller gets for an error."""
    if isinstance(error, _WrongToken):
        message = "bearer token missing or wrong; set FUSERY_SOURCE_TOKEN_FILE to the file that the server uses"
        return grpc.StatusCode.UNAUTHENTICATED, message, ()
    if not isinstance(error, FuseryError) or isinstance(error, _OF_THE_SERVER):
        error_id = uuid.uuid4().hex[:12]
        log.error("error %s in %s", error_id, method, exc_info=error)
        message = f"internal error {error_id}; the source server's log tells what happened under this id"
        return grpc.StatusCode.INTERNAL, message, ((ERROR_KEY, FuseryError.__name__),)
    code, message = status_of(error), _cut(str(error))
    metadata: tuple[tuple[str, Any], ...] = ((ERROR_KEY, type(error).__name__),)
    if code is grpc.StatusCode.INVALID_ARGUMENT and isinstance(error, InvalidInput):
        metadata += _details(message, field_of(error, request))
    return code, message, metadata


def _cut(message: str) -> str:
    kept = message.encode(errors="replace")[:_MAX_MESSAGE_BYTES].decode(errors="ignore")[:_MAX_MESSAGE_CHARACTERS]
    return kept if len(kept) == len(message) else kept + " …"


def field_of(error: InvalidInput, request: Any) -> str | None:
    """The path of the field that an error is about, such as documents[3].text; None if it is about no single one.

    Every refusal of a request begins with what it is about, a field or a document by its id.
    """
    if error.field is not None:
        return error.field
    message = str(error)
    if found := _LEADING_FIELD.match(message):
        return found[1]
    sent = getattr(request, "documents", ())
    places = [i for i, document in enumerate(sent) if message.startswith(f"document {document.id!r}: ")]
    if not places:
        return None
    if message.startswith(f"document {sent[places[0]].id!r}: the id "):
        return f"documents[{places[1]}].id"
    return f"documents[{min(places, key=lambda i: not _unreadable(sent[i].text))}].text"


def _unreadable(text: bytes) -> bool:
    """Of several documents with one id, the first of these is the one that was refused."""
    try:
        return not text.decode()
    except UnicodeDecodeError:
        return True


def _details(message: str, field: str | None) -> tuple[tuple[str, bytes], ...]:
    """google.rpc.BadRequest in `grpc-status-details-bin`, as other languages read it; `field` None: all is wrong."""
    violation = error_details_pb2.BadRequest.FieldViolation(field=field or "", description=message)
    packed = any_pb2.Any()
    packed.Pack(error_details_pb2.BadRequest(field_violations=[violation]))
    status = status_pb2.Status(code=code_pb2.INVALID_ARGUMENT, message=message, details=[packed])
    metadata: tuple[tuple[str, bytes], ...] = rpc_status.to_status(status).trailing_metadata
    return metadata
