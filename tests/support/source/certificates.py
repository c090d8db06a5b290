"""A certificate authority for tests, and PEM files of certificates that it signed for 127.0.0.1."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_LIFE = timedelta(days=2)


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as PEM files."""

    cert: Path
    key: Path


class Authority:
    """Signs certificates; `cert` is its own, as a PEM file in `folder`."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        signed = self._signed(self._name, self._key, x509.BasicConstraints(ca=True, path_length=0))
        self.cert = folder / f"{name}.pem"
        self.cert.write_bytes(signed)

    def pair(self, name: str, *names: str, passphrase: bytes | None = None) -> Pair:
        """A certificate for 127.0.0.1, localhost and `names`, in NAME.crt and NAME.key, which it may overwrite."""
        key = ec.generate_private_key(ec.SECP256R1())
        addresses = [x509.DNSName(host) for host in ("localhost", *names)]
        alternatives = x509.SubjectAlternativeName([*addresses, x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        pair = Pair(self._folder / f"{name}.crt", self._folder / f"{name}.key")
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        pair.cert.write_bytes(self._signed(subject, key, alternatives))
        form = serialization.NoEncryption() if passphrase is None else serialization.BestAvailableEncryption(passphrase)
        pair.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, form))
        return pair

    def _signed(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, extension: x509.ExtensionType) -> bytes:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _LIFE)
            .not_valid_after(now + _LIFE)
            .add_extension(extension, critical=False)
        )
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
