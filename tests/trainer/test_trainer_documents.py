"""Documents in memory and in a store: the same to a training; the store's with little memory, and checked once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fusery.errors import CorpusError, Corrupt, Mismatch, TooLarge
from fusery.formats import shards
from fusery.formats.shards import FusedDocument
from fusery.formats.store import Store
from fusery.trainer import documents as documents_module
from fusery.trainer import order
from fusery.trainer.documents import Limits, Stored
from fusery.trainer.job import train
from trainingdata import Document, InMemory, no_evidence, pico_documents, pico_job, random_evidence

LIMITS = Limits(20, 4000, 2)
EXPECT = {"target": "t" * 64}


def documents_of(lengths: Sequence[int], seed: int = 0) -> list[Document]:
    rng = np.random.default_rng(seed)
    return [Document(f"d{i}", 100 * i + np.arange(n), random_evidence(rng, n)) for i, n in enumerate(lengths)]


def publish(store: Store, documents: Sequence[Document], per_shard: int, target: str = EXPECT["target"]) -> list[str]:
    """Fused shards of `per_shard` documents; their names."""
    names = []
    for start in range(0, len(documents), per_shard):
        rows = [FusedDocument(d.doc_id, "x", d.token_ids_N, d.evidence) for d in documents[start : start + per_shard]]
        names.append(f"fused/test/shard-{start // per_shard:05d}.parquet")
        store.publish(names[-1], shards.write_fused(rows, {"target": target}))
    return names


def stored(folder: Path, documents: Sequence[Document], per_shard: int = 5) -> Stored:
    store = Store(str(folder))
    return Stored(store, publish(store, documents, per_shard), EXPECT)


def with_evidence_at(position: int, source: int) -> Document:
    document = documents_of([6])[0]
    one = random_evidence(np.random.default_rng(1), 6)
    places = np.full_like(one.positions_R, position)
    return replace(document, evidence=replace(one, positions_R=places, sources_R=np.full_like(places, source)))


REFUSED: list[tuple[Document, type[Exception], str]] = [
    (Document("long", np.arange(21), no_evidence()), TooLarge, "document long: 21 tokens, a sequence holds 20"),
    (
        Document("strange", np.asarray([1, 5000]), no_evidence()),
        Mismatch,
        "strange: token id 5000, the target has 0..3999",
    ),
    (with_evidence_at(6, 0), Mismatch, "evidence at positions 6..6 of 6 tokens"),
    (with_evidence_at(0, 2), Mismatch, "evidence of source 2, there are 2 partitions"),
]


@pytest.mark.parametrize(("document", "error", "message"), REFUSED)
def test_documents_that_do_not_fit_are_refused_by_name(
    document: Document, error: type[Exception], message: str, tmp_path: Path
) -> None:
    documents = [*documents_of([5]), document, *documents_of([7])]
    with pytest.raises(error, match=message):
        InMemory(documents).check(LIMITS)
    with pytest.raises(error, match=message):
        stored(tmp_path, documents, 1).check(LIMITS)


@pytest.mark.parametrize("lengths", [[], [0], [1, 1]])
def test_nothing_to_predict_is_refused(lengths: list[int], tmp_path: Path) -> None:
    for documents in (InMemory(documents_of(lengths)), stored(tmp_path, documents_of(lengths))):
        with pytest.raises(CorpusError, match="nothing to train on"):
            documents.check(LIMITS)


def test_documents_without_evidence_need_no_source(tmp_path: Path) -> None:
    documents = [Document("d", np.arange(5), no_evidence())]
    InMemory(documents).check(Limits(20, 4000, 0))
    stored(tmp_path, documents).check(Limits(20, 4000, 0))


def test_stored_documents_are_those_that_were_published(tmp_path: Path) -> None:
    documents = documents_of([5, 0, 7, 3, 19, 2, 8])
    found = stored(tmp_path, documents, per_shard=3)
    assert found.layout.lengths_D.tolist() == [5, 0, 7, 3, 19, 2, 8]
    assert found.layout.edges.tolist() == [0, 3, 6, 7]
    for number in (6, 0, 4, 2):
        assert found[number].doc_id == documents[number].doc_id
        assert np.array_equal(found[number].token_ids_N, documents[number].token_ids_N)
        assert np.array_equal(found[number].evidence.positions_R, documents[number].evidence.positions_R)


def test_shards_of_another_target_are_refused_before_any_step(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    names = publish(store, documents_of([5, 6]), 1, target="u" * 64)
    with pytest.raises(Mismatch, match="target is 'uuuu"):
        Stored(store, names, EXPECT)


def test_a_damaged_shard_is_found_before_any_step(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    names = publish(store, documents_of([5, 6]), 1)
    path = tmp_path / names[1]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(Corrupt, match="shard-00001"):
        Stored(store, names, EXPECT)


def test_the_index_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = stored(tmp_path, documents_of([5, 6, 7]), 1)
    monkeypatch.setattr(documents_module, "read_fused", lambda *_: pytest.fail("read again"))
    again = stored(tmp_path, documents_of([5, 6, 7]), 1)
    assert (again.digest, again.layout.lengths_D.tolist()) == (first.digest, [5, 6, 7])


def test_no_more_shards_are_held_than_a_window_has(tmp_path: Path) -> None:
    documents = stored(tmp_path, documents_of([5] * 40), per_shard=2)
    documents.hold(3)
    most = 0
    for number in range(40):
        documents[number]
        most = max(most, len(documents._held))
    assert most == 4


def test_a_window_of_shards_is_read_once_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "WINDOW_TOKENS", 30)
    documents = stored(tmp_path, documents_of([5] * 40), per_shard=2)
    plan = order.Plan.of(documents.layout, 10, 3, 1, 0)
    documents.hold(plan.window_shards)
    read: list[int] = []
    original = documents._read
    monkeypatch.setattr(documents, "_read", lambda shard: (read.append(shard), original(shard))[1])
    for step in range(plan.steps):
        for sequence in plan.batch(step):
            assert all(len(documents[i].token_ids_N) == 5 for i in sequence)
    assert sorted(read) == list(range(20))


def test_training_from_a_store_gives_the_bytes_of_training_from_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(order, "WINDOW_TOKENS", 100)
    documents = pico_documents("byte_level", 24)
    store = stored(tmp_path / "store", documents, per_shard=4)

    class InMemoryShards(InMemory):
        layout: Any = store.layout

    job = pico_job(tmp_path / "memory", "gpt2", epochs=2)
    in_memory = InMemoryShards(documents)
    in_memory.layout = store.layout
    one = train(replace(job, documents=in_memory))
    other = train(replace(job, documents=store, output=tmp_path / "stored"))
    assert one.weights_digest == other.weights_digest
