"""The structure of a message: parts with their offsets, envelopes, and the JSON form in which both are stored."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, TypeAlias

from .addresses import MAX_ADDRESSES, EnvAddress, parse_addresses
from .charset import decode_bytes
from .dates import parse_date
from .encodedwords import decode_header, one_line
from .source import Readable, SubSource, as_source, chunks, spooled
from .transfer import IDENTITY, decode_stream

JSON: TypeAlias = dict[str, Any]
"""An object of the stored form; its values are what `json` reads and writes."""

DECODE_CHUNK: Final = 57 * 1024  # bytes; whole base64 lines of 76 characters and CRLF in the usual case

ENVELOPE_FIELDS: Final = frozenset(
    (b"date", b"subject", b"from", b"sender", b"reply-to", b"to", b"cc", b"bcc", b"in-reply-to", b"message-id")
)
"""Names, in lower case, of the header fields that an envelope is made of."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """The header fields that IMAP calls the envelope. Texts are "" when absent, but for `subject_raw`."""

    date: str = ""
    """The Date field as sent; `parsed_date` is what it means, if anything."""
    parsed_date: datetime | None = None
    subject: str = ""
    subject_raw: bytes | None = None
    """The Subject field unfolded and not decoded, None when there is none."""
    from_: tuple[EnvAddress, ...] = ()
    sender: tuple[EnvAddress, ...] = ()
    reply_to: tuple[EnvAddress, ...] = ()
    to: tuple[EnvAddress, ...] = ()
    cc: tuple[EnvAddress, ...] = ()
    bcc: tuple[EnvAddress, ...] = ()
    in_reply_to: str = ""
    message_id: str = ""
    from_fields: int = 0
    """How many From fields there are; `from_` is of the first."""
    references: str = field(default="", compare=False)
    """The References field, for threads; only of a message that was just parsed, it is not stored."""

    @classmethod
    def from_fields_of(cls, fields: dict[bytes, list[bytes]]) -> Envelope:
        """The envelope that unfolded field values make, by lower-case name. Several To, Cc or Bcc fields are joined."""
        date = _first_text(fields, b"date")
        subjects = fields.get(b"subject")
        from_fields = fields.get(b"from")
        return cls(
            date=date,
            parsed_date=parse_date(date) if date else None,
            subject=decode_header(subjects[0]) if subjects else "",
            subject_raw=subjects[0] if subjects else None,
            from_=tuple(parse_addresses(from_fields[0])) if from_fields else (),
            sender=_first_addresses(fields, b"sender"),
            reply_to=_first_addresses(fields, b"reply-to"),
            to=_all_addresses(fields, b"to"),
            cc=_all_addresses(fields, b"cc"),
            bcc=_all_addresses(fields, b"bcc"),
            in_reply_to=_first_text(fields, b"in-reply-to"),
            message_id=_first_text(fields, b"message-id"),
            from_fields=len(from_fields) if from_fields else 0,
            references=" ".join(raw_text(v) for v in fields[b"references"]) if b"references" in fields else "",
        )

    def with_fields_in_front(self, fields: dict[bytes, list[bytes]]) -> Envelope:
        """The envelope of this header with more fields before its own."""
        front = Envelope.from_fields_of(fields)
        return Envelope(
            date=front.date or self.date,
            parsed_date=front.parsed_date if front.date else self.parsed_date,
            subject=front.subject if front.subject_raw is not None else self.subject,
            subject_raw=front.subject_raw if front.subject_raw is not None else self.subject_raw,
            from_=front.from_ or self.from_,
            sender=front.sender or self.sender,
            reply_to=front.reply_to or self.reply_to,
            to=front.to + self.to,
            cc=front.cc + self.cc,
            bcc=front.bcc + self.bcc,
            in_reply_to=front.in_reply_to or self.in_reply_to,
            message_id=front.message_id or self.message_id,
            from_fields=front.from_fields + self.from_fields,
            references=front.references or self.references,
        )

    def to_json(self) -> JSON:
        """The stored form; what is absent there is empty. A raw form is there only where it says more."""
        stored: JSON = {}
        if self.date:
            stored["date"] = self.date
        if self.parsed_date is not None:
            stored["parsed_date"] = self.parsed_date.isoformat()
        if self.subject_raw is not None:
            stored["subject"] = self.subject
            _put_raw(stored, "subject_raw", self.subject_raw, self.subject)
        for key, addresses in (
            ("from", self.from_),
            ("sender", self.sender),
            ("reply_to", self.reply_to),
            ("to", self.to),
            ("cc", self.cc),
            ("bcc", self.bcc),
        ):
            if addresses:
                stored[key] = [_address_to_json(address) for address in addresses]
        if self.in_reply_to:
            stored["in_reply_to"] = self.in_reply_to
        if self.message_id:
            stored["message_id"] = self.message_id
        if self.from_fields != bool(self.from_):
            stored["from_fields"] = self.from_fields
        return stored

    @classmethod
    def from_json(cls, stored: JSON) -> Envelope:
        parsed = stored.get("parsed_date")
        from_ = _addresses_from_json(stored.get("from"))
        return cls(
            date=stored.get("date", ""),
            parsed_date=datetime.fromisoformat(parsed) if parsed else None,
            subject=stored.get("subject", ""),
            subject_raw=_get_raw(stored, "subject_raw", "subject") if "subject" in stored else None,
            from_=from_,
            sender=_addresses_from_json(stored.get("sender")),
            reply_to=_addresses_from_json(stored.get("reply_to")),
            to=_addresses_from_json(stored.get("to")),
            cc=_addresses_from_json(stored.get("cc")),
            bcc=_addresses_from_json(stored.get("bcc")),
            in_reply_to=stored.get("in_reply_to", ""),
            message_id=stored.get("message_id", ""),
            from_fields=stored.get("from_fields", int(bool(from_))),
        )


RawParams: TypeAlias = tuple[tuple[str, bytes], ...]
"""Parameters as sent, in order: names in upper case, values without quotes."""


@dataclass(slots=True)
class Part:
    """A message, or a part of one. Offsets are bytes into the content it was parsed from.

    The offsets in `message` are relative to this part's decoded body, `body_source` of this part.
    """

    boundary_offset: int = -1
    """Of the boundary line before the part, -1 when there is none."""
    header_offset: int = 0
    body_offset: int = 0
    """The header section and its empty line lie between the two."""
    end_offset: int = 0
    """End of the body, before the CRLF that belongs to the next boundary line."""
    raw_lines: int = 0
    decoded_size: int = 0
    """Bytes of the body after transfer decoding; in text a bare LF counts as CRLF. 0 for a multipart."""
    media_type: str = ""
    media_subtype: str = ""
    """Upper case; both "" when the header says nothing."""
    orig_type: str = ""
    orig_subtype: str = ""
    params: dict[str, str] = field(default_factory=dict)
    raw_params: RawParams = ()
    content_id: str = ""
    description: str = ""
    description_raw: bytes = b""
    encoding: str = ""
    """Content-Transfer-Encoding in upper case, "" when absent."""
    disposition: str = ""
    """In lower case, "" when absent."""
    disposition_params: dict[str, str] = field(default_factory=dict)
    raw_disposition_params: RawParams = ()
    language: list[str] = field(default_factory=list)
    location: str = ""
    md5: str = ""
    headerless: bool = False
    """Whether the content starts directly with its body, without a header section or the empty line that ends one."""
    envelope: Envelope | None = None
    """Of the top level, and of `message`."""
    parts: list[Part] = field(default_factory=list)
    message: Part | None = None

    @property
    def size(self) -> int:
        """Bytes of the body as it stands in the content."""
        return self.end_offset - self.body_offset

    @property
    def is_multipart(self) -> bool:
        return self.media_type == "MULTIPART"

    @property
    def is_text(self) -> bool:
        """Whether the body is text: of type text, or of no declared type and thus text/plain (RFC 2045 5.2)."""
        return self.media_type == "TEXT" or (not self.media_type and self.message is None)

    @property
    def is_identity(self) -> bool:
        """Whether the body stands in the content as it is, or in an encoding that is not known."""
        return self.encoding in IDENTITY or self.encoding not in ("BASE64", "QUOTED-PRINTABLE")

    @property
    def filename(self) -> str:
        """The name the sender gave the part, "" when none; it may hold path separators."""
        return self.disposition_params.get("filename") or self.params.get("name", "")

    def walk(self) -> Iterator[Part]:
        """This part and its parts at every level, in order; not what is in `message`."""
        yield self
        for part in self.parts:
            yield from part.walk()

    def header(self, source: Readable) -> bytes:
        """The header section, its empty line included."""
        return as_source(source).read_at(self.header_offset, self.body_offset - self.header_offset)

    def raw(self, source: Readable) -> Iterator[bytes]:
        """The body as it stands, in pieces."""
        return chunks(as_source(source), self.body_offset, self.end_offset, DECODE_CHUNK)

    def reader(self, source: Readable) -> Iterator[bytes]:
        """The body after transfer decoding, in pieces."""
        return decode_stream(self.raw(source), self.encoding)

    def text(self, source: Readable) -> str:
        """The whole body as text, by its charset."""
        return decode_bytes(b"".join(self.reader(source)), self.params.get("charset", ""))

    def body_source(self, source: Readable) -> Readable:
        """The decoded body as the content that `message` has its offsets in."""
        if self.is_identity:
            return SubSource(as_source(source), self.body_offset, self.end_offset)
        return spooled(self.reader(source))

    def to_json(self) -> JSON:
        """The stored form, with short keys; what is absent there is empty."""
        stored: JSON = {"bound": self.boundary_offset, "head": self.header_offset, "body": self.body_offset}
        stored["end"] = self.end_offset
        if self.raw_lines:
            stored["lines"] = self.raw_lines
        if self.decoded_size:
            stored["decoded"] = self.decoded_size
        if self.media_type:
            stored["type"] = self.media_type
            stored["subtype"] = self.media_subtype
            if self.orig_type != self.media_type:
                stored["orig_type"] = self.orig_type
            if self.orig_subtype != self.media_subtype:
                stored["orig_subtype"] = self.orig_subtype
        _put_params(stored, "params", self.params, self.raw_params)
        for key, text in (
            ("id", self.content_id),
            ("desc", self.description),
            ("cte", self.encoding),
            ("disp", self.disposition),
            ("loc", self.location),
            ("md5", self.md5),
        ):
            if text:
                stored[key] = text
        if self.description_raw:
            _put_raw(stored, "desc_raw", self.description_raw, self.description)
        _put_params(stored, "disp_params", self.disposition_params, self.raw_disposition_params)
        if self.language:
            stored["lang"] = self.language
        if self.headerless:
            stored["headerless"] = True
        if self.envelope is not None:
            stored["envelope"] = self.envelope.to_json()
        if self.parts:
            stored["parts"] = [part.to_json() for part in self.parts]
        if self.message is not None:
            stored["message"] = self.message.to_json()
        return stored

    @classmethod
    def from_json(cls, stored: JSON) -> Part:
        """The part that `to_json` wrote."""
        get: Callable[..., Any] = stored.get
        media_type: str = get("type", "")
        media_subtype: str = get("subtype", "")
        params, raw_params = _get_params(stored, "params")
        disposition_params, raw_disposition_params = _get_params(stored, "disp_params")
        envelope, message = get("envelope"), get("message")
        return cls(
            boundary_offset=get("bound", -1),
            header_offset=get("head", 0),
            body_offset=get("body", 0),
            end_offset=get("end", 0),
            raw_lines=get("lines", 0),
            decoded_size=get("decoded", 0),
            media_type=media_type,
            media_subtype=media_subtype,
            orig_type=get("orig_type", media_type),
            orig_subtype=get("orig_subtype", media_subtype),
            params=params,
            raw_params=raw_params,
            content_id=get("id", ""),
            description=get("desc", ""),
            description_raw=_get_raw(stored, "desc_raw", "desc"),
            encoding=get("cte", ""),
            disposition=get("disp", ""),
            disposition_params=disposition_params,
            raw_disposition_params=raw_disposition_params,
            language=list(get("lang", ())),
            location=get("loc", ""),
            md5=get("md5", ""),
            headerless=get("headerless", False),
            envelope=None if envelope is None else Envelope.from_json(envelope),
            parts=[cls.from_json(part) for part in get("parts", ())],
            message=None if message is None else cls.from_json(message),
        )


def raw_text(raw: bytes) -> str:
    """Header bytes as text on one line, U+FFFD for what is no UTF-8."""
    return one_line(raw.decode("ascii") if raw.isascii() else raw.decode("utf-8", "replace"))


# Raw header bytes go into JSON as UTF-8 text. Bytes that are none become U+EF80 to U+EFFF (private use, one for each
# of 0x80 to 0xFF), and so do the bytes of these characters themselves: any value comes back as it was.
_ESCAPES: Final = {0xDC00 + byte: 0xEF00 + byte for byte in range(0x80, 0x100)}
_UNESCAPES: Final = {0xEF00 + byte: 0xDC00 + byte for byte in range(0x80, 0x100)}
_ESCAPE_CHARACTERS: Final = re.compile("[\uef80-\uefff]")


def _raw_to_json(raw: bytes) -> str:
    if raw.isascii():
        return raw.decode("ascii")
    text = raw.decode("utf-8", "surrogateescape")
    text = _ESCAPE_CHARACTERS.sub(lambda m: "".join(chr(0xEF00 + byte) for byte in m[0].encode()), text)
    return text.translate(_ESCAPES)


def _raw_from_json(text: str) -> bytes:
    return text.encode() if text.isascii() else text.translate(_UNESCAPES).encode("utf-8", "surrogateescape")


def _put_raw(stored: JSON, key: str, raw: bytes, text: str) -> None:
    """Store a raw value, unless its text is all there is to it."""
    value = _raw_to_json(raw)
    if value != text:
        stored[key] = value


def _get_raw(stored: JSON, key: str, text_key: str) -> bytes:
    value: str = stored[key] if key in stored else stored.get(text_key, "")
    return _raw_from_json(value)


def _put_params(stored: JSON, key: str, params: dict[str, str], raw: RawParams) -> None:
    if params:
        stored[key] = params
    if raw != _as_raw(params):
        stored[f"{key}_raw"] = [[_raw_to_json(name.encode("latin-1")), _raw_to_json(value)] for name, value in raw]


def _get_params(stored: JSON, key: str) -> tuple[dict[str, str], RawParams]:
    params: dict[str, str] = dict(stored.get(key, {}))
    raw = stored.get(f"{key}_raw")
    if raw is None:
        return params, _as_raw(params)
    return params, tuple((name, _raw_from_json(value)) for name, value in raw)


def _as_raw(params: dict[str, str]) -> RawParams:
    return tuple((name.upper(), _raw_from_json(value)) for name, value in params.items())


def _address_to_json(address: EnvAddress) -> JSON:
    stored: JSON = {}
    if address.name:
        stored["name"] = address.name
    if address.adl:
        stored["adl"] = address.adl
    if address.user != "":
        stored["user"] = address.user
    if address.host != "":
        stored["host"] = address.host
    if address.name_raw:
        _put_raw(stored, "name_raw", address.name_raw, address.name)
    return stored


def _addresses_from_json(stored: list[JSON] | None) -> tuple[EnvAddress, ...]:
    if not stored:
        return ()
    return tuple(
        EnvAddress(
            entry.get("name", ""),
            entry.get("user", ""),
            entry.get("host", ""),
            entry.get("adl", ""),
            _get_raw(entry, "name_raw", "name"),
        )
        for entry in stored
    )


def _first_text(fields: dict[bytes, list[bytes]], name: bytes) -> str:
    values = fields.get(name)
    return raw_text(values[0]) if values else ""


def _first_addresses(fields: dict[bytes, list[bytes]], name: bytes) -> tuple[EnvAddress, ...]:
    values = fields.get(name)
    return tuple(parse_addresses(values[0])) if values else ()


def _all_addresses(fields: dict[bytes, list[bytes]], name: bytes) -> tuple[EnvAddress, ...]:
    values = fields.get(name)
    if not values:
        return ()
    addresses: list[EnvAddress] = []
    for value in values:
        addresses += parse_addresses(value)
        if len(addresses) >= MAX_ADDRESSES:
            break
    return tuple(addresses)
