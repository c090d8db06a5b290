"""Between the values of `api` and the messages of distributions.proto, for server and client alike."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from fusery.core.spelling import loses_text
from fusery.core.tokens import ByteTokenizer
from fusery.errors import Corrupt, FuseryError, InvalidInput
from fusery.formats.packing import LogProbs, Packed, Unpacked, pack, unpack
from fusery.pb import distributions_pb2 as pb
from fusery.source.api import MAX_REPLIES_BYTES, Distributions, Document, Limits, ModelDescription, has_doubles

_LOG_PROBS: dict[LogProbs, pb.LogProbs] = {"float16": pb.LOG_PROBS_FLOAT16, "float32": pb.LOG_PROBS_FLOAT32}
_CHUNK_BYTES = 1 << 20
_MAX_DEFINITION_BYTES = 1 << 28
"""Of a tokenizer's definition, unpacked; the largest known have 40 MB."""

_MAX_MODEL_BYTES = 1 << 16


def write_model(model: ModelDescription) -> pb.GetModelResponse:
    return pb.GetModelResponse(
        name=model.name,
        revision=model.revision or "",
        fingerprint=model.fingerprint,
        weights_fingerprint=model.weights_fingerprint,
        tokenizer_fingerprint=model.tokenizer_fingerprint,
        architecture=model.architecture,
        vocabulary_size=model.vocabulary_size,
        context_length=model.context_length,
        dtype=model.dtype,
        prefix_ids=model.prefix_ids,
        limits=pb.Limits(
            max_documents=model.limits.max_documents,
            max_tokens=model.limits.max_tokens,
            max_top_k=model.limits.max_top_k,
            max_reply_bytes=model.limits.max_reply_bytes,
        ),
    )


def read_model(message: pb.GetModelResponse) -> ModelDescription:
    """The model a server describes.

    Raises:
        Corrupt: limits make no sense, or the fingerprint is not the one of its parts (another version of fusery).
    """
    if message.ByteSize() > _MAX_MODEL_BYTES:
        raise Corrupt(f"model: its description has {message.ByteSize():,} bytes; is this a fusery source server?")
    sent = message.limits
    try:
        limits = Limits(sent.max_documents, sent.max_tokens, sent.max_top_k, sent.max_reply_bytes)
    except InvalidInput as error:
        raise Corrupt(f"model {message.name}: {error}; is client and server the same version of fusery?") from error
    model = ModelDescription(
        name=message.name,
        revision=message.revision or None,
        weights_fingerprint=message.weights_fingerprint,
        tokenizer_fingerprint=message.tokenizer_fingerprint,
        architecture=message.architecture,
        vocabulary_size=message.vocabulary_size,
        context_length=message.context_length,
        dtype=message.dtype,
        prefix_ids=tuple(message.prefix_ids),
        limits=limits,
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
    packed = pack(answer.document_id, arrays, log_probs, document.text)
    return pb.ComputeDistributionsResponse(
        document_id=answer.document_id,
        tokens=packed.tokens,
        top_k=packed.top_k,
        log_probs=_LOG_PROBS[packed.log_probs],
        token_ids=packed.token_ids,
        byte_ends=packed.byte_ends,
        top_ids=packed.top_ids,
        top_log_probs=packed.top_log_probs,
        next_log_probs=packed.next_log_probs,
        crc32=packed.crc32,
    )


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
    packed = Packed(
        message.tokens,
        message.top_k,
        log_probs,
        message.token_ids,
        message.byte_ends,
        message.top_ids,
        message.top_log_probs,
        message.next_log_probs,
        message.crc32,
    )
    arrays = unpack(document.id, packed, document.text)
    if has_doubles(arrays.top):
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
