"""Telling a client what others changed: messages of its mailbox, and mailboxes (imap.md section 5)."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from server import db
from store import changes, reading
from store.changes import Event as Change
from store.changes import Events, MailboxChanges
from store.errors import MailboxGone
from store.flags import FlagRow
from store.models import ChangeEvent
from store.reading import MailboxView

from . import fetch
from .answers import Bye, mailbox_name, metadata_changed_line
from .filters import NO_SURROUNDINGS, surroundings_of
from .notifyargs import Event
from .selected import Pending, Selected
from .watching import DELAYED_MAX, SelectedWatch, Watching

if TYPE_CHECKING:
    from .session import Session

ROWS_PER_BATCH: Final = 2000  # messages whose flags are read and sent at a time after an overflow

Kind = ChangeEvent.Kind
_LISTED: Final = frozenset(
    {Kind.MAILBOX_ADD, Kind.MAILBOX_REMOVE, Kind.MAILBOX_RENAME, Kind.SUBSCRIPTION_ADD, Kind.SUBSCRIPTION_REMOVE}
)


@dataclass(frozen=True, slots=True)
class News:
    """What came after a session's positions; None where nothing did. ``views``: the mailboxes that changed."""

    events: Events | None
    messages: MailboxChanges | None
    views: Sequence[MailboxView] = ()


_NOTHING: Final = News(None, None)


def look(
    account_id: int, feed_position: int, mailbox_id: int | None, position: int, *, others: bool = False
) -> News | None:
    """What is new in an account and in one mailbox of it; one query where nothing is. None if the account is gone.

    ``others``: which other mailboxes changed is wanted too.
    """
    last = changes.last_modseq(account_id)
    if last is None:
        return None
    if last <= min(feed_position, position if mailbox_id is not None else last):
        return _NOTHING
    try:
        with db.read():
            return News(
                changes.events(account_id, feed_position) if last > feed_position else None,
                changes.mailbox_changes(mailbox_id, position) if mailbox_id is not None and last > position else None,
                reading.changed_mailboxes(account_id, feed_position) if others and last > feed_position else (),
            )
    except MailboxGone:
        return None


async def announce(session: Session, *, between_commands: bool = False) -> None:
    """Send everything that the client does not know yet and wants to know. Only between commands' own answers.

    ``between_commands``: no command is being answered, so that message numbers may be on their way to us.
    """
    heard = session.heard_mailbox
    news = await session.call(
        look,
        session.account_id,
        session.feed_position,
        None if heard is None else heard.mailbox_id,
        0 if heard is None else heard.position,
        others=session.hears_others,
    )
    if news is None:
        raise Bye("account was removed")
    if heard is not None and news.messages is not None:
        heard.take(news.messages)
    if news.events is not None:
        session.pending_events.append(news.events)
        session.feed_position = news.events.modseq
    session.pending_views.update((view.id, view) for view in news.views)
    await tell_pending(session, between_commands=between_commands)


async def tell_pending(session: Session, *, between_commands: bool = False) -> None:
    """Send the changes that are taken in already."""
    selected = session.selected
    if selected is not None and not selected.deaf:
        await _tell_messages(session, selected, between_commands=between_commands)
    events, session.pending_events = session.pending_events, []
    if session.watching is None:
        for some in events:
            await _send_events(session, some)
    else:
        await _tell_watched(session, session.watching, events)


async def _tell_messages(session: Session, selected: Selected, *, between_commands: bool) -> None:
    """Tell what happened to messages of the selected mailbox."""
    watch = SelectedWatch() if session.watching is None else session.watching.selected
    delay = watch.delayed and between_commands
    pending = selected.pending
    if delay and (pending.overflow_since is not None or len(pending.removed) > DELAYED_MAX):
        _overflow(session)
    elif pending.overflow_since is not None:
        await _rebuild(session, selected)
    elif pending or selected.keywords != selected.told_keywords:
        new = array("I", sorted(pending.added)) if watch.items else array("I")
        session.send_lines(
            selected.announcements(
                condstore=session.condstore,
                qresync=session.qresync,
                delay_removals=delay,
                flag_changes=session.watching is None or Event.FLAG_CHANGE in watch.events,
                flags_of_new=not watch.items,
            )
        )
        if new:
            await fetch.send_items(session, watch.items, new)


def _overflow(session: Session) -> None:
    """More happened than we keep for telling: the client has to look for itself (RFC 5465 5.8)."""
    session.send(b"* OK [NOTIFICATIONOVERFLOW] too many changes, events are no longer told\r\n")
    session.watch(Watching((), utf8=session.utf8))


async def _tell_watched(session: Session, watching: Watching, events: Sequence[Events]) -> None:
    """Tell what a client asked for with NOTIFY that is not about the selected mailbox's messages."""
    views, session.pending_views = session.pending_views, {}
    if not watching.anything:
        return
    if any(len(some.events) >= changes.CHANGES_MAX for some in events):
        _overflow(session)
        return
    happened = [event for some in events for event in some.events]
    if not happened and not views:
        return
    lines = await session.call(
        _watched_lines,
        session.account_id,
        watching,
        happened,
        list(views.values()),
        None if session.selected is None else session.selected.mailbox_id,
        condstore=session.condstore,
        utf8=session.utf8,
    )
    session.send_lines(lines)


def _watched_lines(
    account_id: int,
    watching: Watching,
    happened: Sequence[Change],
    views: Sequence[MailboxView],
    selected_id: int | None,
    *,
    condstore: bool,
    utf8: bool,
) -> list[bytes]:
    """In a thread: many mailboxes are compared with many filters."""
    about_mailboxes = watching.needs_listing and any(event.kind in _LISTED for event in happened)
    with db.read():
        listing = reading.mailboxes(account_id) if about_mailboxes else None
        surroundings = surroundings_of(account_id) if watching.needs_surroundings else NO_SURROUNDINGS
    lines = watching.event_lines(happened, listing, surroundings, utf8=utf8)
    by_name = sorted(views, key=lambda view: view.name)
    return [*lines, *watching.status_lines(by_name, surroundings, selected_id, condstore=condstore, utf8=utf8)]


async def _send_events(session: Session, events: Events) -> None:
    """Send what happened to mailboxes; where that was too much to tell, all mailboxes that there are."""
    told = [
        event_line(event, rev2=session.rev2, utf8=session.utf8, metadata=session.metadata) for event in events.events
    ]
    if not events.complete and len(events.events) >= changes.CHANGES_MAX:
        listing = await session.call(reading.mailboxes, session.account_id)
        told += [_list_line([], view.name, utf8=session.utf8) for view in listing.views]
    session.send_lines(told)


def event_line(event: Change, *, rev2: bool, utf8: bool, metadata: bool = False) -> bytes:
    """The LIST or METADATA line of an event; empty for what clients are not told."""
    data = event.data
    match event.kind:
        case Kind.MAILBOX_ADD:
            return _list_line(data["flags"], data["name"], utf8=utf8)
        case Kind.MAILBOX_RENAME:
            return _list_line(data["flags"], data["new"], utf8=utf8, old_name=data["old"] if rev2 else None)
        case Kind.MAILBOX_REMOVE if rev2:  # others take any LIST line for a mailbox that is there
            return _list_line(["\\NonExistent"], data["name"], utf8=utf8)
        case Kind.SUBSCRIPTION_ADD:
            flags = ["\\Subscribed", "\\NonExistent"] if data["nonexistent"] else ["\\Subscribed"]
            return _list_line(flags, data["name"], utf8=utf8)
        case Kind.ANNOTATION if metadata:
            return metadata_changed_line(data["name"], data["key"], utf8=utf8)
    return b""


def _list_line(flags: list[str], name: str, *, utf8: bool, old_name: str | None = None) -> bytes:
    line = b'* LIST (%b) "/" %b' % (" ".join(flags).encode("ascii"), mailbox_name(name, utf8=utf8))
    if old_name is not None:
        line += b' ("OLDNAME" (%b))' % mailbox_name(old_name, utf8=utf8)
    return line + b"\r\n"


async def _rebuild(session: Session, selected: Selected) -> None:
    """Too much changed to tell each step: compare what the client knows with what is there."""
    since = selected.pending.overflow_since
    assert since is not None
    if selected.uidonly:
        await _rebuild_uidonly(session, selected, since)
        return
    found = await session.call(reading.reopen, selected.mailbox_id)
    if found is None:
        selected.gone = True
        return
    current = frozenset(found.uids)
    known = frozenset(selected.uids)
    selected.pending = Pending()
    selected.keywords = found.view.keywords
    selected.position = found.modseq
    session.send_lines(selected.keyword_lines())
    session.send_lines(selected.remove([uid for uid in selected.uids if uid not in current], qresync=session.qresync))
    added = [uid for uid in found.uids if uid not in known]
    if added:
        selected.add(added)
        session.send(selected.exists())
    await _send_flags(session, selected, found.uids, since)
    selected.highest_modseq = max(selected.highest_modseq, found.view.modseq)


async def _rebuild_uidonly(session: Session, selected: Selected, since: int) -> None:
    """The same without a list of what the client knows: tombstones say what it is to forget."""
    found = await session.call(reading.caught_up, selected.mailbox_id, since, selected.uidnext)
    if found is None:
        selected.gone = True
        return
    if not found.complete:
        raise Bye("too much changed to tell, please connect again")
    vanished = sorted({*found.vanished, *selected.pending.removed})
    selected.pending = Pending()
    selected.keywords = found.view.keywords
    selected.position = found.modseq
    session.send_lines(selected.keyword_lines())
    session.send_lines(selected.remove(vanished, qresync=True))
    if found.added:
        selected.add(found.added)
        session.send(selected.exists())
    await _send_flags(session, selected, found.changed, since)
    selected.highest_modseq = max(selected.highest_modseq, found.view.modseq)


async def _send_flags(session: Session, selected: Selected, uids: array[int], since: int) -> None:
    """Tell the flags of what changed."""
    for start in range(0, len(uids), ROWS_PER_BATCH):
        part = uids[start : start + ROWS_PER_BATCH]
        rows: list[FlagRow] = await session.call(reading.flag_rows, selected.mailbox_id, part, changed_since=since)
        session.send_lines(selected.flags_line(row, session.condstore) for row in rows)
        await session.flush_if_much()
