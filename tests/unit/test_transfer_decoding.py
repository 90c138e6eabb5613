"""Base64 and quoted-printable as they occur: decoded the same however the body comes in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.message import decode, decode_stream


@pytest.mark.parametrize(
    ("encoded", "decoded"),
    [
        (b"caf=C3=A9=\r\n ok", "café ok".encode()),
        (b"trailing \t\r\nspace", b"trailing\r\nspace"),
        (b"soft=  \r\nbreak", b"softbreak"),
        (b"no =escape, a=b", b"no =escape, a=b"),
        (b"last=", b"last"),
        (b"torn=4=\r\n1==\r\n41", b"torn=41=41"),
    ],
)
def test_it_reads_quoted_printable(encoded: bytes, decoded: bytes) -> None:
    assert decode(encoded, "quoted-printable") == decoded


@pytest.mark.parametrize(
    ("encoded", "decoded"),
    [
        (b"aGVs\r\nbG8=\r\n", b"hello"),
        (b"aGVsbG8", b"hello"),
        (b"a G!V s", b"hel"),
        (b"aA==bA==", b"hl"),
        (b"====", b""),
    ],
)
def test_it_reads_base64(encoded: bytes, decoded: bytes) -> None:
    assert decode(encoded, "base64") == decoded


@pytest.mark.parametrize("encoding", ["base64", "quoted-printable"])
@given(st.lists(st.sampled_from([b"=", b"=\r\n", b"=\n", b"\r\n", b"\r", b"=41", b"A", b" ", b"AAAA"]), max_size=12))
def test_pieces_are_decoded_like_the_whole(encoding: str, pieces: list[bytes]) -> None:
    assert b"".join(decode_stream(pieces, encoding)) == decode(b"".join(pieces), encoding)
