"""``manage.py setadminpassword [USER]``."""

from __future__ import annotations

import argparse
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from accounts import admins, passwordinput
from accounts.admins import BadAdminName
from accounts.passwords import PasswordRejected


class Command(BaseCommand):
    help = (
        "Set the password for the admin pages. It is read from standard input, on a terminal without showing it. "
        "A user that does not exist yet is made; sessions of the user in browsers end."
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("user", nargs="?", default=admins.DEFAULT_NAME, help="(default: %(default)s)")

    def handle(self, *args: Any, **options: Any) -> None:
        user = options["user"]
        try:
            is_new = admins.set_admin_password(user, passwordinput.read_new())
        except (BadAdminName, PasswordRejected) as exc:
            raise CommandError(str(exc)) from exc
        self.stdout.write(f"admin user {user} made" if is_new else f"password of admin user {user} set")
