"""What a filter has learnt goes with its account."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Final

from django.db.models import Q

from accounts.models import AccountRemoval
from accounts.removal import Remover, Step

from . import training
from .models import JunkFilter

NEVER: Final = datetime(9999, 1, 1, tzinfo=UTC)


def _begin(removal: AccountRemoval) -> None:
    """Nobody trains it any more: its row, which goes with the account's, has a lease that is never given back."""
    JunkFilter.objects.update_or_create(
        pk=removal.account_id, defaults={"lease_token": uuid.uuid4(), "lease_until": NEVER}
    )


def _step(removal: AccountRemoval, account_id: int) -> Step:
    training.delete_words(account_id, Q())  # in batches of its own
    return Step.DONE


REMOVER: Final = Remover(_begin, _step, lambda account_id: {})
