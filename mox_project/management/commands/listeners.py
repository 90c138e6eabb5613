"""``manage.py listeners``: what this node wants to listen on."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from mox_project import serve, sockets, supervisor
from mox_project.problem import EnvironmentProblem
from mox_project.serve import ALL_KINDS, Kind


class Command(BaseCommand):
    help = "List the addresses and ports that this node listens on when it serves, and what is served there."
    requires_system_checks = []

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="for programs")
        parser.add_argument(
            "--only", metavar="KINDS", type=serve.parse_kinds, default=ALL_KINDS, help="as for mox serve"
        )
        parser.add_argument(
            "--start",
            action="store_true",
            help="for mox serve as root, which asks this before it opens the ports: see that a start will succeed, and "
            "bring the database up to date first",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        kinds: frozenset[Kind] = options["only"]
        try:
            if options["start"]:
                with supervisor.lock(settings.MOX.run_dir):
                    found = serve.examined(kinds).bindings
            else:
                found = serve.wanted(sockets.bindings(settings.MOX.node), kinds)
            sockets.check(found)
        except (EnvironmentProblem, supervisor.AlreadyRunning, sockets.BindError) as exc:
            raise CommandError(str(exc)) from exc
        if options["json"]:
            self.stdout.write(json.dumps([asdict(binding) for binding in found]))
            return
        for binding in found:
            self.stdout.write(f"{binding.where:30} {binding.service}")
