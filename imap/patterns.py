"""Patterns of LIST and LSUB: ``*`` is any text, ``%`` any text without ``/`` (RFC 9051 6.3.9).

matcher = Patterns(["Lists/%", "a*"])
matcher.matches("Lists/python")

Patterns are hostile: they become one regular expression of RE2, which matches in time linear in the name. The time is
also linear in the patterns if they have wildcards, so those are bounded.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import re2

from store.mailboxes import INBOX

PATTERN_MEMORY: Final = 8 << 20  # bytes that RE2 may use for one set of patterns
WILDCARD_PATTERNS_MAX: Final = 4096  # characters of the patterns with wildcards: each is a state that a name may be in

_WILDCARDS: Final = re.compile(r"[*%]+")


class BadPattern(Exception):
    """Patterns that together are too large to be matched."""


class Patterns:
    """Some patterns, of which a name must match one. The Inbox element is compared without case."""

    def __init__(self, patterns: Sequence[str]) -> None:
        if sum(len(pattern) for pattern in patterns if _WILDCARDS.search(pattern)) > WILDCARD_PATTERNS_MAX:
            raise BadPattern(f"patterns with wildcards have more than {WILDCARD_PATTERNS_MAX} characters")
        options = re2.Options()
        options.max_mem = PATTERN_MEMORY
        options.log_errors = False
        options.dot_nl = True
        try:
            regexp = "|".join(f"(?:{_regexp(_with_inbox(pattern))})" for pattern in patterns) or "a^"
            self._matches = re2.compile(regexp, options)
            options.case_sensitive = False
            self._matches_inbox = re2.compile(regexp, options)
        except re2.error as exc:
            raise BadPattern(f"patterns are too large: {exc}") from exc

    def matches(self, name: str) -> bool:
        matcher = self._matches_inbox if name == INBOX else self._matches
        return bool(matcher.fullmatch(name))


def combined(reference: str, pattern: str) -> str:
    """A reference name and a pattern as one pattern."""
    if not reference or reference.endswith("/"):
        return reference + pattern
    return f"{reference}/{pattern}"


def _with_inbox(pattern: str) -> str:
    """The pattern with an Inbox element in the one spelling of the store."""
    first, after = pattern[: len(INBOX)], pattern[len(INBOX) : len(INBOX) + 1]
    if first.lower() == INBOX.lower() and after in ("", "/", "*", "%"):
        return INBOX + pattern[len(INBOX) :]
    return pattern


def _regexp(pattern: str) -> str:
    pieces: list[str] = []
    position = 0
    for wildcards in _WILDCARDS.finditer(pattern):
        pieces.append(re2.escape(pattern[position : wildcards.start()]))
        pieces.append(".*" if "*" in wildcards[0] else "[^/]*")
        position = wildcards.end()
    pieces.append(re2.escape(pattern[position:]))
    return "".join(pieces)
