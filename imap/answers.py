"""How commands end, and how values are written: NO and BAD as exceptions, names, strings, dates."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from protocols.imapformat import quoted_or_literal
from protocols.message.dates import MONTHS
from store import errors, metadata

from . import mutf7

_ATOM: Final = re.compile(rb'[^\x00-\x20\x7f-\xff(){%*"\\\]]+')
_NOT_QUOTABLE: Final = re.compile(rb"[\x00\r\n]")
_ESCAPED: Final = re.compile(rb'[\\"]')


@dataclass(frozen=True, slots=True)
class Done:
    """A command that went well: ``tag OK [code] COMMAND done, text``. ``afterwards`` runs when that is sent."""

    code: bytes = b""
    text: bytes = b""
    afterwards: Callable[[], Awaitable[None]] | None = None


class Refused(Exception):
    """NO: nothing is wrong with the command, but it cannot be done. ``code`` without brackets."""

    def __init__(self, text: str, code: str = "") -> None:
        super().__init__(text)
        self.code = code


class Bad(Exception):
    """BAD: the command is wrong in this state or with these arguments.

    ``whole``: its literals were read, so that it is known where the next command begins.
    """

    def __init__(self, text: str, code: str = "", *, whole: bool = False) -> None:
        super().__init__(text)
        self.code = code
        self.whole = whole


class Bye(Exception):
    """The connection ends with this BYE. ``bad``: a BAD for the command comes before the end."""

    def __init__(self, text: str, bad: Bad | None = None) -> None:
        super().__init__(text)
        self.bad = bad


_CODES: Final[tuple[tuple[type[errors.StoreError], str], ...]] = (
    (errors.MailboxExists, "ALREADYEXISTS"),
    (errors.MailboxNotFound, "NONEXISTENT"),
    (errors.MailboxGone, "NONEXISTENT"),
    (errors.MailboxHasChildren, "HASCHILDREN"),
    (errors.MailboxError, "CANNOT"),
    (errors.MessageGone, "EXPUNGEISSUED"),
    (errors.OverQuota, "OVERQUOTA"),
    (errors.OutOfUIDs, "LIMIT"),
    (errors.TooManyKeywords, "LIMIT"),
    (errors.StorageFull, "UNAVAILABLE"),
    (errors.TooManyAnnotations, "METADATA TOOMANY"),
    (errors.AnnotationsTooLarge, f"METADATA MAXSIZE {metadata.SIZE_MAX}"),
)


def refusal(error: errors.StoreError) -> Refused:
    """The answer to what the store refused."""
    code = next((code for kind, code in _CODES if isinstance(error, kind)), "")
    return Refused(one_line(str(error)), code)


def no_destination(error: errors.MailboxNotFound) -> Refused:
    """The answer where a mailbox to put messages into is missing: the client may create it and try again."""
    return Refused(one_line(str(error)), "TRYCREATE")


def placing_refusal(error: errors.StoreError) -> Refused:
    """The answer where the store did not put a message into a mailbox."""
    return no_destination(error) if isinstance(error, errors.MailboxNotFound) else refusal(error)


def one_line(text: str) -> str:
    """A text that cannot end its line, and is not too long for one."""
    return "".join(char if " " <= char != "\x7f" else "?" for char in text[:400])


def astring(value: bytes) -> bytes:
    """An atom where possible, else quoted, else a literal. 8-bit bytes stay as they are in a quoted string."""
    if _ATOM.fullmatch(value) and value.upper() != b"NIL":
        return value
    return string(value)


def string(value: bytes) -> bytes:
    """A quoted string, or a literal when it cannot be quoted."""
    if _NOT_QUOTABLE.search(value):
        return quoted_or_literal(value)
    return b'"%b"' % _ESCAPED.sub(rb"\\\g<0>", value)


def text_string(text: str, *, utf8: bool) -> bytes:
    """Text as a string, in UTF-8: quoted for clients that enabled it, else a literal where it is not ASCII."""
    data = text.encode()
    return string(data) if utf8 else quoted_or_literal(data)


def mailbox_name(name: str, *, utf8: bool) -> bytes:
    """A mailbox name as it goes out: UTF-8, or modified UTF-7 for clients that have not enabled more."""
    return astring(name.encode() if utf8 else mutf7.encode(name))


def metadata_changed_line(name: str, key: str, *, utf8: bool) -> bytes:
    """A METADATA response that says which entry changed, of a mailbox or (empty name) the account (RFC 5464 4.4.2)."""
    return b"* METADATA %b %b\r\n" % (mailbox_name(name, utf8=utf8), astring(key.encode("ascii")))


def read_mailbox_name(given: bytes, *, utf8: bool) -> str:
    """A mailbox name that came in; a trailing slash is the caller's. Raises Refused for what cannot be decoded."""
    try:
        return given.decode() if utf8 else mutf7.decode(given)
    except ValueError:
        raise Refused("invalid mailbox name", "CANNOT") from None


def internal_date(moment: datetime, offset: int) -> bytes:
    """INTERNALDATE with its quotes; ``offset`` in minutes east of UTC."""
    local = moment + timedelta(minutes=offset)
    sign, ahead = ("-", -offset) if offset < 0 else ("+", offset)
    return (
        f'"{local.day:02d}-{MONTHS[local.month - 1]}-{local.year:04d} '
        f'{local.hour:02d}:{local.minute:02d}:{local.second:02d} {sign}{ahead // 60:02d}{ahead % 60:02d}"'
    ).encode("ascii")
