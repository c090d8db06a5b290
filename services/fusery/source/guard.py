"""What every call passes: the bearer token, and the translation of errors into gRPC status codes.

The class of an error decides its status. What is not of our tree is a defect: its text stays in the log, under
an id that the caller gets. gRPC itself would send the text of any exception to the caller.
"""

from __future__ import annotations

import hmac
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn

import grpc

from fusery.errors import Corrupt, FuseryError, InvalidInput, Mismatch, Overloaded, TooLarge, Unavailable
from fusery.source.api import ERROR_KEY

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

_MAX_MESSAGE_CHARACTERS = 600
"""A status message travels percent-encoded in HTTP/2 headers, of which a client takes 8 KiB in all."""


def status_of(error: FuseryError) -> grpc.StatusCode:
    return next((code for kind, code in _STATUS if isinstance(error, kind)), grpc.StatusCode.INTERNAL)


class Guard(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Applies to the methods of one service; health checks need no token and answer in their own words."""

    def __init__(self, service: str, token: str | None) -> None:
        self._prefix = f"/{service}/"
        self._expected = None if token is None else f"Bearer {token}".encode()

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        handler = await continuation(details)
        if handler is None or not details.method.startswith(self._prefix):
            return handler
        allowed = self._allows(details.invocation_metadata)
        if handler.response_streaming:
            make, guarded = grpc.unary_stream_rpc_method_handler, _stream(handler.unary_stream, details.method, allowed)
        else:
            make, guarded = grpc.unary_unary_rpc_method_handler, _unary(handler.unary_unary, details.method, allowed)
        return make(guarded, handler.request_deserializer, handler.response_serializer)

    def _allows(self, metadata: Any) -> bool:
        if self._expected is None:
            return True
        given = next((value for key, value in metadata or () if key == "authorization"), "")
        return hmac.compare_digest(given.encode() if isinstance(given, str) else given, self._expected)


def _unary(behaviour: Callable[[Any, Any], Awaitable[Any]], method: str, allowed: bool) -> Any:
    async def guarded(request: Any, context: Any) -> Any:
        try:
            await _check_token(context, allowed)
            return await behaviour(request, context)
        except grpc.aio.BaseError:
            raise
        except Exception as error:
            await _abort(context, method, error)

    return guarded


def _stream(behaviour: Callable[[Any, Any], AsyncIterator[Any]], method: str, allowed: bool) -> Any:
    async def guarded(request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            await _check_token(context, allowed)
            async for response in behaviour(request, context):
                yield response
        except grpc.aio.BaseError:
            raise
        except Exception as error:
            await _abort(context, method, error)

    return guarded


async def _check_token(context: Any, allowed: bool) -> None:
    if not allowed:
        message = "bearer token missing or wrong; set FUSERY_SOURCE_TOKEN_FILE to the file that the server uses"
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, message)


async def _abort(context: Any, method: str, error: Exception) -> NoReturn:
    if isinstance(error, FuseryError):
        code, message, kind = status_of(error), str(error), type(error).__name__
    else:
        error_id = uuid.uuid4().hex[:12]
        log.error("error %s in %s", error_id, method, exc_info=error)
        code, kind = grpc.StatusCode.INTERNAL, FuseryError.__name__
        message = f"internal error {error_id}; the source server's log tells what happened under this id"
    if len(message) > _MAX_MESSAGE_CHARACTERS:
        message = message[:_MAX_MESSAGE_CHARACTERS] + " …"
    await context.abort(code, message, ((ERROR_KEY, kind),))
    raise AssertionError("abort raises")
