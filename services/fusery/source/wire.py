"""Between the values of `api` and the messages of distributions.proto, for server and client alike."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from fusery.core.spelling import loses_text
from fusery.core.tokens import ByteTokenizer
from fusery.runtime.errors import Corrupt, FuseryError, InvalidInput
from fusery.source.api import MAX_REPLIES_BYTES, Distributions, Document, Limits, ModelDescription
from fusery.source.packing import LogProbs, Packed, Unpacked, pack, unpack
from fusery.source.pb import distributions_pb2 as pb

_LOG_PROBS: dict[LogProbs, pb.LogProbs] = {"float16": pb.LOG_PROBS_FLOAT16, "float32": pb.LOG_PROBS_FLOAT32}
_CHUNK_BYTES = 1 << 20
_MAX_DEFINITION_BYTES = 1 << 28
"""Of a tokenizer's definition, unpacked; the largest known have 40 MB."""

_MAX_MODEL_BYTES = 1 << 16

_MODEL = (
    *("name", "weights_fingerprint", "tokenizer_fingerprint", "architecture"),
    *("vocabulary_size", "context_length", "dtype"),
)
_LIMITS = ("max_documents", "max_tokens", "max_top_k", "max_reply_bytes")
_PACKED = ("tokens", "top_k", "token_ids", "byte_ends", "top_ids", "top_log_probs", "next_log_probs", "crc32")
"""Fields that have one name and one type in `api` or `packing` and in the message."""


def _fields(of: object, names: Sequence[str]) -> dict[str, Any]:
    return {name: getattr(of, name) for name in names}


def write_model(model: ModelDescription) -> pb.GetModelResponse:
    return pb.GetModelResponse(
        revision=model.revision or "",
        fingerprint=model.fingerprint,
        prefix_ids=model.prefix_ids,
        limits=pb.Limits(**_fields(model.limits, _LIMITS)),
        **_fields(model, _MODEL),
    )


def read_model(message: pb.GetModelResponse) -> ModelDescription:
    """The model a server describes.

    Raises:
        Corrupt: limits make no sense, or the fingerprint is not the one of its parts (another version of fusery).
    """
    if message.ByteSize() > _MAX_MODEL_BYTES:
        raise Corrupt(f"model: its description has {message.ByteSize():,} bytes; is this a fusery source server?")
    try:
        limits = Limits(**_fields(message.limits, _LIMITS))
    except InvalidInput as error:
        raise Corrupt(f"model {message.name}: {error}; is client and server the same version of fusery?") from error
    model = ModelDescription(
        revision=message.revision or None,
        prefix_ids=tuple(message.prefix_ids),
        limits=limits,
        **_fields(message, _MODEL),
    )
    if model.fingerprint != message.fingerprint:
        raise Corrupt(
            f"model {message.name}: its fingerprint is {message.fingerprint[:12]}…, its parts give "
            f"{model.fingerprint[:12]}…; is client and server the same version of fusery?"
        )
    return model


def write_tokenizer(tokenizer: ByteTokenizer) -> Iterator[pb.GetTokenizerResponse]:
    """The tokenizer's definition, compressed, in chunks."""
    content = zlib.compress(tokenizer.definition().encode())
    for start in range(0, len(content), _CHUNK_BYTES):
        yield pb.GetTokenizerResponse(chunk=content[start : start + _CHUNK_BYTES])


def read_tokenizer(messages: Iterable[pb.GetTokenizerResponse]) -> ByteTokenizer:
    """The tokenizer that a server uses.

    Raises:
        Corrupt: the chunks are not one whole zlib stream of a tokenizer's definition.
    """
    try:
        return ByteTokenizer.from_definition(_unpacked(messages).decode())
    except (zlib.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Corrupt(f"tokenizer: its definition can't be read: {error!r}; ask again") from error


def _unpacked(messages: Iterable[pb.GetTokenizerResponse]) -> bytes:
    """The content of the chunks' zlib stream; no more than its end or its largest size is taken of `messages`."""
    stream, content = zlib.decompressobj(), bytearray()
    for message in messages:
        if not message.chunk or stream.eof:
            raise Corrupt("tokenizer: the stream goes on with nothing to say; is this a fusery source server?")
        # One byte more than there may be tells what is too long.
        content += stream.decompress(message.chunk, _MAX_DEFINITION_BYTES + 1 - len(content))
        if len(content) > _MAX_DEFINITION_BYTES:
            raise Corrupt(f"tokenizer: its definition has more than {_MAX_DEFINITION_BYTES:,} bytes; it is none")
    if not stream.eof or stream.unused_data:
        raise Corrupt(f"tokenizer: the stream breaks off after {len(content)} bytes; ask again")
    return bytes(content)


def write_request(
    documents: Sequence[Document], top_k: int, log_probs: LogProbs, expected_fingerprint: str | None
) -> pb.ComputeDistributionsRequest:
    """A request, as a message.

    Raises:
        InvalidInput: a text is no Unicode text (half of a surrogate pair), or k is no 32-bit number.
    """
    if not 0 <= top_k < 1 << 32:
        raise InvalidInput(f"top_k: got {top_k}, expected at least 1")
    return pb.ComputeDistributionsRequest(
        documents=[pb.Document(id=document.id, text=_encoded(document)) for document in documents],
        top_k=top_k,
        log_probs=_LOG_PROBS[log_probs],
        expected_fingerprint=expected_fingerprint or "",
    )


def _encoded(document: Document) -> bytes:
    try:
        document.id.encode()
        return document.text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"document {document.id!r}: not encodable as UTF-8: {error}") from error


def read_documents(message: pb.ComputeDistributionsRequest) -> list[Document]:
    """The documents of a request.

    Raises:
        InvalidInput: a text is not UTF-8.
    """
    documents = []
    for sent in message.documents:
        try:
            documents.append(Document(sent.id, sent.text.decode()))
        except UnicodeDecodeError as error:
            raise InvalidInput(
                f"document {sent.id!r}: its text is not UTF-8 at byte {error.start}; re-encode it"
            ) from error
    return documents


def read_log_probs(value: int) -> LogProbs:
    """The number format that a message names.

    Raises:
        InvalidInput: it names none, or one of a later version.
    """
    for name, number in _LOG_PROBS.items():
        if number == value:
            return name
    raise InvalidInput(f"log_probs: got {value}, expected LOG_PROBS_FLOAT16 (1) or LOG_PROBS_FLOAT32 (2)")


def write_answer(answer: Distributions, document: Document, log_probs: LogProbs) -> pb.ComputeDistributionsResponse:
    arrays = Unpacked(answer.token_ids_T, answer.byte_ends_T, answer.top, answer.next_log_probs_T)
    packed = _fields(pack(answer.document_id, arrays, log_probs, document.text), _PACKED)
    return pb.ComputeDistributionsResponse(document_id=answer.document_id, log_probs=_LOG_PROBS[log_probs], **packed)


def read_answers(
    source: str,
    messages: Iterable[pb.ComputeDistributionsResponse],
    documents: Sequence[Document],
    top_k: int,
    log_probs: LogProbs,
) -> list[Distributions]:
    """One answer a document, each checked as it comes; of a stream that lies no more than a message too much is held.

    Raises:
        Corrupt: there are more or fewer, they are larger than a server may send, or one is wrong (`read_answer`).
    """
    answers: list[Distributions] = []
    size = 0
    for message in messages:
        size += message.ByteSize()
        if len(answers) == len(documents):
            raise Corrupt(f"{source}: more answers than {len(documents)} documents; ask again")
        if size > MAX_REPLIES_BYTES:
            raise Corrupt(
                f"{source}: answers of more than {MAX_REPLIES_BYTES:,} bytes; is this a fusery source server?"
            )
        answers.append(read_answer(message, documents[len(answers)], top_k, log_probs))
    if len(answers) != len(documents):
        raise Corrupt(f"{source}: {len(answers)} answers to {len(documents)} documents; ask again")
    return answers


def read_answer(
    message: pb.ComputeDistributionsResponse, document: Document, top_k: int, log_probs: LogProbs
) -> Distributions:
    """One document's answer, checked against what was asked.

    Raises:
        Corrupt: it belongs to another document, has another shape or format, its bytes are damaged, or a token stands
            twice among the entries of a position.
    """
    asked = (document.id, top_k, _LOG_PROBS[log_probs])
    got = (message.document_id, message.top_k, message.log_probs)
    if got != asked:
        raise Corrupt(f"answer: (document, k, format) is {got}, expected {asked}; ask again")
    packed = Packed(log_probs=log_probs, **_fields(message, _PACKED))
    arrays = unpack(document.id, packed, document.text)
    ordered_TK = np.sort(arrays.top.ids_RK, axis=1)
    if (ordered_TK[:, 1:] == ordered_TK[:, :-1]).any():
        raise Corrupt(f"document {document.id!r}: a token stands twice among the entries of one position; ask again")
    text = document.text.encode()
    last = int(arrays.byte_ends_T[-1]) if packed.tokens else None
    # A tokenizer may drop white space and marks, also at the end of a text.
    if last is None or last > len(text) or loses_text(text[last:].decode(errors="replace"), np.zeros((0, 2), np.int64)):
        raise Corrupt(
            f"document {document.id!r}: its last token ends at byte {last}, the text at {len(text)}; ask again"
        )
    return Distributions(document.id, arrays.token_ids_T, arrays.byte_ends_T, arrays.top, arrays.next_log_probs_T)


def error_classes() -> dict[str, type[FuseryError]]:
    """The classes of errors.py by name, as the `fusery-error` metadata names them."""
    found = {FuseryError.__name__: FuseryError}
    waiting = [FuseryError]
    while waiting:
        for kind in waiting.pop().__subclasses__():
            found[kind.__name__] = kind
            waiting.append(kind)
    return found
