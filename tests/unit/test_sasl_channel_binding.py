"""Channel bindings of real TLS connections: both sides compute the same, and TLS 1.3 has no tls-unique."""

from __future__ import annotations

import datetime
import hashlib
import ssl
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import NameOID

from protocols.sasl import (
    Authenticated,
    ChannelBinding,
    ScramHash,
    channel_binding,
    derive_scram_keys,
    server_mechanism,
)
from protocols.sasl.client import Scram
from protocols.sasl.server import Challenge, CredentialsNeeded

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


@dataclass(frozen=True, slots=True)
class Bindings:
    server: ChannelBinding
    client: ChannelBinding


def certificate(key: PrivateKey, hash_: hashes.SHA256 | hashes.SHA384 | hashes.SHA512 | None) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mail.example.org")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    return builder.not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1)).sign(key, hash_)


def connect(directory: Path, version: ssl.TLSVersion, key: PrivateKey, cert: x509.Certificate) -> Bindings:
    """A handshake in memory; the bindings as each side sees them."""
    pem = directory / "server.pem"
    pem.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + cert.public_bytes(serialization.Encoding.PEM)
    )
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(pem)
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.check_hostname = False
    client_context.verify_mode = ssl.CERT_NONE
    client_context.minimum_version = client_context.maximum_version = version
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    client = client_context.wrap_bio(to_client, to_server)
    for _ in range(5):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    der = cert.public_bytes(serialization.Encoding.DER)
    assert client.version() == server.version() is not None
    return Bindings(channel_binding(server, der), channel_binding(client, client.getpeercert(binary_form=True)))


def test_tls12_has_both_bindings_and_both_sides_agree(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    bindings = connect(tmp_path, ssl.TLSVersion.TLSv1_2, key, certificate(key, hashes.SHA256()))
    assert bindings.server == bindings.client
    assert bindings.server.tls_unique is not None
    assert bindings.server.announce_plus
    assert logs_in(bindings) == Authenticated("jo")


def test_tls13_has_the_certificate_only_and_announces_nothing(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    bindings = connect(tmp_path, ssl.TLSVersion.TLSv1_3, key, certificate(key, hashes.SHA256()))
    assert bindings.server == bindings.client
    assert bindings.server.tls_unique is None
    assert not bindings.server.announce_plus
    assert logs_in(bindings) == Authenticated("jo")


@pytest.mark.parametrize("hash_", [hashes.SHA256(), hashes.SHA384(), hashes.SHA512()])
def test_the_certificate_is_hashed_with_the_hash_of_its_signature(
    tmp_path: Path, hash_: hashes.SHA256 | hashes.SHA384 | hashes.SHA512
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    cert = certificate(key, hash_)
    bindings = connect(tmp_path, ssl.TLSVersion.TLSv1_2, key, cert)
    der = cert.public_bytes(serialization.Encoding.DER)
    assert bindings.server.tls_server_end_point == hashlib.new(hash_.name, der).digest()


def test_a_signature_that_names_no_hash_has_no_binding_to_the_certificate(tmp_path: Path) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    bindings = connect(tmp_path, ssl.TLSVersion.TLSv1_3, key, certificate(key, None))
    assert bindings.server == ChannelBinding(None, None, announce_plus=False)


def logs_in(bindings: Bindings) -> object:
    client = Scram(ScramHash.SHA_256, "jo", "secret word", channel=bindings.client, plus=True)
    server = server_mechanism("SCRAM-SHA-256-PLUS", bindings.server, bindings.server.announce_plus)
    assert isinstance(server.start(client.next(None).data), CredentialsNeeded)
    first = server.supply(derive_scram_keys(ScramHash.SHA_256, "secret word", bytes(16), 4096))
    assert isinstance(first, Challenge)
    final = server.next(client.next(first.data).data or b"")
    assert isinstance(final, Challenge)
    assert final.failure is None
    return server.next(client.next(final.data).data or b"")
