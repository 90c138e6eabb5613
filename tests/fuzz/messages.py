"""Messages, header fields and what stands in them."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

from protocols import imapformat
from protocols.message import (
    BadAuthResults,
    FromError,
    MessageError,
    Part,
    clean_text,
    decode,
    decode_bytes,
    decode_header,
    decode_stream,
    ensure_part,
    from_address,
    index_text,
    is_dsn,
    iter_headers,
    message_id_canonical,
    needs_smtputf8,
    parse,
    parse_addresses,
    parse_auth_results,
    parse_date,
    parse_parameterized,
    referenced_ids,
    thread_subject,
    unfold,
)
from protocols.message.transfer import decoded_base64_size

from .imapdata import read_data
from .targets import Target

FIXTURES = Path(__file__).parents[1] / "unit"
MESSAGES = [
    path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    for directory in ("messages", "dsns")
    for path in sorted((FIXTURES / directory).glob("*.eml"))
]
FIELDS = [field.value() for message in MESSAGES for field in iter_headers(message)]


def message(data: bytes) -> None:
    for strict in (False, True):
        with contextlib.suppress(MessageError):
            parse(data, strict=strict)
    part, _ = ensure_part(data)
    assert ensure_part(io.BytesIO(data))[0] == part
    assert Part.from_json(json.loads(json.dumps(part.to_json()))) == part
    _check_offsets(part, 0, len(data))
    for entity in part.walk():
        decoded = b"".join(entity.reader(data))
        if not entity.is_text and not entity.is_multipart and entity.message is None:
            assert len(decoded) == entity.decoded_size
        _check_text(entity.text(data), lines=True)
        list(iter_headers(entity.header(data)))
    for form in (imapformat.bodystructure(part), imapformat.body(part), imapformat.envelope(part.envelope)):
        read_data(form)
    with contextlib.suppress(FromError):
        from_address(part)
    is_dsn(part)
    needs_smtputf8(part, data)


def _check_offsets(part: Part, low: int, high: int) -> None:
    assert low <= part.header_offset <= part.body_offset <= part.end_offset <= high
    for child in part.parts:
        assert part.body_offset <= child.boundary_offset < child.header_offset
        _check_offsets(child, child.boundary_offset, part.end_offset)
    if part.message is not None and part.is_identity:
        _check_offsets(part.message, 0, part.size)


def _check_text(text: str, *, lines: bool = False) -> None:
    """Text that every database and every header takes."""
    assert lines or not any(character in text for character in "\r\n\0")
    assert lines or clean_text(text) == text
    text.encode()


def author(data: bytes) -> None:
    """Who judges a message by its structure, and who verifies its signatures, see the same From fields."""
    part, error = ensure_part(data)
    if error is not None or part.headerless:
        return
    fields = [field.value() for field in iter_headers(part.header(data)) if field.name.lower() == "from"]
    assert part.envelope is not None
    assert part.envelope.from_fields == len(fields)
    assert list(part.envelope.from_) == (parse_addresses(fields[0]) if fields else [])


def header_section(data: bytes) -> None:
    end = 0
    for field in iter_headers(data):
        assert end <= field.start < field.end <= len(data)
        end = field.end
        assert data[field.start : field.end].endswith(field.raw)
        _check_text(field.name)
        _check_text(field.text())
        assert b"\n" not in unfold(field.raw)


def header_text(data: bytes) -> None:
    _check_text(decode_header(data))
    _check_text(index_text(decode_header(data)))


def addresses(data: bytes) -> None:
    in_group = False
    for address in parse_addresses(data):
        for text in (address.name, address.user, address.host, address.adl):
            _check_text(text or "")
        if address.host is None:
            assert in_group == (address.user is None)
            in_group = not in_group
    assert not in_group
    read_data(imapformat.envelope(ensure_part(b"To: " + unfold(data).replace(b"\r", b"") + b"\r\n\r\n")[0].envelope))


def parameterized(data: bytes) -> None:
    for name, value in parse_parameterized(data).params.items():
        _check_text(name)
        _check_text(value)


def date(data: bytes) -> None:
    moment = parse_date(data.decode("utf-8", "replace"))
    if moment is not None:
        assert moment.tzinfo is not None
        assert moment.isoformat()


def identifiers(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    canonical = message_id_canonical(text).value
    assert canonical == canonical.lower()
    ids = referenced_ids(text, text)
    assert len(ids) == len(set(ids))


def subject(data: bytes) -> None:
    base = thread_subject(data.decode("utf-8", "replace")).base
    assert thread_subject(base).base == base


def auth_results(data: bytes) -> None:
    with contextlib.suppress(BadAuthResults):
        parse_auth_results(data.decode("utf-8", "replace"))


def transfer(data: bytes) -> None:
    size = len(data) // 3 + 1
    for encoding in ("base64", "quoted-printable", "7bit", "x"):
        whole = decode(data, encoding)
        pieces = (data[at : at + size] for at in range(0, len(data), size))
        assert b"".join(decode_stream(pieces, encoding)) == whole
    pieces = (data[at : at + size] for at in range(0, len(data), size))
    assert decoded_base64_size(pieces) in (None, len(decode(data, "base64")))


def charset(data: bytes) -> None:
    label, _, text = data.partition(b" ")
    decode_bytes(text, label.decode("latin-1")).encode()


STRUCTURE = [
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b"\r",
    b"--",
    b"--a",
    b"--b",
    b"--a--",
    b"--b--",
    b" ",
    b"\0",
    b"\xe9",
    b"=\r\n",
]
STRUCTURE += [b"Content-Type: multipart/mixed; boundary=", b"Content-Type: message/rfc822\r\n\r\n", b"a", b"b", b"=e9"]
STRUCTURE += [
    b"Content-Type: multipart/digest; boundary=a\r\n\r\n--a\r\n\r\n",
    b"Content-Transfer-Encoding: base64\r\n",
]
STRUCTURE += [b"Content-Transfer-Encoding: quoted-printable\r\n", b"Content-Type: text/plain; charset=utf-16\r\n\r\n"]
STRUCTURE += [
    b"Subject: x\r\n",
    b"From: a@b.example\r\n",
    b"To: c: d@e.example;\r\n",
    b"Content-Type: message/global\r\n",
]
WORDS = [
    b"=?utf-8?q?a=C3?=",
    b"=?utf-8?b?w6k=?=",
    b"=?iso-2022-jp?b?GyRC?=",
    b"=?",
    b"?=",
    b"?q?",
    b"=",
    b" ",
    b"\t",
    b"_",
]
ADDRESS = [
    b"<",
    b">",
    b"@",
    b",",
    b";",
    b":",
    b'"',
    b"\\",
    b"(",
    b")",
    b"[",
    b"]",
    b" ",
    b"a",
    b"b.example",
    b"\xc3\xa9",
]
PARAMETERS = [
    b";",
    b"=",
    b"*",
    b"*0",
    b"*1*",
    b"*0*=utf-8''%C3",
    b"name",
    b"filename",
    b'"',
    b"\\",
    b"%",
    b"'",
    b"(",
    b")",
]

HEADER = [
    b"From",
    b"from",
    b"FROM:",
    b":",
    b" ",
    b"\t",
    b"\r\n",
    b"\r",
    b"\n",
    b"\0",
    b"\x7f",
    b"\xe9",
    b"a@b.example",
    b"X",
]
HEADER += [b"From: a@b.example\r\n", b"From me Mon", b">From ", b"\r\n\r\n", b"\r\n "]

TARGETS = [
    Target("message", message, MESSAGES, STRUCTURE, seconds_per_mib=8),
    Target("author", author, [b"Subject: x\r\nFrom: a@b.example,\r\n c@d.example\r\n\r\n", *MESSAGES[:3]], HEADER),
    Target(
        "header section", header_section, MESSAGES, [b":", b" ", b"\t", b"\r\n", b"\n", b"\r", b"a", b"\0", b"X: y\r\n"]
    ),
    Target("header text", header_text, FIELDS, WORDS),
    Target("addresses", addresses, FIELDS, [*ADDRESS, *WORDS[:3]], seconds_per_mib=16),
    Target("parameters", parameterized, FIELDS, [*PARAMETERS, *WORDS[:2]]),
    Target(
        "date",
        date,
        FIELDS,
        [b"Mon, ", b"3", b" Mar ", b"2031", b"09:12:44", b":", b"+0000", b"-9999", b"(", b")", b"Z"],
    ),
    Target("identifiers", identifiers, FIELDS, [b"<", b">", b"@", b'"', b"\\", b"a", b" ", b"b.example", b"\xc3\xa9"]),
    Target(
        "thread subject",
        subject,
        FIELDS,
        [b"re", b"fwd", b"fw", b":", b"[", b"]", b"[fwd:", b"(fwd)", b" ", b"a", b"\xc4\xb0"],
    ),
    Target(
        "authentication results",
        auth_results,
        [b'a; dkim=pass (b) reason="c" header.d=e'],
        [*ADDRESS, b"=", b".", b"/"],
    ),
    Target(
        "transfer encoding",
        transfer,
        MESSAGES,
        [b"=", b"=\r\n", b"=E9", b"AAAA", b"AA==", b" ", b"\t", b"\r", b"\n", b"\0"],
    ),
    Target(
        "charset",
        charset,
        [b"utf-8 a", b"utf-7 +AGE-", b"iso-2022-jp \x1b$B", b"hz ~{", b"utf-16 \xd8"],
        [
            b"utf-7 ",
            b"+AGE-",
            b"+",
            b"iso-2022-jp ",
            b"\x1b$B",
            b"hz ",
            b"~{",
            b"utf-16 ",
            b"\xd8",
            b"gb18030 ",
            b"\x81",
            b"x",
        ],
    ),
]
