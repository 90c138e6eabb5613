"""Where an account's programs are told of what became of its mail, or what came in: settings and their rules.

set_endpoint(account, "outgoing", "https://hooks.example/mail", authorization="Bearer x", events=["failed"])
clear_endpoint(account, "outgoing")
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from server import db

from .accounts import ConfigurationError
from .models import Account, OutgoingEvent, WebhookEndpoint

URL_MAX: Final = 2048  # characters
AUTHORIZATION_MAX: Final = 2048  # characters; a header line of ours


def set_endpoint(
    account: Account, kind: str, url: str, *, authorization: str | None = None, events: Sequence[str] = ()
) -> None:
    """Have events posted to a URL. ``authorization``: value of that header, None for the one that is set, "" for none.

    ``events``: of outgoing mail, none for all. Raises ConfigurationError.
    """
    _check_url(url)
    unknown = [event for event in events if event not in OutgoingEvent.values]
    if unknown:
        names = ", ".join(OutgoingEvent.values)
        raise ConfigurationError(f'unknown outgoing hook event "{unknown[0]}": use some of {names}')
    if events and kind == WebhookEndpoint.Kind.INCOMING:
        raise ConfigurationError("events are of outgoing mail: a webhook for incoming mail has none")
    values: dict[str, object] = {"url": url, "events": list(dict.fromkeys(events))}
    if authorization is not None:
        if not authorization.isprintable() or not authorization.isascii():
            raise ConfigurationError("the Authorization value must be one line of printable ASCII characters")
        if len(authorization) > AUTHORIZATION_MAX:
            raise ConfigurationError(f"the Authorization value is longer than {AUTHORIZATION_MAX} characters")
        values["authorization"] = authorization.encode()
    with db.write():
        WebhookEndpoint.objects.update_or_create(account=account, kind=WebhookEndpoint.Kind(kind), defaults=values)


def clear_endpoint(account: Account, kind: str) -> None:
    """Post nothing any more. Calls that are queued are still made."""
    with db.write():
        WebhookEndpoint.objects.filter(account=account, kind=kind).delete()


def _check_url(url: str) -> None:
    """Raises ConfigurationError for what is no URL that calls could go to."""
    if len(url) > URL_MAX:
        raise ConfigurationError(f"the URL is longer than {URL_MAX} characters")
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 # parsed when it is looked at
    except ValueError as exc:
        raise ConfigurationError(f'"{url}" is no URL: {exc}') from exc
    if parts.scheme not in ("http", "https"):
        raise ConfigurationError(f'"{url}": scheme must be http or https')
    if not parts.hostname or not url.isprintable() or " " in url:
        raise ConfigurationError(f'"{url}" is no URL with a host')
    if parts.username is not None or parts.password is not None:
        raise ConfigurationError("the URL has a user or password in it: use the Authorization value")
    if parts.fragment or "#" in url:
        raise ConfigurationError(f'"{url}" has a fragment (#), which no server would see')
