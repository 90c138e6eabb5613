"""``manage.py store check [ACCOUNT]``: is everything that is stored consistent?"""

from __future__ import annotations

import argparse
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from accounts.models import Account
from store import checks


class Command(BaseCommand):
    help = "Checks of the message store. Runs beside a live server, and changes nothing."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        check = actions.add_parser("check", help="print every inconsistency of one account, or of all; exit 1 if any")
        check.add_argument("account", nargs="?", help="name of the account; all of them when left out")

    def handle(self, *args: Any, **options: Any) -> None:
        accounts = Account.objects.order_by("name")
        if options["account"]:
            accounts = accounts.filter(name=options["account"])
            if not accounts.exists():
                raise CommandError(f"account {options['account']} does not exist: see the names in the account list")
        problems = [problem for account in accounts for problem in checks.check_account(account)]
        for problem in problems:
            self.stdout.write(problem)
        if problems:
            raise CommandError(f"{len(problems)} problems found")
        self.stdout.write(f"{accounts.count()} accounts are consistent")
