"""Messages as programs get them, by the webapi and in webhooks: addresses, texts, structure, as JSON values.

Headers are an outsider's: what cannot be read comes as far as it can, and nothing here fails for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final

from protocols.message import EnvAddress, Part, Readable, clean_text, decode_header, iter_headers
from protocols.message.structure import Envelope
from protocols.names import BadDomain, format_localpart, parse_domain_lax

REFERENCES_MAX: Final = 1000  # ids that are told
REFERENCES_FIELD_MAX: Final = 64 * 1024  # bytes of the header that are looked at for them

_ID: Final = re.compile(r"<([^<>]*)>")
_WHITE_SPACE: Final = re.compile(r"\s+")


def addresses(found: Iterable[EnvAddress]) -> list[dict[str, str]]:
    """Name and address of each; groups are their members, what is no address is a name."""
    return [
        {"Name": clean_text(each.name), "Address": _address(each)}
        for each in found
        if each.host is not None  # not the mark of a group
    ]


def _address(found: EnvAddress) -> str:
    if not found.is_mailbox():
        return ""
    return f"{format_localpart(clean_text(found.user or ''))}@{domain_text(found.host or '')}"


def domain_text(name: str) -> str:
    """A domain in Unicode, or the text as it is."""
    try:
        return parse_domain_lax(name).name()
    except BadDomain:
        return clean_text(name)


def structure(part: Part) -> dict[str, Any]:
    """A part, and those in it; an attached message is a leaf."""
    media_type = f"{part.media_type}/{part.media_subtype}".lower() if part.media_type else ""
    return {
        "ContentType": media_type,
        "ContentTypeParams": {name.lower(): clean_text(value) for name, value in part.params.items()},
        "ContentID": clean_text(part.content_id),
        "ContentDisposition": part.disposition if part.disposition in ("inline", "attachment") else "",
        "Filename": clean_text(decode_header(part.filename)) if part.filename else "",
        "DecodedSize": 0 if part.is_multipart else part.decoded_size,
        "Parts": [structure(child) for child in part.parts],
    }


def header_fields(envelope: Envelope) -> dict[str, Any]:
    """The addresses, subject and date of a message."""
    return {
        "From": addresses(envelope.from_),
        "To": addresses(envelope.to),
        "CC": addresses(envelope.cc),
        "BCC": addresses(envelope.bcc),
        "ReplyTo": addresses(envelope.reply_to),
        "Subject": clean_text(envelope.subject),
        "MessageID": clean_text(envelope.message_id),
        "Date": moment(envelope.parsed_date),
    }


def references(part: Part, content: Readable) -> list[str]:
    """The ids of the References fields, in angle brackets, as they were sent."""
    section = part.header(content)[:REFERENCES_FIELD_MAX] if not part.headerless else b""
    values = [header.value() for header in iter_headers(section) if header.name.lower() == "references"]
    return ids(" ".join(value.decode("utf-8", "replace") for value in values))


def ids(field: str) -> list[str]:
    """The ids in a field; one without its end is left out."""
    return [f"<{clean_text(_WHITE_SPACE.sub('', inner))}>" for inner in _ID.findall(field)[:REFERENCES_MAX] if inner]


def moment(time: datetime | None) -> str | None:
    """RFC 3339 in UTC."""
    if time is None:
        return None
    try:
        utc = time.astimezone(UTC)
    except OverflowError:  # in the first or last hours of all years
        return None
    return utc.isoformat().replace("+00:00", "Z")
