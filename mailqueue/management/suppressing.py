"""``queue suppress``: the addresses that an account's mail is not sent to any more."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from django.core.management.base import BaseCommand, CommandError

from accounts.accounts import find_account
from accounts.models import Account
from mailqueue import suppressions
from mailqueue.conditions import time_text
from mailqueue.models import Suppression

REASON: Final = "added on the command line"


class Suppressing:
    """The words after ``queue suppress``."""

    def __init__(self, parser: Any, command: BaseCommand) -> None:
        self._command = command  # which gets its output when it runs
        words = parser.add_subparsers(dest="suppress_word", required=True, metavar="WORD")
        listing = words.add_parser("list", help="List them, the oldest first.")
        listing.add_argument("--account", default="")
        listing.set_defaults(run=self._list)
        adding = words.add_parser("add", help="Send no more mail of an account to an address.")
        adding.add_argument("--reason", default=REASON)
        adding.set_defaults(run=self._add)
        removing = words.add_parser("remove", help="Send mail of an account to an address again.")
        removing.set_defaults(run=self._remove)
        looking = words.add_parser("lookup", help="Show what holds for an address; exit 1 if nothing does.")
        looking.add_argument("--account", default="")
        looking.set_defaults(run=self._lookup)
        for word in (adding, removing):
            word.add_argument("name", metavar="ACCOUNT")
        for word in (adding, removing, looking):
            word.add_argument("address", metavar="ADDRESS")
        for word in (listing, adding, removing, looking):
            word.add_argument("--json", action="store_true", help="for programs")

    def _list(self, options: Mapping[str, Any]) -> None:
        self._print(suppressions.of_account(_account(options["account"])), options)

    def _add(self, options: Mapping[str, Any]) -> None:
        account = find_account(options["name"])
        added = suppressions.add(account, options["address"], reason=options["reason"])
        self._said(options, f"{added.original_address} added, mail of {account} is not sent to it any more")

    def _remove(self, options: Mapping[str, Any]) -> None:
        account = find_account(options["name"])
        suppressions.remove(account, options["address"])
        self._said(options, f"{options['address']} removed; what failed because of it stays failed")

    def _lookup(self, options: Mapping[str, Any]) -> None:
        found = suppressions.lookup(options["address"], _account(options["account"]))
        self._print(found, options)
        if not found:
            raise CommandError(f"not on suppression list: {options['address']}")

    def _said(self, options: Mapping[str, Any], text: str) -> None:
        self._command.stdout.write(json.dumps({"affected": 1}) if options["json"] else text)

    def _print(self, entries: Iterable[Suppression], options: Mapping[str, Any]) -> None:
        if options["json"]:
            self._command.stdout.write(json.dumps([_to_json(entry) for entry in entries], indent=2))
            return
        for entry in entries:
            how = "by hand" if entry.manual else "by itself"
            self._command.stdout.write(
                f"{entry.account.name}: {entry.original_address} ({entry.base_address}), "
                f"{entry.created:%Y-%m-%d %H:%M}, {how}: {entry.reason}"
            )


def _account(name: str) -> Account | None:
    return find_account(name) if name else None


def _to_json(entry: Suppression) -> dict[str, Any]:
    return {
        "id": entry.pk,
        "created": time_text(entry.created),
        "account": entry.account.name,
        "base_address": entry.base_address,
        "original_address": entry.original_address,
        "manual": entry.manual,
        "reason": entry.reason,
    }
