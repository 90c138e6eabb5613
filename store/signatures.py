"""The domains that signed a message, as reputation finds them: by its mailbox, and whether its user called it junk.

add(message_id, domains, mailbox_orig_id, received, bits)
follow([message_id])        # its junk flags or its mailbox of first delivery are others now
drop([message_id])          # it is expunged
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from django.db.models import Case, F, OuterRef, Subquery, When

from .flags import JUNK, NOTJUNK
from .models import Message, MessageDKIMDomain

JUDGING: int = JUNK | NOTJUNK
"""The flags that say what a user thinks of a message."""


def add(message_id: int, domains: Sequence[str], mailbox_orig_id: int, received: datetime, bits: int) -> None:
    """Keep the domains that signed a message with these flags."""
    if domains:
        judged = None if bits & JUDGING in (0, JUDGING) else bool(bits & JUNK)
        MessageDKIMDomain.objects.bulk_create(
            MessageDKIMDomain(
                message_id=message_id, domain=domain, received=received, mailbox_orig_id=mailbox_orig_id, junk=judged
            )
            for domain in domains
        )


def follow(message_ids: Sequence[int]) -> None:
    """Have what is kept of these messages say what they say."""
    message = Message.objects.filter(pk=OuterRef("message_id"))
    judged = Case(When(junk=F("notjunk"), then=None), default=F("junk"))
    MessageDKIMDomain.objects.filter(message_id__in=message_ids).update(
        mailbox_orig_id=Subquery(message.values("mailbox_orig_id")), junk=Subquery(message.values(judged=judged))
    )


def drop(message_ids: Sequence[int]) -> None:
    """Forget what these messages were signed by."""
    MessageDKIMDomain.objects.filter(message_id__in=message_ids).delete()
