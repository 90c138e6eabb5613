"""The client side of each mechanism, for deliveries to relays and for the tests of our own servers."""

from __future__ import annotations

import base64
import hmac
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from protocols.errors import ProtocolError
from protocols.precis import PrecisError, opaque_string

from . import scram
from .channel_binding import TLS_SERVER_END_POINT, TLS_UNIQUE, ChannelBinding
from .scram import MAX_ITERATIONS, MIN_ITERATIONS, ScramError, ScramHash
from .server import nfc

NONCE_BYTES: Final = 18  # of randomness in a client nonce: 24 characters in base64

# Strongest first. -PLUS is left out where this side cannot compute the binding.
PREFERENCE: Final = (
    "SCRAM-SHA-256-PLUS",
    "SCRAM-SHA-256",
    "SCRAM-SHA-1-PLUS",
    "SCRAM-SHA-1",
    "CRAM-MD5",
    "PLAIN",
    "LOGIN",
)


class SaslClientError(ProtocolError):
    """The server broke the protocol, did not prove that it knows the password, or offers nothing acceptable."""


@dataclass(frozen=True, slots=True)
class ClientStep:
    """What to send (None: nothing, no initial response), and whether the client has said all it has to."""

    data: bytes | None
    last: bool


class ClientMechanism(Protocol):
    """One exchange. ``next(None)`` asks for the initial response, ``next(challenge)`` answers the server."""

    name: str
    cleartext: bool

    def next(self, from_server: bytes | None) -> ClientStep:
        """Raises SaslClientError."""


def choose_mechanism(
    offered: Iterable[str],
    username: str,
    password: str,
    channel: ChannelBinding | None,
    *,
    allow_cleartext: bool,
) -> ClientMechanism:
    """The strongest mechanism that both sides have; ``allow_cleartext`` lets PLAIN and LOGIN go over this connection.

    Raises SaslClientError if none is left.
    """
    names = {name.upper() for name in offered}
    binding = binding_name(channel)
    for name in PREFERENCE:
        if name not in names or (name.endswith("-PLUS") and binding is None):
            continue
        if name in ("PLAIN", "LOGIN") and not allow_cleartext:
            continue
        return client_mechanism(name, username, password, channel)
    raise SaslClientError(f"no acceptable mechanism among {', '.join(sorted(names)) or 'none'}")


def client_mechanism(name: str, username: str, password: str, channel: ChannelBinding | None = None) -> ClientMechanism:
    """A client for a mechanism by name. Raises SaslClientError for an unknown name, or -PLUS without a binding."""
    key = name.upper()
    if key == "PLAIN":
        return Plain(username, password)
    if key == "LOGIN":
        return Login(username, password)
    if key == "CRAM-MD5":
        return CramMd5(username, password)
    if key == "EXTERNAL":
        return External(username)
    for hash_ in ScramHash:
        if key == f"SCRAM-{hash_.value}":
            return Scram(hash_, username, password)
        if key == f"SCRAM-{hash_.value}-PLUS":
            return Scram(hash_, username, password, channel=channel, plus=True)
    raise SaslClientError(f"no mechanism {name!r} on this side")


def binding_name(channel: ChannelBinding | None) -> str | None:
    """The binding type that a client uses: tls-unique where there is one (up to TLS 1.2), else tls-server-end-point."""
    if channel is None:
        return None
    return next((name for name in (TLS_UNIQUE, TLS_SERVER_END_POINT) if channel.data(name) is not None), None)


class Plain:
    """PLAIN (RFC 4616)."""

    name = "PLAIN"
    cleartext = True

    def __init__(self, username: str, password: str, authzid: str = "") -> None:
        self._response = "\0".join((nfc(authzid), nfc(username), prepared(password))).encode()

    def next(self, from_server: bytes | None) -> ClientStep:
        return ClientStep(self._response, last=True)


class Login:
    """LOGIN: answers in order, whatever the server's prompts say."""

    name = "LOGIN"
    cleartext = True

    def __init__(self, username: str, password: str) -> None:
        self._answers = [nfc(username).encode(), prepared(password).encode()]

    def next(self, from_server: bytes | None) -> ClientStep:
        if from_server is None:
            return ClientStep(None, last=False)
        if not self._answers:
            raise SaslClientError("server asks for more than user name and password")
        return ClientStep(self._answers.pop(0), last=not self._answers)


class CramMd5:
    """CRAM-MD5 (RFC 2195)."""

    name = "CRAM-MD5"
    cleartext = False

    def __init__(self, username: str, password: str) -> None:
        self._username = nfc(username)
        self._password = prepared(password).encode()

    def next(self, from_server: bytes | None) -> ClientStep:
        if from_server is None:
            return ClientStep(None, last=False)
        digest = hmac.new(self._password, from_server, "md5").hexdigest()
        return ClientStep(f"{self._username} {digest}".encode(), last=True)


class External:
    """EXTERNAL (RFC 4422 appendix A): the TLS client certificate says who we are."""

    name = "EXTERNAL"
    cleartext = False

    def __init__(self, authzid: str = "") -> None:
        self._authzid = nfc(authzid).encode()

    def next(self, from_server: bytes | None) -> ClientStep:
        return ClientStep(self._authzid, last=True)


class Scram:
    """SCRAM (RFC 5802, 7677). With a channel it binds (flag p=): under the -PLUS name, or the bare one if not ``plus``.

    ``flag`` is the gs2 flag without a channel: "n", this side cannot bind, or "y", it could but the server does not.
    """

    cleartext = False

    def __init__(
        self,
        hash_: ScramHash,
        username: str,
        password: str,
        *,
        channel: ChannelBinding | None = None,
        plus: bool = False,
        flag: str = "n",
        authzid: str = "",
        nonce: str | None = None,
    ) -> None:
        self.name = f"SCRAM-{hash_.value}{'-PLUS' if plus else ''}"
        self._hash = hash_
        self._password = prepared(password)
        self._nonce = nonce or base64.b64encode(secrets.token_bytes(NONCE_BYTES)).decode()
        binding = binding_name(channel)
        if channel is not None and binding is not None:
            flag, data = f"p={binding}", channel.data(binding) or b""
        else:
            data = b""
        if plus and not data:
            raise SaslClientError(f"{self.name} needs a channel binding, and this connection has none")
        gs2_header = f"{flag},{f'a={scram.encode_name(nfc(authzid))}' if authzid else ''},"
        self._channel_binding = base64.b64encode(gs2_header.encode() + data).decode()
        self._first_bare = f"n={scram.encode_name(nfc(username))},r={self._nonce}"
        self._first = (gs2_header + self._first_bare).encode()
        self._sent = 0
        self._server_signature = b""

    def next(self, from_server: bytes | None) -> ClientStep:
        if self._sent == 0:
            if from_server:
                raise SaslClientError("server speaks first in a mechanism where the client does")
            self._sent = 1
            return ClientStep(self._first, last=False)
        if from_server is None:
            raise SaslClientError("server ended the exchange early")
        try:
            if self._sent == 1:
                self._sent = 2
                return ClientStep(self._final(from_server), last=False)
            return self._verify(from_server)
        except ScramError as exc:
            raise SaslClientError(f"{exc} ({exc.value})" if exc.value else str(exc)) from exc

    def _final(self, from_server: bytes) -> bytes:
        message = scram.parse_server_first(from_server)
        if not message.nonce.startswith(self._nonce) or message.nonce == self._nonce:
            raise SaslClientError("server's nonce does not extend ours")
        if not MIN_ITERATIONS <= message.iterations <= MAX_ITERATIONS:
            raise SaslClientError(
                f"server wants {message.iterations} iterations, refused outside {MIN_ITERATIONS} to {MAX_ITERATIONS}"
            )
        without_proof = f"c={self._channel_binding},r={message.nonce}"
        auth_message = f"{self._first_bare},{from_server.decode()},{without_proof}".encode()
        answer = scram.client_proof(self._hash, self._password, message.salt, message.iterations, auth_message)
        self._server_signature = answer.server_signature
        return f"{without_proof},p={base64.b64encode(answer.proof).decode()}".encode()

    def _verify(self, from_server: bytes) -> ClientStep:
        if not hmac.compare_digest(scram.parse_server_final(from_server), self._server_signature):
            raise SaslClientError("server's signature is wrong: it does not know the password")
        return ClientStep(b"", last=True)


def prepared(password: str) -> str:
    """OpaqueString, or the raw password where it is refused: the server may have other rules."""
    try:
        return opaque_string(password)
    except PrecisError:
        return password
