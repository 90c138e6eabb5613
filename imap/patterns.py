"""Patterns of LIST and LSUB: ``*`` is any text, ``%`` any text without ``/`` (RFC 9051 6.3.9).

matcher = Patterns(["Lists/%", "a*"])
matcher.matches("Lists/python")

Patterns are hostile: they become one regular expression of RE2, which matches in linear time whatever they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import re2

from store.mailboxes import INBOX

PATTERN_MEMORY: Final = 8 << 20  # bytes that RE2 may use for one set of patterns

_WILDCARDS: Final = re.compile(r"[*%]+")


class BadPattern(Exception):
    """Patterns that together are too large to be matched."""


class Patterns:
    """Some patterns, of which a name must match one. The Inbox element is compared without case."""

    def __init__(self, patterns: Iterable[str]) -> None:
        options = re2.Options()
        options.max_mem = PATTERN_MEMORY
        options.log_errors = False
        options.dot_nl = True
        try:
            self._matches = re2.compile("|".join(f"(?:{_regexp(pattern)})" for pattern in patterns) or "a^", options)
        except re2.error as exc:
            raise BadPattern(f"patterns are too large: {exc}") from exc

    def matches(self, name: str) -> bool:
        if self._matches.fullmatch(name):
            return True
        if name == INBOX or name.startswith(f"{INBOX}/"):
            rest = name[len(INBOX) :]
            return any(self._matches.fullmatch(f"{inbox}{rest}") for inbox in ("INBOX", "inbox"))
        return False


def combined(reference: str, pattern: str) -> str:
    """A reference name and a pattern as one pattern."""
    if not reference or reference.endswith("/"):
        return reference + pattern
    return f"{reference}/{pattern}"


def _regexp(pattern: str) -> str:
    pieces: list[str] = []
    position = 0
    for wildcards in _WILDCARDS.finditer(pattern):
        pieces.append(re2.escape(pattern[position : wildcards.start()]))
        pieces.append(".*" if "*" in wildcards[0] else "[^/]*")
        position = wildcards.end()
    pieces.append(re2.escape(pattern[position:]))
    return "".join(pieces)
