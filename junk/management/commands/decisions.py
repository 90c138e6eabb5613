"""``decisions``: why incoming messages were taken or refused."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts.accounts import ConfigurationError, find_account
from junk.models import Decision

LIMIT = 20


class Command(BaseCommand):
    help = "List what became of incoming messages, and why; the newest first. A second or two pass until one is listed."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("account", nargs="?", help="name of an account; all mail when left out")
        parser.add_argument("--nobody", action="store_true", help="only mail for addresses that do not exist")
        parser.add_argument("--refused", action="store_true", help="only what was not delivered")
        parser.add_argument("--id", metavar="ID", help="the id in parentheses of a reply, or of a Received field")
        parser.add_argument("--limit", type=int, default=LIMIT, metavar="N", help=f"default {LIMIT}")
        parser.add_argument("--json", action="store_true")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["limit"] < 1:
            raise CommandError(f"--limit {options['limit']} is not a number from 1 on")
        found = Decision.objects.order_by("-pk").select_related("account")
        if options["account"]:
            try:
                found = found.filter(account=find_account(options["account"]))
            except ConfigurationError as exc:
                raise CommandError(str(exc)) from exc
        if options["nobody"]:
            found = found.filter(account=None)
        if options["refused"]:
            found = found.exclude(result="delivered")
        if options["id"]:
            found = found.filter(received_id=options["id"].strip("() "))
        rows = found[: options["limit"]]
        if options["json"]:
            self.stdout.write(json.dumps([_as_json(row) for row in rows], indent=2, ensure_ascii=False))
            return
        for row in rows:
            self._tell(row)

    def _tell(self, row: Decision) -> None:
        reason = f", {row.reason}" if row.reason else ""
        mailbox = f" in {row.mailbox}" if row.mailbox else ""
        sender, author = row.mail_from or "<>", row.msg_from or "nobody"
        self.stdout.write(
            f"{row.received:%Y-%m-%d %H:%M:%S} {row.result}{reason}: {sender} to {row.recipient}{mailbox}"
        )
        self.stdout.write(f"  from {author}, subject {row.subject!r}, {row.size} bytes, {row.remote_ip}")
        if row.reply:
            self.stdout.write(f"  reply: {row.reply} ({row.received_id})")
        for line in row.explanation:
            self.stdout.write(f"  {line}")


def _as_json(row: Decision) -> dict[str, Any]:
    columns = (
        "recipient", "mail_from", "msg_from", "subject", "message_id", "remote_ip", "size", "result", "mailbox",
        "reason", "reply", "explanation", "received_id",
    )  # fmt: skip
    values = {name: getattr(row, name) for name in columns}
    account = row.account.name if row.account is not None else None
    return {"account": account, "received": row.received.isoformat(), **values}
