"""Values that clients keep with mailboxes and with the account: RFC 5464 calls them entries.

    set_entries(tx, mailbox, [Entry("/private/comment", b"read on Mondays")])
    entries(account_id, mailbox_id)

Names are in lower case: they compare without case. Private and shared entries are stored alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from django.db.models import Count, QuerySet, Sum
from django.db.models.functions import Length

from server import db

from .db import AccountTx
from .errors import AnnotationsTooLarge, TooManyAnnotations
from .models import Annotation, ChangeEvent, Mailbox
from .rows import insert, update

ENTRIES_MAX: Final = 1000  # of an account: clients keep a handful of them (imap.md 10)
SIZE_MAX: Final = 1_000_000  # bytes of all names and values of an account
TOMBSTONES_MAX: Final = 1000  # removed ones of an account that are remembered


@dataclass(frozen=True, slots=True)
class Entry:
    """An annotation; ``value`` None is none. ``is_string``: it came as a string, not as literal8."""

    key: str
    value: bytes | None
    is_string: bool = True

    @property
    def size(self) -> int:
        """Bytes of the value."""
        return len(self.value or b"")


def set_entries(tx: AccountTx, mailbox: Mailbox | None, new: Sequence[Entry]) -> None:
    """Set or remove annotations of a mailbox, or (None) of the account, all or none; each name once.

    What is there already changes nothing. Raises TooManyAnnotations, AnnotationsTooLarge.
    """
    of_mailbox = None if mailbox is None else mailbox.pk
    known = {row.key: row for row in _rows(tx.account_id, of_mailbox).filter(key__in={entry.key for entry in new})}
    for entry in new:
        row = known.get(entry.key)
        before = None if row is None or row.expunged else (bytes(row.value), row.is_string)
        if before == (None if entry.value is None else (entry.value, entry.is_string)):
            continue
        columns: dict[str, Any] = {
            "modseq": tx.modseq(),
            "expunged": entry.value is None,
            "value": entry.value or b"",
            "is_string": entry.is_string,
        }
        if before is None:
            columns["create_modseq"] = tx.modseq()
        if row is None:
            insert(Annotation, {"account_id": tx.account_id, "mailbox_id": of_mailbox, "key": entry.key, **columns})
        else:
            update(Annotation, row.pk, columns)
        tx.emit(ChangeEvent.Kind.ANNOTATION, of_mailbox, key=entry.key, name="" if mailbox is None else mailbox.name)
        if mailbox is not None:
            tx.touch(mailbox)
    if any(entry.value is not None for entry in new):  # who removes gets below the limits
        _check_limits(tx.account_id)
    if any(entry.value is None for entry in new):
        _drop_tombstones(tx.account_id)


def _check_limits(account_id: int) -> None:
    live = Annotation.objects.filter(account_id=account_id, expunged=False)
    found = live.aggregate(entries=Count("pk"), size=Sum(Length("key") + Length("value")))
    if found["entries"] > ENTRIES_MAX:
        raise TooManyAnnotations(f"more than {ENTRIES_MAX} annotations in the account, remove some first")
    if found["size"] > SIZE_MAX:
        raise AnnotationsTooLarge(SIZE_MAX)


def _drop_tombstones(account_id: int) -> None:
    """Names that are set and removed again and again must not pile up."""
    dead = Annotation.objects.filter(account_id=account_id, expunged=True).order_by("-modseq", "-pk")
    old = list(dead.values_list("pk", flat=True)[TOMBSTONES_MAX : TOMBSTONES_MAX + ENTRIES_MAX])
    if old:
        Annotation.objects.filter(pk__in=old).delete()


def entries(account_id: int, mailbox_id: int | None) -> list[Entry]:
    """The annotations of a mailbox, or (None) of the account, sorted by name."""
    rows = _rows(account_id, mailbox_id).filter(expunged=False).order_by("key")
    return [Entry(*row) for row in _values(rows)]


def of_mailboxes(account_id: int, keys: Iterable[str]) -> dict[int, dict[str, Entry]]:
    """These annotations of all mailboxes of an account, by mailbox id and name."""
    found: dict[int, dict[str, Entry]] = {}
    rows = Annotation.objects.filter(account_id=account_id, mailbox__isnull=False, expunged=False, key__in=set(keys))
    with db.read():
        for mailbox_id, key, value, is_string in rows.values_list("mailbox_id", "key", "value", "is_string"):
            found.setdefault(mailbox_id, {})[key] = Entry(key, bytes(value), is_string)
    return found


def copy(tx: AccountTx, source: Mailbox, destination: Mailbox) -> None:
    """Give a new mailbox the annotations of another (RFC 5464 4.1, where Inbox is renamed)."""
    set_entries(tx, destination, entries(tx.account_id, source.pk))


def remove_all(tx: AccountTx, mailbox: Mailbox) -> None:
    """Remove the annotations of a mailbox that is being removed: one made again by its name has none of them."""
    live = _rows(tx.account_id, mailbox.pk).filter(expunged=False)
    if live.exists():
        live.update(expunged=True, value=b"", modseq=tx.modseq())


def _rows(account_id: int, mailbox_id: int | None) -> QuerySet[Annotation]:
    rows = Annotation.objects.filter(account_id=account_id)
    return rows.filter(mailbox__isnull=True) if mailbox_id is None else rows.filter(mailbox_id=mailbox_id)


def _values(rows: QuerySet[Annotation]) -> list[tuple[str, bytes, bool]]:
    return [(key, bytes(value), is_string) for key, value, is_string in rows.values_list("key", "value", "is_string")]
