"""The structure of messages: the files of tests/unit/messages, the limits, what strict mode refuses, hostile sizes."""

from __future__ import annotations

import io
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from protocols.message import MessageError, Part, ensure_part, is_dsn, needs_smtputf8, parse
from protocols.message.parser import MAX_DEPTH, MAX_PARTS

MESSAGES: Final = Path(__file__).parent / "messages"

OUTLINES: Final = {
    "all-extension-fields": """
        MULTIPART/X-SPECIAL
          TEXT/X-MYOWN 'hello\\r\\n'
          IMAGE/PNG BASE64 '\\x89PNG\\r\\n\\x1a\\n'
    """,
    "bad-types": """
        MULTIPART/MIXED
          APPLICATION/OCTET-STREAM 'one'
          APPLICATION/OCTET-STREAM 'two'
          TEXT/PLAIN 'three'
          TEXT/HTML 'four'
          / 'five'
    """,
    "boundary-prefixes": """
        MULTIPART/MIXED
          MULTIPART/ALTERNATIVE
            TEXT/PLAIN '--bnot a boundary\\r\\n-- b'
            TEXT/HTML '<p>x</p>'
          TEXT/PLAIN 'second'
    """,
    "digest": """
        MULTIPART/DIGEST
          /
            message
              / 'one'
          TEXT/PLAIN 'not a message'
    """,
    "dsn-truncated": """
        MULTIPART/REPORT
          TEXT/PLAIN 'It failed.'
          MESSAGE/DELIVERY-STATUS 'Reporting-MTA: dns; mx.example'
          MESSAGE/RFC822
            message
              APPLICATION/OCTET-STREAM '--lost\\r\\ntext'
    """,
    "empty-multipart": """
        MULTIPART/MIXED 'there is no boundary line\\r\\n'
    """,
    "encoded-message": """
        MULTIPART/MIXED
          MESSAGE/RFC822 BASE64
            message
              APPLICATION/OCTET-STREAM '<b>hi</b>\\n'
          MESSAGE/GLOBAL QUOTED-PRINTABLE
            message
              / 'text'
    """,
    "header-only-parts": """
        MULTIPART/MIXED
          TEXT/PLAIN ''
          / ''
          / ''
          TEXT/PLAIN ''
    """,
    "nested-messages": """
        MULTIPART/MIXED
          MESSAGE/RFC822
            message
              MULTIPART/MIXED
                MESSAGE/RFC822
                  message
                    / 'inner text'
                TEXT/PLAIN 'text after the inner message'
          TEXT/PLAIN 'text after the middle message'
    """,
    "no-content-type": """
        / 'plain text\\r\\n'
    """,
    "rfc2049-appendix-a": """
        MULTIPART/MIXED
          / '  ... Some text appears here .'
          TEXT/PLAIN 'This could have been part of t'
          MULTIPART/PARALLEL
            AUDIO/BASIC BASE64 '\\x00\\x01\\x02\\x03\\x04\\x05\\x06\\x07\\x08\\t\\n\\x0b\\x0c\\r\\x0e\\x0f'
            IMAGE/JPEG BASE64 'ÿØÿà\\x00\\x10JFIF\\x00\\x01\\x01'
          TEXT/ENRICHED 'This is <bold><italic>enriched'
          MESSAGE/RFC822
            message
              TEXT/PLAIN QUOTED-PRINTABLE '  ... Additional text in ISO-8'
    """,
    "unclosed": """
        MULTIPART/MIXED
          MULTIPART/ALTERNATIVE
            TEXT/PLAIN 'one'
          TEXT/PLAIN 'two\\r\\n'
    """,
}
STRICTLY: Final = {
    "bad-types": "bad content-type",
    "dsn-truncated": "missing/empty boundary content-type parameter",
    "empty-multipart": "eof without closing boundary",
    "encoded-message": "invalid bare line feed",
    "unclosed": "eof without closing boundary",
}


def read(name: str) -> bytes:
    return (MESSAGES / f"{name}.eml").read_bytes().replace(b"\n", b"\r\n")


def outline(part: Part, content: bytes, indent: str = "") -> Iterator[str]:
    body = b"".join(part.reader(content))
    words = [f"{part.media_type}/{part.media_subtype}", *filter(None, [part.encoding])]
    if not part.parts and part.message is None:
        words.append(repr(body[:30].decode("latin-1")))
    yield indent + " ".join(words)
    for child in part.parts:
        yield from outline(child, content, f"{indent}  ")
    if part.message is not None:
        yield f"{indent}  message"
        yield from outline(part.message, body, f"{indent}    ")


@pytest.mark.parametrize("name", OUTLINES)
def test_it_finds_the_parts(name: str) -> None:
    content = read(name)
    expected = [line.removeprefix(" " * 8) for line in OUTLINES[name].strip("\n ").split("\n")]
    part, error = ensure_part(content)
    assert error is None
    assert list(outline(part, content)) == expected
    assert ensure_part(io.BytesIO(content))[0] == part


@pytest.mark.parametrize("name", OUTLINES)
def test_it_is_stricter_when_asked(name: str) -> None:
    if name not in STRICTLY:
        parse(read(name), strict=True)
        return
    with pytest.raises(MessageError, match=f"^{STRICTLY[name]}$"):
        parse(read(name), strict=True)


def test_each_file_has_an_outline() -> None:
    print(f"{len(OUTLINES)} structures")
    assert sorted(OUTLINES) == sorted(path.stem for path in MESSAGES.glob("*.eml"))


def test_offsets_are_those_of_the_content() -> None:
    content = read("rfc2049-appendix-a")
    part = parse(content)
    second = part.parts[1]
    assert content[second.boundary_offset :].startswith(b"--unique-boundary-1\r\nContent-type: text/plain")
    assert content[second.header_offset :].startswith(b"Content-type: text/plain")
    assert content[second.body_offset : second.end_offset].startswith(b"This could have been part of the previous part")
    assert content[second.end_offset :].startswith(b"\r\n--unique-boundary-1\r\n")
    inner = part.parts[4]
    assert inner.message is not None
    assert inner.message.header_offset == 0
    assert inner.message.envelope is not None
    assert inner.message.envelope.subject == "(subject in US-ASCII)"


# What cannot be a message.

MULTIPART: Final = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"


@pytest.mark.parametrize(
    ("content", "strict", "error"),
    [
        (b"Subject: a\nFrom: b\r\n\r\n", False, "invalid bare line feed"),
        (b"Subject: a\r\n\r\nb\rc\r\n", True, "invalid bare carriage return"),
        (b"Subject: " + b"a" * 8192 + b"\r\n\r\n", False, "line too long"),
        (b"Subject: a\r\n\r\n" + b"a" * 1000 + b"\r\n", True, "line too long"),
        (b"X: a\r\n" * 5001 + b"\r\n", False, "more than 5000 header fields"),
        (b"X: " + b"a\r\n " * 400_000 + b"\r\n\r\n", False, "header section longer than 1048576 bytes"),
        (MULTIPART + b"--b--\r\n", False, "first boundary cannot be finishing boundary"),
        (MULTIPART + b"--b\r\n\r\na\r\n", True, "eof without closing boundary"),
        (b"Content-Type: multipart/mixed\r\n\r\n", False, "missing/empty boundary content-type parameter"),
        (b"Content-Type: multipart/mixed; boundary=\r\n\r\n", False, "missing/empty boundary content-type parameter"),
        (b"Content-Type: text\r\n\r\n", True, "bad content-type"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_it_says_what_is_wrong(content: bytes, strict: bool, error: str) -> None:
    with pytest.raises(MessageError, match=f"^{error}$"):
        parse(content, strict=strict)
    part, _ = ensure_part(content)
    assert part.end_offset == len(content)
    assert strict or not part.parts


def test_what_the_wild_sends_is_read() -> None:
    parse(b"Subject: a\r\n\r\nb\rc\r\n")
    parse(b"Subject: a\r\n\r\n" + b"a" * 100_000 + b"\r\n")
    parse(b"Subject: " + b"a" * 8000 + b"\r\n\r\n")
    parse(b"")
    parse(b"no header")
    assert parse(b"From me Mon Mar 3\r\nSubject: a\r\n\r\n").envelope is not None


def test_a_broken_message_keeps_its_header() -> None:
    part, error = ensure_part(b"Subject: a\nFrom: b@example.org\n\nc\n")
    assert str(error) == "invalid bare line feed"
    assert (part.media_type, part.media_subtype) == ("APPLICATION", "OCTET-STREAM")
    assert part.envelope is not None
    assert part.envelope.subject == "a"


def test_text_is_decoded_whatever_is_wrong_with_it() -> None:
    def text(charset: str, body: bytes, encoding: str = "8bit") -> str:
        content = f"Content-Type: text/plain; charset={charset}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n"
        message = content.encode() + body
        return parse(message).text(message)

    assert text("utf-8", "é".encode()) == "é"
    assert text("iso-8859-1", b"\x80") == "€"
    assert text("gb2312", "龍".encode("gb18030")) == "龍"
    assert text("ks_c_5601-1987", "똠".encode("cp949")) == "똠"
    assert text("unknown-8bit", b"a\xe9") == "aé"
    assert text("no-such", b"a") == "a"
    assert text("utf-8", b"w6\r\n!k", "base64") == "é"
    assert text("utf-8", b"=C3=\r\n=A9=4", "quoted-printable") == "é=4"


def test_what_others_ask_of_a_message() -> None:
    content = read("dsn-truncated")
    assert is_dsn(parse(content))
    assert not is_dsn(parse(read("digest")))
    assert not needs_smtputf8(parse(content), content)
    inner = MULTIPART + b"--b\r\nContent-Type: message/rfc822\r\n\r\nSubject: \xc3\xa9\r\n\r\n\r\n--b--\r\n"
    assert needs_smtputf8(parse(inner), inner)


# Limits and hostile sizes.


def nested_multiparts(count: int) -> bytes:
    opening = b"".join(b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n) for n in range(count))
    return opening + b"\r\ntext"


def nested_messages(count: int) -> bytes:
    return b"Content-Type: message/rfc822\r\n\r\n" * count + b"Subject: x\r\n\r\n"


def depth(part: Part) -> int:
    below = [*part.parts, *filter(None, [part.message])]
    return 1 + max(map(depth, below), default=0)


@pytest.mark.parametrize("nested", [nested_multiparts, nested_messages])
def test_what_is_nested_too_deep_is_opaque(nested: Callable[[int], bytes]) -> None:
    content = nested(5_000)
    part, _ = ensure_part(content)
    assert depth(part) <= MAX_DEPTH
    assert part.end_offset == len(content)


def test_what_has_too_many_parts_is_opaque() -> None:
    content = MULTIPART + b"--b\r\n\r\n\r\n" * (2 * MAX_PARTS) + b"--b--\r\n"
    part, _ = ensure_part(content)
    assert sum(1 for _ in part.walk()) <= MAX_PARTS + 1


HOSTILE: Final = {
    "5000 multiparts in each other": nested_multiparts(5_000),
    "1000 messages in each other": nested_messages(1_000),
    "boundaries of dashes": b"Content-Type: multipart/mixed; boundary=" + b"-" * 70 + b"\r\n\r\n" + b"-" * (1 << 20),
    "lines of dashes": MULTIPART + b"--\r\n" * (1 << 18),
    "many short parts": MULTIPART + b"--b\r\n" * (1 << 17),
    "References": b"References: " + b"\r\n ".join([b"<a@b>" * 100] * 2000) + b"\r\n\r\n",
    "From of 10 MB": b"From: " + b"a@b,\r\n " * 1_500_000 + b"\r\n\r\n",
    "addresses of nothing": b"".join(b"To: " + b"@" * 200 + b"\r\n" for _ in range(5_000)) + b"\r\n",
    "10000 fields": b"X: y\r\n" * 10_000 + b"\r\n",
    "1000 parameters": b"Content-Type: text/plain" + b";\r\n a*0*=b" * 5_000 + b"\r\n\r\n",
    "comments": b"Content-Type: text/plain; " + b"\r\n ".join([b"(" * 500] * 1000) + b"\r\n\r\n",
    "quotes": b"Content-Disposition: a; " + b"\r\n ".join([b'"\\' * 250] * 1000) + b"\r\n\r\n",
    "encoded words": b"Subject: " + b"\r\n ".join([b"=?u?q?a?=" * 50] * 1000) + b"\r\n\r\n",
    "encoded words without end": b"Subject: " + b"\r\n ".join([b"=?a?q?" * 80] * 1000) + b"\r\n\r\n",
    "empty lines": b"Subject: x\r\n\r\n" + b"\r\n" * (1 << 19),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_messages_take_about_a_second_for_each_mib(name: str) -> None:
    content = HOSTILE[name]
    most = 0.5 + 2 * len(content[: 1 << 20]) / (1 << 20)  # what is longer than a header section is passed over
    best = float("inf")
    for _ in range(3):
        start = time.process_time()
        ensure_part(content)
        best = min(best, time.process_time() - start)
        if best < most:
            return
    raise AssertionError(f"{best:.2f} s for {len(content)} bytes")


def test_a_large_file_takes_little_time_and_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.eml"
    line = b"QUJD" * 19 + b"\r\n"
    part = b"--b\r\nContent-Type: image/png\r\nContent-Transfer-Encoding: base64\r\n\r\n" + line * 32_000
    path.write_bytes(MULTIPART + part * 4 + b"--b--\r\n")
    tracemalloc.start()
    try:
        with path.open("rb") as file:
            found, error = ensure_part(file)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert error is None
    assert [one.decoded_size for one in found.parts] == [32_000 * 57] * 4
    assert most < 8 << 20
