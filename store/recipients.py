"""The addresses that an account wrote to: kept with messages in its Sent mailbox, for reputation and completion."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from protocols.message import Envelope, clean_text, index_text
from protocols.names import BadDomain, parse_domain
from protocols.publicsuffix import organizational_domain

from .db import AccountTx
from .models import Mailbox, Message, Recipient
from .targets import chunks


def add(tx: AccountTx, message_id: int, envelope: Envelope | None, received: datetime) -> None:
    """Keep the recipients of a message that was put into a mailbox with the use Sent."""
    found = addresses(envelope, received)
    Recipient.objects.bulk_create(Recipient(account_id=tx.account_id, message_id=message_id, **each) for each in found)


def copy(destination: Mailbox, uid_of: dict[int, int]) -> None:
    """Copies remember whom they were sent to, as their originals do. ``uid_of``: of the copy, by original's id."""
    for chunk in chunks(list(uid_of)):
        originals = list(Recipient.objects.filter(message_id__in=chunk))
        if not originals:
            continue
        uids = {uid_of[original.message_id] for original in originals}
        copies = dict(Message.objects.filter(mailbox_id=destination.pk, uid__in=uids).values_list("uid", "id"))
        for original in originals:
            original.message_id = copies[uid_of[original.message_id]]
            original.pk = None
            original._state.adding = True
        Recipient.objects.bulk_create(originals)


def addresses(envelope: Envelope | None, received: datetime) -> Iterator[dict[str, Any]]:
    """The columns of Recipient that an envelope fills: whom a message was written to, each once, and when."""
    if envelope is None:
        return
    sent = envelope.parsed_date or received
    seen: set[tuple[str, str]] = set()
    for address in (*envelope.to, *envelope.cc, *envelope.bcc):
        try:
            domain = parse_domain(address.host or "")
        except BadDomain:
            continue
        localpart = index_text(clean_text(address.user or ""))
        if not localpart or (localpart, domain.ascii) in seen:
            continue
        seen.add((localpart, domain.ascii))
        org_domain = organizational_domain(domain).ascii
        yield {"localpart": localpart, "domain": domain.ascii, "org_domain": org_domain, "sent": sent}
