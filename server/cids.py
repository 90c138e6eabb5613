"""Connection ids, and the ids in Received headers and replies that give nothing away but lead an operator to the log.

cid = next_cid()
received_id(cid)         # "k3w0uXbqL4oVrJ0m2tXh5g", 22 characters
cid_of(received_id(cid)) == cid
"""

from __future__ import annotations

import base64
import itertools
import os
import time
from functools import lru_cache

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from django.conf import settings

_PROCESS_BITS = 12  # room for the processes of a node that count at the same time


def _start() -> int:
    return (time.time_ns() // 1_000_000 << _PROCESS_BITS) | (os.getpid() & ((1 << _PROCESS_BITS) - 1))


_counter = itertools.count(_start(), 1 << _PROCESS_BITS)
_counter_pid = os.getpid()


def next_cid() -> int:
    """A number for the next connection, request or task: unique on this node, rising from the start's time in ms."""
    global _counter, _counter_pid  # a forked child must count with its own process bits
    if _counter_pid != os.getpid():
        _counter, _counter_pid = itertools.count(_start(), 1 << _PROCESS_BITS), os.getpid()
    return next(_counter)


@lru_cache(maxsize=1024)  # a connection names itself in each reply that refuses, and in each message
def received_id(cid: int) -> str:
    """The cid as 22 base64url characters: AES-128 of 8 fixed random bytes and the cid, under the installation's key."""
    key, random8 = _key()
    encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305 # one block: there is nothing to chain
    block = encryptor.update(random8 + cid.to_bytes(8, "big")) + encryptor.finalize()
    return base64.urlsafe_b64encode(block).rstrip(b"=").decode()


def cid_of(received: str) -> int:
    """The cid in a received id. Raises ValueError for an id that this installation did not make."""
    key, random8 = _key()
    try:
        block = base64.urlsafe_b64decode(received + "==")
    except ValueError as exc:
        raise ValueError(f"{received!r} is not an id from a Received header: {exc}") from exc
    if len(block) != 16:
        raise ValueError(f"{received!r} is not an id from a Received header: 22 characters expected")
    decryptor = Cipher(algorithms.AES(key), modes.ECB()).decryptor()  # noqa: S305 # one block, as above
    plain = decryptor.update(block) + decryptor.finalize()
    if plain[:8] != random8:
        raise ValueError(f"{received!r} was not made by this installation (or its MOX_RECEIVED_ID_KEY was changed)")
    return int.from_bytes(plain[8:], "big")


def _key() -> tuple[bytes, bytes]:
    secret: bytes = settings.MOX_RECEIVED_ID_KEY
    return secret[:16], secret[16:24]
