"""``manage.py token``: secrets with which programs log in to the webapi."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts import apitokens
from accounts.accounts import ConfigurationError
from accounts.models import Account, APIToken
from protocols.durations import parse_duration
from server import db

Options = Mapping[str, Any]


class Command(BaseCommand):
    help = "Make, list and revoke tokens with which programs log in to the webapi instead of the account's password."

    def add_arguments(self, parser: CommandParser) -> None:
        words = parser.add_subparsers(dest="word", required=True, metavar="WORD")
        add = words.add_parser("add", help="make a token; it is printed once", description=self._add.__doc__)
        add.add_argument("account")
        add.add_argument("--scopes", required=True, help=f"with commas: {', '.join(APIToken.Scope.values)}")
        add.add_argument("--expires", default="", help="after such a time: 12h, 90d; never unless given")
        add.add_argument("--login", default="", help="address to log in as; the account's first unless given")
        add.add_argument("--label", default="", help="what it is for")
        add.add_argument("--from", dest="from_addresses", action="append", default=[], help="only to send from this")
        add.add_argument("--network", dest="networks", action="append", default=[], help="only to be used from there")
        add.set_defaults(run=self._add)
        listing = words.add_parser("list", help="show the tokens of an account", description=self._list.__doc__)
        listing.add_argument("account")
        listing.set_defaults(run=self._list)
        revoke = words.add_parser("revoke", help="end a token at once", description=self._revoke.__doc__)
        revoke.add_argument("account")
        revoke.add_argument("prefix", help="its visible characters, as list shows them")
        revoke.set_defaults(run=self._revoke)
        for word in (add, listing, revoke):
            word.add_argument("--json", action="store_true", help="for programs")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            options["run"](options)
        except ConfigurationError as exc:
            raise CommandError(str(exc)) from exc

    def _add(self, options: Options) -> None:
        """Make a token for an account. It is printed once, and nobody can read it again: only its hash is kept."""
        made = apitokens.create(
            _account(options["account"]),
            options["login"],
            [scope.strip() for scope in options["scopes"].split(",") if scope.strip()],
            label=options["label"],
            expires=_expiry(options["expires"]),
            from_addresses=options["from_addresses"],
            networks=options["networks"],
        )
        if options["json"]:
            self.stdout.write(json.dumps({"token": made.text, **_shown(made.token)}))
        else:
            self.stdout.write(made.text)

    def _list(self, options: Options) -> None:
        """Show the tokens of an account, the oldest first: everything but the secret."""
        tokens = apitokens.of_account(_account(options["account"]))
        if options["json"]:
            self.stdout.write(json.dumps([_shown(token) for token in tokens]))
            return
        for token in tokens:
            shown = _shown(token)
            self.stdout.write(f"mox_{token.prefix}...  {token.login_address}  {','.join(token.scopes)}  {token.label}")
            times = [f"{name.replace('_', ' ')} {shown[name]}" for name in _TIMES if shown[name]]
            self.stdout.write(f"    {', '.join(times)}")

    def _revoke(self, options: Options) -> None:
        """End a token. Who uses it is refused from now on."""
        token = apitokens.revoke(_account(options["account"]), options["prefix"])
        self.stdout.write(json.dumps(_shown(token)) if options["json"] else f"token mox_{token.prefix}... is revoked")


_TIMES = ("created", "last_used", "expires", "revoked")


def _account(name: str) -> Account:
    account = Account.objects.filter(name=name).first()
    if account is None:
        raise ConfigurationError(f"account {name} does not exist")
    return account


def _expiry(text: str) -> datetime | None:
    if not text:
        return None
    try:
        return db.now() + parse_duration(text)
    except (ValueError, OverflowError) as exc:
        raise ConfigurationError(f"--expires {text}: {exc}") from exc


def _shown(token: APIToken) -> dict[str, Any]:
    times = {name: getattr(token, name) for name in _TIMES}
    return {
        "prefix": token.prefix,
        "label": token.label,
        "login_address": token.login_address,
        "scopes": token.scopes,
        "from_addresses": token.from_addresses,
        "networks": token.networks,
        **{name: time.isoformat().replace("+00:00", "Z") if time is not None else None for name, time in times.items()},
    }
