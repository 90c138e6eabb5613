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

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Final, NamedTuple

from django.db.models import BooleanField, ExpressionWrapper, F, Q
from django.db.models.expressions import Combinable

from server.statements import Statement

from . import index, objectids, text
from .columns import BITS
from .models import Mailbox, Message
from .queries import (
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
    compare,
    cost,
    in_ranges,
    intersection,
    local_day,
    restricted,
)
from .searchsql import PrefixHas, exact, leaves, received_superset, text_has
from .searchtexts import PageTexts
from .sorting import SENT, prefix_date
from .targets import uid_conditions

PAGE_FIRST: Final = 500  # messages of the first page: an answer may be needed soon
PAGE_MAX: Final = 4000  # pages grow up to this: each costs a query
SQL_TERMS_MAX: Final = 64  # leaves of a query that go into SQL: databases limit the depth of expressions
SCANNED_MAX: Final = 100  # messages whose texts are read without asking the search index


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
    within, rest = restricted(query)
    known = _narrowed(mailbox_id, rest, intersection(uids, within))
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
_Test = Callable[[_Row, PageTexts], bool]


class _Plan:
    """A query made ready: the condition that SQL narrows by, the columns needed, and the test that decides."""

    def __init__(self, query: Query) -> None:
        self._columns: list[str | Combinable] = ["uid", "modseq", "blob_id"]
        self._positions: dict[str, int] = {}
        self._in_sql = leaves(query) <= SQL_TERMS_MAX
        self._header_columns: list[int] = []
        self._condition = self._possible(query) if self._in_sql else Q()
        decided = self._in_sql and exact(query) is not None
        self._test: _Test | None = None if decided else self._compile(query, certain=self._in_sql)

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
            texts = PageTexts(self._header_candidates(part))
            found.extend(Match(row[_UID], row[_MODSEQ]) for row in part if test(row, texts))
        return found

    def _header_candidates(self, rows: list[_Row]) -> list[int]:
        return [row[_BLOB] for row in rows if any(row[column] for column in self._header_columns)]

    def _possible(self, query: Query) -> Q:
        """A condition that every match fulfils."""
        decided = exact(query)
        if decided is not None:
            return decided
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
                return received_superset(relation, day)
            case Email(named):
                return Q(blob_id=named.blob_id)
            case Body(value):
                return self._undecided() | Q(text_has("body", text.fold(value)))
            case Header(name, value):
                found = text_has("headers", text.fold(value) or f"\n{text.fold(name.strip())}: ")
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
            found |= Q(text_has(column, needle))
        return self._column(f"{columns}:{needle}", ExpressionWrapper(found, output_field=BooleanField()))

    def _compile(self, query: Query, *, certain: bool = False) -> _Test:
        """The test of a row; ``certain``: the rows fulfil what _possible() says of this part of the query."""
        match query:
            case All():
                return lambda row, texts: True
            case And(terms):
                # What needs no text first: reading a message is the most expensive thing here.
                tests = [self._compile(term, certain=certain) for term in sorted(terms, key=cost)]
                return lambda row, texts: all(test(row, texts) for test in tests)
            case Or(terms):
                tests = [self._compile(term) for term in sorted(terms, key=cost)]
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
                return lambda row, texts: in_ranges(row[_UID], starts, ranges)
            case Received(relation, day):
                moment, offset = self._column("received"), self._column("received_offset")
                return lambda row, texts: compare(local_day(row[moment], row[offset]), relation, day)
            case Older(limit):
                moment = self._column("received")
                return lambda row, texts: bool(row[moment] <= limit)
            case Younger(limit):
                moment = self._column("received")
                return lambda row, texts: bool(row[moment] >= limit)
            case Saved(relation, day):
                saved = self._column("save_date")
                return lambda row, texts: row[saved] is not None and compare(row[saved].date(), relation, day)
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


def _sent(parsed: str | None, prefix: bytes, relation: Relation, day: date) -> bool:
    """The Date of the prefix (of a submission that came without one) goes before the content's."""
    moment = prefix_date(bytes(prefix))
    if moment is not None:
        return compare(moment.date(), relation, day)
    return compare(date.fromisoformat(parsed[:10]) if parsed else None, relation, day)
