"""The values that a source server and its client exchange. No gRPC and no torch here.

Dimensions: T tokens of a document, K entries kept per token.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from fusery.core.tokens import ByteTokenizer
from fusery.core.topk import FloatArray, IntArray, TopK
from fusery.runtime.errors import InvalidInput, ModelError, TooLarge

MAX_MESSAGE_BYTES = 64 << 20
"""Largest gRPC message, both ways, both sides."""

_MAX_REPLIES = 4
"""All answers to a request, in units of the largest one: they lie in the server's memory until they are sent."""

MAX_REPLIES_BYTES = _MAX_REPLIES * MAX_MESSAGE_BYTES
"""More than that no server sends in answer to one request."""

ERROR_KEY = "fusery-error"
"""Trailing metadata that names the class of errors.py behind a status."""


@dataclass(frozen=True, slots=True)
class Document:
    """A piece of text, and an id that is unique in its request."""

    id: str
    text: str


@dataclass(frozen=True, slots=True, eq=False)
class Distributions:
    """What a source says of one document, in its own tokens, prefix tokens included.

    token_ids int64 [T]; byte_ends int64 [T], where each token ends in the text; top [T, K], what may follow each
    token; next_log_probs float32 [T], log-probability of token i+1 at i, the last entry 0 and meaningless.
    """

    document_id: str
    token_ids_T: IntArray
    byte_ends_T: IntArray
    top: TopK
    next_log_probs_T: FloatArray


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may hold; `max_tokens` counts the padded batch: documents times the longest one's tokens."""

    max_documents: int = 1024
    max_tokens: int = 65_536
    max_top_k: int = 4096
    max_reply_bytes: int = MAX_MESSAGE_BYTES - (1 << 20)

    def __post_init__(self) -> None:
        values = (self.max_documents, self.max_tokens, self.max_top_k, self.max_reply_bytes)
        if min(values) < 1 or self.max_reply_bytes >= MAX_MESSAGE_BYTES:
            raise InvalidInput(
                f"limits {values}: expected at least 1 each, and replies under {MAX_MESSAGE_BYTES} bytes"
            )


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """Which model a source is. Answers depend on nothing but `fingerprint`, the request and the machine."""

    name: str
    revision: str | None
    weights_fingerprint: str
    tokenizer_fingerprint: str
    architecture: str
    vocabulary_size: int
    context_length: int
    dtype: str
    prefix_ids: tuple[int, ...] = ()
    limits: Limits = field(default_factory=Limits)

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of weights and tokenizer together."""
        return hashlib.sha256(f"{self.weights_fingerprint}\n{self.tokenizer_fingerprint}".encode()).hexdigest()


class Engine(Protocol):
    """A model that a source server can serve."""

    @property
    def model(self) -> ModelDescription: ...

    @property
    def tokenizer(self) -> ByteTokenizer: ...

    def compute(self, documents: Sequence[Document], top_k: int) -> list[Distributions]:
        """One answer per document, in order, from one batch of exactly these documents."""
        ...


def check_request(documents: Sequence[Document], top_k: int, model: ModelDescription) -> None:
    """Returns if a request is well-formed as far as can be told before its text is tokenised.

    Raises:
        InvalidInput: no documents, an empty text, an id twice, k out of range.
        TooLarge: more documents or entries than the limits allow.
    """
    if not documents:
        raise InvalidInput("documents: got none; a request needs at least one")
    if len(documents) > model.limits.max_documents:
        raise TooLarge(f"documents: got {len(documents)}, at most {model.limits.max_documents}; send smaller requests")
    seen: set[str] = set()
    for document in documents:
        if not document.text:
            raise InvalidInput(f"document {document.id!r}: its text is empty; leave it out")
        if document.id in seen:
            raise InvalidInput(f"document {document.id!r}: the id stands twice in the request; ids must be unique")
        seen.add(document.id)
    if not 1 <= top_k <= model.vocabulary_size:
        raise InvalidInput(f"top_k: got {top_k}, expected 1 to {model.vocabulary_size}, the vocabulary of {model.name}")
    if top_k > model.limits.max_top_k:
        raise TooLarge(f"top_k: got {top_k}, this server gives at most {model.limits.max_top_k}")


def check_tokens(documents: Sequence[Document], tokens: Sequence[int], top_k: int, model: ModelDescription) -> None:
    """Returns if the tokenised request fits the model's context and the server's limits.

    Raises:
        InvalidInput: a document has no token, or more than the context.
        TooLarge: the padded batch or a document's answer is over the limits.
    """
    shortest, longest = (pick(range(len(tokens)), key=tokens.__getitem__) for pick in (min, max))
    if not tokens[shortest]:
        raise InvalidInput(
            f"document {documents[shortest].id!r}: the tokenizer of {model.name} drops all of its text; leave it out"
        )
    name = documents[longest].id
    if tokens[longest] > model.context_length:
        raise InvalidInput(
            f"document {name!r}: {tokens[longest]} tokens, the context of {model.name} holds {model.context_length}; "
            "split the document"
        )
    padded = tokens[longest] * len(tokens)
    if padded > model.limits.max_tokens:
        raise TooLarge(
            f"request: {padded} tokens with padding, at most {model.limits.max_tokens}; send fewer documents"
        )
    reply_bytes = tokens[longest] * (12 + 8 * top_k)
    if reply_bytes > model.limits.max_reply_bytes:
        raise TooLarge(
            f"document {name!r}: its answer takes {reply_bytes} bytes, at most {model.limits.max_reply_bytes}; "
            "ask for a smaller top_k or split the document"
        )
    whole_bytes = sum(tokens) * (12 + 8 * top_k)
    if whole_bytes > _MAX_REPLIES * model.limits.max_reply_bytes:
        raise TooLarge(
            f"request: its answers take {whole_bytes} bytes together, at most "
            f"{_MAX_REPLIES * model.limits.max_reply_bytes}; send fewer documents or ask for a smaller top_k"
        )


def check_ids(answer: Distributions, vocabulary_size: int, source: str) -> None:
    """Returns if all ids of an answer are tokens of its source.

    Raises:
        ModelError: one is not; it would count as some other token, or as none.
    """
    largest = max(int(answer.token_ids_T.max(initial=0)), int(answer.top.ids_RK.max(initial=0)))
    if largest >= vocabulary_size:
        raise ModelError(
            f"document {answer.document_id!r}: source {source} gives token {largest}, past its vocabulary of "
            f"{vocabulary_size}; its server is broken: try fusery conformance"
        )
