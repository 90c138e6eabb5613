"""``queue``: looking at what waits to be sent, and changing it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Final

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts.accounts import ConfigurationError
from accounts.models import Account
from mailqueue import conditions, holds, limits, operations
from mailqueue.conditions import BadFilter, Changed
from mailqueue.management.suppressing import Suppressing
from mailqueue.management.webhooks import Webhooks
from mailqueue.models import HoldRule, OutgoingCount, QueueMessage, RetiredMessage
from mailqueue.operations import Filter
from mailqueue.suppressions import SuppressionError
from protocols.names import BadAddress
from store.db import write_tx

FILTER_HELP: Final = """\
Conditions (all that are given must hold):
  --ids 12,15            these messages
  --account NAME         sent by this account
  --from TEXT, --to TEXT text in the address; @shop.example is a whole domain
  --submitted "<1h"      submitted before now plus 1h; ">-30m": after half an hour ago
  --transport NAME       with this transport set; "" for none
  -n N                   at most N messages
"""

# Options that become conditions, and the condition where its name differs.
_CONDITIONS: Final = {"ids": "ids", "account": "account", "sender": "from", "to": "to", "submitted": "submitted"}
_QUEUED: Final = {**_CONDITIONS, "transport": "transport", "hold": "hold", "nextattempt": "next_attempt", "n": "max"}
_RETIRED: Final = {**_CONDITIONS, "transport": "transport", "lastactivity": "last_activity", "n": "max"}
_REQUIRE_TLS: Final = {"yes": True, "no": False, "default": None}
_SORTS: Final = {"nextattempt": "next_attempt", "queued": "queued", "lastactivity": "last_activity"}


class Command(BaseCommand):
    help = "Look at the queue of outgoing messages, and hold, schedule, re-route, fail or drop what is in it."

    def add_arguments(self, parser: CommandParser) -> None:
        words = parser.add_subparsers(dest="word", required=True, metavar="WORD")

        def word(name: str, run: Callable[[Mapping[str, Any]], None], text: str, *, changes: bool) -> CommandParser:
            added = words.add_parser(
                name,
                help=text,
                description=text,
                epilog=FILTER_HELP,
                formatter_class=argparse.RawDescriptionHelpFormatter,
            )
            added.set_defaults(run=run)
            _add_conditions(added, changes=changes)
            return added

        listing = word("list", self._list, "List messages, those that are due first at the end.", changes=False)
        _add_sorting(listing, "nextattempt")
        word("kick", self._kick, "Try messages now; that counts as an attempt like any other.", changes=True)
        scheduling = word(
            "schedule", self._schedule, "Have the next attempt later, or with --now from now.", changes=True
        )
        scheduling.add_argument("duration", metavar="DURATION", help="such as 30m or 1h30m; may be negative")
        scheduling.add_argument("--now", action="store_true", help="from now, not from when it was planned")
        word("hold", self._hold, "Make no attempts for messages until they are let go.", changes=True)
        word("unhold", self._unhold, "Let messages go that are on hold.", changes=True)
        moving = word("transport", self._transport, "Have messages go over a transport.", changes=True)
        moving.add_argument("name", metavar="NAME", help='"" for as the routes say')
        requiring = word(
            "requiretls", self._require_tls, "Demand TLS on the whole way (REQUIRETLS), or not.", changes=True
        )
        requiring.add_argument("value", choices=sorted(_REQUIRE_TLS))
        word("fail", self._fail, "Give up on messages, and tell their senders.", changes=True)
        word("drop", self._drop, "Give up on messages, and tell nobody.", changes=True)
        dumping = words.add_parser("dump", help="Print a message as it will be sent.")
        dumping.add_argument("id", type=int)
        dumping.set_defaults(run=self._dump)
        self._add_rules(words.add_parser("holdrules", help="Rules that put new messages on hold."))
        self._add_retired(words.add_parser("retired", help="Messages that left the queue, delivered or not."))
        Suppressing(words.add_parser("suppress", help="Addresses that mail is not sent to any more."), self)
        webhook = words.add_parser("webhook", help="Calls that tell programs what became of mail.")
        Webhooks(webhook, self)
        recounting = words.add_parser("recount", help="Count anew what the limits on outgoing mail go by.")
        recounting.set_defaults(run=self._recount)

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            options["run"](options)
        except (BadFilter, BadAddress, SuppressionError, ConfigurationError) as exc:
            raise CommandError(str(exc)) from exc

    # Looking.

    def _list(self, options: Mapping[str, Any]) -> None:
        wanted = _filter(options, _QUEUED)
        self._print(wanted.queued(), wanted, options)

    def _list_retired(self, options: Mapping[str, Any]) -> None:
        wanted = _filter(options, _RETIRED, success={"success": "true", "failure": "false"}.get(options["result"], ""))
        self._print(wanted.retired(), wanted, options)

    def _print(self, query: Any, wanted: Filter, options: Mapping[str, Any]) -> None:
        found = conditions.page(
            query, _SORTS[options["sort"]], ascending=options["asc"], size=wanted.max or conditions.PAGE
        )
        histories = operations.histories(found)
        if options["json"]:
            self.stdout.write(json.dumps([operations.to_json(m, histories[m.pk]) for m in found], indent=2))
            return
        if not found:
            self.stderr.write("no messages")
        for message in found:
            self.stdout.write(_line(message))
            if histories[message.pk]:
                self.stdout.write(f"    last attempt: {histories[message.pk][-1].error or 'delivered'}")

    def _dump(self, options: Mapping[str, Any]) -> None:
        try:
            for block in operations.content(options["id"]):
                sys.stdout.buffer.write(block)
        except QueueMessage.DoesNotExist as exc:
            raise CommandError(f"no message {options['id']} in the queue") from exc

    def _print_retired(self, options: Mapping[str, Any]) -> None:
        message = RetiredMessage.objects.filter(pk=options["id"]).first()
        if message is None:
            raise CommandError(f"no retired message {options['id']}")
        history = operations.histories([message])[message.pk]
        self.stdout.write(json.dumps(operations.to_json(message, history), indent=2))

    # Changing.

    def _kick(self, options: Mapping[str, Any]) -> None:
        self._changed(operations.schedule(_chosen(options), timedelta(0), from_now=True), options)

    def _schedule(self, options: Mapping[str, Any]) -> None:
        wait = conditions.wait("duration", options["duration"])
        self._changed(operations.schedule(_chosen(options), wait, from_now=options["now"]), options)

    def _hold(self, options: Mapping[str, Any]) -> None:
        self._changed(operations.set_hold(_chosen(options), hold=True), options)

    def _unhold(self, options: Mapping[str, Any]) -> None:
        self._changed(operations.set_hold(_chosen(options), hold=False), options)

    def _transport(self, options: Mapping[str, Any]) -> None:
        self._changed(operations.set_transport(_chosen(options), options["name"]), options)

    def _require_tls(self, options: Mapping[str, Any]) -> None:
        self._changed(operations.set_require_tls(_chosen(options), _REQUIRE_TLS[options["value"]]), options)

    def _fail(self, options: Mapping[str, Any]) -> None:
        self._changed(operations.fail(_chosen(options)), options)

    def _drop(self, options: Mapping[str, Any]) -> None:
        self._changed(operations.drop(_chosen(options)), options)

    def _changed(self, changed: Changed, options: Mapping[str, Any]) -> None:
        if options["json"]:
            self.stdout.write(json.dumps({"affected": changed.affected, "busy": list(changed.busy)}))
            return
        self.stdout.write(f"{changed.affected} messages changed")
        if changed.busy:
            self.stdout.write(f"being delivered right now, not changed: {', '.join(map(str, changed.busy))}")

    # Hold rules and retired messages.

    def _add_rules(self, parser: Any) -> None:
        words = parser.add_subparsers(dest="rule_word", required=True, metavar="WORD")
        listing = words.add_parser("list", help="List the rules.")
        listing.add_argument("--json", action="store_true")
        listing.set_defaults(run=self._list_rules)
        adding = words.add_parser(
            "add", help="Hold new and queued messages that match all that is given; without any, the whole queue."
        )
        adding.add_argument("--account", default="")
        adding.add_argument("--senderdom", default="")
        adding.add_argument("--recipientdom", default="")
        adding.set_defaults(run=self._add_rule)
        removing = words.add_parser("remove", help="Remove a rule; what it held stays on hold.")
        removing.add_argument("id", type=int)
        for word in (adding, removing):
            word.add_argument("--json", action="store_true", help="for programs")
        removing.set_defaults(run=self._remove_rule)

    def _list_rules(self, options: Mapping[str, Any]) -> None:
        rules = HoldRule.objects.order_by("pk").select_related("account")
        if options["json"]:
            values = [
                {
                    "id": rule.pk,
                    "account": rule.account.name if rule.account is not None else "",
                    "sender_domain": rule.sender_domain,
                    "recipient_domain": rule.recipient_domain,
                }
                for rule in rules
            ]
            self.stdout.write(json.dumps(values, indent=2))
            return
        for rule in rules:
            self.stdout.write(f"{rule.pk}: {rule}")

    def _add_rule(self, options: Mapping[str, Any]) -> None:
        account = None
        if options["account"]:
            account = Account.objects.filter(name=options["account"]).first()
            if account is None:
                raise CommandError(f"no account {options['account']!r}")
        rule = HoldRule(account=account, sender_domain=options["senderdom"], recipient_domain=options["recipientdom"])
        try:
            held = holds.add_rule(rule)
        except ValidationError as exc:
            raise CommandError("; ".join(exc.messages)) from exc
        if options["json"]:
            self.stdout.write(json.dumps({"id": rule.pk, "affected": held}))
            return
        self.stdout.write(f"rule {rule.pk} added, {held} queued messages put on hold")

    def _remove_rule(self, options: Mapping[str, Any]) -> None:
        if not holds.remove_rule(options["id"]):
            raise CommandError(f"no hold rule {options['id']}")
        if options["json"]:
            self.stdout.write(json.dumps({"affected": 1}))
            return
        self.stdout.write(f"rule {options['id']} removed; what it held stays on hold (see: queue unhold)")

    def _recount(self, options: Mapping[str, Any]) -> None:
        accounts = list(OutgoingCount.objects.values_list("account_id", flat=True))
        for account_id in accounts:
            with write_tx(account_id):
                limits.recount(account_id)
        self.stdout.write(f"counters of {len(accounts)} accounts are right")

    def _add_retired(self, parser: Any) -> None:
        words = parser.add_subparsers(dest="retired_word", required=True, metavar="WORD")
        listing = words.add_parser("list", help="List retired messages, the latest first.")
        _add_common_conditions(listing)
        listing.add_argument("--lastactivity", default="", metavar="<1h")
        listing.add_argument("--result", choices=("success", "failure"))
        _add_sorting(listing, "lastactivity")
        listing.set_defaults(run=self._list_retired)
        printing = words.add_parser("print", help="Print a retired message with its attempts as JSON.")
        printing.add_argument("id", type=int)
        printing.set_defaults(run=self._print_retired)


def _add_conditions(parser: Any, *, changes: bool) -> None:
    _add_common_conditions(parser)
    parser.add_argument("--hold", default="", choices=("true", "false"))
    parser.add_argument("--nextattempt", default="", metavar="<1h")
    if changes:
        parser.add_argument("--all", action="store_true", help="needed where no condition is given")


def _add_common_conditions(parser: Any) -> None:
    parser.add_argument("--ids", default="")
    parser.add_argument("--account", default="")
    parser.add_argument("--from", default="", dest="sender")
    parser.add_argument("--to", default="")
    parser.add_argument("--submitted", default="", metavar="<1h")
    parser.add_argument("--transport", default=None)
    parser.add_argument("-n", default="")
    parser.add_argument("--json", action="store_true", help="for programs")


def _add_sorting(parser: Any, default: str) -> None:
    parser.add_argument("--sort", choices=(default, "queued"), default=default)
    parser.add_argument("--asc", action="store_true", help="the earliest first")


def _filter(options: Mapping[str, Any], conditions: Mapping[str, str], **more: str) -> Filter:
    """Raises BadFilter."""
    values = {condition: options[name] for name, condition in conditions.items() if options.get(name) is not None}
    return Filter.parse({**values, **more})


def _chosen(options: Mapping[str, Any]) -> Filter:
    """The messages to change. Raises BadFilter, CommandError where nothing says which."""
    wanted = _filter(options, _QUEUED)
    if wanted.is_empty and not options["all"]:
        raise CommandError("say which messages by a condition, or --all")
    return wanted


def _line(message: QueueMessage | RetiredMessage) -> str:
    if isinstance(message, RetiredMessage):
        state = "delivered" if message.success else "failed"
    else:
        held = ", on hold" if message.hold else ""
        state = f"{message.state}{held}, next attempt {message.next_attempt:%Y-%m-%d %H:%M:%S}"
    return f"{message.pk}: {message.sender or '<>'} to {message.recipient}, {message.attempts} attempts, {state}"
