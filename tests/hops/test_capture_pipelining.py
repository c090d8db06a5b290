"""Capture against real servers: the model's next request waits at the source while an answer is used."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from fusery.config.sections import AlignmentSpec, CaptureSpec, FusionSpec
from fusery.hops.capture import batches, capture
from fusery.hops.plan import Hop, Plan, PlannedSource, ShardTask
from fusery.hops.store import shards
from fusery.hops.store.shards import CapturedDocument, CorpusDocument
from fusery.hops.store.store import Entry, Store
from fusery.runtime.errors import InvalidInput
from fusery.source.api import Document, ModelDescription
from fusery.source.client import SourceClient
from fusery.source.engines.transformers import load_engine
from support.models.pico_models import TEXTS, pico_model
from support.source.source_servers import UniformEngine, running

DOCUMENTS = [CorpusDocument(f"d{i}", "x", text) for i, text in enumerate(TEXTS * 2)]
TASK = ShardTask(Hop.CAPTURE, "s", 0)


def planned(store: Store, model: ModelDescription, batch_bytes: int = 60) -> Plan:
    """A plan over DOCUMENTS in one shard, whose requests hold a document or a few."""
    plan = Plan(
        run_id="r",
        corpus_digest="c" * 64,
        corpus_shards=1,
        target_tokenizer_fingerprint=model.tokenizer_fingerprint,
        sources=(
            PlannedSource(
                name="s",
                model_fingerprint=model.fingerprint,
                tokenizer_fingerprint=model.tokenizer_fingerprint,
                vocabulary_size=model.vocabulary_size,
            ),
        ),
        capture=CaptureSpec(top_k=4, log_probs="float32", batch_bytes=batch_bytes),
        alignment=AlignmentSpec(),
        fusion=FusionSpec(),
    )
    store.publish(plan.corpus_shard(0), shards.write_corpus(DOCUMENTS, {}))
    return plan


def one_at_a_time(store: Store, plan: Plan, client: SourceClient) -> Entry:
    """The capture with a request sent only when the one before is answered."""

    class Alone(SourceClient):
        def compute_many(self, requests, *arguments, **named):  # type: ignore[no-untyped-def]
            return (client.compute(request, *arguments, **named) for request in requests)

    return capture(store, plan, TASK, Alone(client.address))


def test_a_captured_shard_has_the_bytes_of_one_request_at_a_time(tmp_path: Path) -> None:
    engine = load_engine(str(pico_model("llama")), device="cpu")
    entries = []
    with running(engine) as server, SourceClient(server.address) as client:
        for name, make in (
            ("together", lambda store, plan: capture(store, plan, TASK, client)),
            ("alone", lambda store, plan: one_at_a_time(store, plan, client)),
        ):
            store = Store(str(tmp_path / name))
            plan = planned(store, engine.model)
            assert len(list(batches(DOCUMENTS, plan.capture.batch_bytes))) > 4
            entries.append(make(store, plan))
    assert entries[0] == entries[1]


def test_two_servers_of_a_list_share_a_shard(tmp_path: Path) -> None:
    asked: list[set[str]] = [set(), set()]

    def noting(number: int) -> UniformEngine:
        def note(documents: Sequence[Document]) -> None:
            asked[number].update(document.id for document in documents)

        return UniformEngine(note)

    engine = UniformEngine()
    store = Store(str(tmp_path))
    plan = planned(store, engine.model)
    with (
        running(noting(0)) as one,
        running(noting(1)) as other,
        SourceClient(f"{one.address},{other.address}") as client,
    ):
        entry = capture(store, plan, TASK, client)
    assert all(asked)
    assert asked[0] | asked[1] == {document.doc_id for document in DOCUMENTS}
    assert not asked[0] & asked[1]
    captured = shards.read_captured(store.read(entry.name), {})
    assert [document.doc_id for document in captured] == [document.doc_id for document in DOCUMENTS]


def test_the_source_has_the_next_request_before_an_answer_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[threading.Event] = [threading.Event() for _ in DOCUMENTS]
    numbers = iter(range(len(begun)))
    engine = UniformEngine(lambda _: begun[next(numbers)].set())
    used: list[bool] = []
    make = CapturedDocument

    def use(*arguments: object) -> object:
        used.append(begun[min(len(used) + 1, requests - 1)].wait(30))
        return make(*arguments)  # type: ignore[arg-type]

    store = Store(str(tmp_path))
    # A request for each document.
    plan = planned(store, engine.model, batch_bytes=16)
    requests = len(list(batches(DOCUMENTS, plan.capture.batch_bytes)))
    monkeypatch.setattr("fusery.hops.capture.CapturedDocument", use)
    with running(engine) as server, SourceClient(server.address) as client:
        capture(store, plan, TASK, client)
    assert used == [True] * len(DOCUMENTS)


def test_an_error_for_good_leaves_no_shard(tmp_path: Path) -> None:
    def fail(documents: Sequence[Document]) -> None:
        if any(document.id == "d5" for document in documents):
            raise InvalidInput("no")

    engine = UniformEngine(fail)
    store = Store(str(tmp_path))
    plan = planned(store, engine.model)
    with running(engine) as server, SourceClient(server.address) as client, pytest.raises(InvalidInput, match="no"):
        capture(store, plan, TASK, client)
    assert store.find(plan.artefact(TASK)) is None
