"""Certificates of TLS clients: any is taken, whoever signed it, and its key is known afterwards."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from server.clientkeys import ClientKeys, fingerprint, first_certificate, presented_key
from tests.unit.certificates import Certified, certify

VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)


def write(directory: Path, certified: Certified, name: str) -> Path:
    """Certificate and key in one file."""
    key = certified.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = directory / f"{name}.pem"
    path.write_bytes(certified.pem.encode() + key)
    return path


def handshake(
    directory: Path, version: ssl.TLSVersion, client: Certified | None
) -> tuple[ClientKeys, ssl.SSLObject, ssl.SSLObject]:
    """Both sides of a connection whose server asks for a certificate. Raises ssl.SSLError."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(write(directory, certify("localhost"), "server"))
    client_keys = ClientKeys(server)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    if client is not None:
        context.load_cert_chain(write(directory, client, "client"))
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = context.wrap_bio(to_client, to_server), server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return client_keys, ends[1], ends[0]


@pytest.mark.parametrize("version", VERSIONS)
def test_any_certificate_is_taken_and_its_key_is_known(tmp_path: Path, version: ssl.TLSVersion) -> None:
    authority = certify("authority", authority=True, usage=None)
    for client in (
        certify("somebody", usage=None),
        certify("expired", usage=None, days=(-400, -300)),
        certify("of-somebody", usage=None, issuer=authority),
        certify("of-the-future", usage=None, days=(300, 400), issuer=authority),
    ):
        client_keys, server, other = handshake(tmp_path, version, client)
        assert presented_key(server) == fingerprint(client.certificate)
        assert client_keys.spent
        other.write(b"hello")
        assert server.read() == b"hello"


@pytest.mark.parametrize("version", VERSIONS)
def test_without_a_certificate_nothing_changes(tmp_path: Path, version: ssl.TLSVersion) -> None:
    client_keys, server, _ = handshake(tmp_path, version, None)
    assert presented_key(server) == ""
    assert not client_keys.spent


def test_the_fingerprint_is_that_of_the_key_alone() -> None:
    first = certify("first")
    again = certify("again", key=first.key, days=(-10, 10))
    assert fingerprint(first.certificate) == fingerprint(again.certificate)
    assert len(fingerprint(first.certificate)) == 43
    assert fingerprint(first.certificate) != fingerprint(certify("first").certificate)


@pytest.mark.parametrize("tls_1_3", [False, True])
def test_messages_that_end_too_soon_have_no_certificate(tls_1_3: bool) -> None:
    context = b"\0" if tls_1_3 else b""
    whole = b"\x0b\0\0\x0b" + context + b"\0\0\x08" + b"\0\0\x05abcde"
    assert first_certificate(whole, tls_1_3=tls_1_3) == b"abcde"
    for size in range(len(whole)):
        assert first_certificate(whole[:size], tls_1_3=tls_1_3) == b""
