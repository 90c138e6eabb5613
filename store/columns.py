"""SQL expressions over the columns of Message."""

from __future__ import annotations

from typing import Any, Final

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import F, Func, IntegerField
from django.db.models.sql.compiler import SQLCompiler

from .flags import FLAGS


class FlagBits(Func):
    """All flags as one integer (bits of store.flags): ten boolean columns would cost ten conversions for each row."""

    output_field = IntegerField()

    def __init__(self) -> None:
        super().__init__(*(F(column) for column, _, _ in FLAGS))

    def as_sql(
        self,
        compiler: SQLCompiler,
        connection: BaseDatabaseWrapper,
        function: str | None = None,
        template: str | None = None,
        arg_joiner: str | None = None,
        **extra: Any,
    ) -> tuple[str, tuple[str | int, ...]]:
        cast = "::int" if connection.vendor == "postgresql" else ""
        terms: list[str] = []
        params: list[str | int] = []
        for expression, (_, bit, _) in zip(self.source_expressions, FLAGS, strict=True):
            sql, expression_params = compiler.compile(expression)
            terms.append(f"{sql}{cast} * {bit}")
            params.extend(expression_params)
        return f"({' + '.join(terms)})", tuple(params)


BITS: Final = FlagBits()
