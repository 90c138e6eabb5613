"""DKIM: tag lists, records, header sections that are signed."""

from __future__ import annotations

import contextlib

from protocols.dkim import (
    BodyCanonicalizer,
    BodyHashes,
    Canonicalization,
    DkimError,
    DkimRecord,
    ErrorKind,
    HeaderSection,
    blank_tag,
    generate_ed25519,
    parse_record,
    parse_tags,
    txt_strings,
    zone_text,
)
from protocols.dkim.tags import decode_quoted_printable, encode_quoted_printable

from .messages import MESSAGES
from .targets import Target

KEY = generate_ed25519()


def tags(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    with contextlib.suppress(DkimError):
        for name, value in parse_tags(text, ErrorKind.SIGNATURE_SYNTAX).items():
            assert name in text
            assert value in text
    field = b"DKIM-Signature: " + data
    blank = blank_tag(field, b"b")
    assert blank_tag(blank, b"b") == blank
    decoded = decode_quoted_printable(text)
    for utf8 in (False, True):
        assert decode_quoted_printable(encode_quoted_printable(decoded, utf8=utf8)) == decoded


def record(data: bytes) -> None:
    try:
        read = parse_record(data)
    except DkimError:
        return
    composed = read.compose()
    assert "".join(txt_strings(composed)) == composed
    zone_text(composed)
    with contextlib.suppress(DkimError):
        read.key()


def section(data: bytes) -> None:
    for canonicalization in Canonicalization:
        with contextlib.suppress(DkimError):
            names = ["from", "from", "subject", "x"]
            HeaderSection(data).signed_data(names, canonicalization, b"DKIM-Signature: b=\r\n")


def body(data: bytes) -> None:
    size = len(data) // 3 + 1
    for canonicalization in Canonicalization:
        whole, cut = BodyCanonicalizer(canonicalization), BodyCanonicalizer(canonicalization)
        pieces = [piece for at in range(0, len(data), size) for piece in cut.update(data[at : at + size])]
        form = b"".join((*whole.update(data), *whole.finish()))
        assert b"".join((*pieces, *cut.finish())) == form
        assert form.endswith(b"\r\n") or not form
        hashes = BodyHashes([(canonicalization, "sha256")])
        hashes.update(data)
        hashes.finish()


RECORDS = [
    DkimRecord.for_key(KEY).compose().encode(),
    b"v=DKIM1; k=rsa; h=sha1:sha256; s=email; t=y:s; n=a=20b; p=MIIB",
]
TAGS = [
    b";",
    b"=",
    b":",
    b" ",
    b"\r\n ",
    b"v=DKIM1",
    b"p=",
    b"k=ed25519",
    b"b",
    b"=41",
    b"=4",
    b"\xc3\xa9",
    b"\0",
    b"h=",
    b"AA==",
]
BODY = [b" ", b"\t", b"\r\n", b"\r", b"\n", b"a", b"  ", b"\r\n\r\n"]

TARGETS = [
    Target("tags", tags, [b"v=1; a=ed25519-sha256; b=AA==; bh=BB==; d=example.org; h=from:to; s=x", *RECORDS], TAGS),
    Target("record", record, RECORDS, TAGS),
    Target("signed section", section, MESSAGES, [b"From: a\r\n", b"Subject:", b" ", b"\r\n", b"\r", b"\n", b":", b"x"]),
    Target("body", body, MESSAGES, BODY),
]
