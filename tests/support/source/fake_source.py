"""A source whose answers can be computed by hand: after every token it expects the token that does follow.

It gives that token probability `skill`, and spreads half of the rest over the next ids of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from fusery.core.tokens import ByteTokenizer
from fusery.core.topk import TopK
from fusery.source.api import Distributions, Document
from support.models.pico_models import pico_byte_tokenizer


@dataclass
class FakeSource:
    """Speaks like a SourceClient. `requests`: the ids of the documents of every request so far."""

    kind: str
    skill: float = 0.5
    requests: list[list[str]] = field(default_factory=list)

    @property
    def tokenizer(self) -> ByteTokenizer:
        return pico_byte_tokenizer(self.kind)

    def compute(
        self, documents: Sequence[Document], top_k: int, log_probs: str = "float32", fingerprint: str | None = None
    ) -> list[Distributions]:
        self.requests.append([document.id for document in documents])
        return [self._answer(document, top_k) for document in documents]

    def compute_many(
        self,
        requests: Iterable[Sequence[Document]],
        top_k: int,
        log_probs: str = "float32",
        model: str | None = None,
    ) -> Iterator[list[Distributions]]:
        """One after the other, so that their order can be looked at."""
        return (self.compute(request, top_k, log_probs, model) for request in requests)

    def _answer(self, document: Document, k: int) -> Distributions:
        text = self.tokenizer.tokenize(document.text)
        following = np.append(text.ids_T[1:], 0)
        ids = (following[:, None] + np.arange(k)) % self.tokenizer.size
        rest = (1 - self.skill) / 2 / max(k - 1, 1)
        probabilities = np.full(ids.shape, rest)
        probabilities[:, 0] = self.skill
        next_log_probs = np.full(len(text.ids_T), np.log(self.skill), np.float32)
        next_log_probs[-1] = 0
        top = TopK(ids, np.log(probabilities).astype(np.float32))
        return Distributions(document.id, text.ids_T, text.byte_ends_T, top, next_log_probs)
