"""The arguments of FETCH: data items of messages (RFC 9051 6.4.5; RFC 3516, 7162, 8474, 8514, 8970, 9394)."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from . import partial as partials
from .answers import astring
from .partial import Partial
from .sections import PATH_MAX, Section, SectionText
from .sets import SequenceSet
from .syntax import NUMBER64_MAX, NUMBER_MAX, Parser

ITEMS_MAX: Final = 200  # of one FETCH: far more than any client asks for
NAMES_MAX: Final = 500  # header fields of one section


class Item(enum.Enum):
    """A data item that is a column, or made from columns."""

    UID = b"UID"
    FLAGS = b"FLAGS"
    INTERNALDATE = b"INTERNALDATE"
    SIZE = b"RFC822.SIZE"
    ENVELOPE = b"ENVELOPE"
    BODYSTRUCTURE = b"BODYSTRUCTURE"
    BODY = b"BODY"
    MODSEQ = b"MODSEQ"
    SAVEDATE = b"SAVEDATE"
    PREVIEW = b"PREVIEW"
    EMAILID = b"EMAILID"
    THREADID = b"THREADID"


class Form(enum.Enum):
    """How the bytes of a section are given."""

    RAW = "BODY"
    DECODED = "BINARY"
    DECODED_SIZE = "BINARY.SIZE"


@dataclass(frozen=True, slots=True)
class ContentItem:
    """Bytes of a message. ``label`` as the answer begins; ``partial`` is offset and number of bytes."""

    label: bytes
    section: Section
    form: Form = Form.RAW
    peek: bool = False
    partial: tuple[int, int] | None = None

    @property
    def sets_seen(self) -> bool:
        return not self.peek


FetchItem = Item | ContentItem

_MACROS: Final = {
    "ALL": (Item.FLAGS, Item.INTERNALDATE, Item.SIZE, Item.ENVELOPE),
    "FAST": (Item.FLAGS, Item.INTERNALDATE, Item.SIZE),
    "FULL": (Item.FLAGS, Item.INTERNALDATE, Item.SIZE, Item.ENVELOPE, Item.BODY),
}
_PLAIN: Final = {item.value.decode(): item for item in Item if item is not Item.BODY}
_OLD: Final = {
    "RFC822": ContentItem(b"RFC822", Section()),
    "RFC822.HEADER": ContentItem(b"RFC822.HEADER", Section(text=SectionText.HEADER), peek=True),
    "RFC822.TEXT": ContentItem(b"RFC822.TEXT", Section(text=SectionText.TEXT)),
}


@dataclass(frozen=True, slots=True)
class FetchArguments:
    numbers: SequenceSet
    items: tuple[FetchItem, ...]
    is_uid: bool
    changed_since: int | None = None
    vanished: bool = False
    partial: Partial | None = None


def parse(parser: Parser, *, is_uid: bool) -> FetchArguments:
    parser.space()
    numbers = parser.sequence_set()
    parser.space()
    items = _items(parser)
    changed_since, vanished, partial = _modifiers(parser) if parser.take(b" ") else (None, False, None)
    if vanished and (not is_uid or changed_since is None):
        raise parser.fail("VANISHED only in UID FETCH with CHANGEDSINCE")
    parser.end()
    return FetchArguments(numbers, items, is_uid, changed_since, vanished, partial)


def _items(parser: Parser) -> tuple[FetchItem, ...]:
    if not parser.take(b"("):
        name = parser.word("macro or data item")
        return _MACROS.get(name) or (_item(parser, name),)
    return item_list(parser)


def item_list(parser: Parser) -> tuple[FetchItem, ...]:
    """Data items behind an opening parenthesis, up to the closing one."""
    found: dict[FetchItem, None] = {}
    while True:
        found[_item(parser, parser.word("data item"))] = None
        if len(found) > ITEMS_MAX:
            raise parser.fail(f"at most {ITEMS_MAX} items")
        if parser.take(b")"):
            return tuple(found)
        parser.space()


def _item(parser: Parser, name: str) -> FetchItem:
    if name == "PREVIEW" and parser.peek(b" (LAZY"):  # other parentheses may be those of FETCH itself
        parser.expect(b" (")
        _preview_modifiers(parser)
    if name in _PLAIN:
        return _PLAIN[name]
    if name in _OLD:
        return _OLD[name]
    match name:
        case "BODY" if not parser.peek(b"["):
            return Item.BODY
        case "BODY" | "BODY.PEEK":
            return _body_section(parser, peek=name == "BODY.PEEK")
        case "BINARY" | "BINARY.PEEK":
            path, text = _binary_path(parser)
            label = b"BINARY[%b]" % text
            return ContentItem(label, Section(path), Form.DECODED, name == "BINARY.PEEK", _partial(parser))
        case "BINARY.SIZE":
            path, text = _binary_path(parser)
            return ContentItem(b"BINARY.SIZE[%b]" % text, Section(path), Form.DECODED_SIZE, peek=True)
    raise parser.fail(f"data item FETCH has, not {name[:40]}")


def _preview_modifiers(parser: Parser) -> None:
    """LAZY is all that there is (RFC 8970 3.1), and changes nothing: a preview is never slow to make."""
    while True:
        if parser.word("LAZY") != "LAZY":
            raise parser.fail("LAZY before this")
        if parser.take(b")"):
            return
        parser.space()


def _body_section(parser: Parser, *, peek: bool) -> ContentItem:
    parser.expect(b"[")
    path: list[int] = []
    text = SectionText.ALL
    names: tuple[bytes, ...] = ()
    while not parser.peek(b"]"):
        if parser.peek_digit():
            path.append(_part_number(parser, path))
            if not parser.take(b"."):
                break
            if parser.peek(b"]"):
                raise parser.fail("part number or text after the dot")
            continue
        text, names = _section_text(parser, in_part=bool(path))
        break
    parser.expect(b"]")
    label = b".".join([b"%d" % number for number in path] + ([text.value.encode()] if text.value else []))
    if names:
        label += b" (%b)" % b" ".join(astring(name) for name in names)
    section = Section(tuple(path), text, frozenset(name.lower() for name in names))
    return ContentItem(b"BODY[%b]" % label, section, Form.RAW, peek, _partial(parser))


def _section_text(parser: Parser, *, in_part: bool) -> tuple[SectionText, tuple[bytes, ...]]:
    word = parser.word("section")
    if word == "MIME" and not in_part:
        raise parser.fail("MIME only of a part")
    try:
        text = SectionText(word)
    except ValueError:
        raise parser.fail(f"section HEADER, HEADER.FIELDS, HEADER.FIELDS.NOT, TEXT or MIME, not {word[:40]}") from None
    if text is not SectionText.FIELDS and text is not SectionText.FIELDS_NOT:
        return text, ()
    parser.space()
    parser.expect(b"(")
    names = [parser.astring()]
    while not parser.take(b")"):
        parser.space()
        names.append(parser.astring())
        if len(names) > NAMES_MAX:
            raise parser.fail(f"at most {NAMES_MAX} header fields")
    return text, tuple(names)


def _binary_path(parser: Parser) -> tuple[tuple[int, ...], bytes]:
    parser.expect(b"[")
    path: list[int] = []
    while not parser.take(b"]"):
        if path:
            parser.expect(b".")
        path.append(_part_number(parser, path))
    return tuple(path), b".".join(b"%d" % number for number in path)


def _part_number(parser: Parser, path: list[int]) -> int:
    if len(path) >= PATH_MAX:
        raise parser.fail(f"at most {PATH_MAX} part numbers")
    return parser.number("part number", least=1, most=NUMBER_MAX)


def _partial(parser: Parser) -> tuple[int, int] | None:
    if not parser.take(b"<"):
        return None
    offset = parser.number("offset", most=NUMBER64_MAX)
    parser.expect(b".")
    count = parser.number("number of bytes", least=1, most=NUMBER64_MAX)
    parser.expect(b">")
    return offset, count


def _modifiers(parser: Parser) -> tuple[int | None, bool, Partial | None]:
    parser.expect(b"(")
    changed_since: int | None = None
    vanished = False
    partial: Partial | None = None
    while True:
        name = parser.word("modifier")
        if name == "CHANGEDSINCE" and changed_since is None:
            parser.space()
            changed_since = parser.number("modification sequence", most=NUMBER64_MAX)  # iOS sends 0
        elif name == "VANISHED" and not vanished:
            vanished = True
        elif name == "PARTIAL" and partial is None:
            partial = partials.parse(parser)
        else:
            raise parser.fail(f"CHANGEDSINCE, VANISHED or PARTIAL, each once, not {name[:40]}")
        if parser.take(b")"):
            return changed_since, vanished, partial
        parser.space()
