"""Questions that others ask about a parsed message: its author, whether it is a DSN, whether it needs SMTPUTF8."""

from __future__ import annotations

from protocols.names import Address, BadAddress, format_localpart, parse_address

from .errors import FromError
from .source import Readable
from .structure import Part


def from_address(part: Part) -> Address:
    """The address of the one From header with one address. Raises FromError (RFC 7489 6.6.1)."""
    envelope = part.envelope
    if envelope is None or not envelope.from_fields:
        raise FromError("missing From header")
    if envelope.from_fields > 1:
        raise FromError(f"{envelope.from_fields} From headers, must be one")
    if any(address.host is None for address in envelope.from_):
        raise FromError("From header holds a group")
    if len(envelope.from_) != 1:
        raise FromError(f"From header has {len(envelope.from_)} addresses, must be one")
    address = envelope.from_[0]
    if not address.is_mailbox():
        raise FromError("From header has no valid address")
    try:
        return parse_address(f"{format_localpart(address.user or '')}@{address.host}")
    except BadAddress as error:
        raise FromError(f"From header: {error}") from error


def is_dsn(part: Part) -> bool:
    """Whether it is a delivery status notification: multipart/report with the status as second part (RFC 6522)."""
    return (
        part.media_type == "MULTIPART"
        and part.media_subtype == "REPORT"
        and len(part.parts) >= 2
        and part.parts[1].media_type == "MESSAGE"
        and part.parts[1].media_subtype in ("DELIVERY-STATUS", "GLOBAL-DELIVERY-STATUS")
    )


def needs_smtputf8(part: Part, source: Readable) -> bool:
    """Whether the header of the message, or of any part at any level, holds bytes outside ASCII (RFC 6531 3.4)."""
    for entity in part.walk():
        if not entity.header(source).isascii():
            return True
        if entity.message is not None and needs_smtputf8(entity.message, entity.body_source(source)):
            return True
    return False
