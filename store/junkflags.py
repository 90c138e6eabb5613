"""$Junk and $NotJunk by the mailbox that a message comes to: mail programs hardly let users set them, but all can move.

mark = for_mailbox(tx.settings, mailbox)
bits = apply(mark, bits)
"""

from __future__ import annotations

import enum
import functools
import logging
from typing import NamedTuple

from server.regexps import BadRegexp, compiled

from .flags import JUNK, NOTJUNK
from .models import Mailbox

log = logging.getLogger(__name__)


class JunkMark(enum.Enum):
    """What the two flags of a message become; the value is their bits."""

    JUNK = JUNK
    NOTJUNK = NOTJUNK
    NEITHER = 0


class JunkSettings(NamedTuple):
    """An account's settings for automatic flags: regular expressions on lower-case mailbox names, "" for none."""

    automatic: bool
    junk: str
    neutral: str
    not_junk: str


def for_mailbox(settings: JunkSettings, mailbox: Mailbox) -> JunkMark | None:
    """How a message is marked that is added, copied or moved to a mailbox; None leaves its flags alone."""
    if mailbox.special_junk:
        return JunkMark.JUNK
    return _by_name(settings, mailbox.name) if settings.automatic else None


def apply(mark: JunkMark | None, bits: int) -> int:
    """Flags (bits of store.flags) with this mark."""
    return bits if mark is None else bits & ~(JUNK | NOTJUNK) | mark.value


def columns(mark: JunkMark | None) -> dict[str, bool]:
    """The columns of Message that a mark sets."""
    return {} if mark is None else {"junk": mark is JunkMark.JUNK, "notjunk": mark is JunkMark.NOTJUNK}


@functools.lru_cache(maxsize=4096)
def _by_name(settings: JunkSettings, name: str) -> JunkMark | None:
    name = name.lower()
    rules = (
        (settings.junk, JunkMark.JUNK),
        (settings.neutral, JunkMark.NEITHER),
        (settings.not_junk, JunkMark.NOTJUNK),
    )
    for expression, mark in rules:
        if expression and _matches(expression, name):
            return mark
    # Where all but one kind are described, the others are of that kind.
    left = [mark for expression, mark in rules if not expression]
    return left[0] if len(left) == 1 else None


def _matches(expression: str, name: str) -> bool:
    try:
        return compiled(expression).search(name)
    except BadRegexp as exc:
        # They are checked when they are saved: somebody changed the row by hand. Mail must not wait for that.
        log.error("setting of an account is ignored", extra={"regexp": expression, "err": str(exc)})
        return False
