"""``manage.py setaccountpassword ACCOUNT``."""

from __future__ import annotations

import argparse
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from accounts import passwordinput
from accounts.accounts import ConfigurationError, find_account
from accounts.passwords import PasswordRejected, set_password


class Command(BaseCommand):
    help = (
        "Set the password of an account. It is read from standard input, on a terminal without showing it. "
        "The sessions of the account in browsers end; open IMAP and SMTP connections stay."
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("account", help="name of the account, not one of its addresses")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            account = find_account(options["account"])
            set_password(account, passwordinput.read_new())
        except (ConfigurationError, PasswordRejected) as exc:
            raise CommandError(str(exc)) from exc
        self.stdout.write(f"password of account {account} set")
