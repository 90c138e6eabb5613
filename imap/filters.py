"""Which mailboxes are meant, where a client names them by what they have in common (RFC 5465 6, RFC 7377 2.2)."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from accounts.addresses import delivery_mailboxes
from store import reading
from store.errors import MailboxError
from store.mailboxes import INBOX, canonical_name

from .answers import Refused, read_mailbox_name
from .syntax import Parser

NAMES_MAX: Final = 1000  # of one filter


class Kind(enum.Enum):
    SELECTED = "SELECTED"
    SELECTED_DELAYED = "SELECTED-DELAYED"
    INBOXES = "INBOXES"
    PERSONAL = "PERSONAL"
    SUBSCRIBED = "SUBSCRIBED"
    SUBTREE = "SUBTREE"
    SUBTREE_ONE = "SUBTREE-ONE"
    MAILBOXES = "MAILBOXES"


_WITH_NAMES: Final = frozenset({Kind.SUBTREE, Kind.SUBTREE_ONE, Kind.MAILBOXES})
_KINDS: Final = {kind.value: kind for kind in Kind}
SELECTED_KINDS: Final = frozenset({Kind.SELECTED, Kind.SELECTED_DELAYED})


@dataclass(frozen=True, slots=True)
class GivenFilter:
    """A filter as it was written."""

    kind: Kind
    names: tuple[bytes, ...] = ()

    def decoded(self, *, utf8: bool) -> Filter:
        """With names of mailboxes; those that no mailbox can have are left out (RFC 5465 3.1)."""
        names: set[str] = set()
        for given in self.names:
            try:
                names.add(canonical_name(read_mailbox_name(given, utf8=utf8).removesuffix("/")))
            except (Refused, MailboxError):
                continue
        return Filter(self.kind, frozenset(names))


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What filters depend on, at one moment: subscribed names, and the mailboxes that mail is delivered to."""

    subscribed: frozenset[str]
    delivered_to: frozenset[str]


NO_SURROUNDINGS: Final = Surroundings(frozenset(), frozenset())


def surroundings_of(account_id: int) -> Surroundings:
    """Reads them."""
    return Surroundings(reading.subscribed(account_id), delivery_mailboxes(account_id))


@dataclass(frozen=True, slots=True)
class Filter:
    kind: Kind
    names: frozenset[str] = frozenset()

    def matches(self, name: str, surroundings: Surroundings) -> bool:
        """Whether a mailbox of this name is meant. Not for filters of the selected mailbox."""
        match self.kind:
            case Kind.PERSONAL:
                return True
            case Kind.INBOXES:
                return name == INBOX or name.startswith(f"{INBOX}/") or name in surroundings.delivered_to
            case Kind.SUBSCRIBED:
                return name in surroundings.subscribed
            case Kind.SUBTREE:
                return any(above in self.names for above in _self_and_above(name))
            case Kind.SUBTREE_ONE:
                return name in self.names or name.rpartition("/")[0] in self.names
            case Kind.MAILBOXES:
                return name in self.names
        return False


def _self_and_above(name: str) -> Iterator[str]:
    while name:
        yield name
        name = name.rpartition("/")[0]


def parse_filter(parser: Parser) -> GivenFilter:
    """One filter, with its names where it has some."""
    word = parser.word("mailboxes, as in INBOXES or SUBTREE name")
    kind = _KINDS.get(word)
    if kind is None:
        raise parser.fail(f"{', '.join(_KINDS)}, not {word[:40]}")
    if kind not in _WITH_NAMES:
        return GivenFilter(kind)
    parser.space()
    if not parser.take(b"("):
        return GivenFilter(kind, (parser.astring(),))
    names = [parser.astring()]
    while not parser.take(b")"):
        parser.space()
        names.append(parser.astring())
        if len(names) > NAMES_MAX:
            raise parser.fail(f"at most {NAMES_MAX} names")
    return GivenFilter(kind, tuple(names))
