"""Documents in memory and in a store: the same to a training; the store's with little memory, and checked once."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fusery.hops.store import shards
from fusery.hops.store.shards import FusedDocument, fused_facts
from fusery.hops.store.store import Store
from fusery.runtime.errors import CorpusError, Corrupt, Mismatch, TooLarge, Unavailable
from fusery.trainer import documents as documents_module
from fusery.trainer import order
from fusery.trainer.documents import Limits, Stored
from fusery.trainer.job import train
from support.models.training_data import (
    TARGET,
    Document,
    InMemory,
    no_evidence,
    pico_documents,
    pico_job,
    publish_fused,
    random_evidence,
    stored,
)
from support.store.s3_server import new_store_url, s3_server

LIMITS = Limits(20, 4000, 2)
EXPECT = {"target": TARGET}


def documents_of(lengths: Sequence[int], seed: int = 0) -> list[Document]:
    rng = np.random.default_rng(seed)
    return [Document(f"d{i}", 100 * i + np.arange(n), random_evidence(rng, n)) for i, n in enumerate(lengths)]


def stored_in(folder: Path, documents: Sequence[Document], per_shard: int = 5) -> Stored:
    return stored(str(folder), documents, per_shard)


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
        stored_in(tmp_path, documents, 1).check(LIMITS)


def test_evidence_beyond_its_document_is_refused_by_name(tmp_path: Path) -> None:
    documents = [*documents_of([5]), with_evidence_at(6, 0)]
    with pytest.raises(Mismatch, match=r"d0: evidence at positions 6\.\.6 of 6 tokens"):
        InMemory(documents).check(LIMITS)
    with pytest.raises(Mismatch, match=r"d0: evidence at positions 6\.\.6 of 6 tokens"):
        stored_in(tmp_path, documents, 1)[1]


@pytest.mark.parametrize("lengths", [[], [0], [1, 1]])
def test_nothing_to_predict_is_refused(lengths: list[int], tmp_path: Path) -> None:
    for documents in (InMemory(documents_of(lengths)), stored_in(tmp_path, documents_of(lengths))):
        with pytest.raises(CorpusError, match="nothing to train on"):
            documents.check(LIMITS)


def test_documents_without_evidence_need_no_source(tmp_path: Path) -> None:
    documents = [Document("d", np.arange(5), no_evidence())]
    InMemory(documents).check(Limits(20, 4000, 0))
    stored_in(tmp_path, documents).check(Limits(20, 4000, 0))


def test_stored_documents_are_those_that_were_published(tmp_path: Path) -> None:
    documents = documents_of([5, 0, 7, 3, 19, 2, 8])
    found = stored_in(tmp_path, documents, per_shard=3)
    assert found.layout.lengths_D.tolist() == [5, 0, 7, 3, 19, 2, 8]
    assert found.layout.edges.tolist() == [0, 3, 6, 7]
    for number in (6, 0, 4, 2):
        assert found[number].doc_id == documents[number].doc_id
        assert np.array_equal(found[number].token_ids_N, documents[number].token_ids_N)
        assert np.array_equal(found[number].evidence.positions_R, documents[number].evidence.positions_R)


def test_shards_of_another_target_are_refused_before_any_step(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    names = publish_fused(store, documents_of([5, 6]), 1, "u" * 64)
    with pytest.raises(Mismatch, match="target is 'uuuu"):
        Stored(store, names, EXPECT)


@pytest.mark.parametrize("key", ["sources", "vocabulary_maps"])
def test_shards_of_another_run_with_the_same_target_are_refused_before_any_step(key: str, tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    names = publish_fused(store, documents_of([5]), 1, TARGET)
    with pytest.raises(Mismatch, match=f"{key} is None, expected .*make it again for this run"):
        Stored(store, names, EXPECT | {key: ["another"]})


def test_a_shard_that_is_missing_or_cut_off_is_found_before_any_step(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    names = publish_fused(store, documents_of([5, 6]), 1, TARGET)
    path = tmp_path / names[1]
    path.write_bytes(path.read_bytes()[:-9])
    for _ in ("cut off", "missing"):
        with pytest.raises(Unavailable, match=r"shard-00001.*run the fuse hop again"):
            Stored(store, names, EXPECT)
        store.discard(names[1])


def test_a_damaged_shard_is_found_when_it_is_read_and_taken_away_to_be_made_again(tmp_path: Path) -> None:
    documents = stored_in(tmp_path, documents_of([5, 6]), 1)
    path = tmp_path / "fused/test/shard-00001.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert len(documents[0].token_ids_N) == 5
    with pytest.raises(Corrupt, match="shard-00001"):
        documents[1]
    assert not path.exists()


def test_a_shard_whose_entry_says_something_else_is_refused(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    rows = [FusedDocument(d.doc_id, "x", d.token_ids_N, d.evidence) for d in documents_of([5, 6])]
    lies = fused_facts(rows) | {"document_tokens": [6, 5]}
    store.publish("a", shards.write_fused(rows, EXPECT), EXPECT | lies)
    store.publish("b", shards.write_fused(rows, EXPECT), EXPECT)
    with pytest.raises(Mismatch, match="other lengths than its entry says"):
        Stored(store, ["a"], EXPECT)[0]
    with pytest.raises(Mismatch, match="its entry does not say 'document_tokens'; remove b and fuse again"):
        Stored(store, ["b"], EXPECT)


def test_a_start_opens_no_shard_and_later_ones_no_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents_module, "read_fused", lambda *_: pytest.fail("a shard was opened"))
    first = stored_in(tmp_path, documents_of([5, 6, 7]), 1)
    monkeypatch.setattr(Stored, "_known", lambda *_: pytest.fail("an entry was read again"))
    again = stored_in(tmp_path, documents_of([5, 6, 7]), 1)
    assert (again.digest, again.layout.lengths_D.tolist()) == (first.digest, [5, 6, 7])


def test_no_more_shards_are_held_than_a_window_has(tmp_path: Path) -> None:
    documents = stored_in(tmp_path, documents_of([5] * 40), per_shard=2)
    documents.hold(3)
    most = 0
    for number in range(40):
        documents[number]
        most = max(most, len(documents._held))
    assert most == 4


def test_a_window_of_shards_is_read_once_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "WINDOW_TOKENS", 30)
    documents = stored_in(tmp_path, documents_of([5] * 40), per_shard=2)
    schedule = order.Schedule.of(documents.layout, 10, 3, 1, 0)
    documents.hold(schedule.window_shards)
    read: list[int] = []
    original = documents._read
    monkeypatch.setattr(documents, "_read", lambda shard: (read.append(shard), original(shard))[1])
    for step in range(schedule.steps):
        for sequence in schedule.batch(step):
            assert all(len(documents[i].token_ids_N) == 5 for i in sequence)
    assert sorted(read) == list(range(20))


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_training_from_a_store_gives_the_bytes_of_training_from_memory(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(order, "WINDOW_TOKENS", 100)
    documents = pico_documents("byte_level", 24)
    job = pico_job(tmp_path / "memory", "gpt2", epochs=2)
    with s3_server() if kind == "bucket" else nullcontext():
        streamed = stored(new_store_url() if kind == "bucket" else str(tmp_path / "store"), documents, per_shard=4)
        other = train(replace(job, documents=streamed, output=tmp_path / "stored"))
        assert len(streamed._held) < streamed.layout.shards
    in_memory = InMemory(documents)
    in_memory.layout = streamed.layout
    assert train(replace(job, documents=in_memory)).weights_digest == other.weights_digest
