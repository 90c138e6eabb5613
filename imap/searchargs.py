"""The arguments of SEARCH as a tree of store.queries (RFC 9051 6.4.4; RFC 5032, 7162 3.1.5, 8474, 8514 4.3, 9394)."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Self

from store import objectids
from store.errors import BadFlag
from store.flags import ANSWERED, DELETED, DRAFT, FLAGGED, SEEN, parse_words
from store.queries import (
    All,
    And,
    Body,
    Email,
    Flag,
    Header,
    Keyword,
    Larger,
    ModSeq,
    Not,
    Older,
    Or,
    Query,
    Received,
    Relation,
    Saved,
    Sent,
    Smaller,
    Text,
    Thread,
    Uid,
    Younger,
    uid_ranges,
)

from . import partial as partials
from .partial import Partial
from .selected import Selected
from .sets import Range, SequenceSet
from .syntax import NUMBER64_MAX, Parser

NESTING_MAX: Final = 50
KEYS_MAX: Final = 10_000
CHARSETS: Final = frozenset({"US-ASCII", "UTF-8"})
RETURN_OPTIONS: Final = frozenset({"MIN", "MAX", "ALL", "COUNT", "SAVE", "PARTIAL"})
NOTHING: Final = Not(All())

_FLAGS: Final = {
    "ANSWERED": Flag(ANSWERED),
    "DELETED": Flag(DELETED),
    "DRAFT": Flag(DRAFT),
    "FLAGGED": Flag(FLAGGED),
    "SEEN": Flag(SEEN),
}
# \Recent is not kept: no message has it.
_WORDS: Final[dict[str, Query]] = {
    "ALL": All(),
    "NEW": NOTHING,
    "OLD": All(),
    "RECENT": NOTHING,
    "SAVEDATESUPPORTED": All(),
    **_FLAGS,
    **{f"UN{name}": Not(flag) for name, flag in _FLAGS.items()},
}
_HEADERS: Final = frozenset({"BCC", "CC", "FROM", "SUBJECT", "TO"})
_DATES: Final[dict[str, tuple[type[Received] | type[Saved] | type[Sent], Relation]]] = {
    "BEFORE": (Received, Relation.BEFORE),
    "ON": (Received, Relation.ON),
    "SINCE": (Received, Relation.SINCE),
    "SAVEDBEFORE": (Saved, Relation.BEFORE),
    "SAVEDON": (Saved, Relation.ON),
    "SAVEDSINCE": (Saved, Relation.SINCE),
    "SENTBEFORE": (Sent, Relation.BEFORE),
    "SENTON": (Sent, Relation.ON),
    "SENTSINCE": (Sent, Relation.SINCE),
}


@dataclass(frozen=True, slots=True)
class Numbers:
    """A set of message numbers or UIDs, which mean something only in a session."""

    numbers: SequenceSet
    is_uid: bool


Key = Query | Numbers


@dataclass(frozen=True, slots=True)
class SearchArguments:
    """``returned`` None: without RETURN. ``key`` still has Numbers in it; see ``resolved``."""

    key: Key
    is_uid: bool
    returned: frozenset[str] | None
    charset: str
    has_modseq: bool
    partial: Partial | None = None


def parse(parser: Parser, *, is_uid: bool) -> SearchArguments:
    parser.space()
    returned, partial, charset = None, None, "UTF-8"
    keys = _Keys(parser)
    first = None if keys.next_is_set() else parser.word("search key") if not parser.peek(b"(") else None
    if first == "RETURN":
        parser.space()
        returned, partial = return_options(parser)
        parser.space()
        first = None if keys.next_is_set() or parser.peek(b"(") else parser.word("search key")
    if first == "CHARSET":
        parser.space()
        charset = parser.astring().decode("ascii", "replace").upper()
        parser.space()
        first = None
        keys.charset_known = charset in CHARSETS
    key = keys.all_to_the_end(first)
    return SearchArguments(key, is_uid, returned, charset, keys.has_modseq, partial)


def parse_after_charset(
    parser: Parser, *, is_uid: bool, returned: frozenset[str] | None = None, partial: Partial | None = None
) -> SearchArguments:
    """What SORT and THREAD end in: a charset and search keys."""
    charset = parser.astring().decode("ascii", "replace").upper()
    parser.space()
    keys = _Keys(parser)
    keys.charset_known = charset in CHARSETS
    key = keys.all_to_the_end(None)
    return SearchArguments(key, is_uid, returned, charset, keys.has_modseq, partial)


def return_options(parser: Parser) -> tuple[frozenset[str], Partial | None]:
    """What follows RETURN; with PARTIAL among the options its range."""
    parser.expect(b"(")
    options: set[str] = set()
    partial: Partial | None = None
    while not parser.take(b")"):
        if options:
            parser.space()
        option = parser.word("return option")
        if option not in RETURN_OPTIONS:
            raise parser.fail(f"return option {', '.join(sorted(RETURN_OPTIONS))}, not {option[:40]}")
        if option == "PARTIAL":
            if partial is not None:
                raise parser.fail("PARTIAL once")
            partial = partials.parse(parser)
        options.add(option)
        if {"ALL", "PARTIAL"} <= options:
            raise parser.fail("either ALL or PARTIAL")  # RFC 9394 3.1
    return frozenset(options or {"ALL"}), partial


class _Keys:
    """Parses search keys, and counts them."""

    def __init__(self, parser: Parser) -> None:
        self._parser = parser
        self._count = 0
        self.has_modseq = False
        self.charset_known = True

    def all_to_the_end(self, first: str | None) -> Key:
        """The keys that the command ends in, as one; ``first`` if the first one's name was read already."""
        terms = [self.key(1, first)]
        while self._parser.take(b" "):
            terms.append(self.key(1))
        self._parser.end()
        return terms[0] if len(terms) == 1 else And(tuple(terms))  # type: ignore[arg-type]  # see resolved()

    def next_is_set(self) -> bool:
        parser = self._parser
        return parser.peek_digit() or parser.peek(b"*") or parser.peek(b"$")

    def key(self, depth: int, word: str | None = None) -> Key:
        """One search key; ``word`` if its name was read already."""
        parser = self._parser
        self._count += 1
        if depth > NESTING_MAX:
            raise parser.fail(f"at most {NESTING_MAX} levels of search keys")
        if self._count > KEYS_MAX:
            raise parser.fail(f"at most {KEYS_MAX} search keys")
        if word is None:
            if self.next_is_set():
                return Numbers(parser.sequence_set(), is_uid=False)
            if parser.take(b"("):
                terms = [self.key(depth + 1)]
                while not parser.take(b")"):
                    parser.space()
                    terms.append(self.key(depth + 1))
                return And(tuple(terms))  # type: ignore[arg-type]  # see resolved()
            word = parser.word("search key")
        if word in _WORDS:
            return _WORDS[word]
        match word:
            case "NOT":
                parser.space()
                return Not(self.key(depth + 1))  # type: ignore[arg-type]  # see resolved()
            case "OR":
                parser.space()
                one = self.key(depth + 1)
                parser.space()
                return Or((one, self.key(depth + 1)))  # type: ignore[arg-type]  # see resolved()
        return self._with_argument(word)

    def _with_argument(self, word: str) -> Key:
        parser = self._parser
        if word in _HEADERS:
            parser.space()
            return Header(word.lower(), self._text())
        if word in _DATES:
            parser.space()
            kind, relation = _DATES[word]
            return kind(relation, parser.date())
        match word:
            case "BODY" | "TEXT":
                parser.space()
                text = self._text()
                if not text:
                    return All()
                return Body(text) if word == "BODY" else Text(text)
            case "HEADER":
                parser.space()
                name = self._text()
                parser.space()
                return Header(name, self._text())
            case "KEYWORD" | "UNKEYWORD":
                parser.space()
                has = self._keyword()
                return has if word == "KEYWORD" else Not(has)
            case "LARGER" | "SMALLER":
                parser.space()
                size = parser.number("size", most=NUMBER64_MAX)
                return Larger(size) if word == "LARGER" else Smaller(size)
            case "OLDER" | "YOUNGER":
                parser.space()
                limit = datetime.now(UTC) - timedelta(seconds=parser.number("seconds", least=1))
                return Older(limit) if word == "OLDER" else Younger(limit)
            case "EMAILID":
                parser.space()
                content = objectids.content_of(parser.atom("object id").decode("ascii"))
                return NOTHING if content is None else Email(content)
            case "THREADID":
                parser.space()
                thread = objectids.thread_of(parser.atom("object id").decode("ascii"))
                return NOTHING if thread is None else Thread(thread)
            case "UID":
                parser.space()
                return Numbers(parser.sequence_set(), is_uid=True)
            case "MODSEQ":
                parser.space()
                return self._modseq()
        raise parser.fail(f"search key, not {word[:40]}")

    def _text(self) -> str:
        data = self._parser.astring()
        try:
            return data.decode()
        except UnicodeDecodeError:
            if self.charset_known:
                raise self._parser.fail("text in UTF-8 before this") from None
            return ""  # the command is refused for its charset

    def _keyword(self) -> Query:
        if self._parser.peek(b"\\"):
            raise self._parser.fail("keyword, without backslash")
        word = self._parser.flag()
        try:
            flags = parse_words([word])
        except BadFlag as exc:
            raise self._parser.fail(f"keyword ({exc})") from exc
        return Flag(flags.bits) if flags.bits else Keyword(flags.keywords[0])

    def _modseq(self) -> Query:
        parser = self._parser
        if parser.peek(b'"'):
            parser.string()  # one kind of metadata is all that there is (RFC 7162 3.1.5)
            parser.space()
            if parser.word("entry type") not in ("ALL", "PRIV", "SHARED"):
                raise parser.fail("all, priv or shared before this")
            parser.space()
        self.has_modseq = True
        return ModSeq(parser.number("modification sequence", most=NUMBER64_MAX))


def has_message_numbers(key: Key) -> bool:
    """Whether a set of message numbers is in it; a saved result is one of UIDs."""
    match key:
        case Numbers(numbers, is_uid):
            return not is_uid and not numbers.saved
        case And(terms) | Or(terms):
            return any(has_message_numbers(term) for term in terms)
        case Not(term):
            return has_message_numbers(term)
    return False


@dataclass(frozen=True, slots=True)
class Place:
    """A mailbox to search, and what numbers mean there: all UIDs, ascending, and those that ``$`` stands for."""

    mailbox_id: int
    uids: array[int]
    saved: tuple[Range, ...] = ()

    @classmethod
    def of_selected(cls, selected: Selected) -> Self:
        return cls(selected.mailbox_id, selected.uids, tuple(selected.saved_ranges()))


def resolved(key: Key, place: Place) -> Query:
    """The key as a query, numbers replaced by the UIDs that they mean in a mailbox."""
    match key:
        case Numbers(numbers, is_uid):
            return _uids(numbers, place, is_uid=is_uid)
        case And(terms):
            return And(tuple(resolved(term, place) for term in terms))
        case Or(terms):
            return Or(tuple(resolved(term, place) for term in terms))
        case Not(term):
            return Not(resolved(term, place))
    return key


def _uids(numbers: SequenceSet, place: Place, *, is_uid: bool) -> Query:
    if numbers.saved:
        ranges = list(place.saved)
    elif is_uid:
        ranges = numbers.resolved(place.uids[-1]) if place.uids else []
    else:
        ranges = numbers.uid_ranges_by_number(place.uids)
    return Uid(uid_ranges(ranges)) if ranges else NOTHING
