"""Addresses that an account's mail is not sent to any more, because it was refused there, or somebody said so.

suppressions.listed(account_id, messages)               # ids of those that must not be sent
suppressions.after_failure(message, 550, "1.1", Source.QUEUE, now)
suppressions.add(account, "j.doe+x@far.example", reason="asked to")
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

from django.db import IntegrityError

from accounts.models import Account
from protocols.names import BadAddress, parse_address
from server import db
from server.statements import Statement

from .models import MessageKind, Outgoing, RetiredMessage, Suppression

# Replies that say the address is bad whatever their enhanced code is, and enhanced codes that say so with any 5xx.
AT_ONCE_CODES: Final = frozenset({521, 550, 551, 553, 556})
AT_ONCE_SECODES: Final = frozenset({"1.1", "1.2", "1.3", "1.6", "2.1", "7.1"})
FAILURES_BEFORE: Final = 2  # in a row, that with this one make three
ADDRESSES_PER_QUERY: Final = 500
ADDRESS_SHOWN: Final = 200  # characters of a bad one, in its error
REASON_MAX: Final = 1000  # characters


class Source(enum.Enum):
    """Who said that a message failed."""

    QUEUE = "queue"
    DSN = "DSN"


class SuppressionError(Exception):
    """The list does not allow it; the text names the address."""


class AlreadyListed(SuppressionError):
    def __init__(self, address: str) -> None:
        super().__init__(f"already on suppression list: {address}")


class NotListed(SuppressionError):
    def __init__(self, address: str) -> None:
        super().__init__(f"not on suppression list: {address}")


def base_address(localpart: str, domain: str) -> str:
    """What variants of an address have in common: ``jdoe@far.example`` for J.Doe+x; domains in Unicode."""
    base = localpart.partition("+")[0].partition("-")[0].replace(".", "") or localpart
    return f"{base.lower()}@{domain.lower()}"


# At an attempt.

_listed: Final = Statement(
    lambda account_id, *bases: Suppression.objects.filter(account_id=account_id, base_address__in=bases).values_list(
        "base_address"
    )
)


def listed(account_id: int | None, messages: Sequence[Outgoing]) -> frozenset[int]:
    """The ids of those of an account's messages whose recipients are on its list."""
    if account_id is None:
        return frozenset()
    bases = {message.pk: base_address(message.rcpt_localpart, message.rcpt_domain) for message in messages}
    wanted = sorted(set(bases.values()))
    found: set[str] = set()
    for start in range(0, len(wanted), ADDRESSES_PER_QUERY):
        found.update(row[0] for row in _listed.rows(account_id, *wanted[start : start + ADDRESSES_PER_QUERY]))
    return frozenset(pk for pk, base in bases.items() if base in found)


def after_failure(message: Outgoing, code: int, secode: str, source: Source, now: datetime) -> bool:
    """Another server refused a message for good: put its recipient on the list if that says enough. Whether it did.

    In the transaction that stores the failure; before the message retires.
    """
    if message.account_id is None or message.kind == MessageKind.DSN or code // 100 != 5:
        return False
    if code in AT_ONCE_CODES or secode in AT_ONCE_SECODES:
        reason = f'delivery failure from {source.value} with smtp code {code}, enhanced code "{secode}"'
    elif _failed_before(message.account_id, message):
        reason = f"delivery failure from {source.value} and three consecutive failures"
    else:
        return False
    base = base_address(message.rcpt_localpart, message.rcpt_domain)
    return _insert(message.account_id, base, message.recipient, manual=False, reason=reason, now=now) is not None


def _failed_before(account_id: int, message: Outgoing) -> bool:
    """Whether the messages to this address before this one failed too."""
    before = RetiredMessage.objects.filter(account_id=account_id, recipient_address=message.recipient)
    results = before.exclude(pk=message.pk).order_by("-last_activity").values_list("success", flat=True)
    latest = list(results[:FAILURES_BEFORE])
    return len(latest) == FAILURES_BEFORE and not any(latest)


# What people do with the list.


def add(account: Account, address: str, *, manual: bool = True, reason: str = "") -> Suppression:
    """Put an address on an account's list. Raises BadAddress, AlreadyListed."""
    base, original = _forms(address)
    with db.write():
        added = _insert(account.pk, base, original, manual=manual, reason=reason[:REASON_MAX], now=db.now())
    if added is None:
        raise AlreadyListed(original)
    return added


def remove(account: Account, address: str) -> None:
    """Take an address, in any spelling, from an account's list. Raises BadAddress, NotListed.

    What failed because of it stays failed.
    """
    base, original = _forms(address)
    with db.write():
        deleted, _ = Suppression.objects.filter(account=account, base_address=base).delete()
    if not deleted:
        raise NotListed(original)


def lookup(address: str, account: Account | None = None) -> list[Suppression]:
    """The entries that hold for an address, of one account or of all. Raises BadAddress."""
    base, _ = _forms(address)
    found = Suppression.objects.filter(base_address=base).select_related("account").order_by("account__name")
    return list(found if account is None else found.filter(account=account))


def of_account(account: Account | None = None) -> Iterable[Suppression]:
    """The list of an account, or those of all, oldest first."""
    found = Suppression.objects.select_related("account").order_by("created", "pk")
    return found if account is None else found.filter(account=account)


def _forms(address: str) -> tuple[str, str]:
    """Base and original address. Raises BadAddress."""
    try:
        parsed = parse_address(address)
    except BadAddress as exc:
        raise BadAddress(f'"{address[:ADDRESS_SHOWN]}" is not an address: {exc}') from exc
    domain = parsed.domain.name()
    return base_address(parsed.localpart, domain), f"{parsed.localpart}@{domain}"


def _insert(
    account_id: int, base: str, original: str, *, manual: bool, reason: str, now: datetime
) -> Suppression | None:
    """The new entry, None where there is one."""
    if Suppression.objects.filter(account_id=account_id, base_address=base).exists():
        return None
    try:
        with db.write():  # a savepoint: another transaction may have been first
            return Suppression.objects.create(
                account_id=account_id,
                created=now,
                base_address=base,
                original_address=original,
                manual=manual,
                reason=reason,
            )
    except IntegrityError:
        return None
