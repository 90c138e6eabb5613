"""NOTIFY: a client says which events it wants to hear of, at any time (RFC 5465)."""

from __future__ import annotations

from server import db
from store import reading
from store.reading import Listing

from . import announce
from .answers import Done, Refused
from .fetchargs import Item
from .filters import Surroundings, surroundings_of
from .notifyargs import Event, NotifyArguments
from .session import Session
from .watching import Watching


async def notify(session: Session, arguments: NotifyArguments) -> Done:
    if arguments.unsupported:
        raise Refused("not all of these events are known here", f"BADEVENT ({' '.join(e.value for e in Event)})")
    if not arguments.groups:
        session.watch(Watching((), utf8=session.utf8))
        return Done()
    # What happened until now is told first, whatever was wanted before (RFC 5465 3.1).
    session.watch(None)
    await announce.announce(session)
    if any(Item.MODSEQ in group.items for group in arguments.groups):
        session.enable_condstore()
    watching = Watching(arguments.groups, utf8=session.utf8)
    if watching.hears_others:
        listing, surroundings = await session.call(_all_mailboxes, session.account_id)
        watching.begin(listing.views)
        if arguments.status:
            selected_id = None if session.selected is None else session.selected.mailbox_id
            session.send_lines(
                await session.call(watching.status_of_all, listing.views, surroundings, selected_id, utf8=session.utf8)
            )
    session.watch(watching)
    return Done()


def _all_mailboxes(account_id: int) -> tuple[Listing, Surroundings]:
    with db.read():
        return reading.mailboxes(account_id), surroundings_of(account_id)
