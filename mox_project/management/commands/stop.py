"""``manage.py stop``."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from mox_project import control


class Command(BaseCommand):
    help = (
        "Stop the running server, and wait until it has ended. Clients are told, and have 3 seconds to finish; a "
        "message whose last byte was sent to another server has 30 seconds to be answered, so that it isn't sent twice."
    )
    requires_system_checks = []

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            control.stop(settings.MOX.run_dir)
        except control.NotRunning as exc:
            raise CommandError(str(exc)) from exc
        except TimeoutError as exc:
            raise CommandError(f"the server has not ended within {control.STOP_TIMEOUT:.0f} s, see its log") from exc
