"""The arguments of LIST, LSUB and STATUS (RFC 9051 6.3.9, RFC 3501 6.3.9, RFC 5258, 5819, 6154)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from . import metadataargs
from .syntax import Parser

PATTERNS_MAX: Final = 1000  # of one LIST
STATUS_ITEMS: Final = frozenset(
    {"MESSAGES", "UIDNEXT", "UIDVALIDITY", "UNSEEN", "DELETED", "SIZE", "RECENT", "HIGHESTMODSEQ"}
    | {"APPENDLIMIT", "DELETED-STORAGE", "MAILBOXID"}  # RFC 7889 3, RFC 9208 4.1.4, RFC 8474 4.3
)
_SELECTION: Final = frozenset({"SUBSCRIBED", "REMOTE", "SPECIAL-USE", "RECURSIVEMATCH"})
_RETURN: Final = frozenset({"SUBSCRIBED", "CHILDREN", "SPECIAL-USE"})


@dataclass(frozen=True, slots=True)
class ListArguments:
    """``status`` and ``metadata``: items and entries to show with each mailbox.

    ``extended``: any of the syntax of RFC 5258 was used.
    """

    reference: bytes
    patterns: tuple[bytes, ...]
    extended: bool
    selection: frozenset[str] = frozenset()
    returned: frozenset[str] = frozenset()
    status: tuple[str, ...] = ()
    metadata: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LsubArguments:
    reference: bytes
    pattern: bytes


@dataclass(frozen=True, slots=True)
class StatusArguments:
    mailbox: bytes
    items: tuple[str, ...]


def parse_list(parser: Parser) -> ListArguments:
    parser.space()
    selection: frozenset[str] = frozenset()
    extended = parser.take(b"(")
    if extended:
        selection = _selection(parser)
        parser.space()
    reference = parser.astring()
    parser.space()
    if parser.take(b"("):
        extended = True
        patterns = [parser.list_mailbox()]
        while not parser.take(b")"):
            parser.space()
            patterns.append(parser.list_mailbox())
            if len(patterns) > PATTERNS_MAX:
                raise parser.fail(f"at most {PATTERNS_MAX} patterns")
    else:
        patterns = [parser.list_mailbox()]
    returned = _Returned()
    if parser.take(b" "):
        extended = True
        if parser.word("RETURN") != "RETURN":
            raise parser.fail("RETURN before this")
        parser.space()
        returned = _returned(parser)
    parser.end()
    return ListArguments(
        reference,
        tuple(patterns),
        extended,
        selection,
        frozenset(returned.options),
        returned.status,
        returned.metadata,
    )


def _selection(parser: Parser) -> frozenset[str]:
    options: set[str] = set()
    while not parser.take(b")"):
        if options:
            parser.space()
        option = parser.word("selection option")
        if option not in _SELECTION:
            raise parser.fail(f"selection option {', '.join(sorted(_SELECTION))}, not {option[:40]}")
        options.add(option)
    if "RECURSIVEMATCH" in options and not options & {"SUBSCRIBED", "SPECIAL-USE"}:
        raise parser.fail("RECURSIVEMATCH only with SUBSCRIBED or SPECIAL-USE")  # RFC 5258 3.1
    return frozenset(options)


@dataclass(slots=True)
class _Returned:
    """What stands in RETURN."""

    options: set[str] = field(default_factory=set)
    status: tuple[str, ...] = ()
    metadata: tuple[str, ...] = ()


def _returned(parser: Parser) -> _Returned:
    parser.expect(b"(")
    returned = _Returned()
    first = True
    while not parser.take(b")"):
        if not first:
            parser.space()
        first = False
        option = parser.word("return option")
        if option == "STATUS":
            parser.space()
            returned.status = _status_items(parser)
        elif option == "METADATA":  # RFC 9590
            parser.space()
            parser.expect(b"(")
            returned.metadata = metadataargs.parse_keys(parser, metadataargs.LISTED_MAX)
        elif option in _RETURN:
            returned.options.add(option)
        else:
            raise parser.fail(f"return option {', '.join(sorted(_RETURN))}, STATUS or METADATA, not {option[:40]}")
    return returned


def parse_lsub(parser: Parser) -> LsubArguments:
    parser.space()
    reference = parser.astring()
    parser.space()
    pattern = parser.list_mailbox()
    parser.end()
    return LsubArguments(reference, pattern)


def parse_status(parser: Parser) -> StatusArguments:
    parser.space()
    mailbox = parser.astring()
    parser.space()
    items = _status_items(parser)
    parser.end()
    return StatusArguments(mailbox, items)


def _status_items(parser: Parser) -> tuple[str, ...]:
    parser.expect(b"(")
    items: dict[str, None] = {}
    while True:
        item = parser.word("status item")
        if item not in STATUS_ITEMS:
            raise parser.fail(f"status item {', '.join(sorted(STATUS_ITEMS))}, not {item[:40]}")
        items[item] = None
        if parser.take(b")"):
            return tuple(items)
        parser.space()
