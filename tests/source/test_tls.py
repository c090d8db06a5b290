"""TLS between source and client: who gets in, who does not, files that change, files that can't be used."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from fusery.runtime.errors import ConfigError, Unavailable
from fusery.source.client import SourceClient
from fusery.source.server.serve import ServeConfig, serve
from fusery.source.server.server import Front
from fusery.source.tls import ClientTls, ServerTls, client_tls
from support.source.certificates import Authority, Pair
from support.source.front_servers import DOCUMENTS, fronted, health_of
from support.source.source_servers import UniformEngine


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def front_of(pair: Pair, client_ca: Path | None = None, **named: Any) -> Front:
    return Front(tls=ServerTls(pair.cert, pair.key, client_ca), **named)


def name_with(address: str, tls: ClientTls | None) -> str:
    with SourceClient(address, tls=tls, timeout_s=20, retry_for_s=0) as client:
        return client.model().name


def test_a_client_that_trusts_the_authority_gets_answers_and_others_do_not(
    authority: Authority, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path, "stranger")
    with fronted(UniformEngine(), front_of(authority.pair("server"))) as server:
        with SourceClient(server.address, tls=ClientTls(authority.cert), timeout_s=60) as client:
            assert len(client.compute(DOCUMENTS, 4)) == len(DOCUMENTS)
        for refused in (None, ClientTls(stranger.cert)):
            with pytest.raises(Unavailable):
                name_with(server.address, refused)


def test_mutual_tls_lets_in_only_clients_with_a_certificate_of_the_authority(
    authority: Authority, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path, "stranger")
    mine, strange = authority.pair("client"), stranger.pair("other")
    with fronted(UniformEngine(), front_of(authority.pair("server"), authority.cert)) as server:
        assert name_with(server.address, ClientTls(authority.cert, mine.cert, mine.key)) == "uniform"
        for refused in (ClientTls(authority.cert), ClientTls(authority.cert, strange.cert, strange.key)):
            with pytest.raises(Unavailable):
                name_with(server.address, refused)


def test_a_server_may_be_addressed_otherwise_than_its_certificate_says(authority: Authority) -> None:
    with fronted(UniformEngine(), front_of(authority.pair("server", "source.fusery"))) as server:
        assert name_with(server.address, ClientTls(authority.cert, server_name="source.fusery")) == "uniform"
        with pytest.raises(Unavailable):
            name_with(server.address, ClientTls(authority.cert, server_name="another.fusery"))


def test_health_has_a_plain_port_of_its_own_that_serves_nothing_else(authority: Authority) -> None:
    with fronted(UniformEngine(), front_of(authority.pair("server"), health_port=0)) as server:
        assert health_of(server.health_address, "") == health_of(server.health_address, "liveness") == "SERVING"
        with pytest.raises(grpc.RpcError) as caught:
            health_of(server.address, "")
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        with SourceClient(server.health_address, retry_for_s=0) as client, pytest.raises(Exception, match="UNIMPLEM"):
            client.model()
        credentials = ClientTls(authority.cert).credentials()
        with grpc.secure_channel(server.address, credentials) as channel:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=60)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


def served_serial(address: str, authority: Authority) -> str:
    """The certificate that a new connection is shown."""
    import ssl

    host, _, port = address.rpartition(":")
    return ssl.get_server_certificate((host, int(port)), ca_certs=str(authority.cert))


def test_new_files_are_taken_over_without_a_restart(authority: Authority) -> None:
    pair = authority.pair("server")
    with fronted(UniformEngine(), front_of(pair)) as server:
        first = served_serial(server.address, authority)
        assert first.split() == pair.cert.read_text().split()
        authority.pair("server")
        assert pair.cert.read_text().split() != first.split()
        assert served_serial(server.address, authority).split() == pair.cert.read_text().split()
        assert name_with(server.address, ClientTls(authority.cert)) == "uniform"


def test_files_that_do_not_fit_together_leave_the_former_ones_in_use(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    pair = authority.pair("server")
    with fronted(UniformEngine(), front_of(pair)) as server, caplog.at_level(logging.ERROR):
        first = served_serial(server.address, authority)
        pair.cert.write_bytes(authority.pair("half").cert.read_bytes())
        assert served_serial(server.address, authority) == first
        assert "does not belong to the certificate" in caplog.text
        pair.cert.unlink()
        assert served_serial(server.address, authority) == first


def test_files_that_can_not_be_used_are_named_before_the_model_is_looked_at(
    authority: Authority, tmp_path: Path
) -> None:
    pair, other = authority.pair("server"), authority.pair("other")
    locked, junk = authority.pair("locked", passphrase=b"secret"), tmp_path / "junk.pem"
    junk.write_text("no PEM")
    refused = [
        (ServerTls(tmp_path / "absent", pair.key), "absent is missing"),
        (ServerTls(tmp_path, pair.key), "can't be read"),
        (ServerTls(pair.cert, other.key), "does not belong to the certificate"),
        (ServerTls(junk, pair.key), "expected PEM"),
        (ServerTls(pair.cert, junk), "expected PEM"),
        (ServerTls(locked.cert, locked.key), "without a passphrase"),
        (ServerTls(pair.cert, pair.key, junk), r"junk\.pem can't be used"),
        (ServerTls(pair.cert, pair.key, tmp_path / "absent"), "is missing"),
    ]
    for tls, message in refused:
        with pytest.raises(ConfigError, match=message):
            serve(ServeConfig("no/such/model", front=Front(tls=tls)))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_without_permission_is_named(authority: Authority) -> None:
    pair = authority.pair("server")
    pair.key.chmod(0)
    with pytest.raises(ConfigError, match="can't be read; check the path and its permissions"):
        ServerTls(pair.cert, pair.key).read()


def test_half_of_the_options_is_refused() -> None:
    file = Path("file.pem")
    for given in ((file, None, None), (None, file, None), (None, None, file)):
        with pytest.raises(ConfigError, match="--tls-cert and --tls-key"):
            ServerTls.of(*given)
    assert ServerTls.of(None, None, None) is None
    assert ServerTls.of(file, file, None) == ServerTls(file, file)


def test_a_client_reads_its_files_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert client_tls() is None
    monkeypatch.setenv("FUSERY_SOURCE_TLS_CERT_FILE", "cert.pem")
    with pytest.raises(ConfigError, match="FUSERY_SOURCE_TLS_KEY_FILE"):
        client_tls()
    monkeypatch.setenv("FUSERY_SOURCE_TLS_KEY_FILE", "key.pem")
    with pytest.raises(ConfigError, match="FUSERY_SOURCE_TLS_CA_FILE"):
        client_tls()
    monkeypatch.setenv("FUSERY_SOURCE_TLS_CA_FILE", "ca.pem")
    assert client_tls() == ClientTls(Path("ca.pem"), Path("cert.pem"), Path("key.pem"))


def test_a_client_whose_files_can_not_be_used_is_told(authority: Authority, tmp_path: Path) -> None:
    pair, other = authority.pair("client"), authority.pair("other")
    with pytest.raises(ConfigError, match="is missing"):
        name_with("127.0.0.1:1", ClientTls(tmp_path / "absent"))
    with pytest.raises(ConfigError, match="does not belong"):
        name_with("127.0.0.1:1", ClientTls(authority.cert, pair.cert, other.key))
