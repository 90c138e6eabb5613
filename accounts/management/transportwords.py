"""The words of ``manage.py config`` for transports and routes."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from django.core.management.base import CommandError

from accounts import accounts, transports
from accounts.models import Account, Domain, Route, Transport
from accounts.passwordinput import read_new
from accounts.passwords import PasswordRejected
from accounts.transports import RouteSettings

Options = Mapping[str, Any]
Word = Callable[[str, Callable[[Options], None], str], argparse.ArgumentParser]
Write = Callable[[str], object]

_LISTS: Final = ("mechanisms", "socks_remote_ips")
_FIELDS: Final = {
    "host": "of a relay: its name, which the certificate must have",
    "port": "of a relay: 25, 587 or 465 unless told otherwise",
    "username": "for a relay or proxy; the password is read from standard input",
    "mechanisms": "of logging in, in this order, with commas between",
    "socks_address": "host:port of the proxy",
    "socks_remote_ips": "public addresses of the proxy, with commas between",
    "socks_remote_hostname": "what the server calls itself through the proxy",
    "fail_code": "of a transport that refuses: 400 to 599",
    "fail_message": "of a transport that refuses: what the sender is told",
}
_FLAGS: Final = {
    "no_starttls": "to a relay: in the clear",
    "starttls_insecure_skip_verify": "to a relay: any certificate will do",
    "disable_ipv4": "direct: IPv6 alone",
    "disable_ipv6": "direct: IPv4 alone",
}


class TransportWords:
    """``transport``: add, set, rm, list."""

    def __init__(self, word: Word, write: Write) -> None:
        self._write = write
        add = word("add", self._add, "Add a way to deliver. Mail takes it where a route says so.")
        add.add_argument("name", help="letters, digits, dashes, underscores")
        add.add_argument("kind", choices=Transport.Kind.values)
        change = word("set", self._set, "Change a transport. What is not named stays; attempts from now on use it.")
        change.add_argument("name")
        for parser in (add, change):
            for field, text in _FIELDS.items():
                kind = int if field in ("port", "fail_code") else str
                parser.add_argument(_option(field), dest=field, type=kind, help=text)
            for field, text in _FLAGS.items():
                parser.add_argument(_option(field), dest=field, action=argparse.BooleanOptionalAction, help=text)
        remove = word("rm", self._remove, "Remove a transport that no route and no queued message uses.")
        remove.add_argument("name")
        listing = word("list", self._list, "List the transports, without passwords.")
        listing.add_argument("--json", action="store_true", help="for programs")

    def _add(self, options: Options) -> None:
        transports.add_transport(options["name"], kind=options["kind"], **_values(options))

    def _set(self, options: Options) -> None:
        transports.change_transport(options["name"], **_values(options))

    def _remove(self, options: Options) -> None:
        transports.remove_transport(options["name"])

    def _list(self, options: Options) -> None:
        found = [_transport_json(transport) for transport in Transport.objects.order_by("name")]
        if options["json"]:
            self._write(json.dumps(found))
            return
        for transport in found:
            name, kind, *_ = transport.values()
            told = (f"{key}={_shown(value)}" for key, value in list(transport.items())[2:] if value)
            self._write(f"{name:24} {kind:12} {' '.join(told)}")


class RouteWords:
    """``route``: add, rm, list."""

    def __init__(self, word: Word, write: Write) -> None:
        self._write = write
        add = word(
            "add",
            self._add,
            "Have mail take a transport. The first route that matches counts: of the account, then of the sender's "
            "domain, then of all mail. Without any, mail is delivered directly.",
        )
        add.add_argument("transport", nargs="?", default="", help="name; without one, direct delivery")
        add.add_argument("--from", dest="from_domains", default="", help="domains of senders, with commas between")
        add.add_argument("--to", dest="to_domains", default="", help="of recipients; .example.org has subdomains too")
        add.add_argument("--minimum-attempts", type=int, default=0, help="only for mail tried so many times already")
        add.add_argument("--position", type=int, help="among the routes of the scope, from 1; else the last")
        remove = word("rm", self._remove, "Remove a route.")
        remove.add_argument("position", type=int, help="as the list shows it")
        listing = word("list", self._list, "List the routes, all or those of a scope.")
        listing.add_argument("--json", action="store_true", help="for programs")
        for parser in (add, remove, listing):
            scope = parser.add_mutually_exclusive_group()
            scope.add_argument("--account", help="routes of an account")
            scope.add_argument("--domain", help="routes of mail from a hosted domain")

    def _add(self, options: Options) -> None:
        scope = _scope(options)
        routes = [_settings(route) for route in transports.routes_of(**scope)]
        new = RouteSettings(
            _split(options["from_domains"]),
            _split(options["to_domains"]),
            options["minimum_attempts"],
            options["transport"],
        )
        position = options["position"] if options["position"] is not None else len(routes) + 1
        if not 0 < position <= len(routes) + 1:
            raise CommandError(f"position {position}: use a number from 1 to {len(routes) + 1}")
        routes.insert(position - 1, new)
        transports.save_routes(routes, **scope)

    def _remove(self, options: Options) -> None:
        scope = _scope(options)
        routes = [_settings(route) for route in transports.routes_of(**scope)]
        if not 0 < options["position"] <= len(routes):
            raise CommandError(f"there is no route {options['position']}: mox config route list shows all")
        del routes[options["position"] - 1]
        transports.save_routes(routes, **scope)

    def _list(self, options: Options) -> None:
        found = Route.objects.select_related("account", "domain", "transport").order_by("account", "domain")
        scope = _scope(options)
        if any(scope.values()):
            found = found.filter(**{name: value for name, value in scope.items() if value})
        routes = [_route_json(route) for route in found.order_by("account", "domain", "position", "pk")]
        if options["json"]:
            self._write(json.dumps(routes))
            return
        for route in routes:
            scope_text = f"account {route['account']}" if route["account"] else (route["domain"] or "all mail")
            conditions = [
                f"{word} {','.join(route[field])}"
                for word, field in (("from", "from_domains"), ("to", "to_domains"))
                if route[field]
            ]
            conditions += [f"after {route['minimum_attempts']} attempts"] if route["minimum_attempts"] else []
            over = route["transport"] or "direct"
            self._write(f"{scope_text:30} {route['position']:3} {over:24} {' '.join(conditions)}".rstrip())


def _values(options: Options) -> dict[str, Any]:
    values = {field: options[field] for field in (*_FIELDS, *_FLAGS) if options[field] is not None}
    for field in _LISTS:
        if field in values:
            values[field] = _split(values[field])
    if "username" in values:
        try:
            values["password"] = read_new().encode() if values["username"] else b""
        except PasswordRejected as exc:
            raise CommandError(str(exc)) from exc
    return values


def _scope(options: Options) -> dict[str, Any]:
    account: Account | None = accounts.find_account(options["account"]) if options["account"] else None
    domain: Domain | None = accounts.find_domain(options["domain"]) if options["domain"] else None
    return {"account": account, "domain": domain}


def _settings(route: Route) -> RouteSettings:
    transport = route.transport.name if route.transport is not None else ""
    return RouteSettings(route.from_domains, route.to_domains, route.minimum_attempts, transport)


def _transport_json(transport: Transport) -> dict[str, Any]:
    kept = {field: getattr(transport, field) for field in (*_FIELDS, *_FLAGS)}
    if transport.kind != Transport.Kind.FAIL:
        del kept["fail_code"]
    return {"name": transport.name, "kind": transport.kind, **kept}


def _route_json(route: Route) -> dict[str, Any]:
    return {
        "account": route.account.name if route.account else "",
        "domain": route.domain.name if route.domain else "",
        "position": route.position + 1,
        "from_domains": route.from_domains,
        "to_domains": route.to_domains,
        "minimum_attempts": route.minimum_attempts,
        "transport": route.transport.name if route.transport else "",
    }


def _option(field: str) -> str:
    return f"--{field.replace('_', '-')}"


def _split(text: str) -> list[str]:
    return text.replace(",", " ").split()


def _shown(value: Any) -> str:
    return ",".join(value) if isinstance(value, list) else str(value)
