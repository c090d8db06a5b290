"""TLS between sources and their clients: from PEM files, checked before anything else is done.

A server looks at its files at every new connection and takes changed ones over, so certificates rotate without a
restart; connections that exist keep theirs, and `max_connection_age_s` of the server bounds for how long. Files that
don't fit together (half written, say) are left alone and logged.
"""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from fusery.runtime.errors import ConfigError
from fusery.runtime.settings import settings

log = logging.getLogger(__name__)

Stamp = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class ServerTls:
    """A server's certificate chain and key; `client_ca`: whose clients alone are let in (mutual TLS)."""

    cert: Path
    key: Path
    client_ca: Path | None = None

    @classmethod
    def of(cls, cert: Path | None, key: Path | None, client_ca: Path | None) -> ServerTls | None:
        """TLS of these files; None, plain text, if none is given.

        Raises:
            ConfigError: only part of what belongs together is given.
        """
        if cert is not None and key is not None:
            return cls(cert, key, client_ca)
        given = {"certificate": cert, "key": key, "client CA": client_ca}
        if any(given.values()):
            shown = ", ".join(f"{name} {path}" for name, path in given.items() if path is not None)
            raise ConfigError(
                f"TLS of the source server: got {shown}; give certificate and key (--tls-cert and --tls-key, or "
                "FUSERY_SOURCE_TLS_CERT_FILE and FUSERY_SOURCE_TLS_KEY_FILE), or none of them"
            )
        return None

    def read(self) -> tuple[Any, Stamp]:
        """gRPC's certificate configuration, and the stamp of the files that it was read from.

        Raises:
            ConfigError: a file is missing, unreadable or no PEM, or the key belongs to another certificate.
        """
        for path in self._files():
            _check_readable(path)
        stamp = self.stamp()
        _check_pair(self.cert, self.key)
        if self.client_ca is not None:
            _check_authorities(self.client_ca)
        pair = (self.key.read_bytes(), self.cert.read_bytes())
        authorities = None if self.client_ca is None else self.client_ca.read_bytes()
        if self.stamp() != stamp:
            raise ConfigError(f"{self.cert} and {self.key} changed while they were read; try again")
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=authorities), stamp

    def stamp(self) -> Stamp:
        """What changes when one of the files does.

        Raises:
            ConfigError: one is missing.
        """
        try:
            found = [path.stat() for path in self._files()]
        except OSError as error:
            raise ConfigError(f"TLS file {error.filename} can't be read: {error.strerror}") from error
        return tuple((status.st_ino, status.st_mtime_ns, status.st_size) for status in found)

    def _files(self) -> list[Path]:
        return [self.cert, self.key, *([] if self.client_ca is None else [self.client_ca])]


def server_credentials(tls: ServerTls) -> Any:
    """gRPC credentials that follow the files.

    Raises:
        ConfigError: see ServerTls.read.
    """
    first, stamp = tls.read()

    def changed() -> Any:
        nonlocal stamp
        try:
            if tls.stamp() == stamp:
                return None
            configuration, stamp = tls.read()
        except (ConfigError, OSError) as error:
            log.error("TLS files have changed and can't be used; the former ones stay in use: %s", error)
            return None
        log.info("TLS files have changed; new connections get %s", tls.cert)
        return configuration

    return grpc.dynamic_ssl_server_credentials(first, changed, require_client_authentication=tls.client_ca is not None)


@dataclass(frozen=True, slots=True)
class ClientTls:
    """Whom a client trusts, and what it shows under mutual TLS.

    `ca` None: the authorities that gRPC brings along. `server_name`: the name in the server's certificate, where
    it differs from the address.
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    server_name: str | None = None

    def credentials(self) -> Any:
        """gRPC channel credentials.

        Raises:
            ConfigError: a file is missing, unreadable or no PEM, or the key belongs to another certificate.
        """
        if self.ca is not None:
            _check_authorities(self.ca)
        if self.cert is not None and self.key is not None:
            _check_pair(self.cert, self.key)
        authorities, chain, key = (
            None if path is None else path.read_bytes() for path in (self.ca, self.cert, self.key)
        )
        return grpc.ssl_channel_credentials(authorities, key, chain)


def client_tls() -> ClientTls | None:
    """What FUSERY_SOURCE_TLS_… say to the client of a source; None: plain text.

    Raises:
        ConfigError: only part of what belongs together is set.
    """
    place = settings()
    ca, cert, key = place.source_tls_ca_file, place.source_tls_cert_file, place.source_tls_key_file
    if (cert is None) != (key is None):
        raise ConfigError(
            f"TLS of a source's client: got certificate {cert} and key {key}; set both of "
            "FUSERY_SOURCE_TLS_CERT_FILE and FUSERY_SOURCE_TLS_KEY_FILE, or none"
        )
    if ca is not None:
        return ClientTls(ca, cert, key, place.source_tls_server_name)
    if cert is not None or place.source_tls_server_name is not None:
        raise ConfigError(
            "TLS of a source's client: a certificate or a server name, but no authority to trust; set "
            "FUSERY_SOURCE_TLS_CA_FILE too"
        )
    return None


def open_channel(address: str, options: Sequence[tuple[str, Any]], tls: ClientTls | None) -> Any:
    """A gRPC channel to a source server, without a connection yet.

    Raises:
        ConfigError: the files of `tls` can't be used.
    """
    if tls is None:
        return grpc.insecure_channel(address, options)
    named = () if tls.server_name is None else (("grpc.ssl_target_name_override", tls.server_name),)
    return grpc.secure_channel(address, tls.credentials(), (*options, *named))


def _check_pair(cert: Path, key: Path) -> None:
    for path in (cert, key):
        _check_readable(path)
    try:
        # The callback: a key with a passphrase must fail here, and not ask for it on a terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password=lambda: b"")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(f"TLS key {key} does not belong to the certificate {cert}; give the pair") from error
        raise ConfigError(
            f"TLS certificate {cert} and key {key} can't be used: {error.reason or error}; expected PEM, the key "
            "without a passphrase"
        ) from error


def _check_authorities(path: Path) -> None:
    _check_readable(path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cafile=path)
    except ssl.SSLError as error:
        raise ConfigError(
            f"TLS authorities {path} can't be used: {error.reason or error}; expected PEM certificates"
        ) from error


def _check_readable(path: Path) -> None:
    if not path.is_file() or not os.access(path, os.R_OK):
        fault = "is missing" if not path.exists() else "can't be read"
        raise ConfigError(f"TLS file {path} {fault}; check the path and its permissions")
