"""Putting all messages of an account into threads anew, beside a live server.

The parent of each is looked for first, wherever it came in time; what answers each other in a circle is cut. Then the
rows that differ are written in batches, and what came meanwhile is done in the same way until nothing new is there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from django.db.models import Min

from protocols.message import Envelope
from protocols.message.headers import collect_fields
from protocols.message.structure import ENVELOPE_FIELDS
from server import db

from . import content, threads
from .db import write_tx
from .errors import ContentError
from .models import ChangeEvent, Message
from .rows import update
from .threads import DEPTH_MAX, ThreadKeys

BATCH: Final = 500  # messages looked at together, rows of a transaction
READ_AT_ONCE: Final = 50  # contents: each may have 64 KiB in its row
HEADER_MAX: Final = 1 << 20  # bytes of a header that are looked at
_FIELDS: Final = ENVELOPE_FIELDS | {b"references"}


def reassign(account_id: int, progress: Callable[[int], None] | None = None) -> int:
    """Put every message of an account into threads anew; gives how many changed their place."""
    return _Threads(account_id).reassign(progress)


class _Threads:
    """What is known of each message, by its id: some 100 bytes each."""

    def __init__(self, account_id: int) -> None:
        self._account_id = account_id
        self._live = Message.objects.filter(account_id=account_id, expunged=False)
        self._parents: dict[int, int] = {}  # 0: begins a thread
        self._missing: set[int] = set()
        self._depths: dict[int, int] = {}
        self._muted = set(self._live.filter(thread_muted=True).values_list("pk", flat=True))
        self._collapsed = set(self._live.filter(thread_collapsed=True).values_list("pk", flat=True))

    def reassign(self, progress: Callable[[int], None] | None) -> int:
        changed = 0
        last = 0
        while new := self._find_parents(last):
            for pk in new:
                self._settle(pk)
            for start in range(0, len(new), BATCH):
                changed += db.retrying(functools.partial(self._write, new[start : start + BATCH]))
                if progress is not None:
                    progress(start + len(new[start : start + BATCH]))
            last = new[-1]
        return changed

    def _find_parents(self, last: int) -> list[int]:
        """Look for the parents of messages with a higher id; gives their ids, ascending."""
        found: list[int] = []
        columns = (
            "pk", "prefix", "is_dsn", "mailbox_orig_id", "mailbox_id", "received",
            "blob_id", "blob__size", "blob__data", "blob__storage_name", "blob__structure__body",
        )  # fmt: skip
        while rows := list(self._live.filter(pk__gt=last).order_by("pk").values_list(*columns)[:READ_AT_ONCE]):
            last = rows[-1][0]
            oldest = self._oldest_of_content([row[6] for row in rows])
            for row in rows:
                self._find_parent(row, oldest.get(row[6], 0))
                found.append(row[0])
        return found

    def _oldest_of_content(self, blob_ids: Sequence[int]) -> dict[int, int]:
        alike = self._live.filter(blob_id__in=blob_ids).values_list("blob_id").annotate(oldest=Min("pk"))
        return dict(alike.order_by())

    def _find_parent(self, row: tuple[Any, ...], oldest: int) -> None:
        pk, prefix, is_dsn, orig_id, mailbox_id, received, blob_id, size, data, name, body = row
        try:
            with content.reader(prefix, blob_id, size, data, name) as reader:
                header = reader.read_at(0, min(len(prefix) + (body or 0), HEADER_MAX))
        except ContentError:
            header = b""  # what is wrong with it, the checker says
        keys = ThreadKeys.of(Envelope.from_fields_of(collect_fields(header.split(b"\r\n"), _FIELDS)))
        if not keys.message_id and oldest < pk:
            self._parents[pk] = oldest  # a copy of a message without an id
            self._missing.add(pk)
            return
        found = threads.find_parent(
            self._account_id,
            keys,
            is_dsn=is_dsn,
            mailbox_orig_id=orig_id or mailbox_id,
            received=received,
            own_id=pk,
        )
        self._parents[pk] = 0 if found.row is None else found.row[0]
        if found.missing_link:
            self._missing.add(pk)

    def _settle(self, pk: int) -> None:
        """Cut circles above a message, and keep it from standing too deep."""
        above: dict[int, None] = {}
        at = pk
        while at and at not in self._depths:
            if at in above:
                # A circle: its oldest message begins the thread.
                circle = list(above)[list(above).index(at) :]
                self._parents[min(circle)] = 0
                self._missing.add(min(circle))
                break
            above[at] = None
            # One that came, or went, while this runs, is not known: the thread begins here.
            parent = self._parents.get(at, 0)
            if parent not in self._parents:
                self._parents[at] = parent = 0
            at = parent
        # From the top down: after a cut, whoever's parent is settled comes first.
        waiting = list(above)
        while waiting:
            rest = []
            for at in reversed(waiting):
                parent = self._parents[at]
                if parent and parent not in self._depths:
                    rest.append(at)
                    continue
                if parent and self._depths[parent] >= DEPTH_MAX:
                    self._parents[at] = parent = self._parents[parent]
                    self._missing.add(at)
                self._depths[at] = self._depths[parent] + 1 if parent else 0
            waiting = rest[::-1]

    def _list(self, pk: int) -> Iterator[int]:
        while pk := self._parents[pk]:
            yield pk

    def _write(self, ids: Sequence[int]) -> int:
        columns = ("thread_id", "thread_parent_ids", "thread_missing_link", "thread_muted", "thread_collapsed")
        changed: list[int] = []
        with write_tx(self._account_id) as tx:
            account = tx.account(self._account_id)
            for pk, *current in self._live.filter(pk__in=ids).values_list("pk", *columns):
                parents = list(self._list(pk))
                root = parents[-1] if parents else pk
                right = [root, parents, pk in self._missing, root in self._muted, root in self._collapsed]
                if current != right:
                    update(Message, pk, dict(zip(columns, right, strict=True)))
                    changed.append(pk)
            if changed:
                account.emit(ChangeEvent.Kind.THREAD, None, message_ids=changed, muted=None, collapsed=None)
        return len(changed)
