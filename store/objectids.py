"""Object ids: names of mailboxes, contents and threads that never change their meaning (RFC 8474).

A mailbox keeps its id when it is renamed, a message's content and thread when it is copied or moved.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final

from .content import Bytes

_EMAIL_ID: Final = re.compile(r"M([1-9][0-9]{0,17})(?:-([0-9a-f]{16}))?")
_THREAD_ID: Final = re.compile(r"T([1-9][0-9]{0,17})")


@dataclass(frozen=True, slots=True)
class Content:
    """What an EMAILID names: a blob, and the digest of the prefix that stands before it, "" for none."""

    blob_id: int
    digest: str


def mailbox_id(pk: int) -> str:
    return f"F{pk}"


def email_id(blob_id: int, prefix: Bytes) -> str:
    """The id of a message's content. Whoever else received the same has another prefix, and so another id."""
    digest = prefix_digest(prefix)
    return f"M{blob_id}-{digest}" if digest else f"M{blob_id}"


def thread_id(number: int) -> str:
    return f"T{number}"


def content_of(email_id: str) -> Content | None:
    """What an EMAILID names; None if it is none of ours."""
    match = _EMAIL_ID.fullmatch(email_id)
    return Content(int(match[1]), match[2] or "") if match else None


def thread_of(thread_id: str) -> int | None:
    match = _THREAD_ID.fullmatch(thread_id)
    return int(match[1]) if match else None


def prefix_digest(prefix: Bytes) -> str:
    return hashlib.blake2b(prefix, digest_size=8).hexdigest() if prefix else ""
