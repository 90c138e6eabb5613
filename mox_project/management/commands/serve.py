"""``manage.py serve``: the mail server."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from mox_project import child, serve, sockets, supervisor, upgrade
from mox_project.problem import EnvironmentProblem
from mox_project.serve import ALL_KINDS, Kind
from mox_project.sockets import BindError
from server import tls
from server.models import Listener, ServerSettings


class Command(BaseCommand):
    help = (
        "Run the mail server: web, mail, workers for delivery, webhooks and maintenance, and the clock. "
        "Started as root, it opens its ports and goes on as the user that MOX_USER names. SIGTERM or mox stop ends it, "
        "SIGHUP or mox reload has it look at log levels and certificates anew."
    )
    requires_system_checks = []

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--dir", metavar="D", help="the data directory (default: MOX_DATA_DIR, else ./data)")
        parser.add_argument(
            "--only",
            metavar="KINDS",
            type=_kinds,
            default=ALL_KINDS,
            help=f"run these processes only, where several nodes share the work: of {', '.join(Kind)}, with commas",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        environment = settings.MOX
        kinds: frozenset[Kind] = options["only"]
        try:
            # Held, like the sockets, by this process and its children until the last of them has ended.
            claimed = supervisor.lock(environment.run_dir)
            serve.prepare_directories(environment)
            plan = serve.Plan.loads(child.in_child(_examined))
            inherited = sockets.inherited_sockets(environment.sockets)
            opened = sockets.open_sockets(serve.wanted(plan.bindings, kinds), inherited)
            if Kind.MAIL in kinds and not any(binding.is_mail for binding, _ in opened):
                raise EnvironmentProblem(
                    f"no listener has a mail service for node {environment.node}: enable one, or name this node with "
                    "MOX_NODE as the listener does"
                )
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


def _kinds(text: str) -> frozenset[Kind]:
    unknown = [word for word in text.split(",") if word not in list(Kind)]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown kind {unknown[0]!r}, use {', '.join(Kind)}")
    return frozenset(Kind(word) for word in text.split(","))


def _examined() -> str:
    """In a child, since it opens database connections: what to serve, if all is there that it takes."""
    environment = settings.MOX
    copy = upgrade.bring_up_to_date(automatic=environment.is_alone)
    if copy is not None:
        sys.stderr.write(f"the database was migrated; as it was before, it is in {copy}\n")
    if not ServerSettings.objects.exists():
        raise EnvironmentProblem(
            f"no server is set up in {environment.data_dir}: its hostname, listeners and first account are missing"
        )
    for listener in Listener.objects.filter(node__in=("*", environment.node)):
        for path in tls.missing_files(listener):
            raise EnvironmentProblem(f"listener {listener.name} has TLS, and its file {path} is missing")
    return serve.plan().dumps()
