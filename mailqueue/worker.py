"""What the delivery tasks of one process share: the drains that run, the heartbeat of their leases, and the journal.

worker = Worker.current()
worker.deliver(lease)          # blocks until the destination is drained
"""

from __future__ import annotations

import logging
import threading
import uuid
from pathlib import Path
from typing import Final

from django.conf import settings
from django.db import DatabaseError

from server.db import DatabaseBusy
from store.pool import Threads
from store.writer import GroupWriter

from . import leases, recovery, wakeup
from .direct import Network
from .drain import Drain
from .journal import Journal
from .leases import Lease, LostLease
from .schedule import Schedule

log = logging.getLogger(__name__)

HEARTBEAT: Final = 30.0  # seconds between renewals: a third of a lease


class Worker:
    """One in each process; made at the first use, after the fork."""

    _instance: Worker | None = None
    _instance_lock = threading.Lock()

    def __init__(self, owner: str, data_dir: Path, slots: int, network: Network) -> None:
        self.owner = owner
        self._journal = Journal(data_dir)
        self._database = Threads(slots, "queue-database")
        self._writer = GroupWriter()
        self._network = network
        self._drains: dict[uuid.UUID, Drain] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    @classmethod
    def current(cls) -> Worker:
        with cls._instance_lock:
            if cls._instance is None:
                environment = settings.MOX
                owner = f"{environment.node} {environment.data_dir}"
                cls._instance = cls(owner, environment.data_dir, environment.queue_max_concurrent, Network.of_server())
            return cls._instance

    def begin(self) -> None:
        """Take over from a predecessor that was killed, and keep leases alive from now on."""
        recovery.begin(self.owner, self._journal)
        threading.Thread(target=self._beat, name="queue-heartbeat", daemon=True).start()
        wakeup.now()

    def deliver(self, lease: Lease) -> None:
        """Drain a destination while its lease lasts. Harmless for a lease that is not, or no longer, to be had."""
        if self._stopped.is_set():
            leases.release(lease)
            return
        try:
            group = self._writer.submit([], lambda _: leases.start(lease, self.owner, Schedule.of_server())).result()
        except LostLease as exc:
            log.info("task came too late", extra={"destination": lease.destination, "err": str(exc)})
            return
        drain = Drain(lease, self._journal, self._database, self._writer, self._network)
        with self._lock:
            self._drains[lease.token] = drain
        try:
            if self._stopped.is_set():
                drain.stop()
            drain.run(group)
        finally:
            with self._lock:
                del self._drains[lease.token]
        more = self._writer.submit([], lambda _: leases.release(lease)).result()
        if more and not self._stopped.is_set():
            wakeup.now()

    def stop(self) -> None:
        """Claim nothing more; deliveries end, at once where the end of the data was not sent."""
        self._stopped.set()
        with self._lock:
            for drain in self._drains.values():
                drain.stop()

    def close(self) -> None:
        """End its threads, whose connections to the database end with them; nothing is being delivered any more."""
        self._stopped.set()
        self._database.close()
        self._writer.close()

    def _beat(self) -> None:
        while not self._stopped.wait(HEARTBEAT):
            with self._lock:
                drains = dict(self._drains)
            try:
                held = leases.renew(drains)
            except (DatabaseError, DatabaseBusy) as exc:
                log.warning("leases are not renewed", extra={"err": str(exc)})
                continue
            for token, drain in drains.items():
                if token not in held:
                    log.warning("lost lease", extra={"destination": drain.lease.destination})
                    drain.stop()
