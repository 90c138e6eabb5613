"""Names of mailboxes: levels with slashes between them, in NFC, and Inbox whatever its case (RFC 9051 section 5.1)."""

from __future__ import annotations

import unicodedata
from typing import Final

from .errors import ProtocolError

INBOX: Final = "Inbox"
NAME_MAX: Final = 1000  # bytes in UTF-8: names go into indexes and protocol lines
DEPTH_MAX: Final = 100  # levels


class BadMailboxName(ProtocolError, ValueError):
    """The text is no name for a mailbox; the message says why."""


def canonical_name(name: str) -> str:
    """The name as it is stored, Inbox in its one spelling. Raises BadMailboxName."""
    if not name:
        raise BadMailboxName("empty mailbox name")
    if len(name.encode("utf-8", "surrogatepass")) > NAME_MAX:
        raise BadMailboxName("mailbox name too long")
    elements = name.split("/")
    if not all(elements):
        raise BadMailboxName("bad slashes in mailbox name")
    if len(elements) > DEPTH_MAX:
        raise BadMailboxName(f"mailbox name too long: {len(elements)} levels, at most {DEPTH_MAX}")
    if not unicodedata.is_normalized("NFC", name):
        raise BadMailboxName("mailbox name is not in unicode normal form (NFC)")
    if name.startswith("#"):
        raise BadMailboxName("mailbox name cannot start with #")
    if "." in elements or ".." in elements:
        raise BadMailboxName("mailbox name cannot have an element . or ..")
    if any(_is_control(char) for char in name):
        raise BadMailboxName("control characters not allowed in mailbox name")
    if elements[0].lower() == "inbox":
        elements[0] = INBOX
    return "/".join(elements)


def _is_control(char: str) -> bool:
    # Lone surrogates cannot be stored as UTF-8; U+2028 and U+2029 end lines.
    return char < " " or "\x7f" <= char <= "\x9f" or char in "\u2028\u2029" or "\ud800" <= char <= "\udfff"
