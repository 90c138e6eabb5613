"""What all tests share. Each worker has one directory; isolation is a fresh account for each test."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

from tests import installation

DIRECTORY = installation.prepare()

import django  # noqa: E402 # the environment is read when Django's settings are imported

django.setup()

from django.conf import settings  # noqa: E402 # as above

from accounts.accounts import create_account  # noqa: E402 # as above
from accounts.models import Account, Domain  # noqa: E402 # as above
from mox_project import localserve  # noqa: E402 # as above
from store import checks  # noqa: E402 # as above

# No deadlines, and no word on how long inputs take to make: other processes may have the machine. Tests of what takes
# how long count processor time.
hypothesis.settings.register_profile("tests", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("tests")

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def directory() -> Path:
    """A directory of this worker for whatever a test needs; its path is short."""
    return DIRECTORY


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The data directory that this worker's tests and its server share."""
    return Path(settings.MOX.data_dir)


@pytest.fixture(scope="session")
def template(directory: Path) -> Path:
    """A data directory as a first start leaves it, for servers of tests' own; there once ``database`` is."""
    return directory / "template"


@pytest.fixture(scope="session")
def server_ip() -> str:
    """The address of this worker's server."""
    return f"127.0.{installation.worker_number()}.1"


@pytest.fixture(scope="session")
def database(data_dir: Path, server_ip: str, template: Path) -> None:
    """The database of this worker, with settings, the domain localhost and the account mox."""
    localserve.set_up(data_dir, server_ip)
    if not installation.ON_POSTGRESQL:
        installation.keep_template(data_dir, template)


@pytest.fixture
def new_account(database: None) -> Iterator[Callable[[], Account]]:
    """Makes accounts whose consistency is checked when the test is over; their address is NAME@localhost."""
    made: list[Account] = []

    def make() -> Account:
        # Ends in a letter: in localserve an address that ends in a number from 400 to 599 fails with that code.
        name = f"account{next(_numbers)}a"
        account = create_account(name, name, Domain.objects.get(name=localserve.DOMAIN))
        made.append(account)
        return account

    yield make
    problems = [problem for account in made for problem in checks.check_account(account)]
    assert not problems, "\n".join(problems)


@pytest.fixture
def account(new_account: Callable[[], Account]) -> Account:
    return new_account()
