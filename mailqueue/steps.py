"""What a drain writes as it goes on: results of what was sent, the end of data that goes out next, the next claim.

All of it that is due at a moment is one change, and the drains of a process commit theirs together (store.writer): a
message of a long drain costs one commit, and with several drains a part of one.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from server import db
from server.connections import panic_total
from store.db import Tx

from . import domainhints, leases, results, tlsresults
from .direct import Hint
from .leases import Group, Lease
from .results import Result
from .schedule import Schedule
from .tlsresults import Observation

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Step:
    """One change of a drain, in this order. It is made as a whole or, where something was lost, not at all."""

    lease: Lease
    schedule: Schedule
    results: Sequence[Result] = ()
    """Of messages that are in ``dot``, or were never sent."""
    dot: Sequence[int] = ()
    """Messages whose end of data goes out next."""
    claim: bool = False
    """Whether to claim another group."""
    after: int | None = None
    """The account that had its turn: see claim_group()."""
    observations: Sequence[Observation] = ()
    """What attempts have shown of the TLS of others."""
    hints: Sequence[Hint] = ()
    """What servers of recipients' domains offered."""

    @property
    def accounts(self) -> list[int]:
        """The accounts that the transaction must hold."""
        return sorted(results.accounts_of(self.results))

    def write(self, tx: Tx) -> Group | None:
        """In a transaction; the group that was claimed, if there was one due. Raises LostLease."""
        if self.results:
            results.store(tx, self.lease, self.results)
        if self.observations or self.hints:
            self._remember()
        if self.dot:
            leases.enter_dot(self.lease, self.dot)
        return leases.claim_group(self.lease, self.schedule, self.after) if self.claim else None

    def _remember(self) -> None:
        """What was seen of others. No error in that undoes the results: who has the messages would get them again."""
        try:
            with db.write():
                tlsresults.record(self.observations)
                for hint in self.hints:
                    domainhints.remember(hint.domain, starttls=hint.starttls, requiretls=hint.requiretls)
        except Exception:
            panic_total.labels("mailqueue").inc()
            log.exception("what a delivery has shown of TLS is lost", extra={"destination": self.lease.destination})
