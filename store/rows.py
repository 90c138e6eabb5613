"""Writing one row quickly: Django's INSERT and UPDATE cost more than the database's, for a table of sixty columns.

message_id = insert(Message, {"account_id": 1, "mailbox_id": 2, "uid": 3, ...})
update(Mailbox, mailbox_id, {"uidnext": 4, "modseq": 17})
update_where(QueueMessage, {"phase": "dot"}, {"id": [1, 2], "lease_token": token})     # [1, 2]
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final, TypeAlias

from django.db import connection
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import (
    BinaryField,
    BooleanField,
    CharField,
    DateTimeField,
    Field,
    ForeignKey,
    IntegerField,
    JSONField,
    Model,
    TextField,
)

from server.statements import database, run

_Prepare: TypeAlias = "list[Callable[..., Any] | None]"

_MISSING: Final = object()
_PLAIN: Final = (BooleanField, CharField, ForeignKey, IntegerField, TextField)  # bool, str and int, as they are


@dataclass(frozen=True, slots=True)
class _Column:
    name: str
    prepare: Callable[..., Any] | None
    default: Any  # as the database takes it; _MISSING where the caller must give a value


@dataclass(frozen=True, slots=True)
class _Insert:
    sql: str
    columns: tuple[_Column, ...]
    names: frozenset[str]


def insert(model: type[Model], values: Mapping[str, Any]) -> int:
    """Insert a row and return its id. ``values`` by column (``blob_id``); what is left out gets the field's default.

    Raises TypeError for a column that the model lacks or that has no default.
    """
    connected = database()
    statement = _statement(model, connected.vendor)
    unknown = values.keys() - statement.names
    if unknown:
        raise TypeError(f"{model.__name__} has no column {', '.join(sorted(unknown))}")
    params = []
    for column in statement.columns:
        if column.name in values:
            value = values[column.name]
            params.append(value if column.prepare is None else column.prepare(value, connected))
        elif column.default is _MISSING:
            raise TypeError(f"{model.__name__}.{column.name} has no default and was not given")
        else:
            params.append(column.default)
    inserted: int = run(statement.sql, params)[0][0]
    return inserted


def update(model: type[Model], pk: int, values: Mapping[str, Any]) -> None:
    """Set columns (``mailbox_id``) of the row with this primary key."""
    sql, prepare = _update(model, tuple(values))
    run(sql, [*_params(prepare, values), pk])


def update_where(model: type[Model], values: Mapping[str, Any], conditions: Mapping[str, Any]) -> list[int]:
    """Set columns of the rows that have these values (a list: one of them) in these columns; the ids of those rows.

    A claim by conditional update: rows that somebody else changed first are not among them.
    """
    lengths = tuple(len(value) if isinstance(value, list) else 0 for value in conditions.values())
    sql, prepare, prepare_conditions = _update_where(model, tuple(values), tuple(conditions), lengths)
    params = [*_params(prepare, values), *_condition_params(prepare_conditions, conditions)]
    return [row[0] for row in run(sql, params)]


def delete_where(model: type[Model], conditions: Mapping[str, Any]) -> list[int]:
    """Delete the rows that have these values, as `update_where` finds them; their ids. Nothing may point to them."""
    lengths = tuple(len(value) if isinstance(value, list) else 0 for value in conditions.values())
    sql, prepare = _delete_where(model, tuple(conditions), lengths)
    return [row[0] for row in run(sql, _condition_params(prepare, conditions))]


def reserve_ids(model: type[Model], count: int) -> list[int]:
    """Ids that rows of this model will never get by themselves, ascending; inside of a transaction."""
    table = model._meta.db_table
    if connection.vendor == "postgresql":
        sequence = f"pg_get_serial_sequence('{table}', 'id')"
        return sorted(row[0] for row in run(f"SELECT nextval({sequence}) FROM generate_series(1, %s)", [count]))  # noqa: S608 # a constant
    found = run("UPDATE sqlite_sequence SET seq = seq + %s WHERE name = %s RETURNING seq", [count, table])
    if not found:  # the table never had a row
        found = run("INSERT INTO sqlite_sequence (name, seq) VALUES (%s, %s) RETURNING seq", [table, count])
    last: int = found[0][0]
    return list(range(last - count + 1, last + 1))


def _params(prepare: _Prepare, values: Mapping[str, Any]) -> list[Any]:
    connected = database()
    return [value if p is None else p(value, connected) for p, value in zip(prepare, values.values(), strict=True)]


def _condition_params(prepare: _Prepare, conditions: Mapping[str, Any]) -> list[Any]:
    connected = database()
    return [
        single if p is None else p(single, connected)
        for p, value in zip(prepare, conditions.values(), strict=True)
        for single in (value if isinstance(value, list) else (value,))
    ]


@functools.lru_cache(maxsize=256)
def _update_where(
    model: type[Model], names: tuple[str, ...], conditions: tuple[str, ...], lengths: tuple[int, ...]
) -> tuple[str, _Prepare, _Prepare]:
    quote = connection.ops.quote_name
    by_name = {field.attname: field for field in model._meta.local_concrete_fields}
    assigned = ", ".join(f"{quote(by_name[name].column or name)} = %s" for name in names)
    where, prepare = _where(model, conditions, lengths)
    table = quote(model._meta.db_table)
    sql = f"UPDATE {table} SET {assigned} WHERE {where} RETURNING id"  # noqa: S608 # names of our own columns
    return sql, [_prepare(by_name[name]) for name in names], prepare


@functools.lru_cache(maxsize=64)
def _delete_where(model: type[Model], conditions: tuple[str, ...], lengths: tuple[int, ...]) -> tuple[str, _Prepare]:
    where, prepare = _where(model, conditions, lengths)
    table = connection.ops.quote_name(model._meta.db_table)
    return f"DELETE FROM {table} WHERE {where} RETURNING id", prepare  # noqa: S608 # names of our own columns


def _where(model: type[Model], conditions: tuple[str, ...], lengths: tuple[int, ...]) -> tuple[str, _Prepare]:
    quote = connection.ops.quote_name
    by_name = {field.attname: field for field in model._meta.local_concrete_fields}
    terms = []
    for name, length in zip(conditions, lengths, strict=True):
        column = quote(by_name[name].column or name)
        terms.append(f"{column} IN ({', '.join(['%s'] * length)})" if length else f"{column} = %s")
    return " AND ".join(terms), [_prepare(by_name[name]) for name in conditions]


@functools.cache
def _update(model: type[Model], names: tuple[str, ...]) -> tuple[str, _Prepare]:
    quote = connection.ops.quote_name
    by_name = {field.attname: field for field in model._meta.local_concrete_fields}
    fields = [by_name[name] for name in names]
    primary_key = model._meta.pk
    assert primary_key is not None
    assigned = ", ".join(f"{quote(field.column or field.attname)} = %s" for field in fields)
    sql = (
        f"UPDATE {quote(model._meta.db_table)} SET {assigned}"  # noqa: S608 # names of our own columns
        f" WHERE {quote(primary_key.column or primary_key.attname)} = %s"
    )
    return sql, [_prepare(field) for field in fields]


@functools.cache
def _statement(model: type[Model], vendor: str) -> _Insert:
    fields = [f for f in model._meta.local_concrete_fields if not f.primary_key]
    quote = connection.ops.quote_name
    names = ", ".join(quote(f.column or f.attname) for f in fields)
    primary_key = model._meta.pk
    assert primary_key is not None
    sql = (
        f"INSERT INTO {quote(model._meta.db_table)} ({names})"  # noqa: S608 # names of our own columns
        f" VALUES ({', '.join(['%s'] * len(fields))}) RETURNING {quote(primary_key.attname)}"
    )
    columns = tuple(_Column(f.attname, _prepare(f), _default(f)) for f in fields)
    return _Insert(sql, columns, frozenset(column.name for column in columns))


def _prepare(field: Field[Any, Any]) -> Callable[..., Any] | None:
    """What makes a value fit for the database; None for fields whose values are so already."""
    if type(field) is BinaryField:  # and no class above it, which may encrypt
        return None
    if type(field) is DateTimeField:
        return _moment
    if type(field) is JSONField and field.encoder is None and connection.vendor == "sqlite":
        return _json
    if not isinstance(field, _PLAIN):
        return field.get_db_prep_save
    return _plain_choice if field.choices else None


def _json(value: Any, _: BaseDatabaseWrapper) -> str | None:
    return None if value is None else json.dumps(value)


def _plain_choice(value: Any, _: BaseDatabaseWrapper) -> Any:
    """Members of TextChoices and IntegerChoices are texts and numbers of another class, which drivers may not know."""
    return value.value if isinstance(value, Enum) else value


def _moment(value: datetime | None, database: BaseDatabaseWrapper) -> datetime | str | None:
    """As Django does it, which takes ten times as long: PostgreSQL has time zones, SQLite texts in UTC."""
    if value is None or database.vendor == "postgresql":
        return value
    if value.tzinfo is None:
        raise ValueError(f"{value} has no time zone")
    return str(value.astimezone(UTC).replace(tzinfo=None))


def _default(field: Field[Any, Any]) -> Any:
    if field.has_default() or field.null:
        return field.get_db_prep_save(field.get_default(), connection)
    return _MISSING
