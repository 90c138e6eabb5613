"""SCRAM (RFC 5802, 7677): its keys, its computations, and the messages as values."""

from __future__ import annotations

import base64
import binascii
import enum
import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from scramp import utils as scramp

from protocols.errors import ProtocolError

if TYPE_CHECKING:
    from _hashlib import HASH

SALT_SIZE: Final = 16  # bytes
MIN_ITERATIONS: Final = 4096  # RFC 7677 section 4; fewer make guessing too cheap
MAX_ITERATIONS: Final = 100_000  # what a client computes at most: a hostile server must not keep it busy
MIN_NONCE_SIZE: Final = 8  # characters of the client's part
MAX_MESSAGE_SIZE: Final = 12288  # bytes: RFC 4954 section 4, its line limit
MAX_NAME_SIZE: Final = 1024  # bytes of a user name: no address is longer


class ScramHash(enum.Enum):
    """The hash a SCRAM mechanism is built on, by its name in mechanism names."""

    SHA_1 = "SHA-1"
    SHA_256 = "SHA-256"

    @property
    def function(self) -> Callable[[bytes], HASH]:
        return hashlib.sha1 if self is ScramHash.SHA_1 else hashlib.sha256


@dataclass(frozen=True, slots=True)
class ScramKeys:
    """What a server keeps of a password (RFC 5802 section 3): enough to verify a proof, not to make one."""

    salt: bytes
    iterations: int
    stored_key: bytes
    server_key: bytes


class ScramError(ProtocolError):
    """A message breaks the rules; ``value`` is the server-error-value of RFC 5802 section 7 that says how, if any."""

    def __init__(self, reason: str, value: str | None = None) -> None:
        super().__init__(reason)
        self.value = value


def derive_scram_keys(hash_: ScramHash, password: str, salt: bytes, iterations: int) -> ScramKeys:
    """The keys for a password that was prepared already (OpaqueString). Raises ValueError for iterations under 4096."""
    if iterations < MIN_ITERATIONS:
        raise ValueError(f"{iterations} iterations are too few for SCRAM: use at least {MIN_ITERATIONS}")
    salted = _salted_password(hash_, password, salt, iterations)
    return ScramKeys(
        salt,
        iterations,
        stored_key=scramp.h(hash_.function, scramp.hmac(hash_.function, salted, b"Client Key")),
        server_key=scramp.hmac(hash_.function, salted, b"Server Key"),
    )


def client_proof(hash_: ScramHash, password: str, salt: bytes, iterations: int, auth_message: bytes) -> ClientProof:
    """The proof that a client sends, and the signature that it expects from a server that knows the keys."""
    salted = _salted_password(hash_, password, salt, iterations)
    client_key = scramp.hmac(hash_.function, salted, b"Client Key")
    server_key = scramp.hmac(hash_.function, salted, b"Server Key")
    signature = scramp.hmac(hash_.function, scramp.h(hash_.function, client_key), auth_message)
    return ClientProof(
        proof=scramp.xor(client_key, signature), server_signature=server_signature(hash_, server_key, auth_message)
    )


@dataclass(frozen=True, slots=True)
class ClientProof:
    proof: bytes
    server_signature: bytes


def proof_is_right(hash_: ScramHash, keys: ScramKeys, auth_message: bytes, proof: bytes) -> bool:
    """Whether a client's proof comes from the password behind the keys; compared in constant time."""
    signature: bytes = scramp.hmac(hash_.function, keys.stored_key, auth_message)
    if len(proof) != len(signature):
        return False
    client_key = scramp.xor(proof, signature)
    return hmac.compare_digest(scramp.h(hash_.function, client_key), keys.stored_key)


def server_signature(hash_: ScramHash, server_key: bytes, auth_message: bytes) -> bytes:
    signature: bytes = scramp.hmac(hash_.function, server_key, auth_message)
    return signature


def _salted_password(hash_: ScramHash, password: str, salt: bytes, iterations: int) -> bytes:
    salted: bytes = scramp.hi(hash_.function, password.encode(), salt, iterations)
    return salted


@dataclass(frozen=True, slots=True)
class ClientFirst:
    """The client's first message (RFC 5802 section 7)."""

    gs2_header: str
    binding_flag: str  # "n", "y" or "p"
    binding_name: str  # with "p" only
    authzid: str
    username: str
    nonce: str
    bare: str


@dataclass(frozen=True, slots=True)
class ClientFinal:
    """The client's final message."""

    channel_binding: bytes
    nonce: str
    proof: bytes
    without_proof: str


@dataclass(frozen=True, slots=True)
class ServerFirst:
    """The server's first message."""

    nonce: str
    salt: bytes
    iterations: int


def parse_client_first(message: bytes) -> ClientFirst:
    """Raises ScramError."""
    flag, authzid_part, bare = _split(_text(message), 2)
    name = ""
    if flag.startswith("p="):
        flag, name = "p", flag[2:]
        if not name or not all(char.isascii() and (char.isalnum() or char in ".-") for char in name):
            raise ScramError(f"channel binding name {name[:40]!r} is malformed")
    elif flag not in ("n", "y"):
        raise ScramError(f"gs2 flag {flag[:40]!r} is none of n, y, p=")
    authzid = ""
    if authzid_part:
        authzid = decode_name(_value(authzid_part, "a"))
    if bare.startswith("m="):
        raise ScramError("mandatory extension asked for", "extensions-not-supported")  # RFC 5802 section 5.1
    name_part, nonce_part, *_extensions = bare.split(",", 2) if bare.count(",") else (bare, "")
    nonce = _nonce(_value(nonce_part, "r"))
    if len(nonce) < MIN_NONCE_SIZE:
        raise ScramError(f"client nonce has {len(nonce)} characters, fewer than {MIN_NONCE_SIZE}")
    return ClientFirst(
        gs2_header=message[: len(message) - len(bare.encode())].decode(),
        binding_flag=flag,
        binding_name=name,
        authzid=authzid,
        username=decode_name(_value(name_part, "n")),
        nonce=nonce,
        bare=bare,
    )


def parse_client_final(message: bytes) -> ClientFinal:
    """Raises ScramError."""
    text = _text(message)
    without_proof, separator, proof = text.rpartition(",p=")
    if not separator:
        raise ScramError("final message has no proof")
    binding_part, nonce_part = _split(without_proof, 1)
    nonce_part, _, _extensions = nonce_part.partition(",")
    return ClientFinal(
        channel_binding=_base64(_value(binding_part, "c")),
        nonce=_nonce(_value(nonce_part, "r")),
        proof=_base64(proof),
        without_proof=without_proof,
    )


def parse_server_first(message: bytes) -> ServerFirst:
    """Raises ScramError, with the server's own error value if it sent one."""
    text = _text(message)
    if text.startswith("e="):
        raise ScramError("the server refused the first message", text[2:82])
    if text.startswith("m="):
        raise ScramError("mandatory extension asked for", "extensions-not-supported")
    nonce_part, salt_part, rest = _split(text, 2)
    iterations = _value(rest.split(",", 1)[0], "i")
    if not (iterations.isascii() and iterations.isdigit() and len(iterations) <= 9):
        raise ScramError(f"iteration count {iterations[:20]!r} is no number")
    return ServerFirst(_nonce(_value(nonce_part, "r")), _base64(_value(salt_part, "s")), int(iterations))


def parse_server_final(message: bytes) -> bytes:
    """The server's signature. Raises ScramError, with the server's error value if it sent one."""
    text = _text(message).split(",", 1)[0]
    if text.startswith("e="):
        raise ScramError("the server refused the proof", text[2:82])
    return _base64(_value(text, "v"))


def encode_name(name: str) -> str:
    """A saslname (RFC 5802 section 5.1, attribute n)."""
    return name.replace("=", "=3D").replace(",", "=2C")


def decode_name(saslname: str) -> str:
    """The name behind a saslname. Raises ScramError."""
    if not saslname or len(saslname.encode()) > MAX_NAME_SIZE:
        raise ScramError(f"user name has {len(saslname)} characters, must have 1 to {MAX_NAME_SIZE}")
    first, *parts = saslname.split("=")
    decoded = [first]
    for part in parts:
        char = {"2C": ",", "3D": "="}.get(part[:2])
        if char is None:
            # RFC 5802 section 5.1: the server must fail the authentication
            raise ScramError("user name has an equals sign that escapes nothing", "invalid-username-encoding")
        decoded.append(char + part[2:])
    return "".join(decoded)


def _text(message: bytes) -> str:
    if len(message) > MAX_MESSAGE_SIZE:
        raise ScramError(f"message has {len(message)} bytes, more than {MAX_MESSAGE_SIZE}")
    try:
        text = message.decode()
    except UnicodeDecodeError:
        raise ScramError("message is not UTF-8", "invalid-encoding") from None
    if "\0" in text:
        raise ScramError("message has a NUL character")
    return text


def _split(text: str, commas: int) -> list[str]:
    parts = text.split(",", commas)
    if len(parts) != commas + 1:
        raise ScramError(f"message has {len(parts)} fields, needs {commas + 1} or more")
    return parts


def _value(attribute: str, name: str) -> str:
    if not attribute.startswith(f"{name}="):
        raise ScramError(f"attribute {attribute[:2]!r} stands where {name}= is needed")
    return attribute[2:]


def _nonce(nonce: str) -> str:
    if not nonce or not all("\x21" <= char <= "\x7e" for char in nonce):
        raise ScramError("nonce is empty or has characters that are not printable ASCII")
    return nonce


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise ScramError("attribute is not base64", "invalid-encoding") from None
