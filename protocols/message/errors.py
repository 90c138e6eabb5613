"""What reading a message can raise."""

from __future__ import annotations

from protocols.errors import ProtocolError


class MessageError(ProtocolError, ValueError):
    """The content is not a message of the form asked for; the text is short and fit for a reply line."""


class FromError(MessageError):
    """There is not exactly one From header with exactly one address (RFC 5322 3.6.2, RFC 7489 6.6.1)."""
