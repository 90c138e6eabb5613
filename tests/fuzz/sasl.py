"""SASL: what a client may send to our server, and a server to our client."""

from __future__ import annotations

import contextlib

from protocols.md5state import hmac_md5_states
from protocols.sasl import (
    SERVER_MECHANISMS,
    Authenticated,
    Challenge,
    ChannelBinding,
    CredentialKind,
    CredentialsNeeded,
    ExternalServer,
    ScramHash,
    derive_scram_keys,
    server_mechanism,
)
from protocols.sasl.client import SaslClientError, client_mechanism
from protocols.sasl.encoding import decode_response
from protocols.sasl.server import Credentials

from .targets import Target

CHANNEL = ChannelBinding(b"u" * 12, b"e" * 32, announce_plus=True)
SALT = b"s" * 16
CREDENTIALS: dict[CredentialKind, Credentials] = {
    CredentialKind.SCRAM_SHA_1: derive_scram_keys(ScramHash.SHA_1, "secret word", SALT, 4096),
    CredentialKind.SCRAM_SHA_256: derive_scram_keys(ScramHash.SHA_256, "secret word", SALT, 4096),
    CredentialKind.CRAM_MD5: hmac_md5_states(b"secret word"),
}


def responses(data: bytes) -> None:
    """Lines that a client sends. Nobody who does not know the password gets in."""
    decode_response(data)
    for name in (*SERVER_MECHANISMS, "EXTERNAL"):
        first, *more = data.split(b"\n")
        for initial in (None, first):
            external = name == "EXTERNAL"
            server = ExternalServer() if external else server_mechanism(name, CHANNEL, plus_announced=True)
            step = server.start(initial)
            for response in more if initial is not None else (first, *more):
                if isinstance(step, CredentialsNeeded):
                    step = server.supply(CREDENTIALS[step.kind])
                if not isinstance(step, Challenge):
                    break
                step = server.next(response)
            assert not isinstance(step, Authenticated)


def challenges(data: bytes) -> None:
    """Lines that a server sends. It cannot make us believe that it knows the password."""
    for name in SERVER_MECHANISMS:
        client = client_mechanism(name, "jan@example.org", "secret word", CHANNEL)
        with contextlib.suppress(SaslClientError):
            client.next(None)
            for challenge in data.split(b"\n"):
                client.next(challenge)


FIRST = b"n,,n=jan@example.org,r=fyko+d2lbbFgONRv9qkxdawL"
FINAL = b"c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts="
CLIENT = [
    FIRST + b"\n" + FINAL,
    b"y,a=x,n==2C=3D,r=a",
    b"p=tls-exporter,,m=x,n=a,r=b",
    b"\0jan@example.org\0pw",
    b"jan 00ff",
]
SERVER = [b"r=fyko,s=QSXCR+Q6sek8bf92QSXCRw==,i=4096\nv=AAAA", b"e=other-error", b"<1896.697@postoffice.example>"]
TOKENS = [
    b",",
    b"=",
    b"n=",
    b"r=",
    b"p=",
    b"c=",
    b"s=",
    b"i=",
    b"v=",
    b"e=",
    b"m=",
    b"a=",
    b"\n",
    b"\0",
    b"=2C",
    b"biws",
    b"4096",
]
TOKENS += [b"n,,", b"y,,", b"p=tls-unique,,", b"\xc3\xa9", b"\xff", b"AAAA", b"jan"]

TARGETS = [
    Target("SASL responses", responses, CLIENT, TOKENS, 16 * 1024),
    Target("SASL challenges", challenges, SERVER, TOKENS, 16 * 1024),
]
