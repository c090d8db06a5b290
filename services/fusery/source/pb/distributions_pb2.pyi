from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LogProbs(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LOG_PROBS_UNSPECIFIED: _ClassVar[LogProbs]
    LOG_PROBS_FLOAT16: _ClassVar[LogProbs]
    LOG_PROBS_FLOAT32: _ClassVar[LogProbs]
LOG_PROBS_UNSPECIFIED: LogProbs
LOG_PROBS_FLOAT16: LogProbs
LOG_PROBS_FLOAT32: LogProbs

class GetModelRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetModelResponse(_message.Message):
    __slots__ = ("name", "revision", "fingerprint", "weights_fingerprint", "tokenizer_fingerprint", "architecture", "vocabulary_size", "context_length", "dtype", "prefix_ids", "limits")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    TOKENIZER_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_SIZE_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    PREFIX_IDS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    name: str
    revision: str
    fingerprint: str
    weights_fingerprint: str
    tokenizer_fingerprint: str
    architecture: str
    vocabulary_size: int
    context_length: int
    dtype: str
    prefix_ids: _containers.RepeatedScalarFieldContainer[int]
    limits: Limits
    def __init__(self, name: _Optional[str] = ..., revision: _Optional[str] = ..., fingerprint: _Optional[str] = ..., weights_fingerprint: _Optional[str] = ..., tokenizer_fingerprint: _Optional[str] = ..., architecture: _Optional[str] = ..., vocabulary_size: _Optional[int] = ..., context_length: _Optional[int] = ..., dtype: _Optional[str] = ..., prefix_ids: _Optional[_Iterable[int]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_documents", "max_tokens", "max_top_k", "max_reply_bytes")
    MAX_DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_TOP_K_FIELD_NUMBER: _ClassVar[int]
    MAX_REPLY_BYTES_FIELD_NUMBER: _ClassVar[int]
    max_documents: int
    max_tokens: int
    max_top_k: int
    max_reply_bytes: int
    def __init__(self, max_documents: _Optional[int] = ..., max_tokens: _Optional[int] = ..., max_top_k: _Optional[int] = ..., max_reply_bytes: _Optional[int] = ...) -> None: ...

class GetTokenizerRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetTokenizerResponse(_message.Message):
    __slots__ = ("chunk",)
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    chunk: bytes
    def __init__(self, chunk: _Optional[bytes] = ...) -> None: ...

class Document(_message.Message):
    __slots__ = ("id", "text")
    ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    id: str
    text: bytes
    def __init__(self, id: _Optional[str] = ..., text: _Optional[bytes] = ...) -> None: ...

class ComputeDistributionsRequest(_message.Message):
    __slots__ = ("documents", "top_k", "log_probs", "expected_fingerprint")
    DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    LOG_PROBS_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    documents: _containers.RepeatedCompositeFieldContainer[Document]
    top_k: int
    log_probs: LogProbs
    expected_fingerprint: str
    def __init__(self, documents: _Optional[_Iterable[_Union[Document, _Mapping]]] = ..., top_k: _Optional[int] = ..., log_probs: _Optional[_Union[LogProbs, str]] = ..., expected_fingerprint: _Optional[str] = ...) -> None: ...

class ComputeDistributionsResponse(_message.Message):
    __slots__ = ("document_id", "tokens", "top_k", "log_probs", "token_ids", "byte_ends", "top_ids", "top_log_probs", "next_log_probs", "crc32")
    DOCUMENT_ID_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    LOG_PROBS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    BYTE_ENDS_FIELD_NUMBER: _ClassVar[int]
    TOP_IDS_FIELD_NUMBER: _ClassVar[int]
    TOP_LOG_PROBS_FIELD_NUMBER: _ClassVar[int]
    NEXT_LOG_PROBS_FIELD_NUMBER: _ClassVar[int]
    CRC32_FIELD_NUMBER: _ClassVar[int]
    document_id: str
    tokens: int
    top_k: int
    log_probs: LogProbs
    token_ids: bytes
    byte_ends: bytes
    top_ids: bytes
    top_log_probs: bytes
    next_log_probs: bytes
    crc32: int
    def __init__(self, document_id: _Optional[str] = ..., tokens: _Optional[int] = ..., top_k: _Optional[int] = ..., log_probs: _Optional[_Union[LogProbs, str]] = ..., token_ids: _Optional[bytes] = ..., byte_ends: _Optional[bytes] = ..., top_ids: _Optional[bytes] = ..., top_log_probs: _Optional[bytes] = ..., next_log_probs: _Optional[bytes] = ..., crc32: _Optional[int] = ...) -> None: ...
