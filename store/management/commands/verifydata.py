"""``manage.py verifydata``: is everything that is stored there, and whole?"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from store import verify


class Command(BaseCommand):
    help = (
        "Check all that is stored: the database, content and its files, every account, secrets. Each finding names "
        "what it is about, and the command that mends it where there is one. Runs beside a live server, and changes "
        "nothing without --fix. Exit 1 if anything is wrong."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "directory", nargs="?", help="a data directory, of a backup say; the running one if left out"
        )
        parser.add_argument("--fix", action="store_true", help="move content files that belong to nothing away")
        parser.add_argument("--skip-size-check", action="store_true", help="do not look at content files")
        parser.add_argument("--content", action="store_true", help="read all content, and compare its SHA-256")
        parser.add_argument("--json", action="store_true", help="for programs")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["directory"]:
            self._elsewhere(options["directory"])
        if options["fix"]:
            for name in verify.move_unreferenced():
                self.stderr.write(f"content file {name} moved to {verify.MOVED}/")
        found = []
        for line in verify.findings(sizes=not options["skip_size_check"], hashes=options["content"]):
            found.append(line)
            if not options["json"]:
                self.stdout.write(line)
        if options["json"]:
            self.stdout.write(json.dumps({"findings": found}))
        if found:
            raise CommandError(f"{len(found)} problems found")
        if not options["json"]:
            self.stdout.write("everything is consistent")

    def _elsewhere(self, directory: str) -> None:
        """Run again on another data directory: which one it is, settings say, and they are read once."""
        path = Path(directory).resolve()
        if path == Path(settings.MOX.data_dir).resolve():
            return
        if not (path / "mox.sqlite3").exists():
            raise CommandError(f"{path} is no data directory with a database: name the one that holds mox.sqlite3")
        words = [word for word in sys.argv if word != directory]
        os.execve(sys.executable, [sys.executable, *words], {**os.environ, "MOX_DATA_DIR": str(path)})  # noqa: S606 # us
