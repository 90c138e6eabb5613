"""``retrain [ACCOUNT]``: have junk filters learn all messages anew."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts.accounts import ConfigurationError, find_account
from accounts.models import Account
from junk import training


class Command(BaseCommand):
    help = "Forget what the junk filter of an account, or of all, has learnt, and learn it anew from all messages that are marked as junk or as no junk. Runs beside a live server."  # noqa: E501 # a sentence of help

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("account", nargs="?", help="name of the account; all of them when left out")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            accounts = [find_account(options["account"])] if options["account"] else Account.objects.order_by("name")
        except ConfigurationError as exc:
            raise CommandError(str(exc)) from exc
        for account in accounts:
            try:
                trained = training.retrain(account.pk)
            except training.LostLease as exc:
                raise CommandError(f"{account.name}: {exc}") from exc
            self.stdout.write(
                f"{account.name}: {trained.ham + trained.spam} messages trained, {trained.ham} ham, {trained.spam} spam"
            )
