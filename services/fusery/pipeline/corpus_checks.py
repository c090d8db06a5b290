"""Whether the documents of a run fit its models and their servers, tried on those with most tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from fusery.core.batches import MOST_DOCUMENTS, by_length
from fusery.core.tokens import ByteTokenizer
from fusery.errors import ConfigError, CorpusError, InvalidInput, ModelError, TooLarge
from fusery.pipeline.corpus import Corpora
from fusery.pipeline.corpus_reading import pieces
from fusery.run_file import RunFile
from fusery.source.api import Document, ModelDescription, check_tokens


def check_documents(file: RunFile, corpora: Corpora, role: str, tokenizer: ByteTokenizer, limit: int) -> list[int]:
    """The documents with the most tokens, as far as their bytes tell, fit `limit` tokens and are spelled by them.

    How many tokens they have comes back. All documents are read where the tokenizer has tokens that its model lacks.

    Raises:
        CorpusError: one is too long.
        ModelError: one can't be spelled, or needs a token without an embedding; or nothing of a domain's is spelled.
    """
    if tokenizer.reads_past_model:
        _check_ids(file, role, tokenizer)
    counts, spelled = [], Counter[str]()
    for document in corpora.longest:
        try:
            text = tokenizer.tokenize(document.text)
            tokenizer.check_ids(text)
        except ModelError as error:
            raise ModelError(f"document {document.doc_id}, {role}: {error}") from error
        tokens = len(text.ids_T)
        spelled[document.domain] += text.predicted_bytes if tokens > 1 else 1
        if tokens > limit:
            raise CorpusError(
                f"document {document.doc_id} has {tokens} tokens, {role} holds at most {limit}; lower "
                f"corpus.max_document_bytes (now {file.config.corpus.max_document_bytes})"
            )
        counts.append(tokens)
    if unread := [domain for domain, count in spelled.items() if not count]:
        raise ModelError(
            f"{role}: its tokenizer spells nothing of the documents of domain {unread[0]!r}: it drops or changes them, "
            "or does not know their characters; take another model, or leave these documents out"
        )
    return counts


def _check_ids(file: RunFile, role: str, tokenizer: ByteTokenizer) -> None:
    for piece in pieces(file):
        try:
            tokenizer.check_ids(tokenizer.tokenize(piece.document.text))
        except ModelError as error:
            raise ModelError(f"document {piece.document.doc_id}, {role}: {error}") from error


def check_requests(file: RunFile, corpora: Corpora, name: str, model: ModelDescription, tokens: Sequence[int]) -> None:
    """The batches that a run makes of its longest documents are within the limits of the source's server.

    Raises:
        ConfigError: they are not, or batches of usual documents are not.
    """
    documents = [Document(document.doc_id, document.text) for document in corpora.longest]
    lengths = [len(document.text.encode()) for document in documents]
    k = min(file.config.capture.top_k, model.vocabulary_size)
    for key, batch_bytes, entries in (
        ("capture.batch_bytes", file.config.capture.batch_bytes, k),
        ("evaluation.batch_bytes", file.config.evaluation.batch_bytes, 1),
    ):
        average = max(1, corpora.train.bytes // corpora.train.documents)
        if min(batch_bytes // average, MOST_DOCUMENTS) > model.limits.max_documents:
            raise ConfigError(
                f"{file.path}: {key} is {batch_bytes}, about {batch_bytes // average} documents in one request; "
                f"the server of source {name} takes at most {model.limits.max_documents}; lower {key}"
            )
        for batch in by_length(lengths, batch_bytes):
            try:
                check_tokens([documents[i] for i in batch], [tokens[i] for i in batch], entries, model)
            except (TooLarge, InvalidInput) as error:
                raise ConfigError(
                    f"{file.path}: {key} is {batch_bytes}, too much for the server of source {name}: {error}; "
                    f"lower {key}, or raise the server's limits"
                ) from error
