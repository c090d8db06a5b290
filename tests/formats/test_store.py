from __future__ import annotations

from pathlib import Path

import pytest

from fusery.errors import ConfigError, Corrupt, InvalidInput, Mismatch, Unavailable
from fusery.formats.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def test_what_is_published_is_read_back_with_its_facts(store: Store) -> None:
    entry = store.publish("a/b.parquet", b"content", {"tokens": 3})
    assert store.read("a/b.parquet") == b"content"
    assert store.find("a/b.parquet") == entry
    assert entry.facts == {"tokens": 3}
    assert store.names("a") == ["a/b.parquet"]


def test_nothing_is_there_before_it_is_published(store: Store) -> None:
    assert store.find("a/b") is None
    assert store.names("a") == []
    with pytest.raises(Unavailable, match="a/b is not in the store"):
        store.read("a/b")


def test_bytes_without_an_entry_do_not_count(store: Store, tmp_path: Path) -> None:
    store.publish("a/one", b"1")
    (tmp_path / "store/a/two").write_bytes(b"2")
    assert store.names("a") == ["a/one"]
    assert store.find("a/two") is None


@pytest.mark.parametrize("byte", range(7))
def test_a_flipped_bit_is_found_and_the_artefact_named(store: Store, tmp_path: Path, byte: int) -> None:
    store.publish("a/b", b"content")
    path = tmp_path / "store/a/b"
    content = bytearray(path.read_bytes())
    content[byte] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(Corrupt, match="a/b: SHA-256") as caught:
        store.read("a/b")
    assert caught.value.artefact == "a/b"


def test_bytes_that_vanished_are_corrupt_and_can_be_made_again(store: Store, tmp_path: Path) -> None:
    store.publish("a/b", b"content")
    (tmp_path / "store/a/b").unlink()
    with pytest.raises(Corrupt):
        store.read("a/b")
    store.discard("a/b")
    store.publish("a/b", b"content")
    assert store.read("a/b") == b"content"


def test_the_same_bytes_twice_are_success_and_other_bytes_are_kept_aside(store: Store, tmp_path: Path) -> None:
    first = store.publish("a/b", b"content")
    assert store.publish("a/b", b"content") == first
    with pytest.raises(Mismatch, match="two writers made different bytes"):
        store.publish("a/b", b"other")
    assert store.read("a/b") == b"content"
    assert [path.read_bytes() for path in (tmp_path / "store/quarantine").iterdir()] == [b"other"]


@pytest.mark.parametrize("name", ["../escape", "a/../../b", "/etc/passwd", ""])
def test_names_cannot_leave_the_root(store: Store, name: str) -> None:
    with pytest.raises(InvalidInput, match="no name inside the store"):
        store.publish(name, b"")


def test_no_temporary_file_is_left(store: Store, tmp_path: Path) -> None:
    store.publish("a/b", b"content")
    assert sorted(path.name for path in (tmp_path / "store/a").iterdir()) == ["b", "b.entry.json"]


def test_notes_can_be_replaced_and_are_not_artefacts(store: Store) -> None:
    assert store.read_note("runs/x/n.json") is None
    store.write_note("runs/x/n.json", {"a": 1})
    store.write_note("runs/x/n.json", {"a": 2})
    assert store.read_note("runs/x/n.json") == {"a": 2}
    assert store.list_notes("runs/x") == ["runs/x/n.json"]
    assert store.names("runs/x") == []


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(ConfigError, match="nonsense"):
        Store("nonsense://bucket/x")


def test_a_store_that_is_no_folder_has_no_local_paths() -> None:
    store = Store("memory://fusery-test")
    store.publish("a/b", b"1")
    assert store.read("a/b") == b"1"
    with pytest.raises(ConfigError, match="not a folder"):
        store.local_path("a/b")
