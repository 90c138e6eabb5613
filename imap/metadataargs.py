"""The arguments of GETMETADATA and SETMETADATA: which entries of what (RFC 5464 5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from store.metadata import Entry

from .syntax import NUMBER_MAX, Parser

ENTRIES_MAX: Final = 1000  # of one command: as many as an account can have
KEY_MAX: Final = 255  # bytes of an entry's name
LISTED_MAX: Final = 20  # entries that LIST shows with each of thousands of mailboxes

_DEPTHS: Final[dict[str, int | None]] = {"0": 0, "1": 1, "INFINITY": None}


@dataclass(frozen=True, slots=True)
class GetArguments:
    """``mailbox`` empty: the account's. ``depth``: levels below the named entries that are wanted too; None for all."""

    mailbox: bytes
    keys: tuple[str, ...]
    max_size: int | None = None
    depth: int | None = 0


@dataclass(frozen=True, slots=True)
class SetArguments:
    mailbox: bytes
    entries: tuple[Entry, ...]


def parse_get(parser: Parser) -> GetArguments:
    parser.space()
    max_size: int | None = None
    depth: int | None = 0
    has_options = parser.take(b"(")
    if has_options:
        max_size, depth = _options(parser)
        parser.space()
    mailbox = parser.astring()
    parser.space()
    keys = _keys_or_options(parser)
    if keys is None:
        # The examples of RFC 5464 have the options here, against its grammar: some clients follow them.
        if has_options:
            raise parser.fail("entry names that begin with /")
        max_size, depth = _options(parser)
        parser.space()
        keys = _keys_or_options(parser)
        if keys is None:
            raise parser.fail("entry names that begin with /")
    parser.end()
    return GetArguments(mailbox, keys, max_size, depth)


def _options(parser: Parser) -> tuple[int | None, int | None]:
    """MAXSIZE and DEPTH, behind their opening parenthesis."""
    max_size: int | None = None
    depth: int | None = 0
    seen: set[str] = set()
    while True:
        name = parser.word("MAXSIZE or DEPTH")
        if name in seen or name not in ("MAXSIZE", "DEPTH"):
            raise parser.fail(f"MAXSIZE or DEPTH, each once, not {name[:40]}")
        seen.add(name)
        parser.space()
        if name == "MAXSIZE":
            max_size = parser.number("size", most=NUMBER_MAX)
        else:
            word = parser.word("0, 1 or infinity")
            if word not in _DEPTHS:
                raise parser.fail(f"0, 1 or infinity, not {word[:40]}")
            depth = _DEPTHS[word]
        if parser.take(b")"):
            return max_size, depth
        parser.space()


def _keys_or_options(parser: Parser) -> tuple[str, ...] | None:
    """One name or several in parentheses; None where options stand, behind their opening parenthesis."""
    if not parser.take(b"("):
        return (parse_key(parser),)
    if parser.peek(b"MAXSIZE ") or parser.peek(b"DEPTH "):
        return None
    return parse_keys(parser)


def parse_keys(parser: Parser, most: int = ENTRIES_MAX) -> tuple[str, ...]:
    """Names of entries behind an opening parenthesis, up to the closing one; each once."""
    keys = {parse_key(parser): None}
    while not parser.take(b")"):
        parser.space()
        keys[parse_key(parser)] = None
        if len(keys) > most:
            raise parser.fail(f"at most {most} entries")
    return tuple(keys)


def parse_key(parser: Parser) -> str:
    """The name of an entry, in lower case (RFC 5464 3.2)."""
    name = parser.astring()
    if (
        not name.startswith(b"/")
        or (name.endswith(b"/") and name != b"/")
        or b"//" in name
        or len(name) > KEY_MAX
        or any(byte < 0x20 or byte >= 0x7F or byte in b"*%" for byte in name)
    ):
        raise parser.fail(
            f"entry name like /private/comment before this: ASCII without * and %, at most {KEY_MAX} bytes"
        )
    return name.decode("ascii").lower()


def parse_set(parser: Parser) -> SetArguments:
    parser.space()
    mailbox = parser.astring()
    parser.space()
    parser.expect(b"(")
    entries: dict[str, Entry] = {}
    while True:
        key = parse_key(parser)
        parser.space()
        if parser.take(b"NIL"):
            entries[key] = Entry(key, None)
        else:
            entries[key] = Entry(key, *parser.string_or_literal8())
        if len(entries) > ENTRIES_MAX:
            raise parser.fail(f"at most {ENTRIES_MAX} entries")
        if parser.take(b")"):
            break
        parser.space()
    parser.end()
    return SetArguments(mailbox, tuple(entries.values()))
