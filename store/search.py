"""Searching the messages of a mailbox: one query tree for all interfaces.

    query = And((Flag(FLAGGED), Header("subject", "offer"), Received(Relation.SINCE, date(2024, 2, 1))))
    for page in search(mailbox_id, query, uids):
        page.matches      # those of the page that match, ascending

What SQL can say is said in SQL; text is looked up in BlobText, of the messages that the search index leaves over
(store.index). Where that cannot decide (no text made yet, text cut, a header that must have a certain name) the stored
text or the message itself is read. Matching is by case-folded substring
(store.text.fold).
"""

from __future__ import annotations

import enum
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final, NamedTuple

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import BooleanField, ExpressionWrapper, F, Func, Q, Value
from django.db.models.expressions import Combinable
from django.db.models.functions import StrIndex
from django.db.models.sql.compiler import SQLCompiler

from server.statements import Statement

from . import content, index, objectids, text
from .columns import BITS
from .flags import FLAGS
from .models import Blob, BlobText, Mailbox, Message
from .objectids import Content
from .sorting import SENT, prefix_date
from .targets import uid_conditions

PAGE_FIRST: Final = 500  # messages of the first page: an answer may be needed soon
PAGE_MAX: Final = 4000  # pages grow up to this: each costs a query
SQL_TERMS_MAX: Final = 64  # leaves of a query that go into SQL: databases limit the depth of expressions
SQL_RANGES_MAX: Final = 20  # ranges of a UID set that go into SQL
CANDIDATES_PER_QUERY: Final = 500  # BlobText rows read at once
SCANNED_MAX: Final = 100  # messages whose texts are read without asking the search index


class Relation(enum.Enum):
    """How a day compares: the day of the message is before, on, or not before the given one."""

    BEFORE = "before"
    ON = "on"
    SINCE = "since"


@dataclass(frozen=True, slots=True)
class All:
    """Every message."""


@dataclass(frozen=True, slots=True)
class And:
    terms: tuple[Query, ...]


@dataclass(frozen=True, slots=True)
class Or:
    terms: tuple[Query, ...]


@dataclass(frozen=True, slots=True)
class Not:
    term: Query


@dataclass(frozen=True, slots=True)
class Flag:
    """Messages with this flag (one bit of store.flags)."""

    bit: int


@dataclass(frozen=True, slots=True)
class Keyword:
    word: str


@dataclass(frozen=True, slots=True)
class Received:
    """The calendar day of INTERNALDATE, in the zone it was given in."""

    relation: Relation
    day: date


@dataclass(frozen=True, slots=True)
class Sent:
    """The calendar day that the Date header shows, whatever its zone; a message without one matches nothing."""

    relation: Relation
    day: date


@dataclass(frozen=True, slots=True)
class Older:
    """Messages whose INTERNALDATE is this moment or before it."""

    moment: datetime


@dataclass(frozen=True, slots=True)
class Younger:
    """Messages whose INTERNALDATE is this moment or after it."""

    moment: datetime


@dataclass(frozen=True, slots=True)
class Saved:
    """The day in UTC at which the message came into its mailbox."""

    relation: Relation
    day: date


@dataclass(frozen=True, slots=True)
class Larger:
    size: int


@dataclass(frozen=True, slots=True)
class Smaller:
    size: int


@dataclass(frozen=True, slots=True)
class Uid:
    """UIDs in ranges, each with both ends, ascending and not overlapping (see uid_ranges)."""

    ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class ModSeq:
    """Messages with this modification sequence or a higher one."""

    at_least: int


@dataclass(frozen=True, slots=True)
class Email:
    """The messages with this content, as an EMAILID names it."""

    content: Content


@dataclass(frozen=True, slots=True)
class Thread:
    """The messages of a thread, by its number."""

    thread_id: int


@dataclass(frozen=True, slots=True)
class Header:
    """A field of the message's own header has this in its value; "" matches any field of that name."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Text:
    """In a header of the message or of a part, or in the body."""

    value: str


@dataclass(frozen=True, slots=True)
class Body:
    value: str


Query = (
    All | And | Or | Not | Flag | Keyword | Received | Sent | Older | Younger | Saved | Larger | Smaller | Uid | ModSeq
    | Email | Thread | Header | Text | Body
)  # fmt: skip


class Match(NamedTuple):
    uid: int
    modseq: int


@dataclass(frozen=True, slots=True)
class Page:
    """Some of the messages looked at: ``scanned`` so far in all, and the matches among those of this page, by UID."""

    scanned: int
    matches: list[Match]


_account_of: Final = Statement(lambda mailbox_id: Mailbox.objects.filter(pk=mailbox_id).values_list("account_id"))


def search(mailbox_id: int, query: Query, uids: Sequence[int], *, descending: bool = False) -> Iterator[Page]:
    """The messages among ``uids`` (ascending) that match, in pages; ``descending``: the pages from the end.

    Expunged messages are found too while their content is kept. Each page is read when it is asked for, in a thread
    that may use the database. Raises ContentError.
    """
    within, rest = _restricted(query)
    known = _narrowed(mailbox_id, rest, _intersection(uids, within))
    plan = _Plan(rest)
    size, scanned = PAGE_FIRST, 0
    while scanned < len(known):
        if descending:
            part = known[max(0, len(known) - scanned - size) : len(known) - scanned]
        else:
            part = known[scanned : scanned + size]
        scanned += len(part)
        size = min(2 * size, PAGE_MAX)
        yield Page(scanned, plan.matches(mailbox_id, part))


def _narrowed(mailbox_id: int, query: Query, uids: Sequence[int]) -> Sequence[int]:
    """Those of the UIDs that may match by the search index; all of them where it does not help."""
    need = _need(query) if len(uids) > SCANNED_MAX else None
    if need is None:
        return uids
    row = _account_of.row(mailbox_id)
    if row is None:
        return uids
    (account_id,) = row
    found = index.may_match(account_id, mailbox_id, need, most=len(uids) // 2)
    if found is None or len(found) > len(uids) // 2:
        return uids
    possible = frozenset(found)
    return array("I", [uid for uid in uids if uid in possible])


def _need(query: Query) -> index.Need | None:
    """What the search index can say of every match; None for nothing."""
    match query:
        case And(terms):
            needs = tuple(need for term in terms if (need := _need(term)) is not None)
            return index.AllOf(needs) if needs else None
        case Or(terms):
            choices = tuple(_need(term) for term in terms)
            if not choices or None in choices:
                return None
            return index.AnyOf(tuple(need for need in choices if need is not None))
        case Text(value):
            return index.sought_in_text(text.fold(value))
        case Body(value):
            return index.sought_in_body(text.fold(value))
        case Header(name, value):
            return index.sought_in_field(text.fold(name.strip()), text.fold(value))
    return None


def lost_since(mailbox_id: int, modseq: int) -> bool:
    """Whether messages that were expunged after ``modseq`` can no longer be read, and thus not be searched."""
    gone = Message.objects.filter(mailbox_id=mailbox_id, modseq__gt=modseq, expunged=True, blob__isnull=True)
    return gone.exists()


def uid_ranges(ranges: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Ranges sorted and joined where they meet: what Uid takes."""
    joined: list[tuple[int, int]] = []
    for low, high in sorted((min(pair), max(pair)) for pair in ranges):
        if joined and low <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(high, joined[-1][1]))
        else:
            joined.append((low, high))
    return tuple(joined)


# A row of the query below: positions of its columns, then one for each text term.
_UID, _MODSEQ, _BLOB = 0, 1, 2

_COLUMNS: Final[dict[str, str | Combinable]] = {
    "bits": BITS,
    "keywords": "keywords",
    "received": "received",
    "received_offset": "received_offset",
    "save_date": "save_date",
    "size": "size",
    "thread_id": "thread_id",
    "prefix": "prefix",
    "sent": SENT,
    "truncated": "blob__text__truncated",
}

_Row = tuple[Any, ...]
_Test = Callable[[_Row, "_PageTexts"], bool]


class _Plan:
    """A query made ready: the condition that SQL narrows by, the columns needed, and the test that decides."""

    def __init__(self, query: Query) -> None:
        self._columns: list[str | Combinable] = ["uid", "modseq", "blob_id"]
        self._positions: dict[str, int] = {}
        self._in_sql = _leaves(query) <= SQL_TERMS_MAX
        self._header_columns: list[int] = []
        self._condition = self._possible(query) if self._in_sql else Q()
        exact = self._in_sql and _exact(query) is not None
        self._test: _Test | None = None if exact else self._compile(query, certain=self._in_sql)

    def matches(self, mailbox_id: int, uids: Sequence[int]) -> list[Match]:
        """Those of the UIDs that match, ascending."""
        found: list[Match] = []
        test = self._test
        for condition, wanted in uid_conditions(uids):
            rows = Message.objects.filter(condition, self._condition, mailbox_id=mailbox_id, blob__isnull=False)
            part: list[_Row] = list(rows.order_by("uid").values_list(*self._columns))
            if wanted is not None:
                part = [row for row in part if row[_UID] in wanted]
            if test is None:
                found.extend(Match(row[_UID], row[_MODSEQ]) for row in part)
                continue
            texts = _PageTexts(self._header_candidates(part))
            found.extend(Match(row[_UID], row[_MODSEQ]) for row in part if test(row, texts))
        return found

    def _header_candidates(self, rows: list[_Row]) -> list[int]:
        return [row[_BLOB] for row in rows if any(row[column] for column in self._header_columns)]

    def _possible(self, query: Query) -> Q:
        """A condition that every match fulfils."""
        exact = _exact(query)
        if exact is not None:
            return exact
        match query:
            case And(terms):
                condition = Q()
                for term in terms:
                    condition &= self._possible(term)
                return condition
            case Or(terms):
                choices = [self._possible(term) for term in terms]
                if any(not choice for choice in choices):
                    return Q()
                condition = Q()
                for choice in choices:
                    condition |= choice
                return condition
            case Received(relation, day):
                return _received_superset(relation, day)
            case Email(named):
                return Q(blob_id=named.blob_id)
            case Body(value):
                return self._undecided() | Q(_in("body", text.fold(value)))
            case Header(name, value):
                found = _in("headers", text.fold(value) or f"\n{text.fold(name.strip())}: ")
                return self._undecided() | Q(found) | Q(PrefixHas(f"{name.lower()}:"))
        return Q()  # Not of something that SQL cannot decide, Sent, Text: which is in the prefix of many

    @staticmethod
    def _undecided() -> Q:
        return Q(blob__text__blob_id__isnull=True) | Q(blob__text__truncated=True)

    def _column(self, name: str, expression: str | Combinable | None = None) -> int:
        position = self._positions.get(name)
        if position is None:
            position = self._positions[name] = len(self._columns)
            chosen = _COLUMNS[name] if expression is None else expression
            self._columns.append(F(chosen) if isinstance(chosen, str) else chosen)
        return position

    def _found_column(self, needle: str, *columns: str) -> int:
        """The column that says whether ``needle`` is in one of these columns of the stored text."""
        found = Q()
        for column in columns:
            found |= Q(_in(column, needle))
        return self._column(f"{columns}:{needle}", ExpressionWrapper(found, output_field=BooleanField()))

    def _compile(self, query: Query, *, certain: bool = False) -> _Test:
        """The test of a row; ``certain``: the rows fulfil what _possible() says of this part of the query."""
        match query:
            case All():
                return lambda row, texts: True
            case And(terms):
                # What needs no text first: reading a message is the most expensive thing here.
                tests = [self._compile(term, certain=certain) for term in sorted(terms, key=_cost)]
                return lambda row, texts: all(test(row, texts) for test in tests)
            case Or(terms):
                tests = [self._compile(term) for term in sorted(terms, key=_cost)]
                return lambda row, texts: any(test(row, texts) for test in tests)
            case Not(term):
                test = self._compile(term)
                return lambda row, texts: not test(row, texts)
            case Header() | Text() | Body():
                return self._compile_text(query, certain=certain)
        return self._compile_column(query)

    def _compile_column(self, query: Query) -> _Test:
        match query:
            case Flag(bit):
                bits = self._column("bits")
                return lambda row, texts: bool(row[bits] & bit)
            case Keyword(word):
                keywords = self._column("keywords")
                return lambda row, texts: f" {word} " in row[keywords]
            case Larger(size):
                column = self._column("size")
                return lambda row, texts: bool(row[column] > size)
            case Smaller(size):
                column = self._column("size")
                return lambda row, texts: bool(row[column] < size)
            case ModSeq(at_least):
                return lambda row, texts: bool(row[_MODSEQ] >= at_least)
            case Email(named):
                prefix = self._column("prefix")
                return lambda row, texts: (
                    row[_BLOB] == named.blob_id and objectids.prefix_digest(row[prefix]) == named.digest
                )
            case Thread(thread_id):
                thread = self._column("thread_id")
                return lambda row, texts: bool(row[thread] == thread_id)
            case Uid(ranges):
                starts = [low for low, _ in ranges]
                return lambda row, texts: _in_ranges(row[_UID], starts, ranges)
            case Received(relation, day):
                moment, offset = self._column("received"), self._column("received_offset")
                return lambda row, texts: _compare(_local_day(row[moment], row[offset]), relation, day)
            case Older(limit):
                moment = self._column("received")
                return lambda row, texts: bool(row[moment] <= limit)
            case Younger(limit):
                moment = self._column("received")
                return lambda row, texts: bool(row[moment] >= limit)
            case Saved(relation, day):
                saved = self._column("save_date")
                return lambda row, texts: row[saved] is not None and _compare(row[saved].date(), relation, day)
            case Sent(relation, day):
                sent, prefix = self._column("sent"), self._column("prefix")
                return lambda row, texts: _sent(row[sent], row[prefix], relation, day)
        raise AssertionError(f"unknown query {query!r}")

    def _compile_text(self, query: Header | Text | Body, *, certain: bool) -> _Test:
        truncated = self._column("truncated")
        if isinstance(query, Body):
            body = text.fold(query.value)
            if not self._in_sql:
                return lambda row, texts: texts.body_has(row[_BLOB], body)
            if certain:
                return lambda row, texts: row[truncated] is False or texts.body_has(row[_BLOB], body)
            in_body = self._found_column(body, "body")
            return lambda row, texts: bool(
                row[in_body] or (row[truncated] is not False and texts.scanned_body_has(row[_BLOB], body))
            )
        prefix = self._column("prefix")
        if isinstance(query, Text):
            needle = text.fold(query.value)
            if not self._in_sql:
                return lambda row, texts: (
                    texts.headers_have(row[_BLOB], needle)
                    or text.in_header(bytes(row[prefix]), needle)
                    or texts.body_has(row[_BLOB], needle)
                )
            found = self._found_column(needle, "headers", "body")
            return lambda row, texts: (
                bool(row[found])
                or text.in_header(bytes(row[prefix]), needle)
                or (row[truncated] is not False and texts.anywhere(row[_BLOB], needle))
            )
        name, value = text.fold(query.name.strip()), text.fold(query.value)
        if not self._in_sql:
            return lambda row, texts: (
                text.in_field(bytes(row[prefix]), name, value) or texts.field_has(row[_BLOB], name, value)
            )
        column = self._found_column(value or f"\n{name}: ", "headers")
        self._header_columns.append(column)
        return lambda row, texts: (
            (bool(row[column] or row[truncated] is not False) and texts.field_has(row[_BLOB], name, value))
            or text.in_field(bytes(row[prefix]), name, value)
        )


class _PageTexts:
    """The stored texts of a page's messages, or what is made from their content where it is missing."""

    def __init__(self, candidates: list[int]) -> None:
        self._headers: dict[int, str] = {}
        for start in range(0, len(candidates), CANDIDATES_PER_QUERY):
            chunk = candidates[start : start + CANDIDATES_PER_QUERY]
            self._headers.update(BlobText.objects.filter(pk__in=chunk).values_list("pk", "headers"))
        self._current: tuple[int, str] | None = None  # the blob read last, and its header text

    def field_has(self, blob_id: int, name: str, value: str) -> bool:
        headers = self._headers.get(blob_id)
        if headers is None or len(headers) >= text.HEADERS_MAX:
            headers = self._whole_headers(blob_id)
        return text.has_field(headers, name, value)

    def headers_have(self, blob_id: int, needle: str) -> bool:
        return needle in self._whole_headers(blob_id)

    def body_has(self, blob_id: int, needle: str) -> bool:
        stored = BlobText.objects.filter(pk=blob_id).annotate(at=StrIndex("body", Value(needle)))
        found = stored.values_list("at", "truncated").first()
        if found is not None and (found[0] or not found[1]):
            return bool(found[0])
        return self.scanned_body_has(blob_id, needle)

    def scanned_body_has(self, blob_id: int, needle: str) -> bool:
        """Whether the body has it, whatever is stored."""
        with _opened(blob_id) as (reader, structure):
            tails = {False: "", True: ""}
            for piece in text.body_pieces(reader, structure):
                # The end of the piece before is looked at again: what is sought may begin there.
                joined = tails[piece.attributes] + piece.text
                if needle in joined:
                    return True
                tails[piece.attributes] = joined[len(joined) - len(needle) + 1 :] if len(needle) > 1 else ""
        return False

    def anywhere(self, blob_id: int, needle: str) -> bool:
        return self.headers_have(blob_id, needle) or self.scanned_body_has(blob_id, needle)

    def _whole_headers(self, blob_id: int) -> str:
        if self._current is not None and self._current[0] == blob_id:
            return self._current[1]
        with _opened(blob_id) as (reader, structure):
            headers = text.headers_of(reader, structure)
        self._current = (blob_id, headers)
        return headers


class _opened:
    """A blob's content and structure, closed in the end."""

    def __init__(self, blob_id: int) -> None:
        row = Blob.objects.values_list("size", "data", "storage_name", "structure").get(pk=blob_id)
        size, data, storage_name, self._structure = row
        self._reader = content.blob_reader(blob_id, size, data, storage_name)

    def __enter__(self) -> tuple[content.Reader, dict[str, Any]]:
        return self._reader, self._structure

    def __exit__(self, *exc: object) -> None:
        self._reader.close()


_SQL = tuple[str, tuple[str | int, ...]]


class PrefixHas(Func):
    """Whether the prefix of a message holds this ASCII text, compared without case."""

    output_field = BooleanField()

    def __init__(self, needle: str) -> None:
        super().__init__(F("prefix"), Value(needle.lower()))

    def as_sqlite(self, compiler: SQLCompiler, connection: BaseDatabaseWrapper, **extra: Any) -> _SQL:
        return self._sql(compiler, "INSTR(LOWER(CAST({prefix} AS TEXT)), {needle}) > 0")

    def as_postgresql(self, compiler: SQLCompiler, connection: BaseDatabaseWrapper, **extra: Any) -> _SQL:
        return self._sql(compiler, "STRPOS(LOWER(ENCODE({prefix}, 'escape')), {needle}) > 0")

    def _sql(self, compiler: SQLCompiler, template: str) -> _SQL:
        prefix, needle = (compiler.compile(expression) for expression in self.source_expressions)
        return template.format(prefix=prefix[0], needle=needle[0]), (*prefix[1], *needle[1])


class _Found(Func):
    """Whether text is in a column of BlobText; false, not NULL, where there is none."""

    output_field = BooleanField()
    template = "COALESCE(%(expressions)s, 0) > 0"

    def __init__(self, position: Combinable) -> None:
        super().__init__(position)


def _in(column: str, needle: str) -> _Found:
    return _Found(StrIndex(F(f"blob__text__{column}"), Value(needle)))


def _exact(query: Query) -> Q | None:
    """The condition that is true of exactly the matches, None when SQL cannot say it."""
    match query:
        case All():
            return Q()
        case Flag(bit):
            return Q(**{next(column for column, flag, _ in FLAGS if flag == bit): True})
        case Keyword(word):
            return Q(keywords__contains=f" {word} ")
        case Older(moment):
            return Q(received__lte=moment)
        case Younger(moment):
            return Q(received__gte=moment)
        case Saved(relation, day):
            return _saved(relation, day)
        case Larger(size):
            return Q(size__gt=size)
        case Smaller(size):
            return Q(size__lt=size)
        case ModSeq(at_least):
            return Q(modseq__gte=at_least)
        case Thread(thread_id):
            return Q(thread_id=thread_id)
        case Uid(ranges) if 0 < len(ranges) <= SQL_RANGES_MAX:
            condition = Q()
            for low, high in ranges:
                condition |= Q(uid__gte=low, uid__lte=high)
            return condition
        case Not(term):
            inner = _exact(term)
            return None if inner is None else _negated(inner)
        case And(terms) | Or(terms):
            conditions = [_exact(term) for term in terms]
            condition = Q()
            for each in conditions:
                if each is None:
                    return None
                if isinstance(query, And):
                    condition &= each
                elif not each:
                    return Q()
                else:
                    condition |= each
            return condition if terms or isinstance(query, And) else None
    return None


def _negated(condition: Q) -> Q:
    # An empty Q is everything, and Django drops its negation.
    return ~condition if condition else Q(pk__in=[])


def _leaves(query: Query) -> int:
    match query:
        case And(terms) | Or(terms):
            return sum(_leaves(term) for term in terms)
        case Not(term):
            return _leaves(term)
        case Uid(ranges):
            return min(len(ranges), SQL_RANGES_MAX)
    return 1


def _cost(query: Query) -> int:
    match query:
        case And(terms) | Or(terms):
            return max((_cost(term) for term in terms), default=0)
        case Not(term):
            return _cost(term)
        case Header():
            return 1
        case Text() | Body():
            return 2
    return 0


def _restricted(query: Query) -> tuple[list[tuple[tuple[int, int], ...]], Query]:
    """The UID sets that every match must be in, and what else it must fulfil."""
    if isinstance(query, Uid):
        return [query.ranges], All()
    if not isinstance(query, And):
        return [], query
    sets: list[tuple[tuple[int, int], ...]] = []
    rest: list[Query] = []
    for term in query.terms:
        inner_sets, inner = _restricted(term)
        sets.extend(inner_sets)
        rest.append(inner)
    return sets, And(tuple(term for term in rest if not isinstance(term, All)))


def _intersection(uids: Sequence[int], sets: list[tuple[tuple[int, int], ...]]) -> Sequence[int]:
    for ranges in sets:
        kept = array("I")
        for low, high in ranges:
            kept.extend(uids[bisect_left(uids, low) : bisect_right(uids, high)])
        uids = kept
    return uids


def _in_ranges(uid: int, starts: list[int], ranges: tuple[tuple[int, int], ...]) -> bool:
    at = bisect_right(starts, uid) - 1
    return at >= 0 and uid <= ranges[at][1]


def _compare(day: date | None, relation: Relation, given: date) -> bool:
    if day is None:
        return False
    if relation is Relation.BEFORE:
        return day < given
    if relation is Relation.ON:
        return day == given
    return day >= given


def _local_day(moment: datetime, offset: int) -> date:
    return (moment + timedelta(minutes=offset)).date()


def _received_superset(relation: Relation, day: date) -> Q:
    # Zones are less than a day away from UTC.
    try:
        low = datetime.combine(day - timedelta(days=1), time(), UTC)
        high = datetime.combine(day + timedelta(days=2), time(), UTC)
    except OverflowError:
        return Q()  # the first or last days that there are
    if relation is Relation.BEFORE:
        return Q(received__lt=high)
    if relation is Relation.SINCE:
        return Q(received__gte=low)
    return Q(received__gte=low, received__lt=high)


def _saved(relation: Relation, day: date) -> Q:
    start = datetime.combine(day, time(), UTC)
    if relation is Relation.BEFORE:
        return Q(save_date__lt=start)
    condition = Q(save_date__gte=start)
    if relation is Relation.ON and day < date.max:
        condition &= Q(save_date__lt=start + timedelta(days=1))
    return condition


def _sent(parsed: str | None, prefix: bytes, relation: Relation, day: date) -> bool:
    """The Date of the prefix (of a submission that came without one) goes before the content's."""
    moment = prefix_date(bytes(prefix))
    if moment is not None:
        return _compare(moment.date(), relation, day)
    return _compare(date.fromisoformat(parsed[:10]) if parsed else None, relation, day)
