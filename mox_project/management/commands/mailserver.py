"""``manage.py mailserver``: one mail process, without a supervisor."""

from __future__ import annotations

import logging
import os
import signal
import threading
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from mox_project import mailserver, serve, sockets
from mox_project.problem import EnvironmentProblem
from mox_project.serve import UMASK, Kind
from mox_project.sockets import BindError
from server import logs

log = logging.getLogger(__name__)


class Command(BaseCommand):
    help = (
        "Run one mail process (SMTP, submission, IMAP) in the foreground, without supervisor, workers and Redis: those "
        "run elsewhere, and MOX_BROKER_URL and MOX_CACHE_URL name the Redis. mox serve runs all that a server takes."
    )
    requires_system_checks = []

    def handle(self, *args: Any, **options: Any) -> None:
        environment = settings.MOX
        if os.geteuid() == 0:
            raise CommandError("mailserver does not give up root: run mox serve --only mail, or this as another user")
        os.umask(UMASK)
        serve.prepare_directories(environment, keep_metrics=True)
        try:
            plan = serve.examined({Kind.MAIL})
            bindings = [binding for binding in plan.bindings if binding.is_mail]
            opened = sockets.open_sockets(bindings, sockets.inherited_sockets(environment.sockets))
        except (EnvironmentProblem, BindError) as exc:
            raise CommandError(str(exc)) from exc
        logs.configure(plan.levels, environment.log_format, own_time=environment.log_time)
        signal.signal(signal.SIGHUP, lambda *_: threading.Thread(target=serve.reload_settings, daemon=True).start())
        mailserver.run(sockets.mail_sockets(opened), lambda: log.info("ready to serve"))
