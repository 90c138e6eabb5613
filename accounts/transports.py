"""Ways to deliver, and which mail takes them: what pages and commands do with transports and routes.

add_transport("relay", kind="smtp", host="relay.example")
save_routes([RouteSettings(transport="relay")], account=account)      # all of the account's, in this order
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from django.core.exceptions import NON_FIELD_ERRORS, ValidationError
from django.db.models import QuerySet

from server import db

from .accounts import ConfigurationError
from .models import Account, Domain, Route, Transport

ROUTES_MAX: Final = 1000  # of one scope: all are looked at for each message
NAMED_MAX: Final = 10  # of the things that stand in the way, in an error

_uses: list[Callable[[Transport], str]] = []


@dataclass(frozen=True, slots=True)
class RouteSettings:
    """A route but for its scope and its place. ``transport``: a name, "" for direct delivery."""

    from_domains: Sequence[str] = ()
    to_domains: Sequence[str] = ()
    minimum_attempts: int = 0
    transport: str = ""


def on_remove(use: Callable[[Transport], str]) -> None:
    """Register what a higher package uses transports for: the function says so in words, "" if it does not."""
    if use not in _uses:
        _uses.append(use)


def find_transport(name: str) -> Transport:
    """Raises ConfigurationError."""
    transport = Transport.objects.filter(name=name).first()
    if transport is None:
        raise ConfigurationError(f'transport "{name}" does not exist: mox config transport list shows all')
    return transport


def add_transport(name: str, **values: Any) -> Transport:
    """A new transport; ``values`` by field, the password in bytes. Raises ConfigurationError."""
    transport = Transport(name=name, **values)
    with db.write():
        _check(transport, f'transport "{name}"')
        transport.save(force_insert=True)
    return transport


def change_transport(name: str, **values: Any) -> Transport:
    """Change fields of a transport; it counts from the next attempt on. Raises ConfigurationError."""
    with db.write():
        transport = find_transport(name)
        for field, value in values.items():
            setattr(transport, field, value)
        _check(transport, f'transport "{name}"')
        transport.save()
    return transport


def remove_transport(name: str) -> None:
    """Raises ConfigurationError while routes or queued messages name it."""
    with db.write():
        transport = find_transport(name)
        routes = list(transport.routes.select_related("account", "domain", "transport")[: NAMED_MAX + 1])
        uses = [str(route) for route in routes[:NAMED_MAX]] + ["and others"] * (len(routes) > NAMED_MAX)
        uses += [text for use in _uses if (text := use(transport))]
        if uses:
            raise ConfigurationError(f'transport "{name}" is in use: {"; ".join(uses)}')
        transport.delete()


def routes_of(*, account: Account | None = None, domain: Domain | None = None) -> QuerySet[Route]:
    """The routes of an account, of a domain, or of all mail, in their order."""
    return Route.objects.filter(account=account, domain=domain).select_related("transport")


def save_routes(
    routes: Sequence[RouteSettings], *, account: Account | None = None, domain: Domain | None = None
) -> list[Route]:
    """Have these be all routes of a scope, in this order. All of them are saved, or none. Raises ConfigurationError."""
    if len(routes) > ROUTES_MAX:
        raise ConfigurationError(f"{len(routes)} routes: there may be {ROUTES_MAX} of one scope")
    scope = f"account {account}" if account else f"domain {domain}" if domain else "global"
    with db.write():
        transports = {transport.name: transport for transport in Transport.objects.all()}
        made = []
        for position, settings in enumerate(routes):
            which = f"route {position + 1} ({scope})"
            if settings.transport and settings.transport not in transports:
                raise ConfigurationError(f'{which}: transport "{settings.transport}" does not exist')
            route = Route(
                account=account,
                domain=domain,
                position=position,
                from_domains=list(settings.from_domains),
                to_domains=list(settings.to_domains),
                minimum_attempts=settings.minimum_attempts,
                transport=transports.get(settings.transport),
            )
            _check(route, which)
            made.append(route)
        routes_of(account=account, domain=domain).delete()
        return Route.objects.bulk_create(made)


def _check(row: Transport | Route, what: str) -> None:
    """Raises ConfigurationError, which names the fields."""
    try:
        row.full_clean(validate_unique=isinstance(row, Transport))
    except ValidationError as exc:
        texts = [
            text if field == NON_FIELD_ERRORS else f"{field}: {text}"
            for field, field_texts in exc.message_dict.items()
            for text in field_texts
        ]
        raise ConfigurationError(f"{what}: {'; '.join(texts)}") from exc
