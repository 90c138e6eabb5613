"""``manage.py serve``: the mail server."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from mox_project import child, serve, sockets, supervisor
from mox_project.problem import EnvironmentProblem
from mox_project.serve import ALL_KINDS, Kind
from mox_project.sockets import BindError


class Command(BaseCommand):
    help = (
        "Run the mail server: web, mail, workers for delivery, webhooks and maintenance, and the clock. "
        "Started as root, it opens its ports and goes on as the user that MOX_USER names. SIGTERM or mox stop ends it, "
        "SIGHUP or mox reload has it look at log levels and certificates anew."
    )
    requires_system_checks = []

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--only",
            metavar="KINDS",
            type=serve.parse_kinds,
            default=ALL_KINDS,
            help=f"run these processes only, where several nodes share the work: of {', '.join(Kind)}, with commas",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        environment = settings.MOX
        kinds: frozenset[Kind] = options["only"]
        os.umask(serve.UMASK)
        try:
            # Held, like the sockets, by this process and its children until the last of them has ended.
            claimed = supervisor.lock(environment.run_dir)
            serve.prepare_directories(environment)
            plan = serve.Plan.loads(child.in_child(lambda: _examined(kinds)))
            inherited = sockets.inherited_sockets(environment.sockets)
            opened = sockets.open_sockets(plan.bindings, inherited)
            status = serve.run(
                environment,
                opened,
                plan.levels,
                lambda: None,
                kinds=kinds,
                delivery_stop_timeout=serve.DELIVERY_STOP_TIMEOUT,
            )
        except (EnvironmentProblem, BindError, supervisor.AlreadyRunning, ChildProcessError) as exc:
            raise CommandError(str(exc)) from exc
        claimed.close()
        sys.exit(status)


def _examined(kinds: frozenset[Kind]) -> str:
    """In a child, since it opens database connections."""
    plan = serve.examined(kinds)
    serve.report_problems(plan.levels)
    return plan.dumps()
