"""GETMETADATA and SETMETADATA: values that clients keep with a mailbox or the account (RFC 5464)."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from protocols.imapformat import quoted_or_literal
from store import mailboxes, reading
from store import metadata as stored
from store.db import AccountTx
from store.errors import StoreError
from store.metadata import Entry

from .answers import Done, Refused, astring, mailbox_name, read_mailbox_name, refusal
from .metadataargs import GetArguments, SetArguments
from .session import Session

VENDOR_ELEMENTS: Final = 4  # /private/vendor/<vendor>/<name> (RFC 5464 6)


async def get(session: Session, arguments: GetArguments) -> Done:
    name = _name(session, arguments.mailbox)
    try:
        name, found = await session.call(_read, session.account_id, name)
    except StoreError as exc:
        raise refusal(exc) from exc
    by_key = {entry.key: entry for entry in found if _matches(entry.key, arguments.keys, arguments.depth)}
    limit = arguments.max_size
    # What was asked for by name and is not there is NIL: a METADATA response is required.
    shown = [by_key.pop(key, Entry(key, None)) for key in arguments.keys]
    shown += by_key.values()
    fitting = [entry for entry in shown if limit is None or entry.size <= limit]
    if fitting:
        session.send(line(name, fitting, utf8=session.utf8), has_content=True)
    if len(fitting) < len(shown):
        return Done(code=b"METADATA LONGENTRIES %d" % max(entry.size for entry in shown))
    return Done()


def _name(session: Session, given: bytes) -> str:
    """The mailbox that is meant; empty for the account."""
    return read_mailbox_name(given, utf8=session.utf8) if given else ""


def _read(account_id: int, name: str) -> tuple[str, list[Entry]]:
    """The mailbox's name as it is, and its annotations. Raises MailboxNotFound, MailboxError."""
    if not name:
        return "", stored.entries(account_id, None)
    view = reading.mailbox(account_id, name)
    return view.name, stored.entries(account_id, view.id)


def _matches(key: str, wanted: Collection[str], depth: int | None) -> bool:
    if key in wanted:
        return True
    if depth == 0:
        return False
    above = key.rpartition("/")[0]
    while above:
        if above in wanted:
            return True
        if depth is not None:
            return False
        above = above.rpartition("/")[0]
    return depth is None and "/" in wanted


def line(name: str, entries: Iterable[Entry], *, utf8: bool) -> bytes:
    """A METADATA response with values."""
    shown = b" ".join(b"%b %b" % (astring(entry.key.encode("ascii")), _value(entry)) for entry in entries)
    return b"* METADATA %b (%b)\r\n" % (mailbox_name(name, utf8=utf8), shown)


def _value(entry: Entry) -> bytes:
    if entry.value is None:
        return b"NIL"
    if entry.is_string:
        return quoted_or_literal(entry.value)
    return b"~{%d}\r\n%b" % (len(entry.value), entry.value)


async def set_(session: Session, arguments: SetArguments) -> Done:
    for entry in arguments.entries:
        _check_settable(entry.key)
    name = _name(session, arguments.mailbox)

    def change(tx: AccountTx) -> None:
        stored.set_entries(tx, mailboxes.get(tx, name) if name else None, arguments.entries)

    await session.change(change)
    return Done()


def _check_settable(key: str) -> None:
    elements = key.split("/")[1:]
    if elements[0] not in ("private", "shared") or len(elements) < 2:
        raise Refused(f"entry {key} is neither below /private nor below /shared")
    if elements[1] == "vendor" and len(elements) < VENDOR_ELEMENTS:
        raise Refused(f"entry {key} needs the name of a vendor and one of its own, as in {key}/example/name")
