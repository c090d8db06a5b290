"""Bits per byte: one measure for models whose tokenizers differ.

A token's cross-entropy depends on how much text the token covers, so token perplexities of two tokenizers do
not compare; bits divided by the bytes they predict do. The price: a model without BOS does not predict its
first token, so that token's bytes are left out of its bits and of its bytes, and it is measured on a few bytes
less per document than a model with BOS. What a tokenizer drops or changes (white space, capitals, unknown characters)
is predicted by none of its tokens: the bits of all tokens count, the bytes only of those that spell the text. The end
of a document is not predicted. Long documents are read whole, in overlapping windows (`windows`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np

from fusery.core.batches import by_length
from fusery.core.topk import IntArray
from fusery.evaluation.scores import Scores
from fusery.evaluation.windows import Read, Reading, Window, documents_of_pieces, fitted, joined, windows
from fusery.runtime.errors import CorpusError, Mismatch, ModelError
from fusery.source.api import Distributions, Document

Progress = Callable[[int, int], None]
"""Called after each batch with (documents done, documents in all)."""


@dataclass(frozen=True, slots=True)
class HeldOutDocument:
    """A text that no model is trained on in this run, and the domain it is reported under."""

    doc_id: str
    domain: str
    text: str


class Computes(Protocol):
    """A model in this process."""

    def compute(self, documents: Sequence[Document], top_k: int) -> Sequence[Distributions]: ...


@runtime_checkable
class ComputesMany(Protocol):
    """A model behind a source server, which works on a request while the answer to the one before is on its way."""

    def compute_many(self, requests: Iterable[Sequence[Document]], top_k: int) -> Iterator[Sequence[Distributions]]: ...


def measure(
    model: Computes | ComputesMany,
    documents: Sequence[HeldOutDocument],
    batch_bytes: int = 16_384,
    progress: Progress | None = None,
    reading: Reading | None = None,
) -> Scores:
    """Bits and predicted bytes of each document, in the order given.

    With `reading`, pieces NAME#0, NAME#1, … that follow each other are read as the document that they were cut from,
    and stand in the scores under the first one's id. Without it, every document must fit the model's context. Bits are
    −Σ log2 p over all rows but the last; predicted bytes are those between the first token's end and the last's (all of
    them after a BOS) that the reading's tokenizer spells. Batches depend on the documents, `reading` and `batch_bytes`
    alone, since a model's probabilities depend on its batch.

    Raises:
        CorpusError: no documents, two with one id, a domain in which no byte is predicted, or text that can't be cut.
        Mismatch: the answers are not about the documents asked for, or not about the reading's tokens.
        ModelError: a probability is not a number or 0.
    """
    twice = [doc_id for doc_id, count in Counter(document.doc_id for document in documents).items() if count > 1]
    if twice:
        raise CorpusError(f"held-out documents: the id {twice[0]!r} stands twice; give each its own")
    if reading is not None:
        reading = fitted(reading, [document.text for document in documents])
        documents = whole_documents(documents)
    pieces = list(_pieces(documents, reading))
    reads: list[list[Read]] = [[] for _ in documents]
    left = Counter(piece.row for piece in pieces)
    for batch, answers in _answered(model, pieces, batch_bytes):
        for piece, answer, unspelled_T in zip(batch, answers, _unspelled(batch, answers, reading), strict=True):
            reads[piece.row].append(_checked(answer, piece.start, unspelled_T))
            left[piece.row] -= 1
        if progress is not None:
            progress(sum(not count for count in left.values()), len(documents))
    return _scores(documents, reads)


def whole_documents(documents: Sequence[HeldOutDocument]) -> list[HeldOutDocument]:
    """The documents that `documents` are pieces of, each under its first piece's id."""
    return [
        replace(documents[places[0]], text="".join(documents[place].text for place in places))
        for places in documents_of_pieces([document.doc_id for document in documents])
    ]


@dataclass(frozen=True, slots=True)
class _Piece:
    """A document, or a window of it, and where it comes from."""

    row: int
    start: int
    asked: Document


def _pieces(documents: Sequence[HeldOutDocument], reading: Reading | None) -> Iterator[_Piece]:
    texts = [document.text for document in documents]
    cut = [[Window(0, text)] for text in texts] if reading is None else windows(texts, reading)
    for row, (document, of_document) in enumerate(zip(documents, cut, strict=True)):
        for window in of_document:
            # NUL stands in no file's name: no document has the id of another's window.
            name = document.doc_id if len(of_document) == 1 else f"{document.doc_id}\0{window.start}"
            yield _Piece(row, window.start, Document(name, window.text))


def _answered(
    model: Computes | ComputesMany, pieces: Sequence[_Piece], batch_bytes: int
) -> Iterator[tuple[list[_Piece], Sequence[Distributions]]]:
    lengths = [len(piece.asked.text.encode()) for piece in pieces]
    batches = [[pieces[index] for index in rows] for rows in by_length(lengths, batch_bytes)]
    requests = ([piece.asked for piece in batch] for batch in batches)
    if isinstance(model, ComputesMany):
        answers = model.compute_many(requests, top_k=1)
    else:
        answers = (model.compute(request, top_k=1) for request in requests)
    for batch, answer in zip(batches, answers, strict=True):
        wanted, got = [piece.asked.id for piece in batch], [found.document_id for found in answer]
        if wanted != got:
            raise Mismatch(f"the model answered about documents {got[:3]}…, expected {wanted[:3]}…; restart its server")
        yield batch, answer


def _unspelled(
    pieces: Sequence[_Piece], answers: Sequence[Distributions], reading: Reading | None
) -> list[IntArray | None]:
    """For each piece the bytes before every token's end that no token spells, None: there are none."""
    if reading is None:
        return [None] * len(pieces)
    texts = reading.tokenizer.tokenize_batch(
        [piece.asked.text for piece in pieces], [piece.asked.id for piece in pieces]
    )
    for text, answer in zip(texts, answers, strict=True):
        if len(text.ids_T) != len(answer.token_ids_T):
            raise Mismatch(
                f"document {answer.document_id}: the model answered about {len(answer.token_ids_T)} tokens, its "
                f"tokenizer gives {len(text.ids_T)}; install the same version of tokenizers on both sides"
            )
    return [text.unspelled_T for text in texts]


def _checked(answer: Distributions, start: int, unspelled_T: IntArray | None) -> Read:
    log_probs = np.asarray(answer.next_log_probs_T[:-1])
    if not np.isfinite(log_probs).all():
        row = int(np.argmin(np.isfinite(log_probs)))
        raise ModelError(
            f"document {answer.document_id}: the log-probability after token {row} is {log_probs[row]}, expected a "
            "finite number; the model's weights or its number format are broken: try dtype float32"
        )
    return Read(start, answer.byte_ends_T + start, answer.next_log_probs_T, unspelled_T)


def _scores(documents: Sequence[HeldOutDocument], reads: Sequence[list[Read]]) -> Scores:
    bits, predicted_bytes, unspelled_bytes = [], [], []
    for document, of_document in zip(documents, reads, strict=True):
        in_order = sorted(of_document, key=lambda read: read.start)
        log_probs, predicted = joined(in_order)
        # `+ 0.0` turns the −0.0 of an empty sum into 0.0.
        bits.append(-float(log_probs.sum(dtype=np.float64)) / math.log(2) + 0.0)
        predicted_bytes.append(predicted)
        unspelled_bytes.append(len(document.text.encode()) - int(in_order[0].byte_ends_T[0]) - predicted)
    ids, domains = (document.doc_id for document in documents), (document.domain for document in documents)
    return Scores(tuple(ids), tuple(domains), tuple(bits), tuple(predicted_bytes), tuple(unspelled_bytes))
