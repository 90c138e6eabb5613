"""What a recipient domain's server offered at the last connection, shown to whoever writes a message to it."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from server import db

from .models import RecipientDomainTLS

PRECISION: Final = timedelta(hours=1)  # of the time: what stays the same is not written with each message


def remember(domain: str, *, starttls: bool, requiretls: bool) -> None:
    """Note what a server of a domain (in Unicode) announced, in the transaction of a result or one of its own."""
    now = db.now()
    known = RecipientDomainTLS.objects.filter(domain=domain).first()
    same = known is not None and (known.starttls, known.requiretls) == (starttls, requiretls)
    if known is not None and same and now - known.updated < PRECISION:
        return
    with db.write():
        values = {"updated": now, "starttls": starttls, "requiretls": requiretls}
        RecipientDomainTLS.objects.update_or_create(domain=domain, defaults=values)


def recall(domain: str) -> RecipientDomainTLS | None:
    """What is known of a domain (in Unicode)."""
    return RecipientDomainTLS.objects.filter(domain=domain).first()
