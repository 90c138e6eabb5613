"""Whether the queue crawls: many messages, many destinations, some of them slow or dead.

    python -m bench.queue claims      # what claiming and listing cost with 100,000 messages, in ms
    python -m bench.queue drain       # 20,000 due messages to 50 destinations through a localserve

``claims`` takes a PostgreSQL database from MOX_DATABASE_URL. ``drain`` ends when all has arrived that is for a fast
destination, and says what was busy until then: a queue that crawls leaves the processors idle.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from . import procstat, yardsticks
from .sink import Sink

IP = "127.0.0.35"
PORT, SLOW_PORT, DEAD_PORT = 2527, 2528, 2529
DESTINATIONS, SLOW, DEAD = 50, 5, 3
SLOW_SECONDS = 0.2  # from the end of a message to the reply
LIMIT_MS = 50.0
TIMEOUT = 170.0
CONTENT = b"From: <mox@localhost>\r\nSubject: bench\r\n\r\n" + b"A line of a message of four kilobytes.\r\n" * 100


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["claims", "drain"])
    parser.add_argument("-n", "--count", type=int, default=0)
    args = parser.parse_args()
    return claims(args.count or 100_000) if args.what == "claims" else drain(args.count or 20_000)


def claims(count: int) -> int:
    """Time what dispatcher, worker and admin do in a full queue; 1 if something takes too long."""
    with tempfile.TemporaryDirectory(prefix="mox-bench-") as parent:
        _use_django(Path(parent) / "d", set_up=True)
        from django.db import connection

        from mailqueue import conditions, leases, recovery
        from mailqueue.models import QueueDestination, QueueMessage
        from mailqueue.schedule import Schedule
        from mailqueue.steps import Step
        from store.db import write_tx

        def claim() -> list[leases.Lease]:
            QueueDestination.objects.all().delete()
            return leases.claim_due()

        def step(lease: leases.Lease) -> None:
            with write_tx() as tx:
                assert Step(lease, Schedule.of_server(), claim=True, after=0).write(tx) is not None

        def page() -> None:
            conditions.page(QueueMessage.objects.all(), "next_attempt", ascending=True)

        missed = False
        for destinations in (1, 1000, 10_000):
            _fill(count, lambda number, of=destinations: {"rcpt_domain": f"d{number % of}.example"})
            figures = {"claim destinations": _milliseconds(claim)}
            lease = claim()[0]
            with write_tx():
                leases.start(lease, "bench", Schedule.of_server())
            figures["claim a group"] = _milliseconds(lambda: step(lease))  # noqa: B023 # called in this round
            figures["look for expired leases"] = _milliseconds(recovery.recover_expired)
            figures["a page of the list"] = _milliseconds(page)
            for name, took in figures.items():
                verdict = "ok" if took <= LIMIT_MS else "MISSED"
                missed |= took > LIMIT_MS
                print(f"{connection.vendor}, {count} to {destinations} domains: {name:25} {took:8.2f} ms   {verdict}")
            QueueMessage.objects.all().delete()
        return int(missed)


def drain(count: int) -> int:
    """Deliver to sinks, and tell the rate and what was busy; 1 if messages are missing."""
    hosts = [f"127.0.50.{number + 1}" for number in range(DESTINATIONS)]
    ports = dict.fromkeys(hosts, PORT)
    ports.update(dict.fromkeys(hosts[3 : 3 + SLOW], SLOW_PORT))
    ports.update(dict.fromkeys(hosts[3 + SLOW : 3 + SLOW + DEAD], DEAD_PORT))
    fast, slow = Sink("0.0.0.0", PORT), Sink("0.0.0.0", SLOW_PORT, delay=SLOW_SECONDS)
    dead = Sink("0.0.0.0", DEAD_PORT, held=True)  # takes connections, and says nothing
    for sink in (fast, slow, dead):
        sink.start()
    with yardsticks.localserve(IP) as (target, directory):
        _use_django(directory)
        from accounts.models import Transport
        from mailqueue.models import QueueMessage

        for host, port in ports.items():
            Transport.objects.create(name=_name(host), kind="smtp", host=host, port=port, no_starttls=True)
        _fill(count, lambda number: _to(hosts[number % DESTINATIONS]), hold=True)
        expected = sum(1 for number in range(count) if ports[hosts[number % DESTINATIONS]] == PORT)
        worker = int((directory / "run" / "worker-delivery.pid").read_text())
        before = [procstat.cpu_seconds(pids) for pids in ([worker], target.pids)]
        sinks_before = [procstat.cpu_seconds([sink.pid]) for sink in (fast, slow)]
        began = time.monotonic()
        QueueMessage.objects.update(hold=False)
        while fast.count.value < expected and time.monotonic() < began + TIMEOUT:
            time.sleep(0.1)
        took = time.monotonic() - began
        busy = [procstat.cpu_seconds(pids) for pids in ([worker], target.pids)]
        sinks = [procstat.cpu_seconds([sink.pid]) for sink in (fast, slow)]
        used = busy[0] - before[0]
        total, took_by_sinks = busy[1] - before[1], sum(sinks) - sum(sinks_before)
        print(f"{fast.count.value} of {expected} messages to {DESTINATIONS - SLOW - DEAD} fast destinations")
        print(f"  {fast.count.value / took:.0f}/s in {took:.1f} s; {slow.count.value} to {SLOW} slow ones meanwhile")
        print(f"  of a processor: worker {used / took:.0%}, all of the server {total / took:.0%}")
        print(f"  the sinks {took_by_sinks / took:.0%}; the worker {used / fast.count.value * 1000:.2f} ms a message")
    for sink in (fast, slow, dead):
        sink.stop()
    return int(fast.count.value < expected)


def _use_django(directory: Path, *, set_up: bool = False) -> None:
    sys.path.insert(0, str(yardsticks.PROJECT))
    os.environ.update(DJANGO_SETTINGS_MODULE="mox_project.settings", MOX_DATA_DIR=str(directory))
    from mox_project import localserve

    if set_up:
        localserve.claim(directory)
    import django

    django.setup()
    if set_up:
        localserve.set_up(directory, IP)


def _fill(count: int, recipient: Callable[[int], dict[str, str]], *, hold: bool = False) -> None:
    """Queue so many small messages, all due."""
    from accounts.models import Account
    from mailqueue.models import QueueMessage
    from server import db
    from store import blobs

    account = Account.objects.get()
    now = datetime.now(UTC) - timedelta(hours=1)
    for start in range(0, count, 5000):
        rows = []
        with db.write():
            blob_id = blobs.insert(blobs.prepare(CONTENT), is_searched=False)
            for number in range(start, min(start + 5000, count)):
                to = recipient(number)
                rows.append(
                    QueueMessage(
                        queued=now,
                        next_attempt=now + timedelta(milliseconds=number),
                        hold=hold,
                        account=account,
                        account_name=account.name,
                        sender_localpart="mox",
                        sender_domain="localhost",
                        rcpt_localpart=f"user{number}",
                        rcpt_domain=to["rcpt_domain"],
                        rcpt_domain_ascii=to["rcpt_domain"],
                        transport=to.get("transport", ""),
                        destination=to.get("destination", to["rcpt_domain"]),
                        size=len(CONTENT),
                        message_id=f"<{number}@localhost>",
                        blob_id=blob_id,
                        prefix=b"Received: from localhost by localhost; Tue, 3 Mar 2026 09:12:44 +0000\r\n",
                    )
                )
            QueueMessage.objects.bulk_create(rows, batch_size=500)


def _to(host: str) -> dict[str, str]:
    return {"rcpt_domain": f"{_name(host)}.example", "transport": _name(host), "destination": host}


def _name(host: str) -> str:
    return f"d{host.rpartition('.')[2]}"


def _milliseconds(function: Callable[[], object], times: int = 9) -> float:
    """The median."""
    took = []
    for _ in range(times):
        began = time.perf_counter()
        function()
        took.append((time.perf_counter() - began) * 1000)
    return statistics.median(took)


if __name__ == "__main__":
    sys.exit(main())
