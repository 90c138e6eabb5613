"""Notifications are read from whoever sends them: the examples of the RFCs, and how common servers write theirs."""

from __future__ import annotations

import contextlib
import time
from datetime import UTC, datetime, timedelta, timezone
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path as FilePath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.dsn import Action, Dsn, DsnError, NameIP, decode_status, parse
from protocols.names import IPDomain, parse_domain
from protocols.smtpsyntax import Path, parse_mailbox

FIXTURES = FilePath(__file__).parent / "dsns"

STATUS = b"""Reporting-MTA: dns; mx.example

Final-Recipient: rfc822; b@example.net
Action: failed
Status: 5.1.1
"""


def fixture(name: str) -> bytes:
    return (FIXTURES / f"{name}.eml").read_bytes().replace(b"\n", b"\r\n")


def read(name: str) -> Dsn:
    return parse(fixture(name))[0]


def path(address: str) -> Path:
    return parse_mailbox(address, smtputf8=True)


def report(*parts: bytes, report_type: bytes = b"; report-type=delivery-status") -> bytes:
    joined = b"".join(b"--b\r\n" + part.replace(b"\n", b"\r\n") + b"\r\n" for part in parts)
    return b"Content-Type: multipart/report" + report_type + b"; boundary=b\r\n\r\n" + joined + b"--b--\r\n"


def status_part(status: bytes = STATUS) -> bytes:
    return b"Content-Type: message/delivery-status\n\n" + status


def refused(message: bytes, *, strict: bool = False) -> str:
    with pytest.raises(DsnError) as caught:
        parse(message, strict=strict)
    return str(caught.value)


def refused_status(status: bytes, *, strict: bool = False) -> str:
    with pytest.raises(DsnError) as caught:
        decode_status(status, utf8=False, strict=strict)
    return str(caught.value)


# The examples of RFC 3464, appendix E.


def test_it_reads_a_failure_of_one_recipient() -> None:
    dsn = read("rfc3464-e1")
    [recipient] = dsn.recipients
    assert dsn.reporting_mta == "cs.utk.edu"
    assert (dsn.from_, dsn.to) == (path("MAILER-DAEMON@cs.utk.edu"), path("owner-info-mime@cs.utk.edu"))
    assert dsn.subject == "Returned mail: Cannot send message for 5 days"
    assert dsn.message_id == "<199407072116.RAA14128@CS.UTK.EDU>"
    assert dsn.text.startswith("   ----- The following addresses had delivery problems -----\n<louisl")
    assert dsn.original == b"[original message goes here]\r\n"
    assert recipient.final == recipient.original == path("louisl@larry.slip.umd.edu")
    assert (recipient.action, recipient.status) == (Action.FAILED, "4.0.0")
    assert (recipient.diagnostic_type, recipient.diagnostic) == ("smtp", "426 connection timed out")
    assert recipient.last_attempt == datetime(1994, 7, 7, 17, 15, 49, tzinfo=timezone(timedelta(hours=-4)))


def test_it_reads_several_recipients_with_comments_and_folded_fields() -> None:
    one, two, three = read("rfc3464-e2").recipients
    assert (one.status, one.status_comment) == ("5.0.0", "permanent failure")
    assert one.diagnostic == "550 'arathib@vnet.IBM.COM' is not a registered gateway user"
    assert one.remote_mta == NameIP("vnet.ibm.com")
    assert (two.action, two.status_comment) == (Action.DELAYED, "hpnjld.njd.jp.com: host name lookup failure")
    assert three.diagnostic == "550 user unknown"


def test_it_keeps_an_address_that_is_none_of_mail_as_text() -> None:
    dsn = read("rfc3464-e3")
    [recipient] = dsn.recipients
    assert dsn.reporting_mta == "SYS30"
    assert recipient.final.is_null
    assert recipient.final_text == "unknown; nair_s"
    assert dsn.original is None


def test_it_reads_a_delay() -> None:
    [recipient] = read("rfc3464-e4").recipients
    assert (recipient.action, recipient.status) == (Action.DELAYED, "4.0.0")
    assert recipient.final == path("thomas@de-montfort.ac.uk")


# Internationalized notifications (RFC 6533).


def test_it_reads_the_form_in_utf_8() -> None:
    dsn = read("rfc6533-global")
    [recipient] = dsn.recipients
    assert dsn.smtputf8
    assert dsn.to == path("jürgen@grün.example")
    assert dsn.subject == "Zustellung an λ fehlgeschlagen"
    assert dsn.text == "Nicht zugestellt: λ@ελληνικά.example"
    assert dsn.other_fields == (("X-Ort", "Köln"),)
    assert dsn.original == "From: <jürgen@grün.example>\r\nSubject: Grüße\r\n".encode()
    assert recipient.final == recipient.original == path("λ@ελληνικά.example")
    assert (recipient.status, recipient.status_comment) == ("5.1.1", "unbekannt (wirklich)")
    assert recipient.diagnostic == "550 5.1.1 χρήστης unbekannt"
    assert recipient.other_fields == (("Localized-Diagnostic", "de; unbekannt"),)


def test_it_reads_the_form_in_ascii_with_its_escapes() -> None:
    dsn = read("rfc6533-ascii")
    [recipient] = dsn.recipients
    assert not dsn.smtputf8
    assert recipient.original == Path("fö+\\o", IPDomain(domain=parse_domain("xn--hxargifdar.example")))
    assert recipient.final.is_null  # there is no such character
    assert recipient.final_text == r"rfc822; f\x{f6}\x{110000}o@example.net"
    assert dsn.original == "Subject: Grüße\r\n".encode()


def test_a_backslash_in_quotes_begins_no_escape() -> None:
    status = STATUS.replace(b"b@", rb'"a\\x{41}"@')
    assert decode_status(status, utf8=False).recipients[0].final.localpart == r"a\x{41}"


# What common servers send.


def test_it_reads_postfix() -> None:
    dsn = read("postfix")
    one, two = dsn.recipients
    assert dsn.reporting_mta == "mail.north.example"
    assert dsn.arrival == datetime(2031, 3, 3, 9, 0, 1, tzinfo=UTC)
    assert dsn.other_fields == (
        ("X-Postfix-Queue-ID", "4C7qN51jzKz9sW"),
        ("X-Postfix-Sender", "rfc822; anna@north.example"),
    )
    assert one.final == path("bob@south.example")
    assert one.diagnostic == "550 5.1.1 <bob@south.example>: Recipient address rejected: no such box"
    assert two.final == path('"very odd (really)"@north.example')
    assert (two.diagnostic_type, two.diagnostic) == ("x-postfix", 'unknown user: "very odd (really)"')
    assert two.remote_mta is None
    assert dsn.original is not None
    assert dsn.original.endswith(b"Subject: lunch\r\n")


def test_it_reads_exim() -> None:
    dsn = read("exim")
    [recipient] = dsn.recipients
    assert dsn.references == "<original.1@east.example>"
    assert recipient.final == path("carl@west.example")
    assert (recipient.action, recipient.status) == (Action.FAILED, "5.0.0")
    assert recipient.remote_mta == NameIP("mx.west.example")
    assert recipient.diagnostic == "552 5.2.2 mailbox full"
    assert dsn.original is not None
    assert dsn.original.endswith(b"\r\n\r\nSee you!\r\n")


def test_it_reads_exchange() -> None:
    dsn = read("exchange")
    [recipient] = dsn.recipients
    assert dsn.text == "There is no fritz at shop.example."
    assert dsn.received_from == NameIP("EX02.plant.example")
    assert recipient.original == path("fritz@shop.example")
    assert recipient.status == "5.1.10"
    assert recipient.diagnostic.startswith("550 5.1.10 RESOLVER.ADR.RecipientNotFound; ")
    assert recipient.other_fields == (("X-Display-Name", "Fritz, from the shop"),)


def test_it_reads_gmail() -> None:
    dsn = read("gmail")
    [recipient] = dsn.recipients
    assert dsn.text.startswith("** Address not found **\n")
    assert recipient.remote_mta == NameIP("mx.hill.example.", IPv4Address("192.0.2.80"))
    assert recipient.diagnostic.startswith("550-5.1.1 No such user. 550-5.1.1 Check the address")
    assert dsn.original is not None
    assert b"Subject: hike" in dsn.original


def test_it_says_that_qmail_sends_something_else() -> None:
    assert refused(fixture("qmail")) == "message has content-type text/plain, must be multipart/report"


# What is no notification.


def test_it_names_what_is_wrong_with_the_message() -> None:
    mdn = report(b"\n", status_part(), report_type=b"; report-type=disposition-notification")
    assert refused(mdn) == "report-type 'disposition-notification', must be delivery-status"
    assert refused(report(b"\n")) == "multipart/report of 1 parts, must be 2 or 3"
    assert refused(report(b"\n", b"\n", b"\n", b"\n")) == "multipart/report of 4 parts, must be 2 or 3"
    html = report(b"\n", b"Content-Type: text/html\n\n")
    assert refused(html) == "second part has content-type text/html, must be message/delivery-status"
    assert refused(report(b"\n", b"\n")).startswith("second part has content-type text/plain,")
    assert refused(b"Subject: x\n\nbare\n") == "invalid bare line feed"
    assert refused(report(b"\n", status_part(STATUS + b"X: " + b"x" * (1 << 20)))).startswith("delivery status larger")


def test_it_names_what_is_wrong_with_the_status() -> None:
    assert refused_status(b"") == "missing per-recipient fields"
    assert refused_status(b"Reporting-MTA: dns; x\n\n\n") == "missing per-recipient fields"
    assert refused_status(STATUS + b"Action: failed\n") == 'multiple values for "Action"'
    assert refused_status(b"Reporting-MTA: x\n" + STATUS) == 'multiple values for "Reporting-MTA"'
    assert refused_status(STATUS.replace(b"Action", b"Acton")) == 'missing "Action"'
    assert refused_status(STATUS.replace(b"failed", b"lost")) == "unknown action 'lost'"
    assert refused_status(STATUS.replace(b"Final", b"Last")) == "missing per-recipient fields"


def test_it_reads_as_many_recipients_as_it_says() -> None:
    first, _, block = STATUS.partition(b"\n\n")
    assert len(decode_status(first + (b"\n\n" + block) * 100, utf8=False).recipients) == 100
    assert refused_status(first + (b"\n\n" + block) * 101) == "more than 100 recipients"
    assert refused_status(STATUS + b"X: y\n" * 5000) == "more than 5000 fields"


def test_strict_takes_nothing_incomplete() -> None:
    untyped = report(b"\n", status_part(), report_type=b"")
    assert refused(untyped, strict=True) == "report-type '', must be delivery-status"
    assert refused_status(STATUS.replace(b"Status", b"State"), strict=True) == 'missing "Status"'
    assert refused_status(STATUS.replace(b"5.1.1", b"bad"), strict=True) == "bad status 'bad'"
    assert refused_status(STATUS.replace(b"rfc822;", b""), strict=True) == "address without type: 'b@example.net'"
    assert refused_status(STATUS.partition(b"\n\n")[2], strict=True) == 'missing "Reporting-MTA"'
    assert refused_status(STATUS + b"\nX: y\n", strict=True) == 'missing "Final-Recipient"'
    image = report(b"\n", status_part(), b"Content-Type: image/png\n\n")
    assert refused(image, strict=True).startswith("third part has content-type image/png,")
    assert parse(image)[0].original is None


# What people still understand.


def test_case_does_not_matter() -> None:
    status = STATUS.upper().replace(b"B@EXAMPLE.NET", b"b@example.net")
    [recipient] = decode_status(status, utf8=False).recipients
    assert (recipient.final, recipient.action) == (path("b@example.net"), Action.FAILED)


def test_it_reads_what_lacks_an_empty_line_or_has_one_too_many() -> None:
    joined = decode_status(STATUS.replace(b"\n\n", b"\n"), utf8=False)
    assert (joined.reporting_mta, joined.recipients[0].status, joined.other_fields) == ("mx.example", "5.1.1", ())
    torn = decode_status(b"\n \nX-A: b\n\n" + STATUS.replace(b"Status", b"\n\t\nStatus") + b"\n\n", utf8=False)
    assert (torn.reporting_mta, torn.recipients[0].status, torn.other_fields) == (
        "mx.example",
        "5.1.1",
        (("X-A", "b"),),
    )


def test_what_is_missing_is_empty() -> None:
    [recipient] = decode_status(
        b"Final-Recipient: b@example.net\nAction: (very)\n failed (indeed)\n", utf8=False
    ).recipients
    assert recipient.final == path("b@example.net")
    assert (recipient.action, recipient.status, recipient.last_attempt) == (Action.FAILED, "", None)


def test_it_takes_the_address_that_the_sender_gave_if_there_is_no_other() -> None:
    [recipient] = decode_status(STATUS.replace(b"Final", b"Original"), utf8=False).recipients
    assert recipient.final == recipient.original == path("b@example.net")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("rfc822;b@example.net", path("b@example.net")),
        ("RFC822 ; <b@example.net> (Bob (jr))", path("b@example.net")),
        ("utf-8; b@xn--grn-ioa.example", path("b@grün.example")),
        ("rfc822; b@[192.0.2.1]", path("b@[192.0.2.1]")),
        ('rfc822; "a; b"@example.net', path('"a; b"@example.net')),
        ("rfc822; Postmaster", Path("Postmaster")),
        ("rfc822; b", Path()),
        ("x400; /S=b/O=x/", Path()),
        ("rfc822;", Path()),
    ],
)
def test_it_reads_addresses(written: str, expected: Path) -> None:
    status = STATUS.replace(b"rfc822; b@example.net", written.encode())
    [recipient] = decode_status(status, utf8=False).recipients
    assert recipient.final == expected
    assert recipient.final_text == written


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("dns; mx.example ([192.0.2.1])", NameIP("mx.example", IPv4Address("192.0.2.1"))),
        ("dns;mx.example (IPv6:2001:db8::1)", NameIP("mx.example", IPv6Address("2001:db8::1"))),
        ("dns;mx.example ([IPv6:2001:db8::1])", NameIP("mx.example", IPv6Address("2001:db8::1"))),
        ("dns;mx.example (fe80::1%eth0)", NameIP("mx.example")),
        ("mx.example (really)", NameIP("mx.example")),
        ("dns; (192.0.2.1)", None),
    ],
)
def test_it_reads_servers(written: str, expected: NameIP | None) -> None:
    status = STATUS + f"Remote-MTA: {written}\n".encode()
    assert decode_status(status, utf8=False).recipients[0].remote_mta == expected


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("5.1.1", ("5.1.1", "")),
        ("4.4.1 (no (real) answer)", ("4.4.1", "no (real) answer")),
        (r"5.0.0 (C:\\mail \))", ("5.0.0", r"C:\mail )")),
        ("5.1.1 no parentheses", ("5.1.1", "no parentheses")),
        ("5.1.1000", ("", "5.1.1000")),
        ("3.1.1", ("", "3.1.1")),
    ],
)
def test_it_reads_statuses(written: str, expected: tuple[str, str]) -> None:
    [recipient] = decode_status(STATUS.replace(b"5.1.1", written.encode()), utf8=False).recipients
    assert (recipient.status, recipient.status_comment) == expected


def test_it_reads_bytes_of_any_charset() -> None:
    status = STATUS + b"Diagnostic-Code: smtp; 550 caf\xe9\nX-Other: \xff\x00\x07\n"
    [recipient] = decode_status(status, utf8=False).recipients
    assert recipient.diagnostic == "550 café"
    assert recipient.other_fields == (("X-Other", "ÿ"),)


def test_a_header_without_usable_addresses_gives_the_null_path() -> None:
    message = b"From: someone\r\nTo: a@-b-, c@example.org\r\n" + report(b"\n", status_part())
    dsn, _ = parse(message)
    assert dsn.from_.is_null
    assert dsn.to.is_null


# Whatever comes.

NAMES = ["Reporting-MTA", "Final-Recipient", "Original-Recipient", "Action", "Status", "Remote-MTA", "Diagnostic-Code"]
NAMES += ["Arrival-Date", "Will-Retry-Until", "X-Unknown", "DSN-Gateway", "Received-From-MTA", ""]
VALUES = ["dns; mx.example", "rfc822;b@example.net", "utf-8; ", r"\x{e9}", r"\x{d800}", "failed", "delayed", "5.1.1"]
VALUES += ["3 Mar 2031 09:12:44 +0000", "[IPv6:", "\n ", "\n\n", *'()\\";%<>@ \n\xe9']
field_lines = st.builds(
    "{}: {}\n".format, st.sampled_from(NAMES), st.lists(st.sampled_from(VALUES), max_size=6).map("".join)
)
statuses = st.lists(st.one_of(field_lines, st.just("\n"), st.text(max_size=10)), max_size=20).map("".join)


@given(statuses, st.booleans(), st.booleans())
def test_any_status_is_read_or_refused(status: str, utf8: bool, strict: bool) -> None:
    with contextlib.suppress(DsnError):
        decode_status(status.encode("utf-8", "surrogatepass"), utf8, strict=strict)


@given(st.binary(max_size=300), st.binary(max_size=300), st.booleans())
def test_any_report_is_read_or_refused(text: bytes, status: bytes, strict: bool) -> None:
    with contextlib.suppress(DsnError):
        parse(report(text, status_part(STATUS + status), text), strict=strict)


@pytest.mark.parametrize(
    "unit",
    [
        b"\n",
        b"X: y\n",
        b"X: y\n\n",
        b" folded\n",
        b"(",
        b"\\x{",
        b'"a"',
        b";",
        b"Final-Recipient: rfc822;" + b"\\x{e9}" * 20 + b"@example.net\nAction: failed\n\n",
        b"Final-Recipient: " + b"(" * 100 + b"\n\n",
    ],
)
def test_a_status_takes_time_by_its_length(unit: bytes) -> None:
    def seconds(size: int) -> float:
        status = b"Reporting-MTA: dns; x\n\nFinal-Recipient: " + unit * (size // len(unit))
        best = 9.0
        for _ in range(5):
            start = time.process_time()
            with contextlib.suppress(DsnError):
                decode_status(status, utf8=False)
            best = min(best, time.process_time() - start)
        return best

    assert seconds(160_000) / max(seconds(20_000), 1e-5) < 20
