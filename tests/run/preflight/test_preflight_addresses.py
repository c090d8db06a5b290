"""Every address that a run names is asked before any work; passwords stand in no message."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from fusery.hops.worker.broker import check_broker
from fusery.run.local import start_broker
from fusery.run.open_run import open_run
from fusery.run.preflight.checks import check_run
from fusery.runtime.errors import AddressError, ConfigError, CorpusError, FuseryError, NoAnswer
from fusery.runtime.processes import Supervisor
from fusery.source.api import Limits
from support.runs.pico_run import write_run
from support.runs.refusals import refused
from support.source.source_servers import UniformEngine, running

PASSWORD = "s3cret"


def served(address: str, **source: Any) -> list[dict[str, Any]]:
    return [{"name": "far", "model": "served/elsewhere", "address": address, **source}]


def test_a_broker_that_does_not_answer_is_named_without_its_password(
    tmp_path: Path, closed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_run(tmp_path)
    monkeypatch.setenv("FUSERY_BROKER_URL", f"redis://user:{PASSWORD}@{closed}/0")
    message = refused(file, NoAnswer, f"broker redis://{closed} does not answer: .*refused.*; start it")
    assert PASSWORD not in message


def test_every_address_that_does_not_answer_is_named_at_once(
    tmp_path: Path, closed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = [{**served(closed)[0], "name": name} for name in ("far", "further")]
    file = write_run(tmp_path, sources=sources)
    monkeypatch.setenv("FUSERY_BROKER_URL", f"redis://:{PASSWORD}@{closed}/0")
    message = refused(file, AddressError, "does not answer")
    assert [line.partition(closed)[0].split(": ")[-1] for line in message.splitlines()] == [
        "broker redis://",
        "no source server answers at ",
        "no source server answers at ",
    ]
    assert "source far: " in message
    assert "source further: " in message
    assert PASSWORD not in message


@pytest.mark.parametrize(
    "url",
    [
        "http://user:s3cret@127.0.0.1/0",
        "redis://:s3cret",
        "redis://:s3/s3cret@127.0.0.1:6379/0",
        "redis://:s3cret@[127.0.0.1/0",
        "redis://127.0.0.1:port/0?password=s3cret",
        "s3cret",
        "",
    ],
)
def test_what_is_no_address_of_a_broker_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(AddressError, match="not an address of a Redis server; expected redis://host:port/0") as caught:
        check_broker(url)
    assert PASSWORD not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_broker_that_wants_a_password_is_told_from_one_that_does_not_answer(tmp_path: Path) -> None:
    with Supervisor() as supervisor:
        url = start_broker(supervisor, tmp_path)
        check_broker(url)
        password, _, place = url.removeprefix("redis://:").rpartition("@")
        for given in ("redis://", f"redis://:{PASSWORD}@", f"redis://user:{PASSWORD}@"):
            with pytest.raises(
                AddressError, match="refuses user name or password; set FUSERY_BROKER_PASSWORD_FILE"
            ) as caught:
                check_broker(given + place)
            assert PASSWORD not in str(caught.value)
            assert password not in str(caught.value)


def test_a_password_in_the_query_of_an_address_is_not_shown_either(closed: str) -> None:
    with pytest.raises(AddressError, match="does not answer") as caught:
        check_broker(f"redis://{closed}/0?password={PASSWORD}")
    assert PASSWORD not in str(caught.value)


def test_something_that_is_no_broker_is_found_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=_answer_like_a_web_server, args=(listening,))
        thread.start()
        with pytest.raises(AddressError, match="does not answer"):
            check_broker(f"redis://127.0.0.1:{listening.getsockname()[1]}/0")
        thread.join()


def _answer_like_a_web_server(listening: socket.socket) -> None:
    connection, _ = listening.accept()
    with connection:
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def test_a_tracking_server_that_does_not_answer_is_named_without_its_password(tmp_path: Path, closed: str) -> None:
    services = {"tracking_uri": f"http://user:{PASSWORD}@{closed}"}
    file = write_run(tmp_path, services=services, registry={"enabled": True})
    assert PASSWORD not in refused(file, NoAnswer, f"http://{closed}: no MLflow server answers .*; start it")


def test_a_tracking_server_is_not_asked_where_nothing_is_registered(tmp_path: Path, closed: str) -> None:
    check_run(open_run(write_run(tmp_path, services={"tracking_uri": f"http://{closed}"})))


def test_a_source_that_does_not_answer_is_named(tmp_path: Path, closed: str) -> None:
    file = write_run(tmp_path, sources=served(closed))
    refused(file, NoAnswer, f"run.yaml: source far: no source server answers at {closed}: .*UNAVAILABLE")


def test_something_that_is_no_source_server_is_found_out(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        threading.Thread(target=_answer_like_a_web_server, args=(listening,), daemon=True).start()
        refused(write_run(tmp_path, sources=served(address)), NoAnswer, "no source server answers")


def test_a_served_source_passes_if_it_fits_and_needs_no_files_here(tmp_path: Path) -> None:
    with running(UniformEngine()) as server:
        check_run(open_run(write_run(tmp_path, sources=served(server.address))))


@pytest.mark.parametrize(
    ("sections", "limits", "kind", "says"),
    [
        ({"capture": {"top_k": 1000}}, Limits(), ConfigError, "capture.top_k is 1000, source far gives at most"),
        ({}, Limits(max_top_k=7), ConfigError, "capture.top_k is 8, source far gives at most 7 entries"),
        (
            {"corpus": {"max_document_bytes": 4000, "train": [{"path": "long.txt"}]}},
            Limits(),
            CorpusError,
            r"document 0-long.txt has \d+ tokens, source far holds at most 512",
        ),
        (
            {},
            Limits(max_documents=3),
            ConfigError,
            "run.yaml: capture.batch_bytes is 1000, about 6 documents in one request; the server of source far takes "
            "at most 3; lower capture.batch_bytes",
        ),
        (
            {},
            Limits(max_tokens=700),
            ConfigError,
            r"evaluation.batch_bytes is 16384, too much for the server of source far: request: \d+ tokens with padding",
        ),
        (
            {"evaluation": {"batch_bytes": 500}},
            Limits(max_reply_bytes=2000),
            ConfigError,
            r"capture.batch_bytes is 1000, too much for the server of source far: document .*: its answer takes \d+",
        ),
    ],
)
def test_a_served_source_that_does_not_fit_is_refused(
    tmp_path: Path, sections: dict[str, Any], limits: Limits, kind: type[FuseryError], says: str
) -> None:
    (tmp_path / "long.txt").write_text("Zq! " * 900)
    with running(UniformEngine(limits=limits)) as server:
        refused(write_run(tmp_path, sources=served(server.address), **sections), kind, says)


def test_a_missing_or_unreadable_token_is_an_error_of_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(UniformEngine(), token=PASSWORD) as server:
        file = write_run(tmp_path, sources=served(server.address))
        refused(file, ConfigError, f"source {server.address}: UNAUTHENTICATED")
        monkeypatch.setenv("FUSERY_SOURCE_TOKEN_FILE", str(tmp_path / "token"))
        refused(file, ConfigError, "token file .*/token can't be read.* check FUSERY_SOURCE_TOKEN_FILE")
        (tmp_path / "token").write_text(PASSWORD)
        check_run(open_run(file))


def test_a_store_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    file = write_run(tmp_path)
    (tmp_path / "store").write_text("a file in the way")
    refused(file, ConfigError, f"{tmp_path}/store/.*: Not a directory: .*; check services.store, FUSERY_STORE")


def test_a_store_that_other_processes_do_not_see_is_refused_before_the_hops(tmp_path: Path) -> None:
    file = write_run(tmp_path, services={"store": "memory://bucket"})
    refused(file, ConfigError, "store memory://bucket: every process has a memory of its own")


def test_a_store_of_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    refused(write_run(tmp_path, services={"store": "s4://bucket"}), ConfigError, "store 's4://bucket': .*give a folder")


def test_with_tls_every_source_needs_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSERY_SOURCE_TLS_CA_FILE", str(tmp_path / "ca.pem"))
    refused(write_run(tmp_path), ConfigError, "every source needs the address of a server with TLS, and source")


def test_a_source_that_comes_up_in_time_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSERY_WAIT_S", "120")
    may_load = threading.Event()

    def load() -> UniformEngine:
        assert may_load.wait(60)
        return UniformEngine()

    monkeypatch.setattr("fusery.run.preflight.addresses.log.warning", lambda *_: may_load.set())
    with running(load, wait=False) as server:
        check_run(open_run(write_run(tmp_path, sources=served(server.address))))
    assert may_load.is_set()


def test_what_does_not_get_better_is_not_waited_for(
    tmp_path: Path, closed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUSERY_WAIT_S", "3600")
    monkeypatch.setenv("FUSERY_BROKER_URL", "http://127.0.0.1/0")
    refused(write_run(tmp_path, sources=served(closed)), AddressError, "not an address of a Redis server")
