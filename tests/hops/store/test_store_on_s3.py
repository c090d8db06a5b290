"""The store in a bucket: what a folder promises holds there too, over real HTTP."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import fsspec
import pytest

from fusery.hops.store.bucket import Bucket, Patience
from fusery.hops.store.store import Store
from fusery.runtime.errors import ConfigError, Corrupt, FuseryError, Mismatch, StoreFull, Unavailable
from support.store.s3_server import BUCKET, forget_connections, new_store_url, s3_server


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture
def store(address: str) -> Store:
    return Store(new_store_url())


def raw(store: Store) -> tuple[Any, str]:
    """The file system beside the store's back, and the store's root."""
    return fsspec.filesystem("s3", use_listings_cache=False), store.url.removeprefix("s3://")


def test_a_bucket_keeps_artefacts_as_a_folder_does(store: Store) -> None:
    entry = store.publish("a/b.parquet", b"content", {"tokens": 3})
    assert store.find("a/b.parquet") == entry
    assert store.read("a/b.parquet") == b"content"
    assert store.publish("a/b.parquet", b"content") == entry
    store.publish("a/deeper/c", b"1")
    assert store.listed("a") == {"a/b.parquet": 7}
    assert store.folders("a") == ["a/deeper"]
    assert store.listed("nothing") == {}
    assert store.folders("nothing") == []
    store.discard("a/b.parquet")
    assert store.find("a/b.parquet") is None
    store.discard("a/b.parquet")
    assert store.sweep(0) == 0


def test_notes_in_a_bucket_can_be_replaced_and_removed(store: Store) -> None:
    assert store.read_note("n/a.json") is None
    store.write_note("n/a.json", {"x": 1})
    store.write_note("n/a.json", {"x": 2})
    assert store.read_note("n/a.json") == {"x": 2}
    assert store.list_notes("n") == ["n/a.json"]
    store.remove_note("n/a.json")
    assert store.list_notes("n") == []


def test_damage_in_a_bucket_is_found_and_mended(store: Store) -> None:
    store.publish("a/b", b"content")
    fs, root = raw(store)
    fs.pipe_file(f"{root}/a/b", b"cOntent")
    with pytest.raises(Corrupt, match="a/b: SHA-256"):
        store.read("a/b")
    assert not store.is_whole("a/b")
    store.publish("a/b", b"content")
    fs.pipe_file(f"{root}/a/b.entry.json", b"{}")
    assert store.find("a/b") is None
    store.publish("a/b", b"content")
    assert store.read("a/b") == b"content"


def test_other_bytes_are_put_aside_in_a_bucket(store: Store) -> None:
    store.publish("a/b", b"content")
    with pytest.raises(Mismatch, match="two writers made different bytes"):
        store.publish("a/b", b"other")
    assert store.read("a/b") == b"content"
    fs, root = raw(store)
    assert [fs.cat_file(path) for path in fs.ls(f"{root}/quarantine", detail=False)] == [b"other"]


def test_of_many_writers_one_makes_the_entry(store: Store) -> None:
    place = store._place
    won: list[int] = []

    def write(number: int) -> None:
        if place.create("entry", str(number).encode()):
            won.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert place.read("entry") == str(won[0]).encode()


class RefusesConditions:
    """A file system that answers a conditional write as a server does that knows none."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def pipe_file(self, path: str, content: bytes, mode: str = "overwrite") -> None:
        if mode == "create":
            raise OSError(38, "A header you provided implies functionality that is not implemented")
        self._inner.pipe_file(path, content)


def test_a_server_without_conditional_writes_is_written_and_read_back(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    fs, root = raw(store)
    place = Bucket(RefusesConditions(fs), root, store.url)
    assert place.create("entry", b"1")
    assert "refuses conditional writes" in caplog.text
    assert not place.create("entry", b"2")
    assert place.read("entry") == b"1"


class Fails:
    """A file system whose every write ends with the answer of a server."""

    def __init__(self, code: str) -> None:
        self._code = code

    def pipe_file(self, path: str, content: bytes, mode: str = "overwrite") -> None:
        error = OSError("no")
        error.response = {"Error": {"Code": self._code}}  # type: ignore[attr-defined]
        raise error


@pytest.mark.parametrize(
    ("code", "expected", "message"),
    [
        ("QuotaExceeded", StoreFull, "100 bytes needed, an unknown number of bytes free"),
        ("SignatureDoesNotMatch", ConfigError, "AWS_SECRET_ACCESS_KEY"),
        ("InternalError", Unavailable, "AWS_ENDPOINT_URL"),
    ],
)
def test_what_a_server_answers_is_said_with_a_remedy(code: str, expected: type[FuseryError], message: str) -> None:
    with pytest.raises(expected, match=message):
        Bucket(Fails(code), "bucket", "s3://bucket", Patience(0, 0, 0)).write("a", b"x" * 100)


@pytest.mark.usefixtures("address")
def test_a_bucket_that_is_not_there_is_named() -> None:
    store = Store("s3://no-such-bucket/x")
    for act in (lambda: store.find("a"), lambda: store.listed("a"), lambda: store.publish("a", b"1")):
        with pytest.raises(ConfigError, match=r"s3://no-such-bucket/x: a.*: there is no such bucket; make it"):
            act()


def test_missing_credentials_and_a_server_that_is_away_are_told_apart(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = new_store_url()
    monkeypatch.setattr(Bucket, "_patience_s", lambda *_: 0.0)
    forget_connections()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1.*check AWS_ENDPOINT_URL") as caught:
        Store(url).find("a")
    assert "a-secret-of-the-tests" not in str(caught.value)
    forget_connections()
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    with pytest.raises(ConfigError, match="there are no credentials; set AWS_ACCESS_KEY_ID"):
        Store(url).find("a")
    forget_connections()


def test_a_password_in_the_url_is_refused_and_not_shown() -> None:
    with pytest.raises(ConfigError, match="credentials as AWS_ACCESS_KEY_ID") as caught:
        Store(f"s3://user:hunter2@{BUCKET}/x")
    assert "hunter2" not in str(caught.value)
