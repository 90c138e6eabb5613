"""The server side of each mechanism: feed it what the client sent, do what the step says.

``start()`` takes the initial response or None, ``next()`` each response, ``supply()`` credentials when asked for.
The machines look nothing up and keep no password; whoever drives them does (accounts/login.py).
"""

from __future__ import annotations

import base64
import enum
import hmac
import re
import secrets
import time
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

from protocols import md5state
from protocols.errors import ProtocolError
from protocols.md5state import HmacMd5States

from . import scram
from .channel_binding import ChannelBinding
from .scram import ScramError, ScramHash, ScramKeys

NONCE_BYTES: Final = (
    18  # of randomness in a server nonce and in a CRAM-MD5 challenge: 144 bits, 24 characters in base64
)
MAX_RESPONSE_SIZE: Final = 12288  # bytes of any response: RFC 4954 section 4


class Failure(enum.Enum):
    """Why an exchange failed, as far as the answer to the client differs."""

    MALFORMED = "malformed"  # PLAIN, LOGIN, CRAM-MD5: the response is not what the mechanism defines
    MALFORMED_FIRST = "malformed first message"  # SCRAM
    MALFORMED_FINAL = "malformed final message"  # SCRAM
    AUTHORIZATION = "authorization identity refused"
    CREDENTIALS = "wrong credentials"
    CHANNEL_BINDING = "channel binding"  # possibly somebody between client and server
    NO_SECRETS = "no secrets for this mechanism"  # not the client's fault, not a failed login
    UNAVAILABLE = "temporary failure"


class CredentialKind(enum.Enum):
    SCRAM_SHA_1 = "scram-sha-1"
    SCRAM_SHA_256 = "scram-sha-256"
    CRAM_MD5 = "cram-md5"


@dataclass(frozen=True, slots=True)
class Failed:
    """The exchange is over. ``reason`` is for the log, never for the client."""

    failure: Failure
    reason: str


@dataclass(frozen=True, slots=True)
class Challenge:
    """Send ``data`` and pass the response to ``next()``. With ``failure`` the outcome is settled."""

    data: bytes
    failure: Failed | None = None


@dataclass(frozen=True, slots=True)
class CredentialsNeeded:
    """Look up what is stored for ``authcid`` (NFC) and pass it to ``supply()``; made-up ones for an unknown user."""

    kind: CredentialKind
    authcid: str


@dataclass(frozen=True, slots=True)
class PasswordGiven:
    """The exchange is over; whether it succeeds depends on this password."""

    authcid: str
    authzid: str
    password: str


@dataclass(frozen=True, slots=True)
class Authenticated:
    """The exchange is over and the client has proved that it is ``authcid``."""

    authcid: str


@dataclass(frozen=True, slots=True)
class ExternalClaimed:
    """The exchange is over; whether it succeeds depends on who the connection itself says that the client is."""

    authzid: str


Step: TypeAlias = Challenge | CredentialsNeeded | PasswordGiven | ExternalClaimed | Authenticated | Failed
Credentials: TypeAlias = ScramKeys | HmacMd5States


class UnknownMechanism(ProtocolError):
    """The server has no mechanism of that name."""


class ServerMechanism(Protocol):
    """One exchange. Methods called out of turn raise RuntimeError."""

    name: str
    cleartext: bool  # the password itself goes over the wire

    def start(self, initial: bytes | None) -> Step:
        """Begin, with the initial response, or None if the client sent none (b"" is an empty one)."""

    def next(self, response: bytes) -> Step:
        """Go on with the client's response to the last challenge."""

    def supply(self, credentials: Credentials) -> Step:
        """Go on with the credentials that the last step asked for."""


def server_mechanism(
    name: str, channel: ChannelBinding | None, plus_announced: bool, hostname: str = "localhost"
) -> ServerMechanism:
    """A machine for one exchange, by mechanism name in any case.

    ``channel`` is None without TLS; ``plus_announced`` is whether this connection offered the -PLUS names;
    ``hostname`` stands in CRAM-MD5 challenges. Raises UnknownMechanism.
    """
    key = name.upper()
    if key == "PLAIN":
        return PlainServer()
    if key == "LOGIN":
        return LoginServer()
    if key == "CRAM-MD5":
        return CramMd5Server(hostname)
    if (hash_ := _SCRAM_NAMES.get(key.removesuffix("-PLUS"))) is not None:
        return ScramServer(hash_, key.endswith("-PLUS"), channel, plus_announced)
    raise UnknownMechanism(f"no mechanism {name[:40]!r}: use one of {', '.join(SERVER_MECHANISMS)}")


_SCRAM_NAMES: Final = {f"SCRAM-{hash_.value}": hash_ for hash_ in ScramHash}

SERVER_MECHANISMS: Final = (
    "SCRAM-SHA-256-PLUS",
    "SCRAM-SHA-256",
    "SCRAM-SHA-1-PLUS",
    "SCRAM-SHA-1",
    "CRAM-MD5",
    "PLAIN",
    "LOGIN",
)


class ExternalServer:
    """EXTERNAL (RFC 4422 appendix A): what proves the client is not part of the exchange, a TLS key say."""

    name = "EXTERNAL"
    cleartext = False

    def start(self, initial: bytes | None) -> Step:
        return Challenge(b"") if initial is None else self.next(initial)

    def next(self, response: bytes) -> Step:
        authzid = _decode(response)
        if authzid is None or "\0" in authzid:
            return Failed(Failure.MALFORMED, "response is not an authorization identity")
        return ExternalClaimed(authzid)

    def supply(self, credentials: Credentials) -> Step:
        raise RuntimeError("EXTERNAL takes no credentials")


class PlainServer:
    """PLAIN (RFC 4616): authorization identity, user name and password, with NUL between."""

    name = "PLAIN"
    cleartext = True

    def start(self, initial: bytes | None) -> Step:
        return Challenge(b"") if initial is None else self.next(initial)

    def next(self, response: bytes) -> Step:
        if (text := _decode(response)) is None:
            return Failed(Failure.MALFORMED, "response is too long or not UTF-8")
        fields = text.split("\0")
        if len(fields) != 3:
            return Failed(Failure.MALFORMED, f"response has {len(fields)} fields, must have 3")
        authzid, authcid = nfc(fields[0]), nfc(fields[1])
        if authzid not in ("", authcid):
            return Failed(Failure.AUTHORIZATION, f"{authcid!r} asked to act as {authzid!r}")
        return PasswordGiven(authcid, authzid, fields[2])

    def supply(self, credentials: Credentials) -> Step:
        raise RuntimeError("PLAIN never asks for credentials")


class LoginServer:
    """LOGIN (draft-murchison-sasl-login): user name and password, each asked for."""

    name = "LOGIN"
    cleartext = True

    def __init__(self) -> None:
        self._authcid: str | None = None

    def start(self, initial: bytes | None) -> Step:
        return Challenge(b"Username:") if initial is None else self.next(initial)

    def next(self, response: bytes) -> Step:
        # Some clients end each response with a NUL, as the draft's authors once did.
        text = _decode(response.removesuffix(b"\0"))
        if text is None or "\0" in text:
            return Failed(Failure.MALFORMED, "response is too long, not UTF-8, or has a NUL")
        if self._authcid is None:
            self._authcid = nfc(text)
            return Challenge(b"Password:")
        return PasswordGiven(self._authcid, "", text)

    def supply(self, credentials: Credentials) -> Step:
        raise RuntimeError("LOGIN never asks for credentials")


class CramMd5Server:
    """CRAM-MD5 (RFC 2195): the client proves its password with an HMAC over our challenge."""

    name = "CRAM-MD5"
    cleartext = False

    def __init__(self, hostname: str, challenge: bytes | None = None) -> None:
        random = secrets.token_urlsafe(NONCE_BYTES)
        self._challenge = challenge or f"<{random}.{time.time_ns()}@{hostname}>".encode()
        self._authcid = ""
        self._digest = ""

    def start(self, initial: bytes | None) -> Step:
        if initial is not None:
            return Failed(Failure.MALFORMED, "initial response, which CRAM-MD5 has none of")  # RFC 4954 section 4
        return Challenge(self._challenge)

    def next(self, response: bytes) -> Step:
        text = _decode(response) or ""
        authcid, _, digest = text.rpartition(" ")
        if not authcid or _MD5_HEX.fullmatch(digest) is None:
            return Failed(Failure.MALFORMED, "response is not a user name, a space, and 32 lower-case hex digits")
        self._authcid, self._digest = nfc(authcid), digest
        return CredentialsNeeded(CredentialKind.CRAM_MD5, self._authcid)

    def supply(self, credentials: Credentials) -> Step:
        if not isinstance(credentials, HmacMd5States) or not self._digest:
            raise RuntimeError("CRAM-MD5 takes HmacMd5States, after the response")
        expected = md5state.hmac_md5(credentials, self._challenge).hex()
        if hmac.compare_digest(expected, self._digest):
            return Authenticated(self._authcid)
        return Failed(Failure.CREDENTIALS, "digest does not fit the password")


_MD5_HEX: Final = re.compile(r"[0-9a-f]{32}")


class ScramServer:
    """SCRAM (RFC 5802, 7677), plain and -PLUS: mutual proof that both sides know the password, or its keys."""

    cleartext = False

    def __init__(
        self,
        hash_: ScramHash,
        plus: bool,
        channel: ChannelBinding | None,
        plus_announced: bool,
        nonce: str | None = None,
    ) -> None:
        self.name = f"SCRAM-{hash_.value}{'-PLUS' if plus else ''}"
        self._hash = hash_
        self._plus = plus
        self._channel = channel
        self._plus_announced = plus_announced
        self._nonce = nonce or base64.b64encode(secrets.token_bytes(NONCE_BYTES)).decode()
        self._expect: Callable[[bytes], Step] = self._first
        self._authcid = ""
        self._binding = b""
        self._client_first_bare = ""
        self._server_first = ""
        self._keys: ScramKeys | None = None

    def start(self, initial: bytes | None) -> Step:
        return Challenge(b"") if initial is None else self.next(initial)

    def next(self, response: bytes) -> Step:
        return self._expect(response)

    def supply(self, credentials: Credentials) -> Step:
        if not isinstance(credentials, ScramKeys) or not self._client_first_bare or self._keys is not None:
            raise RuntimeError(f"{self.name} takes ScramKeys, once, after the first message")
        self._keys = credentials
        salt = base64.b64encode(credentials.salt).decode()
        self._server_first = f"r={self._nonce},s={salt},i={credentials.iterations}"
        self._expect = self._final
        return Challenge(self._server_first.encode())

    def _first(self, response: bytes) -> Step:
        self._expect = _out_of_turn
        try:
            message = scram.parse_client_first(response)
        except ScramError as exc:
            return self._refuse(exc.value, Failure.MALFORMED_FIRST, str(exc))
        if (refusal := self._bind(message)) is not None:
            return refusal
        self._authcid, authzid = nfc(message.username), nfc(message.authzid)
        if authzid not in ("", self._authcid):
            return self._refuse("other-error", Failure.AUTHORIZATION, f"{self._authcid!r} asked to act as {authzid!r}")
        self._nonce = message.nonce + self._nonce
        self._client_first_bare = message.bare
        sha1 = self._hash is ScramHash.SHA_1
        return CredentialsNeeded(CredentialKind.SCRAM_SHA_1 if sha1 else CredentialKind.SCRAM_SHA_256, self._authcid)

    def _bind(self, message: scram.ClientFirst) -> Step | None:
        """Keep what the client must bind to, or refuse (RFC 5802 section 6)."""
        self._binding = message.gs2_header.encode()
        if message.binding_flag == "p":
            # Whatever the name of the mechanism: some clients bind under the bare one.
            data = self._channel.data(message.binding_name) if self._channel is not None else None
            if data is None:
                reason = f"channel binding {message.binding_name[:40]!r} is not to be had on this connection"
                return self._refuse("unsupported-channel-binding-type", Failure.CHANNEL_BINDING, reason)
            self._binding += data
            return None
        if self._plus or (message.binding_flag == "y" and self._plus_announced):
            # "y" although -PLUS was announced: somebody took it out of our list on its way to the client.
            reason = (
                f"gs2 flag {message.binding_flag} although {'-PLUS was chosen' if self._plus else 'we announced -PLUS'}"
            )
            return self._refuse("server-does-support-channel-binding", Failure.CHANNEL_BINDING, reason)
        return None

    def _final(self, response: bytes) -> Step:
        self._expect = _out_of_turn
        try:
            message = scram.parse_client_final(response)
        except ScramError as exc:
            return self._refuse(exc.value, Failure.MALFORMED_FINAL, str(exc))
        if not hmac.compare_digest(message.channel_binding, self._binding):
            reason = "channel bindings differ: possibly a man in the middle"
            return self._refuse("channel-bindings-dont-match", Failure.CHANNEL_BINDING, reason)
        if not hmac.compare_digest(message.nonce, self._nonce):
            return self._refuse("other-error", Failure.MALFORMED_FINAL, "nonce of the final message is not ours")
        assert self._keys is not None
        auth_message = f"{self._client_first_bare},{self._server_first},{message.without_proof}".encode()
        if not scram.proof_is_right(self._hash, self._keys, auth_message, message.proof):
            return self._refuse("invalid-proof", Failure.CREDENTIALS, "proof does not fit the password")
        signature = scram.server_signature(self._hash, self._keys.server_key, auth_message)
        self._expect = self._acknowledged
        return Challenge(b"v=" + base64.b64encode(signature))

    def _acknowledged(self, response: bytes) -> Step:
        # RFC 5802 leaves nothing to say; the client answers our last challenge with nothing (RFC 4954 section 4).
        self._expect = _out_of_turn
        if response:
            return Failed(Failure.MALFORMED_FINAL, "response to the server's final message is not empty")
        return Authenticated(self._authcid)

    def _refuse(self, value: str | None, failure: Failure, reason: str) -> Step:
        failed = Failed(failure, reason)
        if value is None:
            return failed
        self._expect = lambda _response: failed
        return Challenge(f"e={value}".encode(), failed)


def nfc(text: str) -> str:
    """Login names are compared in NFC."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def _decode(response: bytes) -> str | None:
    if len(response) > MAX_RESPONSE_SIZE:
        return None
    try:
        return response.decode()
    except UnicodeDecodeError:
        return None


def _out_of_turn(_response: bytes) -> Step:
    raise RuntimeError("the exchange is over or waits for credentials")
