"""Documents with evidence for pico models: real tokens of real text, random but possible evidence.

job = pico_job(tmp_path / "out", "llama", epochs=2)
result = train(job)
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fusery.config.sections import TrainingSpec
from fusery.core.fusion import Evidence
from fusery.core.topk import PAD, TopK
from fusery.hops.store.shards import FusedDocument, fused_facts, write_fused
from fusery.hops.store.store import Store
from fusery.trainer.documents import Extremes, Limits, Stored, TrainingDocument, check_positions
from fusery.trainer.job import TrainJob
from fusery.trainer.order import Layout
from support.models import pico_models

SOURCES = 2
CELLS = 40
TARGET = "t" * 64
"""The tokenizer's fingerprint in the headers of fused shards."""


class InMemory:
    """Documents that are there already, as one shard."""

    def __init__(self, documents: Sequence[TrainingDocument]) -> None:
        self.documents = documents
        lengths = np.asarray([len(document.token_ids_N) for document in documents], np.int64)
        self.layout = Layout(lengths, np.asarray([0, len(documents)]))

    @property
    def digest(self) -> str:
        content = hashlib.sha256()
        for document in self.documents:
            content.update(f"{document.doc_id}\n{len(document.token_ids_N)}\n".encode())
            content.update(document.token_ids_N.astype("<i8").tobytes())
        return content.hexdigest()

    def __getitem__(self, index: int) -> TrainingDocument:
        return self.documents[index]

    def check(self, limits: Limits) -> None:
        for document in self.documents:
            check_positions(document)
        Extremes.of([fused_facts(self.documents)]).check(limits)

    def hold(self, shards: int) -> None:
        """Everything is held."""


@dataclass(frozen=True)
class Document:
    doc_id: str
    token_ids_N: np.ndarray
    evidence: Evidence


def publish_fused(store: Store, documents: Sequence[TrainingDocument], per_shard: int, target: str) -> list[str]:
    """Fused shards of `per_shard` documents with the facts that a fuse task notes; their names."""
    names = []
    for start in range(0, len(documents), per_shard):
        part = documents[start : start + per_shard]
        rows = [FusedDocument(d.doc_id, "x", d.token_ids_N, d.evidence) for d in part]
        names.append(f"fused/test/shard-{start // per_shard:05d}.parquet")
        meta = {"target": target}
        store.publish(names[-1], write_fused(rows, meta), meta | fused_facts(rows))
    return names


def stored(url: str, documents: Sequence[TrainingDocument], per_shard: int = 5) -> Stored:
    """The same documents as fused shards in the store at `url`."""
    store = Store(url)
    return Stored(store, publish_fused(store, documents, per_shard, TARGET), {"target": TARGET})


def no_evidence() -> Evidence:
    empty = np.zeros(0, np.int64)
    top = TopK(np.zeros((0, 1), np.int64), np.zeros((0, 1), np.float32))
    return Evidence(empty, empty, np.zeros(0, np.float32), top)


def random_evidence(rng: np.random.Generator, tokens: int, k: int = 4) -> Evidence:
    """Evidence of one or both sources at most positions."""
    pairs = [(p, s) for p in range(tokens - 1) for s in range(SOURCES) if rng.random() < 0.5]
    if not pairs:
        return no_evidence()
    positions, sources = (np.asarray(column, np.int64) for column in zip(*pairs, strict=True))
    weights = 1 / np.bincount(positions)[positions]
    ids = np.stack([rng.permutation(CELLS)[:k] for _ in pairs]).astype(np.int64)
    mass = rng.dirichlet(np.ones(k + 1), len(pairs))[:, :k]
    top = TopK(ids, np.log(np.maximum(mass, 1e-9)).astype(np.float32))
    return Evidence(positions, sources, weights.astype(np.float32), top)


def pico_documents(tokenizer: str, count: int, seed: int = 0, longest: int = 40) -> list[Document]:
    """`count` stretches of the pico tokenizers' training text, 2 to `longest` tokens each."""
    rng = np.random.default_rng(seed)
    stream = np.asarray(pico_models.pico_tokenizer(tokenizer).encode("".join(pico_models.TEXTS)).ids, np.int64)
    found = []
    for number in range(count):
        size = int(rng.integers(2, longest + 1))
        start = int(rng.integers(0, len(stream) - size))
        found.append(Document(f"doc-{number}", stream[start : start + size], random_evidence(rng, size)))
    return found


def pico_partitions(vocabulary: int, seed: int = 0) -> list[np.ndarray]:
    """cell_of_target of two sources: CELLS cells of few or many tokens, and tokens in no cell."""
    rng = np.random.default_rng(seed)
    return [rng.integers(PAD, CELLS, vocabulary).astype(np.int64) for _ in range(SOURCES)]


def pico_job(output: Path, architecture: str = "llama", *, documents: int = 24, **changes: Any) -> TrainJob:
    """A job of a few steps; `changes` are fields of TrainJob or of TrainingSpec."""
    kind = pico_models._USUAL_TOKENIZER.get(architecture, "byte_level")
    spec: dict[str, Any] = {
        "sequence_length": 48,
        "batch_sequences": 4,
        "learning_rate": 3e-3,
        "clm_weight": 0.5,
        "checkpoint_every_steps": 3,
    }
    spec |= {key: value for key, value in changes.items() if key in TrainingSpec.model_fields}
    own = {key: value for key, value in changes.items() if key not in TrainingSpec.model_fields}
    fields: dict[str, Any] = {
        "target": str(pico_models.pico_model(architecture)),
        "output": output,
        "documents": InMemory(pico_documents(kind, documents)),
        "partitions": pico_partitions(pico_models.pico_tokenizer(kind).get_vocab_size()),
        "training": TrainingSpec(**spec),
        "config_digest": "0" * 64,
        "threads": 1,
    }
    return TrainJob(**(fields | own))
