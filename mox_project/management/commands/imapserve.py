"""``mox imapserve ADDRESS``: an IMAP session on standard input and output, logged in already."""

from __future__ import annotations

import argparse
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from accounts.addresses import resolve_login
from mox_project import imapserve


class Command(BaseCommand):
    help = (
        "Speak IMAP on standard input and output, logged in (PREAUTH) to the account of an address. For mail programs "
        "that reach their server through a tunnel: ssh mail.example.org mox imapserve me@example.org. It works on the "
        "data of a server that may be running, so it has to run as the server's user."
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("address", help="localpart@domain")

    def handle(self, *args: Any, **options: Any) -> None:
        address = resolve_login(options["address"])
        if address is None:
            raise CommandError(f"unknown address {options['address']}: mox config account addresses lists an account's")
        if address.account.login_disabled:
            raise CommandError(f"login disabled: {address.account.login_disabled}")
        imapserve.run(address.account_id, str(address))
