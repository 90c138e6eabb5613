"""MD5 as a compression function (RFC 1321): HMAC-MD5 from stored states, not a stored password (RFC 2104 section 4).

hashlib can neither export nor import the state of a digest, and a server that keeps those states needs both.
"""

from __future__ import annotations

import hashlib
import math
import struct
from dataclasses import dataclass
from typing import Final

BLOCK_SIZE: Final = 64  # bytes that one compression takes
STATE_SIZE: Final = 16  # bytes of a state: four 32-bit words, little-endian


@dataclass(frozen=True, slots=True)
class HmacMd5States:
    """The MD5 states after the inner and the outer key block of HMAC-MD5, 16 bytes each; the key stays unknown."""

    inner: bytes
    outer: bytes


def hmac_md5_states(key: bytes) -> HmacMd5States:
    """The two states for a key of any length (RFC 2104 section 4)."""
    if len(key) > BLOCK_SIZE:
        key = hashlib.md5(key, usedforsecurity=False).digest()
    block = key.ljust(BLOCK_SIZE, b"\0")
    return HmacMd5States(
        inner=compress(INITIAL_STATE, bytes(byte ^ 0x36 for byte in block)),
        outer=compress(INITIAL_STATE, bytes(byte ^ 0x5C for byte in block)),
    )


def hmac_md5(states: HmacMd5States, message: bytes) -> bytes:
    """HMAC-MD5 of a message, 16 bytes, equal to ``hmac.digest(key, message, "md5")`` for the key behind the states."""
    inner = finish(states.inner, message, already_hashed=BLOCK_SIZE)
    return finish(states.outer, inner, already_hashed=BLOCK_SIZE)


def finish(state: bytes, message: bytes, already_hashed: int) -> bytes:
    """The digest of ``already_hashed`` bytes (a multiple of 64) that led to ``state``, followed by ``message``."""
    length_in_bits = 8 * (already_hashed + len(message))
    padding = b"\x80" + bytes((BLOCK_SIZE - 9 - len(message)) % BLOCK_SIZE)
    padded = message + padding + struct.pack("<Q", length_in_bits & 0xFFFFFFFFFFFFFFFF)
    for start in range(0, len(padded), BLOCK_SIZE):
        state = compress(state, padded[start : start + BLOCK_SIZE])
    return state


def compress(state: bytes, block: bytes) -> bytes:
    """One step of MD5: the state after another block of 64 bytes (RFC 1321 section 3.4)."""
    words = struct.unpack("<16I", block)
    a, b, c, d = initial = struct.unpack("<4I", state)
    for step in range(64):
        quarter = step >> 4
        if quarter == 0:
            mixed, index = (b & c) | (~b & d), step
        elif quarter == 1:
            mixed, index = (d & b) | (~d & c), (5 * step + 1) & 15
        elif quarter == 2:
            mixed, index = b ^ c ^ d, (3 * step + 5) & 15
        else:
            mixed, index = c ^ (b | (~d & _MASK)), (7 * step) & 15
        total = (a + mixed + _SINES[step] + words[index]) & _MASK
        shift = _SHIFTS[quarter][step & 3]
        a, d, c, b = d, c, b, (b + ((total << shift) | (total >> (32 - shift)))) & _MASK
    return struct.pack("<4I", *((old + new) & _MASK for old, new in zip(initial, (a, b, c, d), strict=True)))


INITIAL_STATE: Final = struct.pack("<4I", 0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476)
_MASK: Final = 0xFFFFFFFF
_SINES: Final = tuple(int(abs(math.sin(step + 1)) * 2**32) & _MASK for step in range(64))
_SHIFTS: Final = ((7, 12, 17, 22), (5, 9, 14, 20), (4, 11, 16, 23), (6, 10, 15, 21))
