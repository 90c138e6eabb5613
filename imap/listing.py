"""LIST, LSUB and STATUS: which mailboxes there are, and what is in them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from server import db
from store import metadata as stored
from store import objectids, reading
from store.errors import StoreError
from store.metadata import Entry
from store.reading import Listing, MailboxView

from . import metadata, mutf7
from .answers import Done, Refused, mailbox_name, read_mailbox_name, refusal
from .listargs import ListArguments, LsubArguments, StatusArguments
from .patterns import BadPattern, Patterns, combined
from .quota import in_units
from .session import Session

_ROOT: Final = b'* LIST () "/" ""\r\n'


async def list_(session: Session, arguments: ListArguments) -> Done:
    if not arguments.extended and arguments.patterns == (b"",):
        session.send(_ROOT)  # the hierarchy separator is all that was asked for (RFC 9051 6.3.9)
        return Done()
    if "HIGHESTMODSEQ" in arguments.status:
        session.enable_condstore()
    make = _StatusLines(arguments.status, session.connection.settings.imap_append_limit, utf8=session.utf8)
    session.send_lines(await session.call(_list_lines, session.account_id, arguments, make, utf8=session.utf8))
    return Done()


async def lsub(session: Session, arguments: LsubArguments) -> Done:
    session.send_lines(await session.call(_lsub_lines, session.account_id, arguments, utf8=session.utf8))
    return Done()


async def status(session: Session, arguments: StatusArguments) -> Done:
    if "HIGHESTMODSEQ" in arguments.items:
        session.enable_condstore()
    name = read_mailbox_name(arguments.mailbox, utf8=session.utf8)
    make = _StatusLines(arguments.items, session.connection.settings.imap_append_limit, utf8=session.utf8)
    try:
        session.send(await session.call(_status_line, session.account_id, name, make))
    except StoreError as exc:
        raise refusal(exc) from exc
    return Done()


def _status_line(account_id: int, name: str, make: _StatusLines) -> bytes:
    with db.read():
        view = reading.mailbox(account_id, name)
        if make.needs_deleted_sizes and view.deleted:
            make.deleted_sizes = reading.deleted_sizes(account_id, view.id)
    return make.line(view)


class _StatusLines:
    """Makes STATUS lines with these items."""

    def __init__(self, items: Sequence[str], append_limit: int, *, utf8: bool) -> None:
        self._items = items
        self._append_limit = append_limit or "NIL"
        self._utf8 = utf8
        self.needs_deleted_sizes = "DELETED-STORAGE" in items
        self.deleted_sizes: Mapping[int, int] = {}

    def line(self, view: MailboxView) -> bytes:
        values = {
            "MESSAGES": view.messages,
            "UIDNEXT": view.uidnext,
            "UIDVALIDITY": view.uidvalidity,
            "UNSEEN": view.unseen,
            "DELETED": view.deleted,
            "SIZE": view.size,
            "RECENT": 0,
            "APPENDLIMIT": self._append_limit,
            "HIGHESTMODSEQ": view.modseq,
            "MAILBOXID": f"({objectids.mailbox_id(view.id)})",
            "DELETED-STORAGE": in_units(self.deleted_sizes.get(view.id, 0)),
        }
        shown = " ".join(f"{item} {values[item]}" for item in self._items).encode("ascii")
        return b"* STATUS %b (%b)\r\n" % (mailbox_name(view.name, utf8=self._utf8), shown)


@dataclass(slots=True)
class _Entry:
    """A name that LIST may show; ``view`` None where no mailbox has it."""

    view: MailboxView | None = None
    subscribed: bool = False
    has_children: bool = False
    child_is: set[str] = field(default_factory=set)  # selection options that a name below it meets

    def meets(self, option: str) -> bool:
        if option == "SUBSCRIBED":
            return self.subscribed
        return self.view is not None and bool(self.view.special_uses)


def _list_lines(account_id: int, arguments: ListArguments, make: _StatusLines, *, utf8: bool) -> list[bytes]:
    patterns = _patterns(arguments.reference, arguments.patterns, utf8=utf8)
    if patterns is None:
        return []
    criteria = arguments.selection & {"SUBSCRIBED", "SPECIAL-USE"}
    recursive = "RECURSIVEMATCH" in arguments.selection
    with db.read():
        entries = _entries(reading.mailboxes(account_id), criteria)
        kept = stored.of_mailboxes(account_id, arguments.metadata) if arguments.metadata else {}
        if make.needs_deleted_sizes:
            make.deleted_sizes = reading.deleted_sizes(account_id)
    lines: list[bytes] = []
    for name, entry in sorted(entries.items()):
        selected = all(entry.meets(option) for option in criteria)
        if not criteria and entry.view is None:
            continue  # a subscribed name without a mailbox is shown to those who ask for subscriptions
        below = sorted(entry.child_is) if recursive and not selected else []
        if not (selected or below) or not patterns.matches(name):
            continue
        lines.append(_list_line(name, entry, arguments, below, utf8=utf8))
        if arguments.status and entry.view is not None:
            lines.append(make.line(entry.view))
        if arguments.metadata and entry.view is not None:
            own = kept.get(entry.view.id, {})
            shown = [
                own.get(key, Entry(key, None)) for key in arguments.metadata
            ]  # RFC 9590 4: NIL where there is none
            lines.append(metadata.line(name, shown, utf8=utf8))
    return lines


def _list_line(name: str, entry: _Entry, arguments: ListArguments, below: Sequence[str], *, utf8: bool) -> bytes:
    attributes: list[str] = []
    if entry.subscribed and "SUBSCRIBED" in arguments.selection | arguments.returned:
        attributes.append("\\Subscribed")
    if entry.view is None:
        attributes.append("\\NonExistent")
    if "CHILDREN" in arguments.returned:
        attributes.append("\\HasChildren" if entry.has_children else "\\HasNoChildren")
    if entry.view is not None:
        attributes += entry.view.special_uses
    line = b'* LIST (%b) "/" %b' % (" ".join(attributes).encode("ascii"), mailbox_name(name, utf8=utf8))
    if below:
        line += b' ("CHILDINFO" (%b))' % " ".join(f'"{option}"' for option in below).encode("ascii")
    return line + b"\r\n"


def _entries(listing: Listing, criteria: Collection[str]) -> dict[str, _Entry]:
    """All names by which something is or may be shown, with what is below them."""
    entries: dict[str, _Entry] = {view.name: _Entry(view) for view in listing.views}
    for name in listing.subscribed:
        entries.setdefault(name, _Entry()).subscribed = True
    for view in listing.views:
        parent = view.name.rpartition("/")[0]
        if parent:
            entries.setdefault(parent, _Entry()).has_children = True
    if criteria:
        for name, entry in list(entries.items()):
            met = {option for option in criteria if entry.meets(option)}
            if len(met) == len(criteria):
                for parent in _parents(name):
                    entries.setdefault(parent, _Entry()).child_is |= met
    return entries


def _parents(name: str) -> Iterator[str]:
    while name := name.rpartition("/")[0]:
        yield name


def _lsub_lines(account_id: int, arguments: LsubArguments, *, utf8: bool) -> list[bytes]:
    patterns = _patterns(arguments.reference, (arguments.pattern,), utf8=utf8)
    if patterns is None:
        return []
    subscribed = reading.mailboxes(account_id).subscribed
    flags = {name: b"" for name in subscribed if patterns.matches(name)}
    if arguments.pattern.endswith(b"%"):
        # RFC 3501 6.3.9: a name that is not subscribed, but has a subscribed one below it that the % hides.
        for parent in {parent for name in subscribed for parent in _parents(name)} - subscribed:
            if patterns.matches(parent):
                flags[parent] = b"\\NoSelect"
    return [
        b'* LSUB (%b) "/" %b\r\n' % (attributes, mailbox_name(name, utf8=utf8))
        for name, attributes in sorted(flags.items())
    ]


def _patterns(reference: bytes, patterns: Sequence[bytes], *, utf8: bool) -> Patterns | None:
    """The patterns as one matcher; None if none of them can match anything."""
    decoded: list[str] = []
    for pattern in patterns:
        if not pattern:
            continue
        try:
            if utf8:
                decoded.append(combined(reference.decode(), pattern.decode()))
            else:
                decoded.append(combined(mutf7.decode(reference), mutf7.decode(pattern)))
        except ValueError:
            continue  # no name is like this
    if not decoded:
        return None
    try:
        return Patterns(decoded)
    except BadPattern as exc:
        raise Refused(str(exc), "LIMIT") from exc
