"""What must hold of an account's rows in the queue's tables."""

from __future__ import annotations

from collections.abc import Iterator

from accounts.models import Account
from store import checks

from . import limits


@checks.register
def outgoing_counter(account: Account) -> Iterator[str]:
    """The counter of the limits says how many rows there are."""
    problem = limits.miscount(account.pk)
    if problem:
        yield problem
