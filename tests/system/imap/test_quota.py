"""Quotas and sizes as a client sees them: QUOTA, STATUS of what is deleted, the limit on appended messages."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from accounts.models import Account
from server.models import ServerSettings
from tests.system.imap.conftest import User
from tests.system.imap.transcript import simple

pytestmark = pytest.mark.database


@pytest.fixture
def append_limit(imap_user: User) -> Iterator[int]:
    """A limit on appended messages, for new connections; no later test meets it."""
    ServerSettings.objects.update(imap_append_limit=2000)
    try:
        connect_until(imap_user, is_limited=True)
        yield 2000
    finally:
        ServerSettings.objects.update(imap_append_limit=0)
        connect_until(imap_user, is_limited=False)


def connect_until(imap_user: User, *, is_limited: bool) -> None:
    """Connect until the server tells this limit: new connections have settings that may be a second old."""
    while True:
        wire = imap_user.connect()
        told = b"APPENDLIMIT=2000 " in wire.ok("CAPABILITY").one("CAPABILITY").raw
        wire.close()
        if told is is_limited:
            return


def test_the_quota_is_one_root_for_all_mailboxes(imap_user: User) -> None:
    Account.objects.filter(pk=imap_user.account.pk).update(quota_message_size=10_000)
    wire = imap_user.session()
    wire.ok("APPEND Inbox", b"Subject: x\r\n\r\n" + b"y" * 1200)
    assert wire.ok('GETQUOTA ""').one("QUOTA").raw == b'* QUOTA "" (STORAGE 2 10)\r\n'
    answer = wire.ok("GETQUOTAROOT inBOX")
    assert [response.raw for response in answer.untagged] == [
        b'* QUOTAROOT inBOX ""\r\n',
        b'* QUOTA "" (STORAGE 2 10)\r\n',
    ]
    assert wire.ok('GETQUOTAROOT "not there"').one("QUOTAROOT").raw == b'* QUOTAROOT "not there" ""\r\n'
    wire.no('GETQUOTA "mine"', code="NONEXISTENT")
    wire.no('SETQUOTA "" (STORAGE 20000)', code="NOPERM")
    wire.no('SETQUOTA "" ()', code="NOPERM")
    for broken in ("GETQUOTA", 'GETQUOTA ""x', 'SETQUOTA ""', 'SETQUOTA "" (STORAGE)', 'SETQUOTA "" (STORAGE -1)'):
        wire.bad(broken)


def test_without_a_limit_there_is_nothing_to_tell(imap_user: User) -> None:
    wire = imap_user.session()
    assert wire.ok('GETQUOTA ""').untagged == []
    assert [response.name for response in wire.ok("GETQUOTAROOT Inbox").untagged] == ["QUOTAROOT"]


def test_status_tells_what_deleted_messages_hold(imap_user: User) -> None:
    wire = imap_user.session("Inbox")
    for size in (600, 700, 5000):
        wire.ok("APPEND Inbox", b"Subject: x\r\n\r\n" + b"y" * size, nonsync=True)
    items = "(DELETED DELETED-STORAGE APPENDLIMIT SIZE)"
    together = str(600 + 700 + 5000 + 3 * 14)
    none = ["DELETED", "0", "DELETED-STORAGE", "0", "APPENDLIMIT", None, "SIZE", together]
    assert wire.ok(f"STATUS Inbox {items}").one("STATUS").data[1] == none
    wire.ok("STORE 1:2 +FLAGS (\\Deleted)")
    some = ["DELETED", "2", "DELETED-STORAGE", "2", "APPENDLIMIT", None, "SIZE", together]
    assert wire.ok(f"STATUS Inbox {items}").one("STATUS").data[1] == some
    listed = wire.ok(f'LIST "" (Inbox Archive) RETURN (STATUS {items})').named("STATUS")
    empty = ["DELETED", "0", "DELETED-STORAGE", "0", "APPENDLIMIT", None, "SIZE", "0"]
    assert [response.data[1] for response in listed] == [empty, some]


def test_the_limit_on_appended_messages_is_announced_and_kept(imap_user: User, append_limit: int) -> None:
    wire = imap_user.connect()
    assert wire.greeting is not None
    assert b" APPENDLIMIT=2000 " in wire.greeting.raw
    assert "APPENDLIMIT=2000" in wire.login(imap_user.address, imap_user.password).code
    assert wire.ok("STATUS Inbox (APPENDLIMIT)").one("STATUS").data[1] == ["APPENDLIMIT", "2000"]
    too_big = b"Subject: x\r\n\r\n" + b"y" * 2000
    wire.no("APPEND Inbox", too_big, code="TOOBIG")
    assert wire.command("APPEND Inbox", too_big, nonsync=True).code == ["TOOBIG"]
    wire.ok("APPEND Inbox", simple("small", 1))
