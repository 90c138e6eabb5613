"""Reports that come to addresses that are there for them: recognized, handed on, and else judged like any mail."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from accounts.models import Account, Domain
from junk import reports
from protocols import dkim
from protocols.dns import MockResolver
from protocols.names import Domain as Name
from store.db import AccountTx
from store.messages import Placement
from store.models import Message
from tests.domain.smtp_service import running
from tests.unit.test_dmarc_reports import REPORT

pytestmark = pytest.mark.database

CLIENT = "127.3.3.4"
REPORTER = Name("reporter.example")
KEY = dkim.generate_ed25519()
RECORDS: dict[str, list[str]] = {
    "mx reporter.example.": ["10 mx.reporter.example."],
    "a mx.reporter.example.": [CLIENT],
    f"ptr {CLIENT}": ["mx.reporter.example."],
    "txt reporter.example.": ["v=spf1 mx -all"],
    "txt s1._domainkey.reporter.example.": [dkim.DkimRecord.for_key(KEY).compose()],
    "txt _dmarc.reporter.example.": ["v=DMARC1; p=none"],
}
TLS = b"""{"organization-name": "Reporter", "date-range": {"start-datetime": "2026-01-01T00:00:00Z",
"end-datetime": "2026-01-02T00:00:00Z"}, "contact-info": "x", "report-id": "t1", "policies": [{"policy":
{"policy-type": "sts", "policy-domain": "localhost"}, "summary": {"total-successful-session-count": 1}}]}"""


@pytest.fixture
def reporting(account: Account) -> Iterator[Account]:
    """An account for the reports of localhost."""
    domain = Domain.objects.get(name="localhost")
    Domain.objects.filter(pk=domain.pk).update(
        dmarc_localpart="dmarc-reports", dmarc_account=account, tlsrpt_localpart="tls-reports", tlsrpt_account=account
    )
    yield account
    Domain.objects.filter(pk=domain.pk).update(
        dmarc_localpart="", dmarc_account=None, tlsrpt_localpart="", tlsrpt_account=None
    )


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, int]]:
    """What was handed on: the report's id, its domain, and the message."""
    found: list[tuple[str, str, int]] = []
    monkeypatch.setattr(reports, "_dmarc_handlers", [])
    monkeypatch.setattr(reports, "_tls_handlers", [])

    @reports.on_dmarc_report
    def store_dmarc(tx: AccountTx, placement: Placement, report: Any, from_domain: str) -> None:
        found.append((report.metadata.report_id, from_domain, placement.message_id))

    @reports.on_tls_report
    def store_tls(tx: AccountTx, placement: Placement, report: Any, from_domain: str) -> None:
        found.append((report.report_id, from_domain, placement.message_id))

    return found


def send(localpart: str, body: bytes, content_type: str, *, author: str = "noreply@reporter.example") -> str:
    header = f"From: <{author}>\r\nSubject: Report\r\nContent-Type: {content_type}\r\n\r\n".encode()
    content = header + body.replace(b"\n", b"\r\n") + b"\r\n"
    content = dkim.sign(content, "noreply", REPORTER, [dkim.Selector(Name("s1"), KEY)]) + content
    with running(resolver=MockResolver(RECORDS)) as service, service.connect(CLIENT) as wire:
        wire.hello().begin(f"{localpart}@localhost", sender="noreply@reporter.example")
        return wire.data(content + b".\r\n")


def send_dmarc(report: bytes, **options: Any) -> str:
    return send("dmarc-reports", report, "text/xml; charset=utf-8", **options)


def arrived(account: Account) -> tuple[Message, bytes]:
    message = Message.objects.get(account=account, expunged=False)
    return message, bytes(message.prefix)


OURS = REPORT.replace(b"<domain>example.org</domain><adkim>", b"<domain>localhost</domain><adkim>")


def test_a_dmarc_report_is_handed_on_and_delivered_as_read(
    reporting: Account, kept: list[tuple[str, str, int]]
) -> None:
    assert send_dmarc(OURS).startswith("250 ")
    message, prefix = arrived(reporting)
    assert kept == [("r1", "reporter.example", message.pk)]
    assert message.seen
    assert message.mailbox.name == "DMARC"
    assert b"X-Mox-Reason: reporting\r\n" in prefix
    assert b"Report-Error" not in prefix


def test_a_tls_report_is_handed_on(reporting: Account, kept: list[tuple[str, str, int]]) -> None:
    assert send("tls-reports", TLS, "application/tlsrpt+json").startswith("250 ")
    message, prefix = arrived(reporting)
    assert kept == [("t1", "reporter.example", message.pk)]
    assert (message.seen, message.mailbox.name) == (True, "TLSRPT")
    assert b"X-Mox-Reason: reporting\r\n" in prefix


@pytest.mark.parametrize(
    ("report", "options", "error"),
    [
        (OURS, {"author": "noreply@elsewhere.example"}, b"no DMARC pass"),
        (b"<html/>", {}, b"could not parse report"),
        (
            OURS.replace(b"<domain>localhost<", b"<domain>local host<"),
            {},
            b"could not parse domain in published policy",
        ),
        (REPORT, {}, b"published policy domain unrecognized"),
        (
            OURS.replace(b"1700086400", str(int((datetime.now(UTC) + timedelta(hours=1)).timestamp())).encode()),
            {},
            b"report has end date in the future",
        ),
    ],
)
def test_what_is_no_report_is_ordinary_mail_and_says_why(
    reporting: Account, kept: list[tuple[str, str, int]], report: bytes, options: dict[str, Any], error: bytes
) -> None:
    assert send_dmarc(report, **options).startswith("250 ")
    message, prefix = arrived(reporting)
    assert kept == []
    assert not message.seen
    assert b"X-Mox-DMARCReport-Error: " + error + b"\r\n" in prefix.replace(b"\r\n\t", b" ")
    assert b"X-Mox-Reason: no-bad-signals\r\n" in prefix


@pytest.mark.parametrize(
    ("body", "options", "error"),
    [
        (TLS, {"author": "noreply@elsewhere.example"}, b"no DKIM signature of the From domain"),
        (b"{}", {}, b"could not parse report"),
        (TLS.replace(b"localhost", b"other.example"), {}, b"no policy is of a domain of this server"),
    ],
)
def test_what_is_no_tls_report_says_why(
    reporting: Account, kept: list[tuple[str, str, int]], body: bytes, options: dict[str, Any], error: bytes
) -> None:
    assert send("tls-reports", body, "application/tlsrpt+json", **options).startswith("250 ")
    _, prefix = arrived(reporting)
    assert kept == []
    assert b"X-Mox-TLSReport-Error: " + error in prefix.replace(b"\r\n\t", b" ")


def test_reports_to_other_addresses_are_just_mail(account: Account, kept: list[tuple[str, str, int]]) -> None:
    assert send(account.name, OURS, "text/xml").startswith("250 ")
    assert kept == []
    assert b"Report-Error" not in arrived(account)[1]


def test_a_report_that_cannot_be_stored_is_delivered_all_the_same(
    reporting: Account, kept: list[tuple[str, str, int]]
) -> None:
    @reports.on_dmarc_report
    def fail(tx: AccountTx, placement: Placement, report: Any, from_domain: str) -> None:
        Message.objects.filter(pk=placement.message_id).update(subject_base="changed")
        raise ValueError("no room for reports")

    assert send_dmarc(OURS).startswith("250 ")
    assert arrived(reporting)[0].subject_base != "changed"


def test_a_reporter_of_bad_repute_is_refused(reporting: Account, kept: list[tuple[str, str, int]]) -> None:
    assert send_dmarc(OURS).startswith("250 ")
    Message.objects.filter(account=reporting).update(junk=True, notjunk=False)
    assert send_dmarc(OURS).startswith("451 4.3.0 ")
    assert len(kept) == 1
    Message.objects.filter(account=reporting).update(junk=False)
