from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusery.hops.store.store import Store, seal, unseal
from fusery.runtime.errors import ConfigError, Corrupt, FuseryError, InvalidInput, Mismatch, StoreFull, Unavailable


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_what_is_published_is_read_back_with_its_facts(store: Store) -> None:
    entry = store.publish("a/b.parquet", b"content", {"tokens": 3})
    assert store.read("a/b.parquet") == b"content"
    assert store.find("a/b.parquet") == entry
    assert entry.facts == {"tokens": 3}
    assert store.listed("a") == {"a/b.parquet": 7}


def test_nothing_is_there_before_it_is_published(store: Store) -> None:
    assert store.find("a/b") is None
    assert store.listed("a") == {}
    assert store.folders("a") == []
    assert store.sweep(0) == 0
    with pytest.raises(Unavailable, match="a/b is not in the store"):
        store.read("a/b")


def test_bytes_without_an_entry_do_not_count_and_are_replaced(store: Store, tmp_path: Path) -> None:
    store.publish("a/one", b"1")
    (tmp_path / "store/a/two").write_bytes(b"2")
    assert store.listed("a") == {"a/one": 1}
    assert store.find("a/two") is None
    store.publish("a/two", b"other")
    assert store.read("a/two") == b"other"


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_an_entry_without_its_bytes_does_not_count(store: Store, tmp_path: Path, damage: str) -> None:
    store.publish("a/b", b"content")
    path = tmp_path / "store/a/b"
    path.unlink() if damage == "missing" else path.write_bytes(b"con")
    assert store.find("a/b") is None
    assert list(store.listed("a")) == ([] if damage == "missing" else ["a/b"])
    with pytest.raises(Corrupt):
        store.read("a/b")
    # It vouches for nothing, so that other bytes may take the name.
    store.publish("a/b", b"other")
    assert store.read("a/b") == b"other"


def test_bytes_that_vanished_are_written_again_under_their_entry(store: Store, tmp_path: Path) -> None:
    first = store.publish("a/b", b"content", {"n": 1})
    (tmp_path / "store/a/b").unlink()
    assert store.publish("a/b", b"content") == first
    assert store.read("a/b") == b"content"


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


def test_any_other_byte_of_an_entry_or_a_note_is_found(store: Store, tmp_path: Path) -> None:
    store.publish("a/b", b"content", {"tokens": 3, "text": "ü"})
    store.write_note("n/note.json", {"shard": 3, "reasons": ["one", "two"]})
    entry, note = tmp_path / "store/a/b.entry.json", tmp_path / "store/n/note.json"
    for path in (entry, note):
        whole = path.read_bytes()
        for place in range(len(whole)):
            for other in (whole[place] ^ 1, whole[place] ^ 0x80, ord(" "), ord("\t"), ord("9")):
                if other == whole[place]:
                    continue
                path.write_bytes(whole[:place] + bytes([other]) + whole[place + 1 :])
                if path == entry:
                    assert store.find("a/b") is None
                    with pytest.raises(Corrupt, match="its entry is damaged"):
                        store.read("a/b")
                else:
                    with pytest.raises(Corrupt, match=r"note n/note\.json .* is damaged"):
                        store.read_note("n/note.json")
        path.write_bytes(whole)


@given(st.dictionaries(st.text(), st.none() | st.integers() | st.floats(allow_nan=False) | st.text()), st.data())
def test_a_seal_fits_what_was_sealed_and_nothing_else(fields: dict[str, Any], data: st.DataObject) -> None:
    fields.pop("seal", None)
    content = seal(fields)
    assert unseal(content) == fields
    place = data.draw(st.integers(0, len(content) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda byte: byte != content[place]))
    for damaged in (content[:place] + bytes([other]) + content[place + 1 :], content[:place], content + b"\n"):
        with pytest.raises(ValueError, match=r"seal|JSON|line|codec|surrogate"):
            unseal(damaged)


def test_a_damaged_entry_is_replaced_by_the_next_writer(store: Store, tmp_path: Path) -> None:
    store.publish("a/b", b"content")
    (tmp_path / "store/a/b.entry.json").write_bytes(b"{")
    assert not store.is_whole("a/b")
    store.publish("a/b", b"content")
    (tmp_path / "store/a/b.entry.json").write_bytes(b"\x00" * 20)
    store.publish("a/b", b"other")
    assert store.read("a/b") == b"other"


def test_an_entry_of_another_artefact_does_not_count(store: Store, tmp_path: Path) -> None:
    store.publish("a/b", b"content")
    (tmp_path / "store/a/c").write_bytes(b"content")
    (tmp_path / "store/a/c.entry.json").write_bytes((tmp_path / "store/a/b.entry.json").read_bytes())
    assert store.find("a/c") is None


def test_the_same_bytes_twice_are_success_and_other_bytes_are_kept_aside(store: Store, tmp_path: Path) -> None:
    first = store.publish("a/b", b"content")
    assert store.publish("a/b", b"content") == first
    with pytest.raises(Mismatch, match="two writers made different bytes"):
        store.publish("a/b", b"other")
    assert store.read("a/b") == b"content"
    assert [path.read_bytes() for path in (tmp_path / "store/quarantine").iterdir()] == [b"other"]


def test_a_writer_that_is_overtaken_by_other_bytes_leaves_nothing_under_the_name(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Store(store.url)
    write = store._place.write

    def overtaken(name: str, content: bytes) -> None:
        write(name, content)
        monkeypatch.undo()
        # Between our bytes and our entry.
        other.publish(name, b"other")
        write(name, content)

    monkeypatch.setattr(store._place, "write", overtaken)
    with pytest.raises(Mismatch):
        store.publish("a/b", b"content")
    assert store.find("a/b") is None
    store.publish("a/b", b"other")
    assert store.read("a/b") == b"other"


@pytest.mark.parametrize("contents", [[b"content"] * 6, [bytes([65 + n]) * 9 for n in range(6)]])
def test_writers_at_the_same_time_leave_a_whole_artefact_or_none(store: Store, contents: list[bytes]) -> None:
    mismatches: list[FuseryError] = []
    start = threading.Barrier(len(contents))

    def write(content: bytes) -> None:
        start.wait()
        try:
            Store(store.url).publish("a/b", content)
        except (Mismatch, Unavailable) as error:
            mismatches.append(error)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(set(contents)) == 1:
        assert not mismatches
        assert store.read("a/b") == contents[0]
    else:
        assert mismatches
        assert store.find("a/b") is None or store.read("a/b") in contents


BAD_NAMES = [
    "../escape",
    "a/../../b",
    "/etc/passwd",
    "",
    "a//b",
    "a/",
    "./a",
    "a/./b",
    "a\\b",
    "a\0b",
    ".hidden",
    "a/.b",
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_cannot_leave_the_root_or_hide(store: Store, name: str) -> None:
    acts: list[Callable[[], object]] = [
        lambda: store.publish(name, b""),
        lambda: store.find(name),
        lambda: store.read(name),
        lambda: store.discard(name),
        lambda: store.listed(name),
        lambda: store.write_note(name, {}),
        lambda: store.local_path(name),
    ]
    for act in acts:
        with pytest.raises(InvalidInput, match="no name inside the store"):
            act()


@given(name=st.text(alphabet="ab./\\\0~$é ", max_size=12))
def test_no_name_reaches_a_file_outside_the_root(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    base = tmp_path_factory.getbasetemp() / "names"
    store = Store(str(base / "root"))
    try:
        path = store.local_path(name)
    except InvalidInput:
        return
    assert path.is_relative_to(base / "root")
    assert path != base / "root"


@pytest.mark.parametrize("name", ["a/b.entry.json", "tmp/a"])
def test_the_names_of_the_stores_own_files_are_refused(store: Store, name: str) -> None:
    with pytest.raises(InvalidInput, match="the store's own"):
        store.publish(name, b"")


def test_links_that_leave_the_store_are_refused_and_the_root_may_be_one(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_bytes(b"secret")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    store = Store(str(tmp_path / "link"))
    store.publish("a/b", b"content")
    assert store.read("a/b") == b"content"
    (tmp_path / "real/out").symlink_to(tmp_path / "outside")
    (tmp_path / "real/inside").symlink_to(tmp_path / "real/a")
    assert store.listed("inside") == {"inside/b": 7}
    for act in (lambda: store.read("out/secret"), lambda: store.publish("out/new", b""), lambda: store.listed("out")):
        with pytest.raises(InvalidInput, match="a symbolic link leads to"):
            act()
    assert [path.name for path in (tmp_path / "outside").iterdir()] == ["secret"]


def test_no_temporary_file_is_left(store: Store, tmp_path: Path) -> None:
    store.publish("a/b", b"content")
    store.write_note("a/n.json", {})
    assert files(tmp_path / "store") == ["a/b", "a/b.entry.json", "a/n.json"]


def test_what_killed_writers_left_is_swept_and_what_is_being_written_is_not(store: Store, tmp_path: Path) -> None:
    store.publish("a/b", b"content")
    old, new = tmp_path / "store/tmp/1-old", tmp_path / "store/tmp/2-new"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (1, 1))
    assert store.sweep(3600) == 1
    assert [path.name for path in (tmp_path / "store/tmp").iterdir()] == ["2-new"]
    assert store.read("a/b") == b"content"


def test_notes_can_be_replaced_and_are_not_artefacts(store: Store) -> None:
    assert store.read_note("runs/x/n.json") is None
    store.write_note("runs/x/n.json", {"a": 1})
    store.write_note("runs/x/n.json", {"a": 2})
    store.publish("runs/x/data.json", b"{}")
    assert store.read_note("runs/x/n.json") == {"a": 2}
    assert store.list_notes("runs/x") == ["runs/x/data.json", "runs/x/n.json"]
    assert store.listed("runs/x") == {"runs/x/data.json": 2}
    assert store.folders("runs") == ["runs/x"]
    store.remove_note("runs/x/n.json")
    store.remove_note("runs/x/n.json")
    assert store.read_note("runs/x/n.json") is None


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_said_with_path_need_and_room_and_leaves_nothing_behind(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    store.publish("a/before", b"1")

    def full(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        StoreFull, match=r"store/a/b: the store is full: 1,000 bytes needed, [\d,]+ bytes free"
    ) as caught:
        store.publish("a/b", b"x" * 1000)
    monkeypatch.undo()
    assert (caught.value.retryable, caught.value.exit_code) == (True, 1)
    assert files(tmp_path / "store") == ["a/before", "a/before.entry.json"]
    assert store.find("a/b") is None


def test_a_disk_that_fills_up_between_bytes_and_entry_leaves_an_artefact_that_does_not_count(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(name: str, content: bytes) -> bool:
        raise StoreFull.at(name, len(content), 0)

    monkeypatch.setattr(store._place, "create", full)
    with pytest.raises(StoreFull):
        store.publish("a/b", b"content")
    monkeypatch.undo()
    assert store.find("a/b") is None
    assert store.listed("a") == {}
    store.publish("a/b", b"content")
    assert store.read("a/b") == b"content"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EXDEV])
def test_what_the_user_must_mend_is_a_config_error(store: Store, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(ConfigError, match=r"store/a/b: .*; check services.store"):
        store.publish("a/b", b"1")


def test_a_broken_disk_is_unavailable(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Path) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Path, "read_bytes", broken)
    with pytest.raises(Unavailable, match="Input/output error"):
        store.read("a/b")


def test_a_file_where_a_folder_should_be_and_a_long_name_are_config_errors(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = Store(str(tmp_path / "file"))
    for act in (lambda: store.find("a/b"), lambda: store.publish("a/b", b""), lambda: store.listed("a")):
        with pytest.raises(ConfigError, match="is a file and no folder"):
            act()
    with pytest.raises(ConfigError, match="too long"):
        Store(str(tmp_path / "store")).publish("a" * 300, b"")


def test_a_file_system_without_links_still_has_one_first_writer(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(os, "link", no_links)
    store.publish("a/b", b"content")
    assert store.read("a/b") == b"content"
    assert not store._place.create("a/b.entry.json", b"other")
    assert store.read("a/b") == b"content"


def test_hidden_files_are_none_of_the_stores(store: Store, tmp_path: Path) -> None:
    store.publish("a/b", b"1")
    for name in (".nfs0001", ".nfs0001.entry.json", ".note.json"):
        (tmp_path / "store/a" / name).write_bytes(b"")
    (tmp_path / "store/.git").mkdir()
    assert store.listed("a") == {"a/b": 1}
    assert store.list_notes("a") == []


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(ConfigError, match="nonsense"):
        Store("nonsense://bucket/x")


def test_a_store_that_is_no_folder_has_no_local_paths() -> None:
    store = Store("memory://fusery-test")
    store.publish("a/b", b"1")
    assert store.read("a/b") == b"1"
    assert store.listed("a") == {"a/b": 1}
    store.discard("a/b")
    assert store.find("a/b") is None
    with pytest.raises(ConfigError, match="not a folder"):
        store.local_path("a/b")
