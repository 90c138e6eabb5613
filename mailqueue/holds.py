"""Hold rules: messages that match one are queued, and wait until somebody lets them go."""

from __future__ import annotations

from typing import Final

from django.core.exceptions import ValidationError
from django.db.models import Q, QuerySet

from server import db
from server.statements import Statement

from .models import HoldRule, QueueMessage

BATCH: Final = 500  # rows of a transaction: others wait for the writer

_matching: Final = Statement(
    lambda account_id, sender_domain, recipient_domain, anything: HoldRule.objects.filter(
        Q(account=None) | Q(account_id=account_id),
        sender_domain__in=(anything, sender_domain),
        recipient_domain__in=(anything, recipient_domain),
    ).values_list("pk")[:1]
)


def matches(account_id: int | None, sender_domain: str, recipient_domain: str) -> bool:
    """Whether a rule holds such a message; domains in Unicode, "" for the null sender."""
    return _matching.row(account_id or 0, sender_domain, recipient_domain, "") is not None


def add_rule(rule: HoldRule) -> int:
    """Save a rule, and hold what is queued and matches it. Returns how many messages that were. Raises ValidationError.

    What is queued from now on is held by the rule itself; what was there is held piece by piece.
    """
    with db.write():
        rule.full_clean()
        same = {"account": rule.account, "sender_domain": rule.sender_domain, "recipient_domain": rule.recipient_domain}
        other = HoldRule.objects.filter(**same).first()
        if other is not None:
            raise ValidationError(f"identical rule exists: {other.pk}")
        rule.save()
    held = 0
    while ids := list(held_by(rule).filter(hold=False).values_list("pk", flat=True)[:BATCH]):
        with db.write():
            held += QueueMessage.objects.filter(pk__in=ids, hold=False).update(hold=True)
    return held


def remove_rule(rule_id: int) -> bool:
    """Remove a rule; what it held stays on hold. Returns whether there was one."""
    with db.write():
        deleted, _ = HoldRule.objects.filter(pk=rule_id).delete()
    return bool(deleted)


def held_by(rule: HoldRule) -> QuerySet[QueueMessage]:
    """The queued messages that match a rule."""
    rows = QueueMessage.objects.all()
    if rule.account_id is not None:
        rows = rows.filter(account_id=rule.account_id)
    if rule.sender_domain:
        rows = rows.filter(sender_domain=rule.sender_domain)
    if rule.recipient_domain:
        rows = rows.filter(rcpt_domain=rule.recipient_domain)
    return rows
