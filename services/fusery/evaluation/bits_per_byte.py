"""Bits per byte: one measure for models whose tokenizers differ.

A token's cross-entropy depends on how much text the token covers, so token perplexities of two tokenizers do
not compare; bits divided by the bytes they predict do. The price: a model without BOS does not predict its
first token, so that token's bytes are left out of its bits and of its bytes, and it is measured on a few bytes
less per document than a model with BOS. The end of a document is predicted by nobody.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fusery.core.batches import by_length
from fusery.errors import CorpusError, Mismatch, ModelError
from fusery.evaluation.scores import Scores
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
    """A model in this process, or behind a source server."""

    def compute(self, documents: Sequence[Document], top_k: int) -> Sequence[Distributions]: ...


def measure(
    model: Computes,
    documents: Sequence[HeldOutDocument],
    batch_bytes: int = 16_384,
    progress: Progress | None = None,
) -> Scores:
    """Bits and predicted bytes of each document, in the order given.

    Bits are −Σ log2 p over all rows but the last; predicted bytes are those between the first token's end and
    the last's: all of them after a BOS. Batches depend on the documents and `batch_bytes` alone, since a
    model's probabilities depend on its batch.

    Raises:
        CorpusError: no documents, two with one id, or a domain in which no byte is predicted.
        Mismatch: the answers are not about the documents asked for.
        ModelError: a probability is not a number or 0.
    """
    _check_ids(documents)
    bits, predicted_bytes = [0.0] * len(documents), [0] * len(documents)
    done = 0
    for rows in by_length([len(document.text.encode()) for document in documents], batch_bytes):
        asked = [Document(documents[row].doc_id, documents[row].text) for row in rows]
        answers = model.compute(asked, top_k=1)
        _check_answers(asked, answers)
        for row, answer in zip(rows, answers, strict=True):
            bits[row], predicted_bytes[row] = _bits_and_bytes(answer)
        done += len(rows)
        if progress is not None:
            progress(done, len(documents))
    ids = tuple(document.doc_id for document in documents)
    return Scores(ids, tuple(document.domain for document in documents), tuple(bits), tuple(predicted_bytes))


def _bits_and_bytes(answer: Distributions) -> tuple[float, int]:
    log_probs = np.asarray(answer.next_log_probs_T[:-1], np.float64)
    if not np.isfinite(log_probs).all():
        row = int(np.argmin(np.isfinite(log_probs)))
        raise ModelError(
            f"document {answer.document_id}: the log-probability after token {row} is {log_probs[row]}, expected a "
            "finite number; the model's weights or its number format are broken: try dtype float32"
        )
    ends = answer.byte_ends_T
    predicted = int(ends[-1]) - int(ends[0]) if len(ends) else 0
    # `+ 0.0` turns the −0.0 of an empty sum into 0.0.
    return -float(log_probs.sum()) / math.log(2) + 0.0, predicted


def _check_ids(documents: Sequence[HeldOutDocument]) -> None:
    seen: set[str] = set()
    for document in documents:
        if document.doc_id in seen:
            raise CorpusError(f"held-out documents: the id {document.doc_id!r} stands twice; give each its own")
        seen.add(document.doc_id)


def _check_answers(asked: Sequence[Document], answers: Sequence[Distributions]) -> None:
    wanted, got = [document.id for document in asked], [answer.document_id for answer in answers]
    if wanted != got:
        raise Mismatch(f"the model answered about documents {got[:3]}…, expected {wanted[:3]}…; restart its server")
