"""``manage.py export maildir|mbox``: an account's mail, as files that other programs read."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts.accounts import ConfigurationError, find_account
from store import exportfiles
from store.errors import StoreError
from store.exports import Archive, Export, Format, Request


class Command(BaseCommand):
    help = (
        "Write an account's mail, as it is at one moment, beside a running server: into a new directory, or with "
        "--archive into a file or to standard output. Flags and keywords go with it. What cannot be read is left out "
        "and named, here and in errors.txt."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("format", choices=Format.values)
        parser.add_argument("destination", help="new or empty directory; with --archive a new file, or - for stdout")
        parser.add_argument("account", help="name of the account")
        parser.add_argument("mailbox", nargs="?", default="", help="this one and those below it; all when left out")
        parser.add_argument("--single", action="store_true", help="without the mailboxes below")
        parser.add_argument("--archive", choices=[a for a in Archive.values if a != Archive.NONE])

    def handle(self, *args: Any, **options: Any) -> None:
        if options["single"] and not options["mailbox"]:
            raise CommandError("--single is for one mailbox: name it")
        try:
            account = find_account(options["account"])
            archive = Archive(options["archive"] or Archive.TAR)  # a directory has the shape of an archive
            format = Format(options["format"])
            export = Export(Request(account.pk, format, archive, options["mailbox"], not options["single"]))
            self._write(export, options)
        except (ConfigurationError, StoreError) as exc:
            raise CommandError(str(exc)) from exc
        for problem in export.problems:
            self.stderr.write(problem)
        told = self.stderr if options["destination"] == "-" else self.stdout
        told.write(f"{export.count} messages exported")
        if export.problems:
            raise CommandError("not everything was exported")

    def _write(self, export: Export, options: dict[str, Any]) -> None:
        if options["archive"] and options["destination"] == "-":
            self._write_to_stdout(export)
        elif options["archive"]:
            exportfiles.to_file(export, Path(options["destination"]))
        else:
            exportfiles.to_directory(export, Path(options["destination"]))

    def _write_to_stdout(self, export: Export) -> None:
        with closing(export.blocks()) as blocks:
            try:
                for block in blocks:
                    sys.stdout.buffer.write(block)
                sys.stdout.buffer.flush()
            except BrokenPipeError:
                raise CommandError("whoever reads standard output went away") from None
