"""Which way a message goes: the transport set on it, else that of the first route that matches, else direct."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from django.db.models import Q

from accounts.models import Route, Transport
from server.statements import ModelStatement, Statement

from .models import QueueMessage

RELAYS: Final = frozenset({Transport.Kind.SMTP, Transport.Kind.SUBMISSION, Transport.Kind.SUBMISSIONS})

_routes: Final = Statement(
    lambda account_id, sender_domain: Route.objects.filter(
        Q(account_id=account_id) | Q(domain__name=sender_domain) | Q(account=None, domain=None)
    ).values_list(
        "account_id", "domain_id", "position", "pk", "from_domains", "to_domains", "minimum_attempts", "transport_id"
    )
)
_transport_by_id: Final = ModelStatement(Transport, lambda pk: Transport.objects.filter(pk=pk))
_transport_by_name: Final = ModelStatement(Transport, lambda name: Transport.objects.filter(name=name))


class UnknownTransport(Exception):
    """A message names a transport that does not exist (any more)."""


@dataclass(frozen=True, slots=True)
class Way:
    """How a message goes out, and whose lease covers it. ``transport`` is None for direct delivery."""

    transport: Transport | None
    destination: str


def way(account_id: int | None, sender_domain: str, rcpt_domain: str, attempts: int, transport_name: str) -> Way:
    """The way of a message with so many attempts behind it; domains as A-labels. Raises UnknownTransport."""
    if transport_name:
        transport = _transport_by_name.row(transport_name)
        if transport is None:
            raise UnknownTransport(f"transport {transport_name!r} does not exist")
    else:
        transport = _of_route(account_id, sender_domain, rcpt_domain, attempts)
    return Way(transport, _destination(transport, rcpt_domain))


def _of_route(account_id: int | None, sender_domain: str, rcpt_domain: str, attempts: int) -> Transport | None:
    rows = _routes.rows(account_id or 0, sender_domain)
    # Those of the account come before those of the domain, and these before the global ones.
    for row in sorted(rows, key=lambda row: (row[0] is None, row[1] is None, row[2], row[3])):
        from_domains, to_domains, minimum_attempts, transport_id = row[4:]
        if (
            attempts >= minimum_attempts
            and (not from_domains or matches(sender_domain, from_domains))
            and (not to_domains or matches(rcpt_domain, to_domains))
        ):
            return _transport_by_id.row(transport_id) if transport_id is not None else None
    return None


def queued_use(transport: Transport) -> str:
    """Why a transport cannot be removed: messages that were put on it by hand."""
    count = QueueMessage.objects.filter(transport=transport.name).count()
    return f"{count} queued messages: mox queue transport --transport {transport.name} NAME" if count else ""


def matches(domain: str, entries: Iterable[str]) -> bool:
    """Whether one of the entries is the domain, or with a leading dot the domain or one above it; "." is any."""
    return any(
        entry in (".", domain) or (entry.startswith(".") and (domain == entry[1:] or domain.endswith(entry)))
        for entry in entries
    )


def _destination(transport: Transport | None, rcpt_domain: str) -> str:
    return transport.host if transport is not None and transport.kind in RELAYS else rcpt_domain
