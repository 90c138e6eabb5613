"""``ruleset``: where messages of some kind for an address are delivered."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts.accounts import ConfigurationError, find_address
from accounts.models import Address, Ruleset
from junk import editing
from junk.editing import BadRuleset, Conditions, Effects


class Command(BaseCommand):
    help = "Rulesets of an address: the first that matches a message decides in which mailbox it is put."

    def add_arguments(self, parser: CommandParser) -> None:
        words = parser.add_subparsers(dest="word", required=True, metavar="WORD")

        listing = words.add_parser("list", help="List the rulesets of an address, in their order.")
        listing.add_argument("address", metavar="ADDRESS", help="@example.org is a catchall")
        listing.add_argument("--json", action="store_true")
        listing.set_defaults(run=self._list)

        adding = words.add_parser("add", help="Add a ruleset behind the others.")
        adding.add_argument("address", metavar="ADDRESS")
        adding.add_argument("mailbox", metavar="MAILBOX", help="made when the first message comes")
        adding.add_argument("--mailfrom", default="", metavar="REGEXP", help="matches in the envelope's sender")
        adding.add_argument("--from", default="", dest="msgfrom", metavar="REGEXP", help="matches in the From address")
        adding.add_argument("--verifieddomain", default="", metavar="DOMAIN", help="SPF or DKIM vouch for it, or below")
        adding.add_argument(
            "--header",
            action="append",
            default=[],
            metavar="NAME:VALUE",
            help="two expressions in lower case that a field matches; may be given several times",
        )
        adding.add_argument("--forward", action="store_true", help="the sender forwards mail of others, as told to")
        adding.add_argument("--listallowdomain", default="", metavar="DOMAIN", help="a list whose mail is taken unseen")
        adding.add_argument(
            "--acceptrejectsto", default="", metavar="MAILBOX", help="put what would be refused as junk there instead"
        )
        adding.add_argument("--comment", default="")
        adding.set_defaults(run=self._add)

        removing = words.add_parser("rm", help="Remove a ruleset.")
        removing.add_argument("address", metavar="ADDRESS")
        removing.add_argument("number", type=int, metavar="NUMBER", help="as list shows it")
        removing.set_defaults(run=self._remove)

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            options["run"](find_address(options["address"]), options)
        except (ConfigurationError, BadRuleset) as exc:
            raise CommandError(str(exc)) from exc

    def _list(self, address: Address, options: Mapping[str, Any]) -> None:
        rulesets = list(Ruleset.objects.filter(address=address).prefetch_related("headers"))
        if options["json"]:
            self.stdout.write(json.dumps([_as_json(ruleset) for ruleset in rulesets], indent=2))
            return
        for number, ruleset in enumerate(rulesets, 1):
            told = {name: value for name, value in _as_json(ruleset).items() if value and name != "mailbox"}
            self.stdout.write(f"{number}: {ruleset.mailbox}  {json.dumps(told, ensure_ascii=False)}")

    def _add(self, address: Address, options: Mapping[str, Any]) -> None:
        headers = []
        for text in options["header"]:
            name, colon, value = text.partition(":")
            if not colon:
                raise CommandError(f'header "{text}" has no colon between the expressions for name and value')
            headers.append((name, value))
        editing.add(
            address,
            Conditions(options["mailfrom"], options["msgfrom"], options["verifieddomain"], tuple(headers)),
            options["mailbox"],
            Effects(options["forward"], options["listallowdomain"], options["acceptrejectsto"]),
            options["comment"],
        )
        self.stdout.write(f"ruleset {Ruleset.objects.filter(address=address).count()} of {address} added")

    def _remove(self, address: Address, options: Mapping[str, Any]) -> None:
        editing.remove(address, options["number"])
        self.stdout.write(f"ruleset {options['number']} of {address} removed")


def _as_json(ruleset: Ruleset) -> dict[str, Any]:
    return {
        "smtp_mail_from_regexp": ruleset.smtp_mail_from_regexp,
        "msg_from_regexp": ruleset.msg_from_regexp,
        "verified_domain": ruleset.verified_domain,
        "headers_regexp": [[header.name_regexp, header.value_regexp] for header in ruleset.headers.all()],
        "mailbox": ruleset.mailbox,
        "is_forward": ruleset.is_forward,
        "list_allow_domain": ruleset.list_allow_domain,
        "accept_rejects_to_mailbox": ruleset.accept_rejects_to_mailbox,
        "comment": ruleset.comment,
    }
