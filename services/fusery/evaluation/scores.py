"""Scores: bits and predicted bytes of every held-out document under one model.

Kept per document, not per domain, so that two models can be compared document by document (`gain`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fusery.evaluation.windows import documents_of_pieces
from fusery.runtime.errors import CorpusError, Mismatch


@dataclass(frozen=True, slots=True)
class DomainScore:
    """Bits and predicted bytes of a domain, and how many documents they come from."""

    bits: float
    predicted_bytes: int
    documents: int

    @property
    def bits_per_byte(self) -> float:
        return self.bits / self.predicted_bytes


@dataclass(frozen=True, slots=True)
class Scores:
    """Bits and predicted bytes of every document, in corpus order; all else is computed from them.

    `unspelled_bytes`: those that the model's tokenizer drops or changes, so that no token predicts them; (): none.

    Raises:
        CorpusError: there is no document, or none of a domain has a predicted byte.
        Mismatch: the four lists differ in length.
    """

    doc_ids: tuple[str, ...]
    doc_domains: tuple[str, ...]
    bits: tuple[float, ...]
    predicted_bytes: tuple[int, ...]
    unspelled_bytes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not any(self.unspelled_bytes):
            object.__setattr__(self, "unspelled_bytes", ())
        lengths = [len(self.doc_ids), len(self.doc_domains), len(self.bits), len(self.predicted_bytes)]
        lengths += [len(self.unspelled_bytes)] if self.unspelled_bytes else []
        if len(set(lengths)) != 1:
            raise Mismatch(
                f"scores: id, domain, bits, predicted_bytes, unspelled_bytes have {lengths} rows; measure again"
            )
        if not self.doc_ids:
            raise CorpusError("no held-out documents; name at least one non-empty file under corpus.held_out")
        for domain, score in self.domains.items():
            if score.predicted_bytes == 0:
                raise CorpusError(
                    f"domain {domain!r}: the model predicts no byte of its {score.documents} held-out documents: each "
                    "is a single token, or the tokenizer spells nothing of it; use longer documents, or another model"
                )

    @property
    def domains(self) -> dict[str, DomainScore]:
        """Total bits, bytes and documents of each domain; domains in the order they appear in the corpus."""
        rows_of: dict[str, list[int]] = {}
        for row, domain in enumerate(self.doc_domains):
            rows_of.setdefault(domain, []).append(row)
        # fsum: the total must not depend on the order in which documents are added.
        return {
            domain: DomainScore(
                math.fsum(self.bits[row] for row in rows), sum(self.predicted_bytes[row] for row in rows), len(rows)
            )
            for domain, rows in rows_of.items()
        }

    @property
    def mean_bits_per_byte(self) -> float:
        """Mean over domains, each with the same weight whatever its size."""
        domains = self.domains.values()
        return math.fsum(score.bits_per_byte for score in domains) / len(domains)

    @property
    def unspelled_share(self) -> float:
        """Share of the text that no token of the model spells, from 0 to 1."""
        unspelled = sum(self.unspelled_bytes)
        return unspelled / (unspelled + sum(self.predicted_bytes))

    def of_whole_documents(self) -> Scores:
        """The same bits and bytes, those of a document's pieces as one row under the first one's id."""
        groups = documents_of_pieces(self.doc_ids)
        return Scores(
            tuple(self.doc_ids[places[0]] for places in groups),
            tuple(self.doc_domains[places[0]] for places in groups),
            tuple(math.fsum(self.bits[place] for place in places) for places in groups),
            tuple(sum(self.predicted_bytes[place] for place in places) for places in groups),
            tuple(sum(self.unspelled_bytes[place] for place in places) for places in groups if self.unspelled_bytes),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; the keys are documented in docs/evaluation-json.md."""
        return {**self.summary(), "documents": self.columns()}

    def summary(self) -> dict[str, Any]:
        """The part of `to_json` whose size does not grow with the corpus."""
        domains = {
            domain: {"bits_per_byte": score.bits_per_byte, **asdict(score)} for domain, score in self.domains.items()
        }
        return {"mean_bits_per_byte": self.mean_bits_per_byte, "domains": domains}

    def columns(self) -> dict[str, list[Any]]:
        """The part of `to_json` that holds one entry per document; `from_json` needs no other."""
        return {
            "id": list(self.doc_ids),
            "domain": list(self.doc_domains),
            "bits": list(self.bits),
            "predicted_bytes": list(self.predicted_bytes),
            **({"unspelled_bytes": list(self.unspelled_bytes)} if self.unspelled_bytes else {}),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Scores:
        """The scores whose `to_json` is `content`; everything but "documents" is computed again."""
        return cls.of_columns(content["documents"])

    @classmethod
    def of_columns(cls, columns: Mapping[str, Any]) -> Scores:
        keys = ("id", "domain", "bits", "predicted_bytes", "unspelled_bytes")
        return cls(*(tuple(columns[key]) for key in keys if key in columns))
