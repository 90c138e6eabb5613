"""Notifications that we write: their parts in each form, what remote servers say in them, and that others read them."""

from __future__ import annotations

import email
import email.policy
import time
from dataclasses import replace
from datetime import UTC, datetime
from email.message import EmailMessage
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.dsn import Action, Dsn, DsnError, DsnRecipient, NameIP, compose, parse
from protocols.message import BadHeaderText
from protocols.smtpsyntax import Path, parse_mailbox


def path(address: str) -> Path:
    return parse_mailbox(address, smtputf8=True)


RECIPIENT = DsnRecipient(
    final=path("bob@south.example"),
    action=Action.FAILED,
    status="5.1.1",
    status_comment="no such user",
    remote_mta=NameIP("mx.south.example", IPv4Address("192.0.2.44")),
    diagnostic="550 5.1.1 no such user here",
    last_attempt=datetime(2031, 3, 3, 9, 0, 2, tzinfo=UTC),
)
DSN = Dsn(
    from_=path("postmaster@mail.example"),
    to=path("anna@north.example"),
    subject="mail delivery failed",
    message_id="<new@mail.example>",
    references="<old@north.example>",
    text="Delivery has failed to:\n\n\tbob@south.example\n",
    reporting_mta="mail.example",
    arrival=datetime(2031, 3, 3, 9, 0, 1, tzinfo=UTC),
    date=datetime(2031, 3, 3, 9, 0, 3, tzinfo=UTC),
    original=b"From: anna@north.example\r\nSubject: lunch\r\n\r\nAt noon?\r\n",
    recipients=(RECIPIENT,),
)
INTERNATIONAL = replace(
    DSN,
    smtputf8=True,
    text="Nicht zugestellt an λ@ελληνικά.example\n",
    original="From: anna@north.example\r\nSubject: Grüße\r\n\r\n".encode(),
    recipients=(replace(RECIPIENT, final=path("λ@ελληνικά.example"), diagnostic="550 5.1.1 άγνωστος"),),
)


def with_recipient(**values: Any) -> Dsn:
    return replace(DSN, recipients=(replace(RECIPIENT, **values),))


def parts(message: bytes) -> list[tuple[bytes, bytes]]:
    """Header section and body of each part."""
    boundary = message.partition(b'boundary="')[2].partition(b'"')[0]
    texts = message.split(b"--" + boundary)[1:-1]
    return [(part.partition(b"\r\n\r\n")[0], part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")) for part in texts]


def status_of(dsn: Dsn, *, utf8: bool = False) -> str:
    return parts(compose(dsn, utf8))[1][1].decode()


def read_by_python(message: bytes) -> EmailMessage:
    read = email.message_from_bytes(message, policy=email.policy.default)
    assert isinstance(read, EmailMessage)
    assert not read.defects
    return read


# What is written.


def test_it_writes_the_whole_message() -> None:
    message = compose(DSN, False)
    boundary = message.partition(b'boundary="')[2].partition(b'"')[0].decode()
    assert (
        message.decode()
        == f"""From: <postmaster@mail.example>
To: <anna@north.example>
Subject: mail delivery failed
Message-Id: <new@mail.example>
References: <old@north.example>
Date: 3 Mar 2031 09:00:03 +0000
Auto-Submitted: auto-replied
MIME-Version: 1.0
Content-Type: multipart/report; report-type="delivery-status";
\tboundary="{boundary}"

--{boundary}
Content-Type: text/plain
Content-Transfer-Encoding: 7bit

Delivery has failed to:

\tbob@south.example

--{boundary}
Content-Type: message/delivery-status
Content-Transfer-Encoding: 7bit

Reporting-MTA: dns; mail.example
Arrival-Date: 3 Mar 2031 09:00:01 +0000

Final-Recipient: rfc822;bob@south.example
Action: failed
Status: 5.1.1 (no such user)
Remote-MTA: dns;mx.south.example (192.0.2.44)
Diagnostic-Code: smtp; 550 5.1.1 no such user here
Last-Attempt-Date: 3 Mar 2031 09:00:02 +0000

--{boundary}
Content-Type: text/rfc822-headers
Content-Transfer-Encoding: 7bit

From: anna@north.example
Subject: lunch

--{boundary}--
""".replace("\n", "\r\n")
    )


def test_it_writes_everything_there_is_to_say() -> None:
    dsn = replace(
        DSN,
        future_release="for;3600;r",
        envelope_id="QQ314159",
        dsn_gateway="gate.example",
        received_from=NameIP("[192.0.2.7]", IPv6Address("2001:db8::7")),
        other_fields=(("X-Queue", "17"),),
        recipients=(
            replace(
                RECIPIENT,
                original=path("robert+work@east.example"),
                action=Action.DELAYED,
                status="",
                status_comment="",
                remote_mta=None,
                diagnostic="",
                last_attempt=None,
                final_log_id="a1",
                will_retry_until=datetime(2031, 3, 4, tzinfo=UTC),
                other_fields=(("X-More", "yes"),),
            ),
            RECIPIENT,
        ),
    )
    whole, first, second = status_of(dsn).split("\r\n\r\n")
    assert whole.split("\r\n") == [
        "Reporting-MTA: dns; mail.example",
        "Arrival-Date: 3 Mar 2031 09:00:01 +0000",
        "Future-Release-Request: for;3600;r",
        "Original-Envelope-ID: QQ314159",
        "DSN-Gateway: dns; gate.example",
        "Received-From-MTA: dns;[192.0.2.7] ([IPv6:2001:db8::7])",
        "X-Queue: 17",
    ]
    assert first.split("\r\n") == [
        "Original-Recipient: rfc822;robert+work@east.example",
        "Final-Recipient: rfc822;bob@south.example",
        "Action: delayed",
        "Status: 4.0.0",
        "Final-Log-ID: a1",
        "Will-Retry-Until: 4 Mar 2031 00:00:00 +0000",
        "X-More: yes",
    ]
    assert second.startswith("Final-Recipient: rfc822;bob@south.example\r\n")


@pytest.mark.parametrize(
    ("action", "status", "written"),
    [
        (Action.FAILED, "", "5.0.0"),
        (Action.DELAYED, "", "4.0.0"),
        (Action.DELIVERED, "", "2.0.0"),
        (Action.RELAYED, "", "2.0.0"),
        (Action.EXPANDED, "", "2.0.0"),
        (Action.FAILED, "4.4.7", "4.4.7"),
        (Action.FAILED, "5.1000.1", "5.0.0"),
        (Action.FAILED, "5.1.1\r\nX: y", "5.0.0"),
    ],
)
def test_a_status_that_is_none_is_that_of_the_action(action: Action, status: str, written: str) -> None:
    assert f"\r\nStatus: {written} (no such user)\r\n" in status_of(with_recipient(action=action, status=status))


def test_it_has_two_parts_without_the_original() -> None:
    message = compose(replace(DSN, original=None), False)
    assert [part.get_content_type() for part in read_by_python(message).iter_parts()] == [
        "text/plain",
        "message/delivery-status",
    ]


# The forms: in UTF-8 only if the original needed that and the reader takes it.


@pytest.mark.parametrize("takes_utf8", [False, True])
def test_mail_in_ascii_is_answered_in_ascii(takes_utf8: bool) -> None:
    message = compose(DSN, takes_utf8)
    assert message.isascii()
    assert [header for header, _ in parts(message)] == [
        b"\r\nContent-Type: text/plain\r\nContent-Transfer-Encoding: 7bit",
        b"\r\nContent-Type: message/delivery-status\r\nContent-Transfer-Encoding: 7bit",
        b"\r\nContent-Type: text/rfc822-headers\r\nContent-Transfer-Encoding: 7bit",
    ]


def test_international_mail_is_answered_in_utf_8_where_that_is_read() -> None:
    message = compose(INTERNATIONAL, True)
    (text_header, text), (status_header, status), (original_header, original) = parts(message)
    assert text_header == b"\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit"
    assert text.decode() == "Nicht zugestellt an λ@ελληνικά.example\r\n"
    assert status_header == b"\r\nContent-Type: message/global-delivery-status\r\nContent-Transfer-Encoding: 8bit"
    assert "\r\nFinal-Recipient: utf-8;λ@ελληνικά.example\r\n" in status.decode()
    assert "\r\nDiagnostic-Code: smtp; 550 5.1.1 άγνωστος\r\n" in status.decode()
    assert original_header == b"\r\nContent-Type: message/global-headers\r\nContent-Transfer-Encoding: 8bit"
    assert original.decode() == "From: anna@north.example\r\nSubject: Grüße\r\n"


def test_international_mail_is_answered_in_ascii_elsewhere() -> None:
    message = compose(INTERNATIONAL, False)
    assert message.isascii()
    (text_header, text), (status_header, status), (original_header, original) = parts(message)
    assert text_header == b"\r\nContent-Type: text/plain\r\nContent-Transfer-Encoding: 7bit"
    assert text.startswith(rb"Nicht zugestellt an \x{3bb}@\x{3b5}\x{3bb}")
    assert status_header == b"\r\nContent-Type: message/delivery-status\r\nContent-Transfer-Encoding: 7bit"
    assert b"\r\nFinal-Recipient: rfc822;\\x{3bb}@xn--hxargifdar.example\r\n" in status
    assert original_header == (
        b"\r\nContent-Type: text/rfc822-headers; charset=utf-8\r\nContent-Transfer-Encoding: base64"
    )
    assert max(map(len, original.split(b"\r\n"))) <= 76
    dsn, _ = parse(message, strict=True)
    assert dsn.original == "From: anna@north.example\r\nSubject: Grüße\r\n".encode()
    assert dsn.recipients[0].final == path("λ@ελληνικά.example")


def test_an_address_of_the_header_that_has_no_ascii_form_stays_legible() -> None:
    message = compose(replace(INTERNATIONAL, to=path("jürgen@grün.example")), False)
    assert b'\r\nTo: <"j\\\\x{fc}rgen"@xn--grn-ioa.example>\r\n' in message
    assert "\r\nTo: <jürgen@grün.example>\r\n".encode() in compose(
        replace(INTERNATIONAL, to=path("jürgen@grün.example")), True
    )


@pytest.mark.parametrize(
    "header",
    [
        b"Subject: caf\xe9\r\n",
        b"Subject: caf\xc3\xa9\r\n",
        b"Subject: a\rb\r\n",
        b"Subject: a\0b\r\n",
        b"Subject: " + b"x" * 5000 + b"\r\n",
    ],
)
@pytest.mark.parametrize("smtputf8", [False, True])
@pytest.mark.parametrize("takes_utf8", [False, True])
def test_a_header_that_cannot_be_sent_as_it_is_comes_through_in_base64(
    header: bytes, smtputf8: bool, takes_utf8: bool
) -> None:
    message = compose(replace(DSN, smtputf8=smtputf8, original=header + b"\r\nbody"), takes_utf8)
    assert parse(message, strict=True)[0].original == header
    assert b"\r\n\r\nbody" not in message


@pytest.mark.parametrize(
    ("original", "header"),
    [
        (b"A: b\r\n\r\nbody", b"A: b\r\n"),
        (b"A: b\nC: d\n\nbody", b"A: b\r\nC: d\r\n"),
        (b"A: b\r\n", b"A: b\r\n"),
        (b"\r\nbody", b""),
        (b"", b""),
    ],
)
def test_the_body_of_the_original_is_left_out(original: bytes, header: bytes) -> None:
    assert parse(compose(replace(DSN, original=original), False))[0].original == header


# What remote servers say.


def test_a_line_end_in_what_a_server_says_begins_no_field() -> None:
    evil = "550 no\r\nAction: delivered\r\n\r\nFinal-Recipient: rfc822;x@y.example\n\rx\x00\x1b"
    dsn = replace(
        with_recipient(diagnostic=evil, status_comment=evil, final_log_id=evil, diagnostic_type=evil),
        references=evil,
        envelope_id=evil,
        future_release=evil,
        reporting_mta=evil,
        dsn_gateway=evil,
        received_from=NameIP(evil, IPv4Address("192.0.2.1")),
    )
    for takes_utf8 in (False, True):
        read, _ = parse(compose(dsn, takes_utf8), strict=True)
        assert [recipient.action for recipient in read.recipients] == [Action.FAILED]
        assert read.recipients[0].diagnostic == "550 no Action: delivered Final-Recipient: rfc822;x@y.example x"
        assert read.other_fields == read.recipients[0].other_fields == ()


def test_a_line_end_in_our_own_values_is_an_error() -> None:
    for evil in ("a\r\nBcc: b", "a\nb", "a\rb", "a\0b"):
        for dsn in (
            replace(DSN, subject=evil),
            replace(DSN, message_id=evil),
            replace(DSN, to=Path(evil, DSN.to.domain)),
            replace(DSN, from_=Path(evil, DSN.to.domain)),
            with_recipient(final=Path(evil, DSN.to.domain)),
        ):
            with pytest.raises(BadHeaderText):
                compose(dsn, False)


def test_the_text_cannot_end_its_part() -> None:
    message = compose(replace(DSN, text="a\r\n--b\r\nContent-Type: text/html\r\n\r\n\0\x1b[2J"), False)
    assert [part.get_content_type() for part in read_by_python(message).iter_parts()] == [
        "text/plain",
        "message/delivery-status",
        "text/rfc822-headers",
    ]
    assert parse(message)[0].text == "a\n--b\nContent-Type: text/html\n\n  [2J\n"


def test_lines_of_any_length_are_cut_to_what_mail_may_have() -> None:
    long = "550 " + "x" * 10_240 + " " + "word é " * 2000
    dsn = replace(with_recipient(diagnostic=long, status_comment=long), text=long, references=long, smtputf8=True)
    for takes_utf8 in (False, True):
        message = compose(dsn, takes_utf8)
        assert max(len(line) for line in message.split(b"\r\n")) <= 998
        said = parse(message, strict=True)[0].recipients[0].diagnostic.replace(" ", "")
        assert said.startswith("550" + "x" * 8000)
        assert said.endswith("...")


def test_comments_have_balanced_parentheses() -> None:
    def written(comment: str) -> str:
        return status_of(with_recipient(status_comment=comment)).partition("Status: 5.1.1")[2].partition("\r\n")[0]

    assert written("(a) b (c (d))") == " ((a) b (c (d)))"
    assert written("a) (b) ((c") == " (a (b) c)"
    assert written("ends in \\") == " (ends in \\\\)"
    assert written("\r\n") == ""


def test_what_is_outside_ascii_is_escaped_in_ascii() -> None:
    status = status_of(with_recipient(diagnostic="550 café \udce9 😀", status_comment="é"))
    assert r"Diagnostic-Code: smtp; 550 caf\x{e9} \x{fffd} \x{1f600}" in status
    assert r"Status: 5.1.1 (\\x{e9})" in status


# What makes no notification.


def test_it_needs_a_message_id_recipients_and_a_name() -> None:
    for dsn, problem in (
        (replace(DSN, message_id=""), "missing message-id"),
        (replace(DSN, recipients=()), "missing per-recipient fields"),
        (replace(DSN, reporting_mta=""), "missing reporting-mta"),
    ):
        with pytest.raises(DsnError, match=problem):
            compose(dsn, False)


# Others read it.


@pytest.mark.parametrize("dsn", [DSN, INTERNATIONAL])
@pytest.mark.parametrize("takes_utf8", [False, True])
def test_python_reads_it(dsn: Dsn, takes_utf8: bool) -> None:
    message = read_by_python(compose(dsn, takes_utf8))
    assert message.get_content_type() == "multipart/report"
    assert message.get_param("report-type") == "delivery-status"
    assert message["To"].addresses[0].addr_spec == "anna@north.example"
    text, status, original = message.iter_parts()
    assert text.get_content_type() == "text/plain"
    assert status.get_content_type() in ("message/delivery-status", "message/global-delivery-status")
    assert "lunch" in str(original) or "Gr" in str(original) or original["Content-Transfer-Encoding"] == "base64"
    if not takes_utf8:
        whole, recipient = status.iter_parts()
        assert whole["Reporting-MTA"] == "dns; mail.example"
        assert recipient["Action"] == "failed"


# Whatever is said.

texts = st.text(max_size=60) | st.text(st.sampled_from("a ()\\;\r\n\t\"'=?_é\0\x7f\udce9😀"), max_size=30)
printable = st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="();\\")
plain = st.text(printable, min_size=1, max_size=20)
phrases = st.lists(plain, min_size=1, max_size=30).map(" ".join)
times = st.integers(0, 2**35).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))
localparts = st.sampled_from(
    ["a", "a+b", "a.b", "λ", "a b", 'a"b', "a\\x{41}", "(a)", "a;b", "é\\ +=", "<a>", "a@b", ""]
)
domains = st.sampled_from(["x.example", "ελληνικά.example", "[192.0.2.1]", "[IPv6:2001:db8::1]"])
paths = st.builds(lambda local, domain: Path(local, path(f"a@{domain}").domain), localparts, domains)
servers = st.builds(NameIP, plain, st.none() | st.ip_addresses())


@given(texts, texts, texts, texts, st.binary(max_size=100), st.booleans(), st.booleans())
def test_nothing_that_others_say_makes_it_fail(
    diagnostic: str, comment: str, name: str, text: str, original: bytes, smtputf8: bool, takes_utf8: bool
) -> None:
    dsn = replace(
        with_recipient(
            diagnostic=diagnostic, status_comment=comment, status=name, remote_mta=NameIP(name), final_log_id=comment
        ),
        text=text,
        references=diagnostic,
        envelope_id=comment,
        received_from=NameIP(comment, IPv4Address("192.0.2.1")),
        future_release=text,
        original=original,
        smtputf8=smtputf8,
    )
    message = compose(dsn, takes_utf8)
    assert (smtputf8 and takes_utf8) or message.isascii()
    read, structure = parse(message, strict=True)
    assert len(structure.parts) == 3
    assert len(read.recipients) == 1
    assert read.subject == DSN.subject
    assert read.other_fields == read.recipients[0].other_fields == ()


recipients = st.builds(
    DsnRecipient,
    final=paths,
    action=st.sampled_from(Action),
    status=st.sampled_from(["5.1.1", "4.0.0", "2.100.999"]),
    status_comment=phrases,
    original=st.none() | paths,
    remote_mta=st.none() | servers,
    diagnostic=phrases,
    last_attempt=st.none() | times,
    final_log_id=phrases,
    will_retry_until=st.none() | times,
)
notifications = st.builds(
    Dsn,
    from_=st.just(path("postmaster@mail.example")),
    to=st.just(path('"a b"@north.example')),
    subject=phrases,
    message_id=st.just("<a@b>"),
    text=st.lists(phrases, max_size=5).map(lambda lines: "".join(f"{line}\n" for line in lines)),
    reporting_mta=plain,
    recipients=st.lists(recipients, min_size=1, max_size=3).map(tuple),
    smtputf8=st.booleans(),
    references=phrases,
    envelope_id=phrases,
    dsn_gateway=plain,
    received_from=st.none() | servers,
    arrival=st.none() | times,
    future_release=phrases,
    date=times,
    original=st.none() | phrases.map(lambda text: f"Subject: {text}\r\n".encode()),
)


@given(notifications, st.booleans())
def test_what_is_written_is_read_again(dsn: Dsn, takes_utf8: bool) -> None:
    read, _ = parse(compose(dsn, takes_utf8), strict=True)
    recipients = tuple(replace(recipient, final_text="", original_text="") for recipient in read.recipients)
    assert replace(read, recipients=recipients) == replace(dsn, smtputf8=dsn.smtputf8 and takes_utf8)


@pytest.mark.parametrize("unit", ["x", "x ", "(", ")", "é", "\n", "\0", "\\"])
def test_composing_takes_time_by_the_length(unit: str) -> None:
    def seconds(size: int) -> float:
        dsn = replace(with_recipient(diagnostic=unit * size, status_comment=unit * size), text=unit * size)
        best = 9.0
        for _ in range(5):
            start = time.process_time()
            compose(dsn, False)
            best = min(best, time.process_time() - start)
        return best

    assert seconds(80_000) / max(seconds(10_000), 1e-5) < 20
