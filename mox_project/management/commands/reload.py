"""``manage.py reload``."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from mox_project import control


class Command(BaseCommand):
    help = (
        "Have the running server look at its log levels (MOX_LOG_LEVEL in mox.env, and the settings) and at its "
        "certificates anew. Everything else that is changed in the database is noticed without this."
    )
    requires_system_checks = []

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            control.reload(settings.MOX.run_dir)
        except control.NotRunning as exc:
            raise CommandError(str(exc)) from exc
