"""Queries for messages of a mailbox by UID, made once, and never with an overlong IN list.

targets = ByUID(lambda messages: messages.filter(expunged=False).values_list("uid", "size"))
for uid, size in targets.rows(mailbox_id, [1, 2, 3, 90]): ...

A few UIDs that lie close together are asked for as a range, of which those that were not asked for are dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from django.db.models import QuerySet

from server.statements import Statement

from .models import Message

UIDS_PER_QUERY: Final = 500  # databases bound the parameters of a statement
UIDS_PER_RANGE: Final = 10_000  # UIDs looked at together for being dense enough for a range

Row = tuple[Any, ...]


class ByUID:
    """A query of messages that differs from call to call in mailbox, UIDs and some parameters, as `Statement` has them.

    ``make`` narrows the messages down and ends in ``values_list``, whose first column is "uid".
    """

    def __init__(self, make: Callable[..., QuerySet[Message, Any]]) -> None:
        self._in_range = Statement(
            lambda mailbox_id, low, high, *params: make(
                Message.objects.filter(mailbox_id=mailbox_id, uid__gte=low, uid__lte=high), *params
            ).order_by("uid")
        )
        self._make = make
        self._listed: dict[int, Statement[Any]] = {}

    def rows(self, mailbox_id: int, uids: Sequence[int], *params: Any) -> Iterator[Row]:
        """The rows of these UIDs, ascending."""
        for low, high, wanted in spans(uids):
            if high - low + 1 <= 2 * len(wanted):
                rows = self._in_range.rows(mailbox_id, low, high, *params)
                if high - low + 1 == len(wanted):
                    yield from rows
                else:
                    among = frozenset(wanted)
                    yield from (row for row in rows if row[0] in among)
            else:
                for start in range(0, len(wanted), UIDS_PER_QUERY):
                    part = wanted[start : start + UIDS_PER_QUERY]
                    yield from self._list(len(params)).rows(mailbox_id, *params, *part)

    def _list(self, count: int) -> Statement[Any]:
        """The statement for a list of UIDs after ``count`` parameters."""
        if count not in self._listed:
            self._listed[count] = Statement(
                lambda mailbox_id, *given: self._make(
                    Message.objects.filter(mailbox_id=mailbox_id, uid__in=given[count:]), *given[:count]
                ).order_by("uid")
            )
        return self._listed[count]


def spans(uids: Sequence[int]) -> Iterator[tuple[int, int, list[int]]]:
    """The UIDs, each once and ascending, in parts that are looked at together: lowest, highest, and all of a part."""
    ordered = sorted(set(uids))
    for start in range(0, len(ordered), UIDS_PER_RANGE):
        part = ordered[start : start + UIDS_PER_RANGE]
        yield part[0], part[-1], part
