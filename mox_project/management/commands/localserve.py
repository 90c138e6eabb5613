"""``manage.py localserve``: a whole mail server on this machine, for trying out."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from mox_project import child, localserve, serve, sockets, supervisor
from mox_project.problem import EnvironmentProblem
from mox_project.sockets import BindError
from server import logs
from server.models import Listener


class Command(BaseCommand):
    help = "Run a mail server for trying out: no DNS, no root, no certificates; ports from 1025 on loopback."
    requires_system_checks = []

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--dir", metavar="D", help="where everything is kept (default: ~/.config/mox-localserve)")
        parser.add_argument("--ip", help="listen on this address alone; only for a new directory")
        parser.add_argument("--initonly", action="store_true", help="make the directory and exit")
        parser.add_argument("--no-pedantic", action="store_true", help="for this run, forgive common violations")
        parser.add_argument("--loglevel", choices=list(logs.LEVELS), help="how much is logged in this run")

    def handle(self, *args: Any, **options: Any) -> None:
        environment = settings.MOX
        if options["no_pedantic"]:
            settings.MOX_PEDANTIC = False
        level = options["loglevel"] or ""
        try:
            # Held, like the sockets, by this process and its children until the last of them has ended.
            claimed = supervisor.lock(environment.run_dir)
            serve.prepare_directories(environment)
            found = json.loads(child.in_child(lambda: _set_up(options["ip"], level)))
            if options["initonly"]:
                return
            plan = serve.Plan.loads(found["plan"])
            opened = sockets.open_sockets(plan.bindings, skip_unavailable_ipv6=True)
            self.stdout.write(localserve.welcome(environment.data_dir, found["ips"], is_new=found["is_new"]))
            self.stdout.flush()
            status = serve.run(environment, opened, plan.levels, self._ready, given_level=level)
        except (EnvironmentProblem, BindError, supervisor.AlreadyRunning, ChildProcessError) as exc:
            raise CommandError(str(exc)) from exc
        claimed.close()
        sys.exit(status)

    def _ready(self) -> None:
        self.stdout.write("ready")
        self.stdout.flush()


def _set_up(ip: str | None, level: str) -> str:
    """In a child, since it opens database connections: make or migrate the directory, and say what it asks for."""
    logging.getLogger("store.notify").setLevel(logging.ERROR)  # nobody listens yet, and Redis comes later
    is_new = localserve.set_up(settings.MOX.data_dir, ip)
    return json.dumps({"is_new": is_new, "ips": Listener.objects.get().ips, "plan": serve.plan(level).dumps()})
