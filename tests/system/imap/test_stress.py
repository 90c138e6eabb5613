"""Several clients on the same mailboxes at once: a bounded run for every day, and one by the clock for `make soak`."""

from __future__ import annotations

import os

import pytest

from tests.system.imap import stress
from tests.system.imap.conftest import User

SOAK_CLIENTS = 20


@pytest.mark.database
@pytest.mark.parametrize("seed", [1, 2])
def test_clients_know_the_mailbox_by_what_they_are_told(imap_user: User, seed: int) -> None:
    assert stress.run(imap_user, 5, lambda played: played < 4, 12, seed * 100) == 4


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_clients_at_work_for_minutes(imap_user: User) -> None:
    seconds = float(os.environ.get("SOAK_SECONDS", "600"))
    seed = int.from_bytes(os.urandom(3))
    print(f"seed {seed}")
    assert stress.run(imap_user, SOAK_CLIENTS, stress.until(seconds), 50, seed) > 0
