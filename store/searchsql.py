"""What SQL can say of the conditions of a search: all of it for some, and for others what every match fulfils."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import BooleanField, F, Func, Q, Value
from django.db.models.expressions import Combinable
from django.db.models.functions import StrIndex
from django.db.models.sql.compiler import SQLCompiler

from .flags import FLAGS
from .queries import (
    All,
    And,
    Flag,
    Keyword,
    Larger,
    ModSeq,
    Not,
    Older,
    Or,
    Query,
    Relation,
    Saved,
    Smaller,
    Thread,
    Uid,
    Younger,
)

SQL_RANGES_MAX: Final = 20  # ranges of a UID set that go into SQL


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


def text_has(column: str, needle: str) -> _Found:
    """The condition that a folded text is in ``headers`` or ``body`` of what is stored for the search."""
    return _Found(StrIndex(F(f"blob__text__{column}"), Value(needle)))


def leaves(query: Query) -> int:
    """How many conditions a query comes to in SQL."""
    match query:
        case And(terms) | Or(terms):
            return sum(leaves(term) for term in terms)
        case Not(term):
            return leaves(term)
        case Uid(ranges):
            return min(len(ranges), SQL_RANGES_MAX)
    return 1


def exact(query: Query) -> Q | None:
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
            inner = exact(term)
            return None if inner is None else _negated(inner)
        case And(terms) | Or(terms):
            conditions = [exact(term) for term in terms]
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


def received_superset(relation: Relation, day: date) -> Q:
    """A condition that all messages fulfil that were received then, by the day of their own zone."""
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
