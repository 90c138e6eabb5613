"""What IMAP answers about a message's structure: ENVELOPE, BODYSTRUCTURE and BODY (RFC 9051 7.5.2, RFC 3501 7.4.2)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from protocols.message.addresses import EnvAddress
from protocols.message.headers import collect_fields, joined_continuations
from protocols.message.structure import ENVELOPE_FIELDS, JSON, Envelope, Part, RawParams

_NOT_QUOTABLE: Final = re.compile(rb"[\x00\r\n\x80-\xff]")
_ENVELOPE_FIELD: Final = re.compile(
    rb"^(?:%b)[ \t]*:" % b"|".join(map(re.escape, sorted(ENVELOPE_FIELDS))), re.IGNORECASE | re.MULTILINE
)
_ESCAPED: Final = re.compile(rb'[\\"]')
_ASCII_PARAMS: Final = b'("CHARSET" "US-ASCII")'
_EMPTY_TEXT: Final = b'("TEXT" "PLAIN" ("CHARSET" "US-ASCII") NIL NIL "7BIT" 0 0'


def envelope(value: Envelope | None) -> bytes:
    """The value of ENVELOPE. Header texts as they were sent; Sender and Reply-To fall back to From."""
    if value is None:
        value = Envelope()
    from_ = _addresses(value.from_)
    return b"(%b %b %b %b %b %b %b %b %b %b)" % (
        _text(value.date),
        nstring(value.subject_raw),
        from_,
        _addresses(value.sender) if value.sender else from_,
        _addresses(value.reply_to) if value.reply_to else from_,
        _addresses(value.to),
        _addresses(value.cc),
        _addresses(value.bcc),
        _text(value.in_reply_to),
        _text(value.message_id),
    )


def envelope_with_prefix(stored: JSON, prefix: bytes) -> bytes:
    """The value of ENVELOPE of a stored envelope with the header fields of `prefix` in front of its own."""
    return envelope(with_prefix(Envelope.from_json(stored), prefix))


def with_prefix(value: Envelope, prefix: bytes) -> Envelope:
    """An envelope with the header fields of `prefix` in front of its own."""
    return value.with_fields_in_front(collect_fields(prefix.split(b"\r\n"), ENVELOPE_FIELDS))


def prefix_changes_envelope(prefix: bytes | memoryview) -> bool:
    """Whether a message's prefix holds header fields of the envelope; if not, the stored ENVELOPE is the message's."""
    return _ENVELOPE_FIELD.search(prefix) is not None


def bodystructure(part: Part) -> bytes:
    """The value of BODYSTRUCTURE, with all extension fields."""
    pieces: list[bytes] = []
    _body(part, True, False, pieces)
    return b"".join(pieces)


def body(part: Part) -> bytes:
    """The value of BODY: the same without extension fields. The stored structure alone, `Part.from_json`, is enough."""
    pieces: list[bytes] = []
    _body(part, False, False, pieces)
    return b"".join(pieces)


def nstring(value: bytes | None) -> bytes:
    """NIL for None, else a string."""
    return b"NIL" if value is None else quoted_or_literal(value)


def quoted_or_literal(value: bytes) -> bytes:
    """A quoted string, or a literal when it holds 8-bit bytes or line ends. NUL, which neither takes, is dropped."""
    if _NOT_QUOTABLE.search(value) is None:
        if b'"' in value or b"\\" in value:
            value = _ESCAPED.sub(rb"\\\g<0>", value)
        return b'"%b"' % value
    value = value.replace(b"\0", b"")
    return b"{%d}\r\n%b" % (len(value), value)


def _body(part: Part, extended: bool, in_digest: bool, out: list[bytes]) -> None:
    out.append(b"(")
    if part.is_multipart:
        digest = part.media_subtype == "DIGEST"
        for child in part.parts:
            _body(child, extended, digest, out)
        if not part.parts:  # the grammar wants one at least
            out.append(_EMPTY_TEXT + (b" NIL NIL NIL NIL)" if extended else b")"))
        out.append(b" %b" % _token(part.orig_subtype))
        if extended:
            out.append(b" %b" % _params(part.raw_params))
    else:
        _leaf(part, extended, in_digest, out)
    if extended:
        out.append(b" %b %b %b" % (_disposition(part), _languages(part.language), _text(part.location)))
    out.append(b")")


def _leaf(part: Part, extended: bool, in_digest: bool, out: list[bytes]) -> None:
    media_type, media_subtype = part.orig_type, part.orig_subtype
    params = _params(part.raw_params)
    if not media_type:
        if in_digest and part.message is not None:  # RFC 2046 5.1.5
            media_type, media_subtype = "MESSAGE", "RFC822"
        else:  # RFC 2045 5.2
            media_type, media_subtype, params = "TEXT", "PLAIN", _ASCII_PARAMS
    elif part.message is None and part.media_type == "MESSAGE" and part.media_subtype in ("RFC822", "GLOBAL"):
        media_type, media_subtype = "APPLICATION", "OCTET-STREAM"
    out.append(
        b"%b %b %b %b %b %b %d"
        % (
            _token(media_type),
            _token(media_subtype),
            params,
            _text(part.content_id),
            nstring(part.description_raw or None),
            quoted_or_literal(part.encoding.encode()) if part.encoding else b'"7BIT"',
            part.size,
        )
    )
    if part.message is not None:
        out.append(b" %b " % envelope(part.message.envelope))
        _body(part.message, extended, False, out)
        out.append(b" %d" % part.raw_lines)
    elif part.is_text:
        out.append(b" %d" % part.raw_lines)
    if extended:
        out.append(b" %b" % _text(part.md5))


def _token(text: str) -> bytes:
    return quoted_or_literal(text.encode())


def _text(text: str) -> bytes:
    """A text that is NIL when it is empty."""
    return quoted_or_literal(text.encode()) if text else b"NIL"


def _params(params: RawParams) -> bytes:
    if not params:
        return b"NIL"
    words: list[bytes] = []
    for name, value in joined_continuations(params):  # as RFC 2231 6 asks of IMAP servers
        words.append(quoted_or_literal(name.encode()))
        words.append(quoted_or_literal(value))
    return b"(%b)" % b" ".join(words)


def _disposition(part: Part) -> bytes:
    if not part.disposition:
        return b"NIL"
    return b"(%b %b)" % (quoted_or_literal(part.disposition.encode()), _params(part.raw_disposition_params))


def _languages(tags: list[str]) -> bytes:
    if not tags:
        return b"NIL"
    return b"(%b)" % b" ".join(quoted_or_literal(tag.encode()) for tag in tags)


def _addresses(addresses: Iterable[EnvAddress]) -> bytes:
    entries = [
        b"(%b %b %b %b)"
        % (nstring(a.name_raw or None), _text(a.adl), _part_of_address(a.user), _part_of_address(a.host))
        for a in addresses
    ]
    return b"(%b)" % b"".join(entries) if entries else b"NIL"


def _part_of_address(text: str | None) -> bytes:
    """NIL says that the entry is the mark of a group, so an empty one is not NIL."""
    return b"NIL" if text is None else quoted_or_literal(text.encode())
