"""Hold rules: messages that match one are queued, and wait until somebody lets them go."""

from __future__ import annotations

from typing import Final

from django.db.models import Q, QuerySet

from server import db
from server.statements import Statement

from .models import HoldRule, QueueMessage

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
    """Save a rule, and hold what is queued and matches it. Returns how many messages that were."""
    with db.write():
        rule.full_clean()
        rule.save()
        return held_by(rule).filter(hold=False).update(hold=True)


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
