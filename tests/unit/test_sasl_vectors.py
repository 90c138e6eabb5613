"""The examples of the specifications, byte for byte, on both sides."""

from __future__ import annotations

import base64
import hmac
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scramp import ScramClient

from protocols import md5state
from protocols.sasl import Authenticated, Challenge, CredentialKind, CredentialsNeeded, ScramHash, derive_scram_keys
from protocols.sasl.client import CramMd5, Plain, Scram
from protocols.sasl.server import CramMd5Server, PasswordGiven, PlainServer, ScramServer

SHA_1_EXAMPLE = (  # RFC 5802 section 5
    ScramHash.SHA_1,
    b"n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL",
    b"r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
    b"c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
    b"v=rmF9pqV8S7suAoZWja4dJRkFsKQ=",
)
SHA_256_EXAMPLE = (  # RFC 7677 section 3
    ScramHash.SHA_256,
    b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
    b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
    b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
    b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
)
both_examples = pytest.mark.parametrize(
    ("hash_", "client_first", "server_first", "client_final", "server_final"), [SHA_1_EXAMPLE, SHA_256_EXAMPLE]
)


@both_examples
def test_scram_server(
    hash_: ScramHash, client_first: bytes, server_first: bytes, client_final: bytes, server_final: bytes
) -> None:
    client_nonce = client_first.rpartition(b"r=")[2].decode()
    nonce_part, salt_part, _ = server_first.decode().split(",")
    keys = derive_scram_keys(hash_, "pencil", base64.b64decode(salt_part[2:]), 4096)
    server_nonce = nonce_part[2:].removeprefix(client_nonce)
    mechanism = ScramServer(hash_, plus=False, channel=None, plus_announced=False, nonce=server_nonce)
    kind = CredentialKind.SCRAM_SHA_1 if hash_ is ScramHash.SHA_1 else CredentialKind.SCRAM_SHA_256
    assert mechanism.start(client_first) == CredentialsNeeded(kind, "user")
    assert mechanism.supply(keys) == Challenge(server_first)
    assert mechanism.next(client_final) == Challenge(server_final)
    assert mechanism.next(b"") == Authenticated("user")


@both_examples
def test_scram_client(
    hash_: ScramHash, client_first: bytes, server_first: bytes, client_final: bytes, server_final: bytes
) -> None:
    client = Scram(hash_, "user", "pencil", nonce=client_first.rpartition(b"r=")[2].decode())
    assert client.next(None).data == client_first
    assert client.next(server_first).data == client_final
    step = client.next(server_final)
    assert (step.data, step.last) == (b"", True)


def test_cram_md5_example_of_rfc_2195() -> None:
    challenge = b"<1896.697170952@postoffice.reston.mci.net>"
    response = b"tim b913a602c7eda7a495b4e6e7334d3890"
    assert CramMd5("tim", "tanstaaftanstaaf").next(challenge).data == response
    mechanism = CramMd5Server("postoffice.reston.mci.net", challenge)
    assert mechanism.start(None) == Challenge(challenge)
    assert mechanism.next(response) == CredentialsNeeded(CredentialKind.CRAM_MD5, "tim")
    assert mechanism.supply(md5state.hmac_md5_states(b"tanstaaftanstaaf")) == Authenticated("tim")


def test_plain_examples_of_rfc_4616() -> None:
    assert Plain("tim", "tanstaaftanstaaf").next(None).data == b"\0tim\0tanstaaftanstaaf"
    assert PlainServer().start(b"\0tim\0tanstaaftanstaaf") == PasswordGiven("tim", "", "tanstaaftanstaaf")


@pytest.mark.parametrize("mechanism_name", ["SCRAM-SHA-1", "SCRAM-SHA-256"])
def test_another_implementation_logs_in(mechanism_name: str) -> None:
    hash_ = ScramHash(mechanism_name.removeprefix("SCRAM-"))
    client = ScramClient([mechanism_name], "us=er,name", "correct horse")
    mechanism = ScramServer(hash_, plus=False, channel=None, plus_announced=False)
    needed = mechanism.start(client.get_client_first().encode())
    assert isinstance(needed, CredentialsNeeded)
    assert needed.authcid == "us=er,name"
    first = mechanism.supply(derive_scram_keys(hash_, "correct horse", os.urandom(16), 8192))
    assert isinstance(first, Challenge)
    client.set_server_first(first.data.decode())
    final = mechanism.next(client.get_client_final().encode())
    assert isinstance(final, Challenge)
    client.set_server_final(final.data.decode())
    assert mechanism.next(b"") == Authenticated("us=er,name")


@given(st.binary(max_size=200), st.binary(max_size=400))
def test_hmac_md5_from_states_equals_hmac_from_the_key(key: bytes, message: bytes) -> None:
    assert md5state.hmac_md5(md5state.hmac_md5_states(key), message) == hmac.digest(key, message, "md5")
