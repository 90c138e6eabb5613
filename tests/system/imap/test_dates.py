"""Searching by age and by the day of saving, what FETCH says about it, and previews."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from protocols.message.dates import MONTHS
from store.models import Message
from tests.system.imap.conftest import User
from tests.system.imap.transcript import simple

pytestmark = pytest.mark.database


def imap_day(moment: datetime) -> str:
    return f"{moment.day}-{MONTHS[moment.month - 1]}-{moment.year}"


def test_search_by_age_is_exact_to_the_second(imap_user: User) -> None:
    wire = imap_user.session("Inbox")
    now = datetime.now(UTC)
    for hours in (50, 2):
        moment = now - timedelta(hours=hours)
        date = f"{moment.day:02d}-{MONTHS[moment.month - 1]}-{moment.year} {moment:%H:%M:%S} +0000"
        wire.ok(f'APPEND Inbox "{date}"', simple("aged", hours), nonsync=True)
    wire.ok("APPEND Inbox", simple("aged", 0), nonsync=True)
    assert wire.ok("SEARCH YOUNGER 3600").numbers() == [3]
    assert wire.ok("SEARCH OLDER 3600").numbers() == [1, 2]
    assert wire.ok(f"SEARCH YOUNGER {3 * 3600} OLDER 60").numbers() == [2]
    assert wire.ok(f"SEARCH NOT YOUNGER {3 * 3600}").numbers() == [1]
    assert wire.ok("SEARCH YOUNGER 4294967295").numbers() == [1, 2, 3]
    assert wire.ok("UID SEARCH RETURN (MAX) OLDER 3600").one("ESEARCH").data[-2:] == ("MAX", "2")
    assert wire.ok("SEARCH OR OLDER 86400 SUBJECT nowhere").numbers() == [1]
    for broken in ("OLDER 0", "YOUNGER", "OLDER -1", "YOUNGER x", "OLDER 4294967296"):
        wire.bad(f"SEARCH {broken}")


def test_a_date_of_receiving_may_be_a_day_ahead_and_no_more(imap_user: User) -> None:
    wire = imap_user.session("Inbox")
    now = datetime.now(UTC)
    for hours in (23, 25, 24 * 365):
        moment = now + timedelta(hours=hours)
        date = f"{moment.day:02d}-{MONTHS[moment.month - 1]}-{moment.year} {moment:%H:%M:%S} +0000"
        wire.ok(f'APPEND Inbox "{date}"', simple("ahead", hours % 60), nonsync=True)
    fetched = wire.ok("FETCH 1:3 INTERNALDATE").fetched()
    dates = [datetime.strptime(fetched[n]["INTERNALDATE"].decode(), "%d-%b-%Y %H:%M:%S %z") for n in (1, 2, 3)]
    assert dates[0] == (now + timedelta(hours=23)).replace(microsecond=0)
    assert all(abs(date - datetime.now(UTC)) < timedelta(minutes=2) for date in dates[1:])


def test_the_day_of_saving_is_kept_apart_from_the_day_of_receiving(imap_user: User) -> None:
    wire = imap_user.session("Inbox")
    wire.ok('APPEND Inbox "01-Feb-2004 10:20:30 +0100"', simple("saved", 1), nonsync=True)
    wire.ok("APPEND Inbox", simple("saved", 2), nonsync=True)
    day = datetime(2020, 5, 6, 23, 59, 59, tzinfo=UTC)
    Message.objects.filter(account=imap_user.account, uid=2).update(save_date=day)
    fetched = wire.ok("FETCH 1:2 (INTERNALDATE SAVEDATE)").fetched()
    assert fetched[1]["INTERNALDATE"] == b"01-Feb-2004 10:20:30 +0100"
    saved = datetime.strptime(fetched[1]["SAVEDATE"].decode(), "%d-%b-%Y %H:%M:%S %z")
    assert abs(saved - datetime.now(UTC)) < timedelta(minutes=2)
    assert fetched[2]["SAVEDATE"] == b"06-May-2020 23:59:59 +0000"
    assert wire.ok("SEARCH SAVEDON 6-May-2020").numbers() == [2]
    assert wire.ok('SEARCH SAVEDBEFORE "7-May-2020"').numbers() == [2]
    assert wire.ok("SEARCH SAVEDBEFORE 6-May-2020").numbers() == []
    assert wire.ok("SEARCH SAVEDSINCE 7-May-2020").numbers() == [1]
    assert wire.ok(f"SEARCH SAVEDSINCE {imap_day(saved)}").numbers() == [1]
    assert wire.ok("SEARCH SAVEDATESUPPORTED").numbers() == [1, 2]
    assert wire.ok("SEARCH SAVEDON 31-Dec-9999").numbers() == []
    assert wire.ok("SEARCH NOT (OR SAVEDON 6-May-2020 SUBJECT saved)").numbers() == []
    wire.bad("SEARCH SAVEDON yesterday")
    wire.ok("COPY 2 Archive")
    wire.ok("EXAMINE Archive")
    copied = wire.ok("FETCH 1 SAVEDATE").fetched()[1]["SAVEDATE"]
    assert copied != b"06-May-2020 23:59:59 +0000"


def test_previews_are_there_for_whoever_asks(imap_user: User) -> None:
    wire = imap_user.session("Inbox")
    wire.ok("APPEND Inbox", simple("seen", 1) + b"> quoted\r\n", nonsync=True)
    wire.ok("APPEND Inbox", b"Content-Type: application/pdf\r\n\r\n%PDF\r\n", nonsync=True)
    wire.ok("APPEND Inbox", b"Subject: long\r\n\r\n" + b"word " * 1000, nonsync=True)
    fetched = wire.ok("FETCH 1:3 (PREVIEW (LAZY) FLAGS)").fetched()
    assert fetched[1]["PREVIEW"] == b"Body of seen 1. [...]"
    assert fetched[2]["PREVIEW"] == b""
    assert len(fetched[3]["PREVIEW"]) <= 200
    assert fetched[1]["FLAGS"] == []  # a preview is not reading
    assert wire.ok("FETCH 1:3 PREVIEW").fetched()[3]["PREVIEW"] == fetched[3]["PREVIEW"]
    with_content = wire.ok("FETCH 1 (PREVIEW BODY.PEEK[TEXT])").fetched()[1]
    assert with_content["PREVIEW"] == b"Body of seen 1. [...]"
    modseq = wire.ok("STATUS Inbox (HIGHESTMODSEQ)").one("STATUS").data[1][1]
    assert wire.ok(f"FETCH 1:3 PREVIEW (CHANGEDSINCE {modseq})").fetched() == {}
    assert len(wire.ok("FETCH 1:3 PREVIEW (LAZY) (CHANGEDSINCE 1)").fetched()) == 3
    for broken in ("PREVIEW ()", "PREVIEW (EAGER)", "(PREVIEW (LAZY)", "PREVIEW(LAZY)"):
        wire.bad(f"FETCH 1 {broken}")
