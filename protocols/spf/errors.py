"""What can be wrong with what a domain publishes for SPF."""

from __future__ import annotations

from protocols.errors import ProtocolError


class BadRecord(ProtocolError, ValueError):
    """A record or macro string cannot be read; the text says why, in ASCII and on one line."""
