"""``manage.py status``: the processes of the running server, the queue, the certificates."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db.models import Count, Q

from mailqueue.models import QueueMessage, State
from mox_project import control
from server import db, tls
from server.tls import CertificateInfo


@dataclass(frozen=True, slots=True)
class QueueCounts:
    """Messages in the queue, one for each recipient."""

    total: int
    due: int
    hold: int
    delivering: int


class Command(BaseCommand):
    help = (
        "Show the processes of the running server, how much waits in the queue, and until when certificates hold. "
        "Exits with 1 if no server runs, or if one of its processes does not."
    )
    requires_system_checks = []

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="for programs")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            status = control.status(settings.MOX.run_dir)
        except control.NotRunning as exc:
            raise CommandError(str(exc)) from exc
        queue, certificates = _queue_counts(), tls.certificates()
        if options["json"]:
            self.stdout.write(json.dumps(_as_json(status, queue, certificates)))
        else:
            self.stdout.write(_as_text(status, queue, certificates))
        missing = [process.name for process in status.processes if not process.is_ready]
        if missing:
            raise CommandError(f"not running: {', '.join(missing)}")


def _queue_counts() -> QueueCounts:
    waiting = Q(state=State.QUEUED, hold=False, next_attempt__lte=db.now())
    return QueueCounts(
        **QueueMessage.objects.aggregate(
            total=Count("pk"),
            due=Count("pk", filter=waiting),
            hold=Count("pk", filter=Q(hold=True)),
            delivering=Count("pk", filter=Q(state=State.DELIVERING)),
        )
    )


def _as_json(status: control.Status, queue: QueueCounts, certificates: list[CertificateInfo]) -> dict[str, Any]:
    return {
        **asdict(status),
        "queue": asdict(queue),
        "certificates": [
            {"file": str(found.file), "names": found.names, "not_after": found.not_after.isoformat()}
            for found in certificates
        ],
    }


def _as_text(status: control.Status, queue: QueueCounts, certificates: list[CertificateInfo]) -> str:
    lines = [
        f"mox {status.version}, node {status.node}, process {status.pid}, up {_duration(status.uptime)}",
        "",
        f"{'PROCESS':20} {'PID':>8} {'UP':>10} {'RESTARTS':>8}",
    ]
    for process in status.processes:
        state = "" if process.is_ready else "  not running" if not process.pid else "  starting"
        lines.append(f"{process.name:20} {process.pid:>8} {_duration(process.uptime):>10} {process.restarts:>8}{state}")
    lines += [
        "",
        f"queue: {queue.total} messages, {queue.due} due, {queue.hold} on hold, {queue.delivering} being delivered",
    ]
    now = datetime.now(UTC)
    for found in certificates:
        left = f"{(found.not_after - now).days} days left" if found.not_after > now else "EXPIRED"
        lines.append(f"certificate {found.file} for {', '.join(found.names)}: until {found.not_after:%Y-%m-%d}, {left}")
    return "\n".join(lines)


def _duration(seconds: int) -> str:
    """The two largest units: ``3d4h``, ``5m10s``."""
    parts: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, seconds = divmod(seconds, size)
        if count or (unit == "s" and not parts):
            parts.append(f"{count}{unit}")
    return "".join(parts[:2])
