"""Messages in an order that a client asks for, from stored columns (RFC 5256 SORT, RFC 5957).

    sort(mailbox_id, uids, [Criterion(SortKey.SUBJECT), Criterion(SortKey.DATE, reverse=True)])

Nothing is parsed but dates; addresses and dates come out of the stored envelope in SQL.
"""

from __future__ import annotations

import enum
import unicodedata
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from django.db.models import F
from django.db.models.expressions import Combinable
from django.db.models.fields.json import KeyTextTransform, KeyTransform

from protocols.message.dates import parse_date

from . import text
from .models import Message
from .targets import uid_conditions

SENT: Final = KeyTextTransform("parsed_date", "blob__envelope")
PREFIXES_PER_QUERY: Final = 500


class SortKey(enum.Enum):
    """What messages are sorted by; the values are the words of SORT."""

    ARRIVAL = "ARRIVAL"
    CC = "CC"
    DATE = "DATE"
    DISPLAYFROM = "DISPLAYFROM"
    DISPLAYTO = "DISPLAYTO"
    FROM = "FROM"
    SIZE = "SIZE"
    SUBJECT = "SUBJECT"
    TO = "TO"


@dataclass(frozen=True, slots=True)
class Criterion:
    key: SortKey
    reverse: bool = False


def _first_address(field: str, part: str) -> Combinable:
    """A part of the first address of a field: what KT() would say, which no column with two words can be used in."""
    return KeyTextTransform(part, KeyTransform(0, KeyTransform(field, "blob__envelope")))


# The columns that a key is made from.
_COLUMNS: Final[dict[SortKey, dict[str, Combinable]]] = {
    SortKey.ARRIVAL: {"received": F("received")},
    SortKey.CC: {"cc": _first_address("cc", "user")},
    SortKey.DATE: {"sent": SENT, "received": F("received")},
    SortKey.DISPLAYFROM: {part: _first_address("from", part) for part in ("name", "user", "host")},
    SortKey.DISPLAYTO: {f"to_{part}": _first_address("to", part) for part in ("name", "user", "host")},
    SortKey.FROM: {"user": _first_address("from", "user")},
    SortKey.SIZE: {"size": F("size")},
    SortKey.SUBJECT: {"subject_base": F("subject_base")},
    SortKey.TO: {"to_user": _first_address("to", "user")},
}

_Row = tuple[Any, ...]


def sort(mailbox_id: int, uids: Sequence[int], criteria: Sequence[Criterion]) -> array[int]:
    """The UIDs (ascending) in the order of the criteria, the first of which counts most; equals stay ascending."""
    columns: dict[str, Combinable] = {"uid": F("uid")}
    for criterion in criteria:
        columns.update(_COLUMNS[criterion.key])
    at = {name: position for position, name in enumerate(columns)}
    rows = list(rows_of(mailbox_id, uids, list(columns.values())))
    order = list(range(len(rows)))
    for criterion in reversed(criteria):
        keys = _keys(criterion.key, mailbox_id, rows, at)
        order.sort(key=keys.__getitem__, reverse=criterion.reverse)
    return array("I", [rows[position][0] for position in order])


def rows_of(mailbox_id: int, uids: Sequence[int], columns: Sequence[Combinable]) -> Iterator[_Row]:
    """These columns, the first of which is the UID, of messages whose content is still there, ascending."""
    for condition, wanted in uid_conditions(uids):
        rows = Message.objects.filter(condition, mailbox_id=mailbox_id, blob__isnull=False).order_by("uid")
        for row in rows.values_list(*columns):
            if wanted is None or row[0] in wanted:
                yield row


def sent_times(mailbox_id: int, dates: Sequence[tuple[int, str | None, datetime]]) -> list[float]:
    """When messages were sent, given UID, the Date of the content as stored, and INTERNALDATE, which stands in for it.

    A submission that came without Date got one, in its prefix.
    """
    times: list[float] = []
    without: dict[int, int] = {}  # positions of messages whose content has no date
    for position, (uid, sent, received) in enumerate(dates):
        if sent:
            times.append(datetime.fromisoformat(sent).timestamp())
        else:
            times.append(received.timestamp())
            without[uid] = position
    uids = sorted(without)
    for start in range(0, len(uids), PREFIXES_PER_QUERY):
        chunk = uids[start : start + PREFIXES_PER_QUERY]
        for uid, prefix in Message.objects.filter(mailbox_id=mailbox_id, uid__in=chunk).values_list("uid", "prefix"):
            moment = prefix_date(bytes(prefix))
            if moment is not None:
                times[without[uid]] = moment.timestamp()
    return times


def prefix_date(prefix: bytes) -> datetime | None:
    """The Date field of a prefix, if it has one."""
    if b"\ndate:" not in b"\n" + prefix.lower():
        return None
    own = next((line for line in text.header_text(prefix).split("\n") if line.startswith("date: ")), "")
    return parse_date(own.removeprefix("date: "))


def _keys(key: SortKey, mailbox_id: int, rows: Sequence[_Row], at: dict[str, int]) -> Sequence[Any]:
    if key is SortKey.DATE:
        sent, received = at["sent"], at["received"]
        return sent_times(mailbox_id, [(row[0], row[sent], row[received]) for row in rows])
    positions = [at[name] for name in _COLUMNS[key]]
    first = positions[0]
    if key in (SortKey.ARRIVAL, SortKey.SIZE):
        return [row[first] for row in rows]
    if key in (SortKey.DISPLAYFROM, SortKey.DISPLAYTO):
        name, user, host = positions
        return _collated([_displayed(row[name], row[user], row[host]) for row in rows])
    return _collated([row[first] or "" for row in rows])


def _displayed(name: str | None, user: str | None, host: str | None) -> str:
    """How an address is shown (RFC 5957 2.1): its name, else the address itself."""
    if name:
        return name
    return f"{user or ''}@{host}" if host else user or ""


def _collated(texts: list[str]) -> list[str]:
    return list(map(collation_key, texts))


def collation_key(value: str) -> str:
    """What texts are compared by, without case, letters with marks as the letters and then the marks (RFC 5051)."""
    return value.upper() if value.isascii() else unicodedata.normalize("NFKD", value.upper())
