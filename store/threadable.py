"""What the algorithms of THREAD need of messages, from stored columns (protocols.imapthreads)."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from django.db.models import F, Value
from django.db.models.fields.json import KeyTextTransform
from django.db.models.functions import StrIndex, Substr

from protocols.imapthreads import Threaded
from protocols.message import ids_in, index_text

from . import content, text
from .models import Blob
from .sorting import SENT, rows_of, sent_times

REFERENCES_READ: Final = 1000  # characters of References read with a row; where there are more, content is read

_LABEL: Final = "\nreferences: "
_HEADERS: Final = F("blob__text__headers")
_COLUMNS: Final = (
    *(F("uid"), F("message_id"), F("blob_id"), F("received"), SENT),
    KeyTextTransform("subject", "blob__envelope"),
    KeyTextTransform("in_reply_to", "blob__envelope"),
    StrIndex(_HEADERS, Value(_LABEL)),
    StrIndex(_HEADERS, Value("\n\n")),  # where the fields of the message itself end
    Substr(_HEADERS, StrIndex(_HEADERS, Value(_LABEL)) + len(_LABEL), REFERENCES_READ),
)


@dataclass(slots=True)
class Threadable:
    """Messages, ascending by UID, and what threads are made of."""

    uids: array[int]
    messages: list[Threaded]


def threadable(mailbox_id: int, uids: Sequence[int]) -> Threadable:
    """Those of the UIDs (ascending) whose content is still there. Raises ContentError."""
    found = array("I")
    dates = []
    parts = []
    for uid, message_id, blob_id, received, sent, subject, reply_to, at, end, piece in rows_of(
        mailbox_id, uids, _COLUMNS
    ):
        if at is None or not end or (0 < at < end and "\n" not in piece):
            references = _read_references(blob_id)
        else:
            references = piece.partition("\n")[0] if 0 < at < end else ""
        found.append(uid)
        dates.append((uid, sent, received))
        parts.append((message_id, _ids(references, reply_to or ""), subject or ""))
    times = sent_times(mailbox_id, dates)
    return Threadable(found, [Threaded(*part, time) for part, time in zip(parts, times, strict=True)])


def _ids(references: str, in_reply_to: str) -> tuple[str, ...]:
    """Canonical ids, oldest first, in the form in which ids of messages are stored; of In-Reply-To the first."""
    if not references and not in_reply_to:
        return ()
    return tuple(map(index_text, ids_in(references) or ids_in(in_reply_to)[:1]))


def _read_references(blob_id: int) -> str:
    """The References field of content whose search text is not there, or does not say all."""
    size, data, storage_name, structure = Blob.objects.values_list("size", "data", "storage_name", "structure").get(
        pk=blob_id
    )
    head = structure.get("head", 0)
    with content.blob_reader(blob_id, size, data, storage_name) as reader:
        lines = text.header_text(reader.read_at(head, structure.get("body", 0) - head)).split("\n")
    label = _LABEL.strip("\n")
    return next((line.removeprefix(label) for line in lines if line.startswith(label)), "")
