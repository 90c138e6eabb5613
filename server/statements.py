"""Queries whose SQL is made once: for what runs with every message, Django's compiler costs more than the database.

hosted = Statement(lambda name: Domain.objects.filter(name=name).values_list("id", "disabled"))
for pk, disabled in hosted.rows("example.org"): ...

The query is written with the ORM and stays portable; only its compilation is kept.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from django.db import DEFAULT_DB_ALIAS, connection, connections
from django.db.models import Model, QuerySet

FIRST_MARKER: Final = 1_600_000_001  # a number that no query says by itself; it fits every integer column
KEPT_PARAMS: Final = 64  # a statement with more of them, an IN list, is made anew each time: lists differ in length

T = TypeVar("T")
M = TypeVar("M", bound=Model)


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
        key = (connection.vendor, len(params))
        compiled = self._compiled.get(key)
        if compiled is None:
            markers = [FIRST_MARKER + number for number in range(len(params))]
            compiled = _compile(self._make(*markers), markers)
            if len(params) <= KEPT_PARAMS:
                self._compiled[key] = compiled
        rows: Sequence[Any] = run(compiled.sql, [params[number] for number in compiled.order])
        if compiled.converters:
            rows = [_converted(row, compiled.converters) for row in rows]
        return compiled, rows


class ModelStatement(Statement[M]):
    """The same for a query that gives model instances, without related ones."""

    def __init__(self, model: type[M], make: Callable[..., QuerySet[M]]) -> None:
        super().__init__(make)
        self._model = model

    def rows(self, *params: Any) -> Sequence[M]:
        compiled, rows = self._fetch(params)
        return [self._model.from_db(connection.alias, compiled.names, row) for row in rows]


def run(sql: str, params: Sequence[Any]) -> list[Any]:
    """The rows that a statement gives, with ``%s`` for its parameters, as the database takes them.

    On SQLite without what Django does around each statement (a log, placeholders rewritten), which costs more than
    most of them. Raises what Django's cursors raise.
    """
    database = connections[DEFAULT_DB_ALIAS]
    if database.vendor == "sqlite":
        if database.connection is None:
            database.ensure_connection()
        with database.wrap_database_errors:
            found: list[Any] = database.connection.execute(_with_question_marks(sql), params).fetchall()
            return found
    with database.cursor() as cursor:
        cursor.execute(sql, params)
        return cursor.fetchall() if cursor.description is not None else []


@functools.lru_cache(maxsize=512)
def _with_question_marks(sql: str) -> str:
    return sql.replace("%s", "?").replace("%%", "%")


def _compile(queryset: QuerySet[Any, Any], markers: list[int]) -> _Compiled:
    compiler = queryset.query.get_compiler(connection.alias)
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


def _converted(row: Sequence[Any], converters: dict[int, tuple[list[Callable[..., Any]], Any]]) -> tuple[Any, ...]:
    values = list(row)
    for position, (functions, expression) in converters.items():
        for function in functions:
            values[position] = function(values[position], expression, connection)
    return tuple(values)
