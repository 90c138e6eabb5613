"""Running submission services, and somebody who sends."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from accounts.models import Account, Address, Domain
from mailqueue.models import HoldRule, QueueMessage
from server import db
from tests.domain.smtp_service import Service, running
from tests.domain.submission.sending import log_in
from tests.system.conftest import MailboxUser, make_user
from tests.system.smtp_wire import Wire


@pytest.fixture(scope="module")
def service(database: None) -> Iterator[Service]:
    with running(name="submission") as started:
        yield started


@pytest.fixture(scope="module")
def pedantic_service(database: None) -> Iterator[Service]:
    with running(name="submission", server={"pedantic": True}) as started:
        yield started


@pytest.fixture
def user(new_account: Callable[[], Account]) -> Iterator[MailboxUser]:
    """Somebody whose messages stay in the queue until the test is over, whatever workers there are."""
    made = make_user(new_account)
    with db.write():
        rule = HoldRule.objects.create(account=made.account)
    yield made
    with db.write():
        QueueMessage.objects.filter(account=made.account).delete()
        rule.delete()


@pytest.fixture
def wire(service: Service, user: MailboxUser) -> Iterator[Wire]:
    with service.connect() as connected:
        yield log_in(connected, user)


@pytest.fixture
def pedantic(pedantic_service: Service, user: MailboxUser) -> Iterator[Wire]:
    with pedantic_service.connect() as connected:
        yield log_in(connected, user)


@pytest.fixture
def own_domain(user: MailboxUser) -> Iterator[Domain]:
    """A hosted domain in which the user has addresses of their own; it has no DKIM key."""
    with db.write():
        domain = Domain.objects.create(name=f"{user.account.name}.example")
    yield domain
    with db.write():
        Address.objects.filter(domain=domain).delete()
        domain.delete()
