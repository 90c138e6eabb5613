"""The arguments of NOTIFY: which events of which mailboxes (RFC 5465 8)."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import Final

from . import fetchargs
from .fetchargs import ContentItem, FetchItem
from .filters import SELECTED_KINDS, GivenFilter, parse_filter
from .syntax import Parser

GROUPS_MAX: Final = 100  # of one command
EVENTS_MAX: Final = 100  # words of one group: far more than there are


class Event(enum.Enum):
    MESSAGE_NEW = "MessageNew"
    MESSAGE_EXPUNGE = "MessageExpunge"
    FLAG_CHANGE = "FlagChange"
    MAILBOX_NAME = "MailboxName"
    SUBSCRIPTION_CHANGE = "SubscriptionChange"
    MAILBOX_METADATA_CHANGE = "MailboxMetadataChange"
    SERVER_METADATA_CHANGE = "ServerMetadataChange"


MESSAGE_EVENTS: Final = frozenset({Event.MESSAGE_NEW, Event.MESSAGE_EXPUNGE, Event.FLAG_CHANGE})
_EVENTS: Final = {event.value.upper(): event for event in Event}
_ANNOTATION_CHANGE: Final = "ANNOTATIONCHANGE"  # a message event that the RFC has, and no mailbox here


@dataclass(frozen=True, slots=True)
class Group:
    """Events of some mailboxes; ``items`` are to be told of new messages of the selected one."""

    filter: GivenFilter
    events: frozenset[Event]
    items: tuple[FetchItem, ...] = ()


@dataclass(frozen=True, slots=True)
class NotifyArguments:
    """``groups`` empty: NONE. ``unsupported``: there are events among them that this server does not have."""

    groups: tuple[Group, ...] = ()
    status: bool = False
    unsupported: bool = False


def parse(parser: Parser) -> NotifyArguments:
    parser.space()
    word = parser.word("SET or NONE")
    if word == "NONE":
        parser.end()
        return NotifyArguments()
    if word != "SET":
        raise parser.fail("SET or NONE before this")
    status = parser.take(b" STATUS ")
    if not status:
        parser.space()
    groups: list[Group] = []
    unsupported = False
    while True:
        group, has_unsupported = _group(parser)
        groups.append(group)
        unsupported |= has_unsupported
        if sum(group.filter.kind in SELECTED_KINDS for group in groups) > 1:
            raise parser.fail("SELECTED or SELECTED-DELAYED once before this")  # RFC 5465 6.1
        if len(groups) > GROUPS_MAX:
            raise parser.fail(f"at most {GROUPS_MAX} groups")
        if parser.at_end():
            return NotifyArguments(tuple(groups), status, unsupported)
        parser.space()


def _group(parser: Parser) -> tuple[Group, bool]:
    parser.expect(b"(")
    given = parse_filter(parser)
    parser.space()
    events: set[Event] = set()
    items: tuple[FetchItem, ...] = ()
    unsupported = False
    if not parser.take(b"NONE"):
        parser.expect(b"(")
        words: set[str] = set()
        while True:
            word = parser.word("event")
            words.add(word)
            event = _EVENTS.get(word)
            if event is None:
                unsupported = True
            else:
                events.add(event)
            if event is Event.MESSAGE_NEW and parser.take(b" ("):
                items = tuple(_peeking(item) for item in fetchargs.item_list(parser))
            if parser.take(b")"):
                break
            parser.space()
            if len(words) > EVENTS_MAX:
                raise parser.fail(f"at most {EVENTS_MAX} events")
        _check(parser, given, events, words)
    parser.expect(b")")
    return Group(given, frozenset(events), items), unsupported


def _check(parser: Parser, given: GivenFilter, events: set[Event], words: set[str]) -> None:
    """What must go together (RFC 5465 5, 6.1)."""
    if (Event.MESSAGE_NEW in events) != (Event.MESSAGE_EXPUNGE in events):
        raise parser.fail("MessageNew and MessageExpunge together before this")
    if (Event.FLAG_CHANGE in events or _ANNOTATION_CHANGE in words) and Event.MESSAGE_NEW not in events:
        raise parser.fail("MessageNew and MessageExpunge with FlagChange before this")
    if given.kind in SELECTED_KINDS and events - MESSAGE_EVENTS:
        raise parser.fail("events of messages alone for the selected mailbox")


def _peeking(item: FetchItem) -> FetchItem:
    """What nobody asked for at this moment is not seen."""
    return replace(item, peek=True) if isinstance(item, ContentItem) else item
