"""``manage.py import maildir|mbox|archive|list|abort``: mail of other servers and programs, into an account."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts.accounts import ConfigurationError, find_account
from store.errors import StoreError
from store.imports import jobs, work
from store.mailboxes import canonical_name
from store.models import ImportJob

Options = Mapping[str, Any]

PROGRESS_MESSAGES: Final = 1000  # between two lines that tell how far it is


class Command(BaseCommand):
    help = (
        "Bring mail into an account, beside a running server. All of it appears at once at the end, or nothing if the "
        "import is interrupted; the same command goes on where it was. Nothing is compared with what is there: what is "
        "imported twice is there twice."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        words = parser.add_subparsers(dest="word", required=True, metavar="WORD")

        def word(name: str, run: Callable[[Options], None], summary: str) -> argparse.ArgumentParser:
            made = words.add_parser(name, help=summary, description=summary)
            made.set_defaults(run=run)
            return made

        for name, what in (("maildir", "a Maildir (a directory with new and cur)"), ("mbox", "an mbox file")):
            of_one = word(name, self._import_one, f"Add the messages of {what} to a mailbox.")
            of_one.add_argument("account", help="name of the account")
            of_one.add_argument("mailbox", help="it is made, and subscribed, if it does not exist")
            of_one.add_argument("path")
        archive = word(
            "archive",
            self._import_archive,
            "Add what is in a zip, a gzipped tar or a tar: X.mbox and Maildirs X go to the mailbox X.",
        )
        archive.add_argument("account", help="name of the account")
        archive.add_argument("path")
        archive.add_argument(
            "--skip-mailbox-prefix", default="", help="what is cut from the start of names: Takeout/Mail"
        )
        listing = word("list", self._list, "List imports of the last week.")
        listing.add_argument("account", nargs="?", help="of this account alone")
        listing.add_argument("--json", action="store_true", help="for programs")
        abort = word("abort", self._abort, "End an import that runs; nothing of it stays.")
        abort.add_argument("token", help="as the list shows it")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            options["run"](options)
        except (ConfigurationError, StoreError) as exc:
            raise CommandError(str(exc)) from exc

    def _import_one(self, options: Options) -> None:
        self._import(ImportJob.Format(options["word"]), options, mailbox=canonical_name(options["mailbox"]))

    def _import_archive(self, options: Options) -> None:
        self._import(ImportJob.Format.ARCHIVE, options, skip_mailbox_prefix=options["skip_mailbox_prefix"].strip("/"))

    def _import(self, format: ImportJob.Format, options: Options, **where: str) -> None:
        account = find_account(options["account"])
        path = Path(options["path"])
        if not path.exists():
            raise CommandError(f"{path} does not exist")
        job, lease = jobs.import_path(account.pk, format, path, **where)
        if job.position:
            self.stdout.write(f"going on after {job.messages} messages")
        try:
            work.work(job, lease, self._progress(job))
        except KeyboardInterrupt:
            jobs.abort(job.token)
            raise CommandError("import is aborted, nothing was imported") from None
        job.refresh_from_db()
        for problem in job.problems:
            self.stderr.write(problem)
        if job.problem_count > len(job.problems):
            self.stderr.write(f"{job.problem_count - len(job.problems)} more problems")
        if job.state == ImportJob.State.ABORTED:
            raise CommandError(job.error or "import was aborted, nothing was imported")
        if job.state != ImportJob.State.DONE:
            raise CommandError("import is not done: a worker goes on with it, or the same command; see mox import list")
        self.stdout.write(f"{job.messages} imported")

    def _progress(self, job: ImportJob) -> Callable[[ImportJob], None]:
        told = job.messages // PROGRESS_MESSAGES

        def tell(job: ImportJob) -> None:
            nonlocal told
            if job.messages // PROGRESS_MESSAGES > told:
                told = job.messages // PROGRESS_MESSAGES
                self.stdout.write(f"{told * PROGRESS_MESSAGES}...")
                self.stdout.flush()

        return tell

    def _list(self, options: Options) -> None:
        found = ImportJob.objects.select_related("account").order_by("pk")
        if options["account"]:
            found = found.filter(account=find_account(options["account"]))
        described = [_described(job) for job in found]
        if options["json"]:
            self.stdout.write(json.dumps(described))
            return
        for job in described:
            what = job["error"] or job["step"]
            problems = f", {job['problems']} problems" if job["problems"] else ""
            self.stdout.write(
                f"{job['token']} {job['account']} {job['state']}: {job['messages']} messages{problems}"
                f"{f': {what}' if what else ''}"
            )

    def _abort(self, options: Options) -> None:
        job = jobs.abort(options["token"])
        self.stdout.write(f"import into account {job.account.name} is aborted, nothing was imported")


def _described(job: ImportJob) -> dict[str, Any]:
    return {
        "token": job.token,
        "account": job.account.name,
        "state": job.state,
        "step": job.step,
        "messages": job.messages,
        "size": job.size,
        "problems": job.problem_count,
        "error": job.error,
        "created": job.created.isoformat(timespec="seconds"),
        "finished": job.finished.isoformat(timespec="seconds") if job.finished else None,
    }
