"""Working on imports: from the source to visible messages, under the lease of a job."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from django.db import OperationalError, connection

from protocols.archives import ArchiveError
from server import db
from store.errors import StorageFull, StoreError
from store.models import ImportJob

from . import completion, jobs, linking
from .jobs import Lease, Stopped, Stopping
from .sources import SourceError
from .staging import Stager

log = logging.getLogger(__name__)

AT_A_TIME: Final = 2  # imports worked on in one process: a large one does not make the others wait
TRY_AGAIN: Final = timedelta(seconds=30)  # after which another worker may go on where the database or a disk failed


class _Workers:
    """Threads of their own: an import may take hours, in which the tasks of a worker go on."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self._again = False

    def start(self) -> None:
        with self._lock:
            if self._count == AT_A_TIME:
                self._again = True
                return
            self._count += 1
        threading.Thread(target=self._work, name="import", daemon=True).start()

    def _work(self) -> None:
        try:
            while True:
                try:
                    work_on_due()
                except Exception:
                    log.exception("imports are tried again when the clock says so")
                with self._lock:
                    if not self._again:
                        self._count -= 1
                        return
                    self._again = False
        finally:
            connection.close()


_workers = _Workers()


def start() -> None:
    """Have threads of this process work on all imports that wait for a worker, and return."""
    _workers.start()


def work_on_due() -> int:
    """Work on all imports that wait for a worker; returns how many it took up. What goes wrong stands in the jobs."""
    jobs.tidy()
    count = 0
    while (claimed := jobs.claim_next()) is not None:
        count += 1
        work(*claimed)
    return count


def work(job: ImportJob, lease: Lease, progress: Callable[[ImportJob], None] | None = None) -> None:
    """Bring a job to its end, unless another worker must go on with it; never raises what only concerns the job."""
    log.info("import begins", extra={"import": job.token, "account": job.account.name, "count": job.messages})
    try:
        Stager(job, lease, progress).run()
        linking.link(job, lease)
        completion.complete(job, lease)
        log.info("imported", extra={"import": job.token, "account": job.account.name, "count": job.messages})
        jobs.discard(job)
    except Stopped:
        log.info("import is aborted, or goes on elsewhere", extra={"import": job.token})
    except Stopping:
        lease.release()
        jobs.wake()
    except (db.DatabaseBusy, OperationalError, StorageFull) as exc:
        log.warning("import is tried again", extra={"import": job.token, "err": str(exc)})
        lease.release(TRY_AGAIN)
    except (StoreError, SourceError, ArchiveError) as exc:
        jobs.fail(job, lease, str(exc))
    except OSError as exc:
        jobs.fail(job, lease, f"source cannot be read: {exc.strerror or exc}")
    except Exception:
        log.exception("import failed", extra={"import": job.token})
        jobs.fail(job, lease, "internal error: see the log of the worker")
