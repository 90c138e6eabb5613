"""What a client that used NOTIFY wants to hear, and how it is told (RFC 5465).

A Watching is made by each NOTIFY command. It says which events of which mailboxes are wanted, and makes the lines for
what is not about the selected mailbox: STATUS for messages of others, LIST for names and subscriptions, METADATA.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from store.changes import Event as Change
from store.models import ChangeEvent
from store.reading import Listing, MailboxView

from .answers import mailbox_name, metadata_changed_line
from .fetchargs import FetchItem
from .filters import SELECTED_KINDS, Filter, Kind, Surroundings
from .notifyargs import MESSAGE_EVENTS, Event, Group

DELAYED_MAX: Final = 1000  # removals that wait for a command; with more a client is told that it must look anew

_Kind = ChangeEvent.Kind
_STATUS_ITEMS: Final = ("MESSAGES", "UIDNEXT", "UIDVALIDITY", "UNSEEN", "HIGHESTMODSEQ")


@dataclass(frozen=True, slots=True)
class SelectedWatch:
    """What is wanted of the selected mailbox. ``delayed``: removals wait for a command that allows them."""

    events: frozenset[Event] = frozenset()
    items: tuple[FetchItem, ...] = ()
    delayed: bool = False


class _Known(NamedTuple):
    """What the client could be told of a mailbox by STATUS; it tells what kind of change there was."""

    uidvalidity: int
    uidnext: int
    messages: int
    unseen: int


class Watching:
    """The events that a session wants to hear of; none after NOTIFY NONE."""

    def __init__(self, groups: Iterable[Group], *, utf8: bool) -> None:
        self.selected = SelectedWatch()
        self._groups: list[tuple[Filter, frozenset[Event]]] = []
        for group in groups:
            given = group.filter.decoded(utf8=utf8)
            if given.kind in SELECTED_KINDS:
                self.selected = SelectedWatch(group.events, group.items, given.kind is Kind.SELECTED_DELAYED)
            elif group.events:
                self._groups.append((given, group.events))
        self._wanted = frozenset(event for _, events in self._groups for event in events)
        self._known: dict[int, _Known] = {}

    @property
    def anything(self) -> bool:
        return bool(self._wanted or self.selected.events)

    @property
    def hears_selected(self) -> bool:
        """Whether messages of the selected mailbox are told at all."""
        return bool(self.selected.events)

    @property
    def hears_others(self) -> bool:
        """Whether messages of other mailboxes are told, by STATUS."""
        return bool(self._wanted & MESSAGE_EVENTS)

    @property
    def needs_surroundings(self) -> bool:
        return any(given.kind in (Kind.SUBSCRIBED, Kind.INBOXES) for given, _ in self._groups)

    @property
    def needs_listing(self) -> bool:
        """Whether lines about mailboxes are made, which need to know all of them."""
        return bool(self._wanted & {Event.MAILBOX_NAME, Event.SUBSCRIPTION_CHANGE})

    def _events(self, name: str, surroundings: Surroundings) -> frozenset[Event]:
        """The events that are wanted of a mailbox: all that any group asks for (RFC 5465 6)."""
        wanted: frozenset[Event] = frozenset()
        for mailbox_filter, events in self._groups:
            if not events <= wanted and mailbox_filter.matches(name, surroundings):
                wanted |= events
        return wanted

    # Messages of other mailboxes.

    def begin(self, views: Sequence[MailboxView]) -> None:
        """What all mailboxes are like where the watch begins."""
        self._known = {view.id: _known(view) for view in views}

    def status_of_all(
        self, views: Sequence[MailboxView], surroundings: Surroundings, selected_id: int | None, *, utf8: bool
    ) -> list[bytes]:
        """The STATUS lines that NOTIFY SET STATUS begins with (RFC 5465 3.1)."""
        lines: list[bytes] = []
        for view in views:
            wanted = self._events(view.name, surroundings) & MESSAGE_EVENTS
            if view.id == selected_id or not wanted:
                continue
            items = {"MESSAGES", "UIDNEXT", "UIDVALIDITY"}
            if Event.FLAG_CHANGE in wanted:
                items |= {"UNSEEN", "HIGHESTMODSEQ"}
            lines.append(_status_line(view, items, utf8=utf8))
        return lines

    def pass_over(self, view: MailboxView) -> None:
        """Changes that the client made itself are no news to it."""
        self._known[view.id] = _known(view)

    def status_lines(
        self,
        views: Iterable[MailboxView],
        surroundings: Surroundings,
        selected_id: int | None,
        *,
        condstore: bool,
        utf8: bool,
    ) -> Iterator[bytes]:
        """STATUS for those of these changed mailboxes of whose messages the client wants to hear."""
        for view in views:
            now = _known(view)
            before = self._known.get(view.id, _Known(view.uidvalidity, 1, 0, 0))
            if view.id == selected_id and not self.hears_selected:
                continue  # it is news again when another mailbox is selected
            self._known[view.id] = now
            if view.id == selected_id:
                continue
            wanted = self._events(view.name, surroundings)
            items: set[str] = set()
            if Event.MESSAGE_NEW in wanted and (now.uidnext, now.messages) != (before.uidnext, before.messages):
                items = {"MESSAGES", "UIDNEXT", "UIDVALIDITY"}
            # Without CONDSTORE a client can only be told what counts change (RFC 5465 5.1).
            told = condstore or (now.unseen, now.uidvalidity) != (before.unseen, before.uidvalidity)
            if Event.FLAG_CHANGE in wanted and told:
                items |= {"UIDVALIDITY", "UNSEEN"}
            if items:
                yield _status_line(view, items | {"HIGHESTMODSEQ"} if condstore else items, utf8=utf8)

    # Names, subscriptions and annotations.

    def event_lines(
        self, changes: Sequence[Change], listing: Listing | None, surroundings: Surroundings, *, utf8: bool
    ) -> list[bytes]:
        """LIST and METADATA lines for what of these changes is wanted; each mailbox's line once.

        ``listing`` is of later: what a mailbox was when it changed may have another name by now, or be gone.
        """
        mailboxes = _Mailboxes(listing, utf8=utf8) if listing is not None else None
        told: dict[tuple[str, str], bytes] = {}
        renamed = {(change.modseq, change.data["old"]) for change in changes if change.kind == _Kind.MAILBOX_RENAME}
        for change in changes:
            data = change.data
            if change.kind == _Kind.ANNOTATION:
                if self._wants_annotation(data["name"], surroundings):
                    told[data["name"], data["key"]] = metadata_changed_line(data["name"], data["key"], utf8=utf8)
            elif mailboxes is None:
                continue
            elif change.kind == _Kind.MAILBOX_RENAME:
                above = data["old"].rpartition("/")[0]
                if (change.modseq, above) in renamed:
                    continue  # what is below a renamed mailbox goes with it (RFC 5465 5.4)
                either = (data["new"], data["old"])
                if any(Event.MAILBOX_NAME in self._events(name, surroundings) for name in either):
                    told[data["old"], data["new"]] = mailboxes.line(data["new"], exists=True, old_name=data["old"])
            else:
                for name, exists in self._names_told(change, surroundings, mailboxes):
                    told.pop((name, "LIST"), None)  # the last line is the one that counts
                    told[name, "LIST"] = mailboxes.line(name, exists=exists)
        return list(told.values())

    def _wants_annotation(self, name: str, surroundings: Surroundings) -> bool:
        if not name:
            return Event.SERVER_METADATA_CHANGE in self._wanted
        return Event.MAILBOX_METADATA_CHANGE in self._events(name, surroundings)

    def _names_told(
        self, change: Change, surroundings: Surroundings, mailboxes: _Mailboxes
    ) -> Iterator[tuple[str, bool]]:
        """The names to tell of, and whether there was a mailbox of that name after the change."""
        match change.kind:
            case _Kind.MAILBOX_ADD | _Kind.MAILBOX_REMOVE:
                name = change.data["name"]
                above = name.rpartition("/")[0]
                wanted = self._events(name, surroundings)
                subscribed = Event.SUBSCRIPTION_CHANGE in wanted and "\\Subscribed" in change.data.get("flags", ())
                if above in mailboxes and Event.MAILBOX_NAME in self._events(above, surroundings):
                    yield above, True  # it may have got its first child, or lost its last
                if Event.MAILBOX_NAME in wanted or subscribed:
                    yield name, change.kind == _Kind.MAILBOX_ADD
            case _Kind.SUBSCRIPTION_ADD | _Kind.SUBSCRIPTION_REMOVE:
                name = change.data["name"]
                # Who watches what is subscribed has watched this one until now, or does from now on.
                gone = Surroundings(surroundings.subscribed | {name}, surroundings.delivered_to)
                if Event.SUBSCRIPTION_CHANGE in self._events(name, gone):
                    yield name, name in mailboxes


class _Mailboxes:
    """Makes LIST lines with all attributes of a mailbox (RFC 5465 5.4, 5.5)."""

    def __init__(self, listing: Listing, *, utf8: bool) -> None:
        self._views = {view.name: view for view in listing.views}
        self._subscribed = listing.subscribed
        self._parents = {name.rpartition("/")[0] for name in self._views}
        self._utf8 = utf8

    def __contains__(self, name: str) -> bool:
        return name in self._views

    def line(self, name: str, *, exists: bool, old_name: str | None = None) -> bytes:
        view = self._views.get(name)
        attributes = ["\\Subscribed"] if name in self._subscribed else []
        if not exists:
            attributes.append("\\NonExistent")
        elif view is not None:
            attributes.append("\\HasChildren" if name in self._parents else "\\HasNoChildren")
            attributes += view.special_uses
        line = b'* LIST (%b) "/" %b' % (" ".join(attributes).encode("ascii"), mailbox_name(name, utf8=self._utf8))
        if old_name is not None:
            line += b' ("OLDNAME" (%b))' % mailbox_name(old_name, utf8=self._utf8)
        return line + b"\r\n"


def _known(view: MailboxView) -> _Known:
    return _Known(view.uidvalidity, view.uidnext, view.messages, view.unseen)


def _status_line(view: MailboxView, items: set[str], *, utf8: bool) -> bytes:
    values = {
        "MESSAGES": view.messages,
        "UIDNEXT": view.uidnext,
        "UIDVALIDITY": view.uidvalidity,
        "UNSEEN": view.unseen,
        "HIGHESTMODSEQ": view.modseq,
    }
    shown = " ".join(f"{item} {values[item]}" for item in _STATUS_ITEMS if item in items).encode("ascii")
    return b"* STATUS %b (%b)\r\n" % (mailbox_name(view.name, utf8=utf8), shown)
