"""Regular expressions that users and operators write: google-re2, whose time is linear in what is searched.

compiled("^(junk|spam)").search("junk/old")     # raises BadRegexp
accounts = CharField(validators=[check_regexp])      # the error says where in the expression it is
"""

from __future__ import annotations

import functools
import re
from typing import Final

import re2
from django.core.exceptions import ValidationError

REGEXP_MAX: Final = 1024  # bytes
MEMORY_MAX: Final = 1 << 20  # bytes that a compiled expression may take
KEPT: Final = 1024  # compiled expressions: those that the accounts of a busy server have


class BadRegexp(ValueError):
    """Not a regular expression. ``position``: of the character at fault, from 1."""

    def __init__(self, text: str, position: int) -> None:
        super().__init__(f"{text}, at character {position}")
        self.position = position


class Regexp:
    """A compiled expression."""

    __slots__ = ("_compiled",)

    def __init__(self, expression: str) -> None:
        size = len(expression.encode("utf-8", "surrogatepass"))
        if size > REGEXP_MAX:
            raise BadRegexp(f"regular expression is too long ({size} bytes, at most {REGEXP_MAX})", REGEXP_MAX)
        options = re2.Options()
        options.max_mem = MEMORY_MAX
        options.log_errors = False
        try:
            self._compiled = re2.compile(expression, options)
        except (re2.error, UnicodeError) as exc:
            raise _explained(expression, exc) from exc

    def search(self, text: str) -> bool:
        """Whether the expression matches anywhere in a text."""
        return self._compiled.search(text) is not None


@functools.lru_cache(maxsize=KEPT)
def compiled(expression: str) -> Regexp:
    """Raises BadRegexp."""
    return Regexp(expression)


def check_regexp(expression: str) -> None:
    """A validator for fields with an expression; "" is one that says nothing. Raises ValidationError."""
    try:
        compiled(expression)
    except BadRegexp as exc:
        raise ValidationError(f"not a regular expression: {exc}", code="regexp") from exc


def _explained(expression: str, exc: Exception) -> BadRegexp:
    said = exc.args[0] if exc.args else b""
    text = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(exc)
    what, _, fragment = text.partition(": ")
    if fragment and not what.startswith(("missing", "unexpected")):
        return BadRegexp(f"{what}: {fragment}", max(0, expression.find(fragment)) + 1)
    # RE2 names all of it: Python's parser finds the same parenthesis or bracket.
    try:
        re.compile(expression)
    except (re.error, RecursionError, OverflowError) as found:
        return BadRegexp(what, (getattr(found, "pos", None) or 0) + 1)
    return BadRegexp(what, 1)
