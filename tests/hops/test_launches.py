"""A launch's note decides where a worker sends its bearer token, and other writers of the store can change it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fusery.hops import launches
from fusery.hops.launches import Launch, read_launch
from fusery.hops.names import attempts_folder, launch_name, tokenizer_name
from fusery.hops.store.store import Store
from fusery.hops.tables import load_tokenizer
from fusery.runtime.errors import Corrupt, Unavailable
from support.models.pico_models import pico_byte_tokenizer
from support.runs.coordinator_workers import Workers, plan

TRUE, FALSE = "source-a:50051", "10.6.6.6:50051"
Note = dict[str, Any]


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "token"
    file.write_text("a secret")
    monkeypatch.setenv("FUSERY_SOURCE_TOKEN_FILE", str(file))
    return file


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that a client is made for, and so the token may be sent to."""
    found: list[str] = []

    def client(address: str, **_: object) -> None:
        found.append(address)
        raise Unavailable("not asked in this test")

    monkeypatch.setattr(launches, "client_from_settings", client)
    return found


def written(folder: Path, launch: str = "launch") -> Workers:
    workers = Workers(folder / "store", plan(sources=1, shards=1))
    Launch(launch, workers.plan, {"s0": TRUE}).write(workers.store)
    return workers


def read(store: Store, launch: str = "launch") -> Launch:
    found = read_launch(store, "r", launch)
    assert found is not None
    return found


def changed(store: Store, change: Callable[[Note], object], launch: str = "launch") -> Launch:
    """The launch after `change` of the content of its note; the store's own checksum is right again."""
    note = store.read_note(launch_name("r", "launch"))
    assert note is not None
    change(note)
    store.write_note(launch_name("r", launch), note)
    return read(store, launch)


@pytest.mark.usefixtures("token")
def test_a_worker_with_the_runs_token_sends_it_where_the_launch_says(tmp_path: Path, asked: list[str]) -> None:
    workers = written(tmp_path)
    with pytest.raises(Unavailable, match="not asked"):
        read(workers.store).client("s0")
    assert asked == [TRUE]


FORGERIES: dict[str, Callable[[Note], object]] = {
    "another address": lambda note: note["addresses"].update(s0=FALSE),
    "a list of addresses": lambda note: note["addresses"].update(s0=f"{TRUE},{FALSE}"),
    "a name": lambda note: note["addresses"].update(s0=f"dns:///{FALSE}"),
    "loopback": lambda note: note["addresses"].update(s0="127.0.0.1:4444"),
    "another source": lambda note: note["addresses"].update(s1=FALSE),
    "another plan": lambda note: note["plan"].update(corpus_digest="d" * 64),
    "ended before": lambda note: note.update(ended="done"),
    "no proof": lambda note: note.pop("proof"),
    "null as proof": lambda note: note.update(proof=None),
    "an empty proof": lambda note: note.update(proof=""),
    "another proof": lambda note: note.update(proof="0" * 64),
    "no ASCII in the proof": lambda note: note.update(proof="ß" * 64),
}


@pytest.mark.parametrize("change", FORGERIES.values(), ids=FORGERIES)
def test_a_changed_launch_gets_no_token(
    token: Path, tmp_path: Path, asked: list[str], change: Callable[[Note], object]
) -> None:
    with pytest.raises(Unavailable, match="not sealed with this worker's token") as caught:
        changed(written(tmp_path).store, change).client("s0")
    assert asked == []
    assert token.read_text() not in str(caught.value)


@pytest.mark.usefixtures("token")
def test_the_seal_of_one_launch_is_none_of_another(tmp_path: Path, asked: list[str]) -> None:
    with pytest.raises(Unavailable, match="not sealed"):
        changed(written(tmp_path).store, lambda _: None, launch="later").client("s0")
    assert asked == []


def test_a_launch_of_a_run_with_another_token_or_none_gets_no_token(
    token: Path, tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = written(tmp_path)
    token.write_text("another secret")
    with monkeypatch.context() as without:
        without.delenv("FUSERY_SOURCE_TOKEN_FILE")
        Launch("bare", workers.plan, {"s0": TRUE}).write(workers.store)
    for launch in ("launch", "bare"):
        with pytest.raises(Unavailable, match="not sealed"):
            read(workers.store, launch).client("s0")
    assert asked == []
    # The coordinator writes its note again now and then, and the worker follows a token that was changed.
    Launch("launch", workers.plan, {"s0": TRUE}).write(workers.store)
    with pytest.raises(Unavailable, match="not asked"):
        read(workers.store).client("s0")


def test_a_worker_without_a_token_has_none_to_lose(tmp_path: Path, asked: list[str]) -> None:
    workers = written(tmp_path)
    with pytest.raises(Unavailable, match="not asked"):
        read(workers.store).client("s0")
    assert asked == [TRUE]


def test_neither_token_nor_key_stands_in_the_store(token: Path, tmp_path: Path) -> None:
    written(tmp_path)
    everything = b"".join(path.read_bytes() for path in (tmp_path / "store").rglob("*") if path.is_file())
    assert token.read_bytes() not in everything
    assert launches._key(token.read_text()).hex().encode() not in everything


@pytest.mark.usefixtures("token")
def test_a_task_of_a_changed_launch_fails_with_the_reason_and_asks_nobody(
    tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUSERY_BROKER_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("FUSERY_STORE", str(tmp_path / "store"))
    tasks: ModuleType = importlib.import_module("fusery.hops.worker.tasks")
    workers = written(tmp_path)
    changed(workers.store, FORGERIES["another address"])
    tasks.capture_shard("r", "launch", "s0", 0)
    [name] = workers.store.list_notes(attempts_folder("r", "launch"))
    note = workers.store.read_note(name)
    assert note is not None
    assert "give the run and its workers the same FUSERY_SOURCE_TOKEN_FILE" in note["reason"]
    assert asked == []


@pytest.mark.parametrize(
    "change",
    [
        lambda note: note.update(addresses=[TRUE]),
        lambda note: note.update(addresses={"s0": 1}),
        lambda note: note.update(addresses={"s0": {"a": []}}),
        lambda note: note.update(ended=1),
        lambda note: note.update(plan=[]),
        lambda note: note.pop("plan"),
        lambda note: note["plan"].update(run_id="another"),
        lambda note: note["plan"].update(corpus_shards="many"),
    ],
)
def test_a_note_with_wrong_fields_is_damaged(tmp_path: Path, change: Callable[[Note], object]) -> None:
    with pytest.raises(Corrupt, match="start the run again"):
        changed(written(tmp_path).store, change)


def test_a_tokenizer_that_is_not_the_plans_is_taken_away(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    good, other = (pico_byte_tokenizer(kind) for kind in ("sentencepiece", "unigram"))
    store.publish(tokenizer_name(good.fingerprint), other.definition().encode())
    with pytest.raises(Corrupt, match="its fingerprint is") as caught:
        load_tokenizer(store, good.fingerprint)
    store.discard(str(caught.value.artefact))
    store.publish(tokenizer_name(good.fingerprint), good.definition().encode())
    assert load_tokenizer(store, good.fingerprint).fingerprint == good.fingerprint
