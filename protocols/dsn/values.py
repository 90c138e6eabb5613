"""What a delivery status notification says, as values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Final, TypeAlias

from protocols.message.errors import MessageError
from protocols.smtpsyntax import Path

MAX_RECIPIENTS: Final = 100  # of one notification that is read
DEFAULT_DIAGNOSTIC_TYPE: Final = "smtp"

Fields: TypeAlias = Sequence[tuple[str, str]]
"""Names and values of fields."""


class DsnError(MessageError):
    """A message is no delivery status notification, or values do not make one."""


class Action(StrEnum):
    """What was done for a recipient (RFC 3464 2.3.3)."""

    FAILED = "failed"
    DELAYED = "delayed"
    DELIVERED = "delivered"
    RELAYED = "relayed"
    EXPANDED = "expanded"


@dataclass(frozen=True, slots=True)
class NameIP:
    """A mail server: its name in A-labels, or what it called itself, and its address if known."""

    name: str
    ip: IPv4Address | IPv6Address | None = None


@dataclass(frozen=True, slots=True)
class DsnRecipient:
    """What happened for one recipient. Texts are "" when absent; times are aware."""

    final: Path
    """The address that was tried. The null path when it was read and is no address; see `final_text`."""
    action: Action
    status: str = ""
    """An enhanced code as a whole, "5.1.1". To compose: "" stands for x.0.0 by the action (RFC 3463)."""
    status_comment: str = ""
    original: Path | None = None
    """The address that the sender had given."""
    remote_mta: NameIP | None = None
    """The server that answered; None when the verdict is ours."""
    diagnostic: str = ""
    """What it answered, the lines of the reply joined by spaces."""
    diagnostic_type: str = DEFAULT_DIAGNOSTIC_TYPE
    last_attempt: datetime | None = None
    final_log_id: str = ""
    will_retry_until: datetime | None = None
    final_text: str = ""
    """The field as read, with its address type."""
    original_text: str = ""
    """The field as read, with its address type."""
    other_fields: Fields = ()
    """Fields read that are not known here."""


@dataclass(frozen=True, slots=True)
class Dsn:
    """A notification about one message. Texts are "" when absent; times are aware."""

    from_: Path
    to: Path
    subject: str
    message_id: str
    """With angle brackets."""
    text: str
    """For people: what happened, with whom, what happens next. Lines end in LF."""
    reporting_mta: str
    """The name of the server that reports, in A-labels."""
    recipients: Sequence[DsnRecipient]
    smtputf8: bool = False
    """Whether the original message needed SMTPUTF8."""
    references: str = ""
    """The Message-Id of the original, with angle brackets."""
    envelope_id: str = ""
    dsn_gateway: str = ""
    received_from: NameIP | None = None
    """The server that the original came from, as it called itself in EHLO."""
    arrival: datetime | None = None
    future_release: str = ""
    """What the sender asked for, "for;3600;r" (RFC 4865 section 4)."""
    date: datetime | None = None
    """Of the notification; to compose, None stands for now."""
    original: bytes | None = None
    """The original message. Only its header is sent on; what is read may be more, if the other side sent it."""
    other_fields: Fields = ()
    """Fields read, of the message as a whole, that are not known here."""
