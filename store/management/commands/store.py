"""``manage.py store``: checks of what is stored, and repairs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts.accounts import ConfigurationError, find_account
from accounts.models import Account
from store import checks, repair, rethreading
from store.errors import StoreError

Options = Mapping[str, Any]


class Command(BaseCommand):
    help = "Check and repair what is stored. Runs beside a live server; accounts are locked meanwhile, in batches."

    def add_arguments(self, parser: CommandParser) -> None:
        words = parser.add_subparsers(dest="action", required=True, metavar="WORD")

        def word(name: str, run: Callable[[Options], None], text: str, *, all_too: bool = False) -> CommandParser:
            added: CommandParser = words.add_parser(name, help=text, description=text)
            added.set_defaults(run=run)
            added.add_argument(
                "account", nargs="?" if all_too else None, help="name; all when left out" if all_too else "name"
            )
            added.add_argument("--json", action="store_true", help="for programs")
            return added

        check = "Print every inconsistency of one account, or of all; exit 1 if any."
        word("check", self._check, check, all_too=True)
        bump = (
            "Give a mailbox, or all, a new UIDVALIDITY, so that clients read it anew: after a restore, say. Open IMAP "
            "sessions of the account end."
        )
        reassign = (
            "Number the messages of a mailbox, or of all, from 1 on in their order, with a new UIDVALIDITY: for one "
            "that has run out of UIDs. Open IMAP sessions of the account end."
        )
        for parser in (
            word("bumpuidvalidity", self._bump, bump),
            word("reassignuids", self._reassign_uids, reassign),
        ):
            parser.add_argument("mailbox", nargs="?", default="", help="name; all when left out")
        word("fixuidmeta", self._fix_uid_meta, "Have UIDNEXT and the next UIDVALIDITY above all that is used.")
        sizes = "Have sizes say what is stored, and parse content anew whose size was wrong."
        word("fixmsgsize", self._fix_sizes, sizes, all_too=True)
        parse = "Parse all content anew: structure, and what IMAP answers about it."
        word("reparse", self._reparse, parse, all_too=True)
        outdated = "Parse content anew that an earlier version parsed, or with --all, all."
        parser = word("ensureparsed", self._ensure_parsed, outdated)
        parser.add_argument("--all", action="store_true", help="all content of the account")
        recount = "Count the messages of each mailbox anew, and their sizes; prints each difference."
        word("recalculatemailboxcounts", self._recount, recount)
        word("reassignthreads", self._reassign_threads, "Put all messages into threads anew.", all_too=True)

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            options["run"](options)
        except (ConfigurationError, StoreError) as exc:
            raise CommandError(str(exc)) from exc

    def _check(self, options: Options) -> None:
        accounts = _accounts(options)
        problems = [problem for account in accounts for problem in checks.check_account(account)]
        self._lines(options, problems, f"{len(accounts)} accounts are consistent")
        if problems:
            raise CommandError(f"{len(problems)} problems found")

    def _bump(self, options: Options) -> None:
        names = repair.bump_uidvalidity(_account(options), options["mailbox"])
        self._lines(options, [f"mailbox {name}: new uidvalidity" for name in names])

    def _reassign_uids(self, options: Options) -> None:
        done = repair.reassign_uids(_account(options), options["mailbox"])
        self._lines(options, [f"mailbox {name}: {count} messages have new UIDs" for name, count in done])

    def _fix_uid_meta(self, options: Options) -> None:
        self._lines(options, repair.fix_uid_meta(_account(options)), "all is well")

    def _fix_sizes(self, options: Options) -> None:
        account_id = _account(options) if options["account"] else None
        self._lines(options, list(repair.fix_message_sizes(account_id)), "all is well")

    def _reparse(self, options: Options) -> None:
        account_id = _account(options) if options["account"] else None
        self._lines(options, [f"{repair.reparse(account_id)} contents parsed"])

    def _ensure_parsed(self, options: Options) -> None:
        done = repair.reparse(_account(options), outdated=not options["all"])
        self._lines(options, [f"{done} contents parsed"])

    def _recount(self, options: Options) -> None:
        self._lines(options, repair.recount(_account(options)), "all is well")

    def _reassign_threads(self, options: Options) -> None:
        lines = [f"{account}: {rethreading.reassign(account.pk)} messages changed" for account in _accounts(options)]
        self._lines(options, lines)

    def _lines(self, options: Options, lines: Sequence[str], otherwise: str = "") -> None:
        if options["json"]:
            self.stdout.write(json.dumps({"lines": list(lines)}))
            return
        for line in lines or ([otherwise] if otherwise else []):
            self.stdout.write(line)


def _account(options: Options) -> int:
    return find_account(options["account"]).pk


def _accounts(options: Options) -> list[Account]:
    if options["account"]:
        return [find_account(options["account"])]
    return list(Account.objects.filter(removal=None).order_by("name"))
