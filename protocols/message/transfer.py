"""Transfer decoding (RFC 2045 section 6), lax and in a stream: base64 and quoted-printable as they occur."""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable, Iterator
from typing import Final

MAX_QP_PENDING: Final = 1 << 16  # bytes without line end that are kept waiting for one

_BASE64: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_NOT_BASE64: Final = bytes(set(range(256)) - set(_BASE64))
_NOT_BASE64_OR_PAD: Final = bytes(set(range(256)) - set(_BASE64 + b"="))
_BROKEN_ESCAPE: Final = re.compile(rb"=([0-9A-Fa-f]?)(?==\r?\n)")

IDENTITY: Final = frozenset({"", "7BIT", "8BIT", "BINARY"})
"""Transfer encodings, upper-cased, whose body stands as it is."""


def decode_stream(pieces: Iterable[bytes], encoding: str) -> Iterator[bytes]:
    """The decoded bytes of a body given in pieces; an encoding that is not known leaves them as they are."""
    match encoding.upper():
        case "BASE64":
            return _base64_stream(pieces)
        case "QUOTED-PRINTABLE":
            return _qp_stream(pieces)
    return iter(pieces)


def crlf_blocks(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Bare LF made CRLF, also where CR and LF are in different blocks."""
    after_cr = False
    for block in blocks:
        if not block:
            continue
        if block.count(b"\n") == block.count(b"\r\n"):
            converted = block  # as nearly all messages are
        else:
            converted = block.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
            if after_cr and block[:1] == b"\n":
                converted = converted[1:]  # its CR went out with the block before
        after_cr = block[-1:] == b"\r"
        yield converted


def decode(body: bytes, encoding: str) -> bytes:
    """The decoded bytes of a whole body."""
    match encoding.upper():
        case "BASE64":
            return decode_base64(body)
        case "QUOTED-PRINTABLE":
            return decode_quoted_printable(body)
    return body


def decode_base64(data: bytes) -> bytes:
    """Base64 without its white space and junk; padding may be missing or stand in the middle."""
    data = data.translate(None, _NOT_BASE64_OR_PAD)
    if b"=" in data.rstrip(b"="):
        # Pieces put together: padding ends each. Empty ones are dropped, or a run of = would cost a step each.
        return b"".join(_decode_quads(piece) for piece in data.split(b"=") if piece)
    return _decode_quads(data.rstrip(b"="))


def decoded_base64_size(pieces: Iterable[bytes]) -> int | None:
    """The length of decoded base64 given in pieces, without decoding it; None if padding stands in the middle."""
    count = 0
    padded = False
    for piece in pieces:
        characters = len(piece.translate(None, _NOT_BASE64))
        if padded and characters:
            return None
        pad = piece.find(b"=")
        if pad >= 0:
            padded = True
            if piece[pad:].translate(None, _NOT_BASE64):
                return None
        count += characters
    return count // 4 * 3 + (0, 0, 1, 2)[count % 4]


def decode_quoted_printable(data: bytes) -> bytes:
    """Quoted-printable; white space at line ends goes (RFC 2045 6.7 rule 3), what is no escape stays as it is."""
    if b" \r\n" in data or b"\t\r\n" in data or b" \n" in data or b"\t\n" in data:
        *lines, last = data.split(b"\n")
        lines = [line[:-1].rstrip(b" \t") + b"\r" if line.endswith(b"\r") else line.rstrip(b" \t") for line in lines]
        data = b"\n".join([*lines, last])
    # No escape goes across a soft line break: what a line decodes to does not hang on the next.
    data = _BROKEN_ESCAPE.sub(rb"=3D\1", data).replace(b"=\r\n", b"").replace(b"=\n", b"")
    # a2b_qp drops text after "=" and a bare CR up to the next LF.
    if b"=\r" in data:
        data = data.replace(b"=\r", b"=3D\r")
    return binascii.a2b_qp(data)


def decode_q(data: bytes) -> bytes:
    """The Q encoding of RFC 2047 4.2."""
    return binascii.a2b_qp(data.replace(b"\r", b"").replace(b"\n", b""), header=True)


def _decode_quads(data: bytes) -> bytes:
    """Base64 characters without padding; a last one alone says nothing."""
    left = len(data) % 4
    if left == 1:
        data = data[:-1]
    elif left:
        data += b"==="[left - 1 :]
    return binascii.a2b_base64(data)


def _base64_stream(pieces: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for piece in pieces:
        data = rest + piece.translate(None, _NOT_BASE64_OR_PAD)
        *ended, data = data.split(b"=") if b"=" in data else [data]
        yield b"".join(_decode_quads(part) for part in ended if part)
        cut = len(data) - len(data) % 4
        rest = data[cut:]
        yield binascii.a2b_base64(data[:cut])
    yield _decode_quads(rest)


def _qp_stream(pieces: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    waiting: list[bytes] = []  # no line end seen yet
    size = 0
    for piece in pieces:
        cut = piece.rfind(b"\n") + 1
        if not cut and size < MAX_QP_PENDING:
            waiting.append(piece)
            size += len(piece)
            continue
        rest = b"".join([*waiting, piece])
        cut = rest.rfind(b"\n") + 1
        if not cut:
            # A line without end: cut where no escape is split.
            cut = len(rest)
            for back in (1, 2):
                if rest[-back : len(rest) - back + 1] == b"=":
                    cut = len(rest) - back
        yield decode_quoted_printable(rest[:cut])
        waiting = [rest[cut:]]
        size = len(rest) - cut
    yield decode_quoted_printable(b"".join(waiting))
