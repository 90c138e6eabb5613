"""What NOTIFY tells of mailboxes: who applies all lines of a batch knows the names and subscriptions that there are."""

from __future__ import annotations

import random

import pytest

from accounts.models import Account
from imap.filters import GivenFilter, Kind, surroundings_of
from imap.notifyargs import Event, Group
from imap.watching import Watching
from store import changes, mailboxes, reading
from store.db import AccountTx, write_tx
from store.errors import StoreError
from tests.system.imap.wire import parse

pytestmark = pytest.mark.database

NAMES = ("a", "b", "c", "a/b", "a/c", "b/c", "b/c/d")


def change(tx: AccountTx, choose: random.Random) -> None:
    name, other = choose.choice(NAMES), choose.choice(NAMES)
    match choose.randrange(6):
        case 0 | 1:
            mailboxes.create(tx, name)
        case 2:
            mailboxes.rename(tx, name, other)
        case 3:
            mailboxes.delete(tx, name)
        case 4:
            mailboxes.subscribe(tx, name)
        case 5:
            mailboxes.unsubscribe(tx, name)


class Client:
    """Mailbox names and subscriptions as it was told of them."""

    def __init__(self, account: Account) -> None:
        listing = reading.mailboxes(account.pk)
        self.names = {view.name for view in listing.views}
        self.subscribed = set(listing.subscribed)

    def told(self, line: bytes) -> None:
        response = parse(line, utf8=True)
        flags, _, name, *extended = response.data
        if extended:
            old = extended[0][1][0]
            below = {known for known in self.names if f"{known}/".startswith(f"{old}/")}
            self.names = self.names - below | {name + known.removeprefix(old) for known in below} | {name}
        (self.names.discard if "\\NonExistent" in flags else self.names.add)(name)
        (self.subscribed.add if "\\Subscribed" in flags else self.subscribed.discard)(name)


@pytest.mark.parametrize("seed", range(8))
def test_a_batch_of_changes_leads_to_what_there_is(account: Account, seed: int) -> None:
    choose = random.Random(seed)
    events = frozenset({Event.MAILBOX_NAME, Event.SUBSCRIPTION_CHANGE})
    watching = Watching([Group(GivenFilter(Kind.PERSONAL), events)], utf8=True)
    client = Client(account)
    for _ in range(12):
        since = reading.mailboxes(account.pk).modseq
        for _ in range(choose.randint(1, 12)):
            try:
                with write_tx(account.pk) as tx:
                    change(tx.account(account.pk), choose)
            except StoreError:
                continue
        listing = reading.mailboxes(account.pk)
        happened = changes.events(account.pk, since).events
        lines = watching.event_lines(happened, listing, surroundings_of(account.pk), utf8=True)
        for line in lines:
            client.told(line)
        shown = "\n".join(f"{event.kind} {event.data}" for event in happened) + f"\n{lines}"
        assert client.names == {view.name for view in listing.views}, shown
        assert client.subscribed == listing.subscribed, shown
