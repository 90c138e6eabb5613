"""Whole messages: only the multiparts that are needed, and everything comes back as it was said."""

from __future__ import annotations

import email
import email.policy
import io
from datetime import UTC, datetime
from email.message import EmailMessage
from typing import Any

import pytest

from protocols.message import BytesSource, Composer, NameAddress, parse
from protocols.message.bodies import readable_texts
from protocols.message.mail import Mail, MailFile
from protocols.message.sniffing import content_type
from protocols.names import parse_address

PNG = MailFile("logo.png", "", "<logo>", b"\x89PNG\r\n\x1a\n....")
PDF = MailFile("Rechnung für März.pdf", "", "", b"%PDF-1.7 ...")
ICS = MailFile("", "text/calendar; method=REQUEST", "", b"BEGIN:VCALENDAR\r\n")


def compose(**values: Any) -> bytes:
    address = values.pop("address", "app@example.org")
    mail = Mail(
        from_=NameAddress("App", parse_address(address)),
        date=datetime(2026, 1, 5, 9, tzinfo=UTC),
        message_id="<1@example.org>",
        **values,
    )
    file = io.BytesIO()
    mail.write(Composer(file, max_size=1 << 20, smtputf8=mail.needs_smtputf8([])))
    return file.getvalue()


def read(raw: bytes) -> EmailMessage:
    message = email.message_from_bytes(raw, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    return message


def shape(message: Any) -> Any:
    """Media types, as nested lists."""
    if not message.is_multipart():
        return message.get_content_type()
    return [message.get_content_type(), *map(shape, message.iter_parts())]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"text": "hi"}, "text/plain"),
        ({"html": "<p>hi"}, "text/html"),
        ({"text": "hi", "html": "<p>hi"}, ["multipart/alternative", "text/plain", "text/html"]),
        ({"text": "hi", "alternative_files": [ICS]}, ["multipart/alternative", "text/plain", "text/calendar"]),
        ({"html": "<img>", "inline_files": [PNG]}, ["multipart/related", "text/html", "image/png"]),
        ({"text": "hi", "attached_files": [PDF]}, ["multipart/mixed", "text/plain", "application/pdf"]),
        (
            {"text": "hi", "html": "<img>", "inline_files": [PNG], "attached_files": [PDF]},
            [
                "multipart/mixed",
                ["multipart/related", ["multipart/alternative", "text/plain", "text/html"], "image/png"],
                "application/pdf",
            ],
        ),
    ],
)
def test_it_uses_a_multipart_only_where_it_has_a_reason(said: dict[str, Any], expected: Any) -> None:
    message = read(compose(**said))
    assert shape(message) == expected
    assert not [part.defects for part in message.walk() if part.defects]


def test_it_keeps_files_as_they_are() -> None:
    message = read(compose(text="see", inline_files=[PNG], attached_files=[PDF]))
    picture, document = [part for part in message.walk() if part.get_content_disposition()]
    assert (picture["Content-Id"], picture.get_filename(), picture.get_content()) == ("<logo>", "logo.png", PNG.content)
    assert (document.get_filename(), document.get_content()) == (PDF.name, PDF.content)
    assert [part.get_content_disposition() for part in (picture, document)] == ["inline", "attachment"]


@pytest.mark.parametrize(
    "subject", ["héllo wörld ☺ x", "plain", "a  b", "ü" * 300, "=?utf-8?q?x?=", "word " * 40 + "☺ end", "ü ö x ä"]
)
def test_it_says_the_subject_exactly(subject: str) -> None:
    message = read(compose(text="hi", subject=subject))
    assert message["Subject"] == subject
    assert message["From"] == "App <app@example.org>"


@pytest.mark.parametrize("text", ["x" * 10_000, "a\rb\n", "nul \0 bell \a\n", "tab\there\n", "From me\n", "ü" * 100])
def test_it_says_the_text_exactly(text: str) -> None:
    part = parse(raw := compose(text=text))
    assert readable_texts(part, BytesSource(raw)).text.removesuffix("\n") == text.removesuffix("\n")


def test_it_names_what_made_it_only_where_the_fields_do_not() -> None:
    assert read(compose(text="x", user_agent="mox/1"))["User-Agent"] == "mox/1"
    other = read(compose(text="x", user_agent="mox/1", fields=[("X-Mailer", "shop 2")]))
    assert (other["User-Agent"], other["X-Mailer"]) == (None, "shop 2")


def test_it_needs_smtputf8_for_a_localpart_alone() -> None:
    raw = compose(text="x", address="møx@bücher.example", subject="grüße")
    assert "Subject: grüße\r\n".encode() in raw
    assert "<møx@bücher.example>".encode() in raw
    assert b"@xn--bcher-kva.example" in compose(text="x", address="mox@bücher.example")


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (b"%PDF-1.4", "application/pdf"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "image/webp"),
        (b"\0\0\0\x18ftypmp42", "video/mp4"),
        (b"\n <!DOCTYPE html>", "text/html; charset=utf-8"),
        (b"<?xml version", "text/xml; charset=utf-8"),
        (b"plain", "text/plain; charset=utf-8"),
        (b"", "text/plain; charset=utf-8"),
        (b"a\0b", "application/octet-stream"),
    ],
)
def test_it_finds_the_type_by_the_first_bytes(start: bytes, expected: str) -> None:
    assert content_type(start) == expected


def test_it_reads_no_more_than_a_mebibyte_of_a_text() -> None:
    raw = b"Content-Type: text/plain; charset=utf-8\r\n\r\n" + "ü".encode() * 2_000_000
    text = readable_texts(parse(raw), BytesSource(raw), 1001).text
    assert text == "ü" * 500


def test_it_reads_the_first_texts_depth_first_and_both_of_an_alternative() -> None:
    raw = compose(text="hi", html="<p>hi", inline_files=[PNG], attached_files=[MailFile("n.txt", "", "", b"note")])
    texts = readable_texts(parse(raw), BytesSource(raw))
    assert (texts.text, texts.html) == ("hi\n", "<p>hi\n")
    mixed = (
        b"Content-Type: multipart/mixed; boundary=x\r\n\r\n"
        b"--x\r\nContent-Type: text/html\r\n\r\n<p>\r\n--x\r\n\r\nt\r\n--x--\r\n"
    )
    assert readable_texts(parse(mixed), BytesSource(mixed)) == type(texts)("", "<p>")
