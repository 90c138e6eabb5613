"""Fixtures that several files of these tests have."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from accounts.models import Account
from mailqueue import wakeup
from protocols.dns import MockResolver
from server.models import ServerSettings
from tests.domain.directing import NewWorld, World, make_world
from tests.unit.certificates import root


@pytest.fixture(autouse=True)
def nobody_is_woken() -> Iterator[None]:
    """These tests do what workers do; those of the tests' server, if it runs in this directory, might be faster."""
    with pytest.MonkeyPatch.context() as patch:  # of its own, which ends last
        patch.setattr(wakeup, "now", lambda: None)
        patch.setattr(wakeup, "after", lambda wait: None)
        yield


@pytest.fixture
def new_world(account: Account, data_dir: Path) -> Iterator[NewWorld]:
    """Makes worlds, with options for their DNS; this server is no localserve there, and trusts the tests' own root."""
    own = {"localserve": False, "extra_ca_pem": root().pem, "extra_ca_only": True}
    settings = ServerSettings.objects.get()
    before = {name: getattr(settings, name) for name in own}
    _set(settings, own)
    Account.objects.filter(pk=account.pk).update(keep_retired_message_period=timedelta(hours=1))
    worlds: list[World] = []

    def make(**options: Any) -> World:
        worlds.append(make_world(MockResolver(**options), data_dir))
        return worlds[-1]

    yield make
    for world in worlds:
        world.worker.close()
    _set(settings, before)


def _set(settings: ServerSettings, values: dict[str, object]) -> None:
    for name, value in values.items():
        setattr(settings, name, value)
    settings.save()
