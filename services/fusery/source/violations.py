"""What a refused call carries besides its status and message: which field of the request is wrong.

google.rpc.BadRequest in the trailing metadata `grpc-status-details-bin`, as clients of other languages read it.
"""

from __future__ import annotations

import re
from typing import Any

from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from fusery.errors import InvalidInput

_LEADING_FIELD = re.compile(r"(documents|top_k|log_probs): ")


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


def details(message: str, field: str | None) -> tuple[tuple[str, bytes], ...]:
    """Trailing metadata of an INVALID_ARGUMENT with this message; `field` None: the request as a whole."""
    violation = error_details_pb2.BadRequest.FieldViolation(field=field or "", description=message)
    packed = any_pb2.Any()
    packed.Pack(error_details_pb2.BadRequest(field_violations=[violation]))
    status = status_pb2.Status(code=code_pb2.INVALID_ARGUMENT, message=message, details=[packed])
    metadata: tuple[tuple[str, bytes], ...] = rpc_status.to_status(status).trailing_metadata
    return metadata
