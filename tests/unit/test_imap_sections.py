"""Sections of messages: the bytes that BODY[...] and BINARY[...] mean, found from the stored structure."""

from __future__ import annotations

import base64
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imap.sections import (
    Located,
    Section,
    SectionText,
    UnknownEncoding,
    locate,
    locate_binary,
    select_fields,
)
from protocols.message import crlf_blocks, ensure_part
from protocols.message.source import BytesSource

INNER = b"""\
From: inner@example.org\r
Subject: inside\r
Content-Type: multipart/alternative; boundary=i\r
\r
--i\r
Content-Type: text/plain\r
\r
plain\r
--i\r
Content-Type: text/html\r
\r
<p>html</p>\r
--i--\r
"""
MIXED = (
    b"""\
From: a@example.org\r
Subject: outer\r
 folded\r
To: b@example.org\r
Content-Type: multipart/mixed; boundary=o\r
\r
preamble\r
--o\r
Content-Type: text/plain\r
Content-ID: <one>\r
\r
first\r
--o\r
Content-Type: message/rfc822\r
Content-Description: the inner one\r
\r
"""
    + INNER
    + b"""\
\r
--o\r
Content-Type: application/octet-stream\r
Content-Transfer-Encoding: base64\r
\r
AAEC\r
Aw==\r
--o--\r
"""
)
SINGLE = b"Subject: hello\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nna=C3=AFve\r\n"


class Message:
    """A message as the store has it: prefix, content, and the structure after a round through JSON."""

    def __init__(self, content: bytes, prefix: bytes = b"") -> None:
        part, _ = ensure_part(content)
        self.structure = json.loads(json.dumps(part.to_json()))
        self.prefix = prefix
        self.source = BytesSource(prefix + content)

    def body(self, path: str = "", text: SectionText = SectionText.ALL, *names: bytes) -> bytes | None:
        return self._read(locate(self.structure, len(self.prefix), _section(path, text, names)))

    def binary(self, path: str = "") -> bytes | None:
        return self._read(locate_binary(self.structure, len(self.prefix), _section(path)))

    def _read(self, found: Located | None) -> bytes | None:
        if found is None:
            return None
        with found.open(self.source) as content:
            whole = b"".join(content.chunks())
            assert len(whole) == content.size
            # Any partial is a slice of the whole.
            for offset, length in ((0, 1), (1, 3), (len(whole) // 2, 7), (len(whole), 5), (0, len(whole) + 9)):
                assert b"".join(content.chunks(offset, length, chunk=2)) == whole[offset : offset + length]
            return whole


def _section(path: str, text: SectionText = SectionText.ALL, names: tuple[bytes, ...] = ()) -> Section:
    return Section(tuple(int(n) for n in path.split(".")) if path else (), text, frozenset(names))


def test_whole_message_header_and_text_make_up_the_message() -> None:
    message = Message(MIXED, prefix=b"Delivered-To: x@example.org\r\n")
    assert message.body() == message.source.data
    header, text = message.body("", SectionText.HEADER), message.body("", SectionText.TEXT)
    assert header is not None
    assert text is not None
    assert header.startswith(b"Delivered-To: x@example.org\r\nFrom: a@")
    assert header.endswith(b"boundary=o\r\n\r\n")
    assert header + text == message.source.data


@pytest.mark.parametrize("prefix", [b"", b"Received: from here\r\n\tby there\r\n"])
def test_parts_of_a_multipart(prefix: bytes) -> None:
    message = Message(MIXED, prefix)
    assert message.body("1") == b"first"
    assert message.body("1", SectionText.MIME) == b"Content-Type: text/plain\r\nContent-ID: <one>\r\n\r\n"
    assert message.body("2") == INNER
    assert message.body("3") == b"AAEC\r\nAw=="
    assert message.body("4") is None
    assert message.body("1.1") is None
    assert message.body("1.1.1") is None


def test_parts_inside_an_embedded_message_number_on() -> None:
    message = Message(MIXED, b"X: y\r\n")
    assert message.body("2.1") == b"plain"
    assert message.body("2.2") == b"<p>html</p>"
    assert message.body("2.3") is None
    assert message.body("2.2", SectionText.MIME) == b"Content-Type: text/html\r\n\r\n"
    assert message.body("2", SectionText.HEADER) == INNER[: INNER.index(b"\r\n\r\n") + 4]
    assert message.body("2", SectionText.TEXT) == INNER[INNER.index(b"\r\n\r\n") + 4 :]
    assert message.body("2", SectionText.FIELDS, b"subject") == b"Subject: inside\r\n\r\n"
    mime = b"Content-Type: message/rfc822\r\nContent-Description: the inner one\r\n\r\n"
    assert message.body("2", SectionText.MIME) == mime


def test_header_and_text_exist_only_of_messages() -> None:
    message = Message(MIXED)
    for text in (SectionText.HEADER, SectionText.TEXT, SectionText.FIELDS, SectionText.FIELDS_NOT):
        assert message.body("1", text, b"subject") is None
        assert message.body("9", text, b"subject") is None


def test_part_1_of_a_single_part_message_is_its_body() -> None:
    message = Message(SINGLE, b"X: y\r\n")
    assert message.body("1") == b"na=C3=AFve\r\n"
    assert message.body("1", SectionText.MIME) == message.body("", SectionText.HEADER)
    assert message.body("2") is None
    assert message.body("1.1") is None


def test_message_that_is_an_embedded_message() -> None:
    content = b"From: u@example.org\r\nContent-Type: message/rfc822\r\n\r\nSubject: sub\r\n\r\nHello\r\n"
    message = Message(content)
    assert message.body("1") == b"Subject: sub\r\n\r\nHello\r\n"
    assert message.body("1", SectionText.HEADER) == b"Subject: sub\r\n\r\n"
    assert message.body("1", SectionText.TEXT) == b"Hello\r\n"
    assert message.body("1.1") == b"Hello\r\n"
    assert message.body("1.2") is None


def test_embedded_message_with_a_transfer_encoding() -> None:
    encoded = base64.encodebytes(INNER).replace(b"\n", b"\r\n")
    head = b"Content-Type: multipart/mixed; boundary=o\r\n\r\n--o\r\nContent-Type: message/rfc822\r\n"
    message = Message(head + b"Content-Transfer-Encoding: base64\r\n\r\n" + encoded + b"\r\n--o--\r\n", b"A: b\r\n")
    assert message.body("1") == encoded
    assert message.body("1.2") == b"<p>html</p>"
    assert message.body("1", SectionText.FIELDS, b"from") == b"From: inner@example.org\r\n\r\n"
    assert message.binary("1") == INNER


def test_fields_keep_their_lines_and_end_with_the_empty_line() -> None:
    message = Message(MIXED, b"Received: one\r\n\ttwo\r\n")
    assert message.body("", SectionText.FIELDS, b"subject", b"received") == (
        b"Received: one\r\n\ttwo\r\nSubject: outer\r\n folded\r\n\r\n"
    )
    assert message.body("", SectionText.FIELDS, b"x-absent") == b"\r\n"
    without = message.body("", SectionText.FIELDS_NOT, b"received", b"subject")
    assert without is not None
    assert without.startswith(b"From: a@example.org\r\nTo: ")
    assert without.endswith(b"\r\n\r\n")
    assert b"two" not in without
    assert b"folded" not in without


def test_content_without_header() -> None:
    # The store ends the prefix of such content with the empty line.
    content = b"\r\njust text\r\n"
    message = Message(content, b"Delivered-To: x\r\n")
    assert message.body("", SectionText.TEXT) == b"just text\r\n"
    assert message.body("", SectionText.HEADER) == b"Delivered-To: x\r\n\r\n"
    headerless = Message(b"no colon here\r\nat all\r\n", b"Delivered-To: x\r\n\r\n")
    assert headerless.structure.get("headerless")
    assert headerless.body("", SectionText.TEXT) == b"no colon here\r\nat all\r\n"
    assert headerless.body("", SectionText.HEADER) == b"Delivered-To: x\r\n\r\n"


def test_header_that_lacks_its_empty_line() -> None:
    assert Message(b"Subject: only\r\n").body("", SectionText.HEADER) == b"Subject: only\r\n\r\n"
    assert Message(b"Subject: only").body("", SectionText.FIELDS, b"subject") == b"Subject: only\r\n\r\n"


def test_multipart_without_parts_has_one_empty_part() -> None:
    message = Message(b"Content-Type: multipart/mixed; boundary=x\r\n\r\nno parts\r\n--x--\r\n")
    if message.structure.get("type") == "MULTIPART":
        assert message.body("1") == b""
        assert message.binary("1") == b""
        assert message.body("2") is None
        assert message.body("1", SectionText.MIME) is None
    else:  # an unusable multipart is stored as one opaque part
        assert message.body("1") == b"no parts\r\n--x--\r\n"


def test_binary_decodes_parts() -> None:
    message = Message(MIXED, b"X: y\r\n")
    assert message.binary("1") == b"first"
    assert message.binary("2") == INNER
    assert message.binary("3") == b"\x00\x01\x02\x03"
    assert message.binary("4") is None
    assert message.binary() == message.source.data


def test_binary_of_text_has_the_stored_decoded_size() -> None:
    head = b"Content-Type: text/plain\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    message = Message(head + base64.encodebytes(b"one\ntwo\r\nthree").replace(b"\n", b"\r\n"))
    decoded = message.binary("1")
    assert decoded == b"one\r\ntwo\r\nthree"
    assert message.structure["decoded"] == len(decoded)


def test_binary_of_a_whole_message_has_no_encoding_field() -> None:
    assert Message(SINGLE, b"X: y\r\n").binary() == "X: y\r\nSubject: hello\r\n\r\nnaïve\r\n".encode()


def test_binary_of_a_multipart_is_absent() -> None:
    nested = (
        b"Content-Type: multipart/mixed; boundary=o\r\n\r\n--o\r\nContent-Type: multipart/mixed; boundary=i\r\n\r\n"
    )
    message = Message(nested + b"--i\r\n\r\nleaf\r\n--i--\r\n--o--\r\n")
    assert message.binary("1") is None
    assert message.binary("1.1") == b"leaf"


def test_binary_of_an_unknown_encoding_is_refused() -> None:
    message = Message(b"Content-Transfer-Encoding: x-uuencode\r\n\r\nbegin 644 x\r\n")
    with pytest.raises(UnknownEncoding, match="X-UUENCODE"):
        message.binary("1")
    assert message.body("1") == b"begin 644 x\r\n"


@given(st.binary(max_size=300), st.lists(st.integers(1, 3), max_size=4).map(tuple), st.sampled_from(SectionText))
def test_hostile_content_never_fails(content: bytes, path: tuple[int, ...], text: SectionText) -> None:
    head = b"Content-Type: multipart/mixed; boundary=a\r\n\r\n--a\r\nContent-Type: message/rfc822\r\n\r\n"
    for data in (content, head + content, head + content + b"\r\n--a--\r\n"):
        message = Message(data, b"X: y\r\n")
        section = Section(path, text, frozenset({b"subject"}))
        for find in (locate, locate_binary):
            try:
                found = find(message.structure, 6, section)
            except UnknownEncoding:
                continue
            if found is not None:
                with found.open(message.source) as opened:
                    assert len(b"".join(opened.chunks())) == opened.size


@given(st.lists(st.sampled_from([b"a", b"\r", b"\n", b"\r\n", b"\n\r", b"b\r"]), max_size=12))
def test_newlines_are_the_same_however_blocks_are_cut(blocks: list[bytes]) -> None:
    whole = b"".join(blocks)
    assert b"".join(crlf_blocks(iter(blocks))) == b"".join(crlf_blocks(iter([whole])))
    assert b"\n" not in b"".join(crlf_blocks(iter(blocks))).replace(b"\r\n", b"")


def test_selecting_fields_takes_linear_time() -> None:
    def seconds(n: int) -> float:
        header = b"X-A: b\r\n c\r\n" * n
        best = 9.0
        for _ in range(5):
            start = time.process_time()
            select_fields(header, frozenset({b"x-a"}))
            best = min(best, time.process_time() - start)
        return best

    assert seconds(40_000) < 20 * seconds(5_000)
