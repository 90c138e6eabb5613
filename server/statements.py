"""Queries whose SQL is made once: for what runs with every message, Django's compiler costs more than the database.

hosted = Statement(lambda name: Domain.objects.filter(name=name).values_list("id", "disabled"))
for pk, disabled in hosted.rows("example.org"): ...

The query is written with the ORM and stays portable; only its compilation is kept.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from django.db import DEFAULT_DB_ALIAS, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Model, QuerySet

FIRST_MARKER: Final = 1_600_000_001  # a number that no query says by itself; it fits every integer column
KEPT_PARAMS: Final = 64  # a statement with more of them, an IN list, is made anew each time: lists differ in length

T = TypeVar("T")
M = TypeVar("M", bound=Model)


class _OfThread(threading.local):
    database: BaseDatabaseWrapper | None = None


_of_thread = _OfThread()


def database() -> BaseDatabaseWrapper:
    """This thread's connection: `django.db.connection` without being looked up, which costs as much as a small query.

    Not for coroutines, whose connections are their own.
    """
    found = _of_thread.database
    if found is None:
        found = _of_thread.database = connections[DEFAULT_DB_ALIAS]
    return found


@dataclass(frozen=True, slots=True)
class _Compiled:
    sql: str
    order: tuple[int, ...]  # which of the parameters given stands at each place in the SQL
    names: tuple[str, ...]
    converters: dict[int, tuple[list[Callable[..., Any]], Any]]  # by column: functions and their expression


class Statement(Generic[T]):
    """A query that differs from call to call in its parameters alone.

    The parameters are numbers and texts, as the database takes them. What ``make`` says besides them must need none:
    ``filter(expunged=False)`` does not.
    """

    def __init__(self, make: Callable[..., QuerySet[Any, T]]) -> None:
        self._make = make
        self._compiled: dict[tuple[str, int], _Compiled] = {}

    def rows(self, *params: Any) -> Sequence[T]:
        """The rows of a query made with ``values_list``."""
        return self._fetch(params)[1]

    def row(self, *params: Any) -> T | None:
        """The first row, None where there is none."""
        rows = self.rows(*params)
        return rows[0] if rows else None

    def _fetch(self, params: tuple[Any, ...]) -> tuple[_Compiled, Sequence[Any]]:
        connected = database()
        compiled = self._compiled_for(params, connected.vendor)
        rows: Sequence[Any] = run(compiled.sql, [params[number] for number in compiled.order])
        if compiled.converters:
            rows = [_converted(row, compiled.converters, connected) for row in rows]
        return compiled, rows

    def _compiled_for(self, params: tuple[Any, ...], vendor: str) -> _Compiled:
        key = (vendor, len(params))
        compiled = self._compiled.get(key)
        if compiled is None:
            markers = [FIRST_MARKER + number for number in range(len(params))]
            compiled = _compile(self._make(*markers), markers)
            if len(params) <= KEPT_PARAMS:
                self._compiled[key] = compiled
        return compiled


class ModelStatement(Statement[M]):
    """The same for a query that gives model instances, without related ones."""

    def __init__(self, model: type[M], make: Callable[..., QuerySet[M]]) -> None:
        super().__init__(make)
        self._model = model

    def rows(self, *params: Any) -> Sequence[M]:
        compiled, rows = self._fetch(params)
        return [self._model.from_db(DEFAULT_DB_ALIAS, compiled.names, row) for row in rows]


def together(questions: Sequence[tuple[Statement[T], tuple[Any, ...]]]) -> list[list[T]]:
    """The rows of several statements that select columns of the same types, asked as one; each in any order.

    A statement is some ten times as dear as what it finds by an index: threads change at each one.
    """
    connected = database()
    compiled = [statement._compiled_for(params, connected.vendor) for statement, params in questions]
    values = [params[at] for c, (_, params) in zip(compiled, questions, strict=True) for at in c.order]
    answers: list[list[T]] = [[] for _ in questions]
    converters = compiled[0].converters if compiled else {}
    for number, *row in run(_union(tuple(c.sql for c in compiled)), values) if compiled else ():
        answers[number].append(_converted(row, converters, connected))
    return answers


@functools.lru_cache(maxsize=256)
def _union(statements: tuple[str, ...]) -> str:
    return " UNION ALL ".join(
        f"SELECT {number}, q{number}.* FROM ({sql}) AS q{number}"  # noqa: S608 # statements of our own
        for number, sql in enumerate(statements)
    )


def run(sql: str, params: Sequence[Any]) -> list[Any]:
    """The rows that a statement gives, with ``%s`` for its parameters, as the database takes them.

    On SQLite without what Django does around each statement (a log, placeholders rewritten), which costs more than
    most of them. Raises what Django's cursors raise.
    """
    connected = database()
    if connected.vendor == "sqlite":
        if connected.connection is None:
            connected.ensure_connection()
        with connected.wrap_database_errors:
            found: list[Any] = connected.connection.execute(_with_question_marks(sql), params).fetchall()
            return found
    with connected.cursor() as cursor:
        cursor.execute(sql, params)
        return cursor.fetchall() if cursor.description is not None else []


@functools.lru_cache(maxsize=512)
def _with_question_marks(sql: str) -> str:
    return sql.replace("%s", "?").replace("%%", "%")


def _compile(queryset: QuerySet[Any, Any], markers: list[int]) -> _Compiled:
    compiler = queryset.query.get_compiler(DEFAULT_DB_ALIAS)
    sql, made = compiler.as_sql()
    # Django puts the conditions of a filter() in an order of its own, and texts were made of some markers.
    places = [str(value) for value in made]
    known = [str(marker) for marker in markers]
    if not set(places) <= set(known):
        raise TypeError(f"the statement has parameters of its own: {sql}")
    order = tuple(known.index(place) for place in places)
    selected = [column for column, _, _ in compiler.select]
    names = tuple(column.target.attname for column in selected if hasattr(column, "target"))
    return _Compiled(sql, order, names, compiler.get_converters(selected))


def _converted(
    row: Sequence[Any],
    converters: dict[int, tuple[list[Callable[..., Any]], Any]],
    connected: BaseDatabaseWrapper,
) -> tuple[Any, ...]:
    values = list(row)
    for position, (functions, expression) in converters.items():
        for function in functions:
            values[position] = function(values[position], expression, connected)
    return tuple(values)
