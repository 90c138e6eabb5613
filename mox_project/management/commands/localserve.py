"""``manage.py localserve``: a whole mail server on this machine, for trying out."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from mox_project import localserve, serve, sockets, supervisor
from mox_project.problem import EnvironmentProblem
from mox_project.sockets import BindError
from server import logs, metricfiles
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
        try:
            # Held, like the sockets, by this process and its children until the last of them has ended.
            claimed = supervisor.lock(environment.run_dir)
            serve.prepare_directories(environment)
            found = json.loads(supervisor.in_child(lambda: _set_up(options["ip"], options["loglevel"])))
        except (EnvironmentProblem, supervisor.AlreadyRunning, ChildProcessError) as exc:
            raise CommandError(str(exc)) from exc
        if options["initonly"]:
            return
        try:
            opened = sockets.open_sockets(sockets.loads(found["bindings"]), skip_unavailable_ipv6=True)
        except BindError as exc:
            raise CommandError(str(exc)) from exc
        self.stdout.write(localserve.welcome(environment.data_dir, found["ips"], is_new=found["is_new"]))
        self.stdout.flush()
        logs.configure(found["log_level"], environment.log_format, own_time=environment.log_time)
        children = serve.processes(environment, opened, found["log_level"])
        status = supervisor.Supervisor(
            environment.run_dir, children, self._ready, lambda pid: metricfiles.forget(environment.metrics_dir, pid)
        ).run()
        claimed.close()
        sys.exit(status)

    def _ready(self) -> None:
        self.stdout.write("ready")
        self.stdout.flush()


def _set_up(ip: str | None, log_level: str | None) -> str:
    """In a child, since it opens database connections: make or migrate the directory, and say what it asks for."""
    logging.getLogger("store.notify").setLevel(logging.ERROR)  # nobody listens yet, and Redis comes later
    try:
        is_new = localserve.set_up(settings.MOX.data_dir, ip)
    except EnvironmentProblem as exc:
        sys.exit(f"error: {exc}")
    return json.dumps(
        {
            "is_new": is_new,
            "log_level": log_level or serve.log_level(),
            "ips": Listener.objects.get().ips,
            "bindings": sockets.dumps(sockets.bindings(settings.MOX.node)),
        }
    )
