"""Messages that we write: fields that no value breaks out of; text, names and attachments that others read again."""

from __future__ import annotations

import email
import email.policy
import io
import re
import time
from collections.abc import Callable
from email.message import EmailMessage

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.message import (
    BadHeaderText,
    Composer,
    HeaderWriter,
    MessageTooLarge,
    NameAddress,
    boundary,
    message_id,
    parse,
)
from protocols.message.composer import parameters, text_body
from protocols.message.headers import parse_parameterized
from protocols.message.headerwriter import comment
from protocols.names import Address, parse_address, parse_domain


def composed(write: Callable[[Composer], None], *, smtputf8: bool = False) -> bytes:
    file = io.BytesIO()
    write(Composer(file, max_size=10_000_000, smtputf8=smtputf8))
    return file.getvalue()


def read_by_python(message: bytes) -> EmailMessage:
    read = email.message_from_bytes(message, policy=email.policy.default)
    assert isinstance(read, EmailMessage)
    return read


def subject(text: str, *, smtputf8: bool = False) -> bytes:
    return composed(lambda composer: composer.unstructured("Subject", text), smtputf8=smtputf8)


def to(*addresses: tuple[str, str], smtputf8: bool = False) -> bytes:
    values = [NameAddress(name, parse_address(address)) for name, address in addresses]
    return composed(lambda composer: composer.addresses("To", values), smtputf8=smtputf8)


# Nothing breaks out of its field.

BREAKS = ["a\r\nBcc: b@example.org", "a\nb", "a\rb", "a\0b", "é\r\nb", "\ud800\n"]


@pytest.mark.parametrize("evil", BREAKS)
@pytest.mark.parametrize("smtputf8", [False, True])
def test_a_line_end_in_any_value_is_an_error(evil: str, smtputf8: bool) -> None:
    address = Address("a", parse_domain("example.org"))
    for write in (
        lambda composer: composer.header("X", evil),
        lambda composer: composer.header(evil, "x"),
        lambda composer: composer.unstructured("Subject", evil),
        lambda composer: composer.unstructured(evil, "x"),
        lambda composer: composer.addresses("To", [NameAddress(evil, address)]),
        lambda composer: composer.addresses("To", [NameAddress("", Address(evil, address.domain))]),
        lambda composer: composer.attachment(b"", evil, "x"),
        lambda composer: composer.attachment(b"", "text/plain", evil),
        lambda composer: composer.attachment(b"", "text/plain", "x", disposition=evil),
        lambda composer: composer.attachment(b"", "text/plain", "x", content_id=evil),
        lambda composer: composer.text(evil, "x"),
        lambda composer: composer.multipart(evil),
        lambda composer: composer.multipart("mixed", {"a": evil}),
    ):
        with pytest.raises(BadHeaderText):
            composed(write, smtputf8=smtputf8)


@pytest.mark.parametrize("name", ["", "a b", "a:b", "é", "a\t"])
def test_a_field_needs_a_name(name: str) -> None:
    with pytest.raises(BadHeaderText, match="not the name of a header field"):
        composed(lambda composer: composer.header(name, "x"))


def test_what_needs_smtputf8_is_an_error_without() -> None:
    with pytest.raises(BadHeaderText, match="needs SMTPUTF8"):
        composed(lambda composer: composer.header("Message-Id", "<é@example.org>"))
    with pytest.raises(BadHeaderText, match="needs SMTPUTF8"):
        to(("", "é@example.org"))
    assert to(("Zoë", "é@grün.example"), smtputf8=True) == 'To: "Zoë" <é@grün.example>\r\n'.encode()


# Folding.


def test_fields_are_folded_at_78_characters() -> None:
    field = composed(lambda composer: composer.header("References", " ".join(["<abcdefghijklmnop@example.org>"] * 9)))
    assert max(len(line) for line in field.split(b"\r\n")) <= 78
    assert field.replace(b"\r\n ", b" ").count(b" <abcdefghijklmnop@example.org>") == 9


def test_a_folded_text_keeps_its_spaces() -> None:
    text = "word  " * 30 + "end"
    field = subject(text)
    assert field.count(b"\r\n") > 2
    assert field.replace(b"\r\n", b"") == b"Subject: " + text.encode()


@given(st.text(st.sampled_from("a \t"), max_size=700))
def test_no_line_of_a_field_is_empty_or_too_long(text: str) -> None:
    writer = HeaderWriter("X:")
    writer.words(text)
    first, *more, last = writer.bytes().split(b"\r\n")
    assert (first[:2], last) == (b"X:", b"")
    assert all(line.strip() and len(line) < 400 for line in more)
    assert b"".join((first, *more)).replace(b" ", b"").replace(b"\t", b"") == b"X:" + re.sub(r"\s", "", text).encode()


def test_lines_after_a_new_one_are_indented_deeper() -> None:
    writer = HeaderWriter("X:")
    writer.add(" ", "a" * 70, "b" * 70)
    writer.newline()
    writer.add("", "c" * 70, "d" * 70)
    assert writer.bytes() == b"X: %b\r\n\t%b\r\n\t%b\r\n\t %b\r\n" % (b"a" * 70, b"b" * 70, b"c" * 70, b"d" * 70)


@given(st.text(st.sampled_from("()a\\ "), max_size=40))
def test_a_comment_is_one(text: str) -> None:
    depth = 0
    written = re.sub(r"\\.", "", comment(text))
    for at, character in enumerate(written):
        depth += {"(": 1, ")": -1}.get(character, 0)
        assert depth > 0 or at == len(written) - 1
    assert depth == 0


# Text in fields.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello", b"Subject: Hello\r\n"),
        ("", b"Subject:\r\n"),
        ("Grüße an alle", b"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?= an alle\r\n"),
        ("Re: für Zoë, ja", b"Subject: Re: =?utf-8?q?f=C3=BCr_Zo=C3=AB=2C?= ja\r\n"),
        ("=?utf-8?q?x?=", b"Subject: =?utf-8?q?=3D=3Futf-8=3Fq=3Fx=3F=3D?=\r\n"),
        ("a\tb \x1b[2J", b"Subject: =?utf-8?q?a=09b_=1B=5B2J?=\r\n"),
        ("\ud800", b"Subject: =?utf-8?q?=3F?=\r\n"),
    ],
)
def test_text_outside_ascii_is_encoded(text: str, expected: bytes) -> None:
    assert subject(text) == expected


def test_text_is_utf_8_with_smtputf8() -> None:
    assert subject("Grüße an alle", smtputf8=True) == "Subject: Grüße an alle\r\n".encode()


def test_an_encoded_word_is_at_most_75_characters_and_splits_no_character() -> None:
    words = subject("日本語" * 50)[len("Subject:") :].split()
    assert max(map(len, words)) <= 75
    for word in words:
        bytes.fromhex(word[10:-2].replace(b"=", b"").decode()).decode()


sayable = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=80)


@given(sayable, st.booleans())
def test_a_subject_is_read_as_it_was_written(text: str, smtputf8: bool) -> None:
    field = subject(text, smtputf8=smtputf8)
    envelope = parse(field + b"\r\n").envelope
    assert envelope is not None
    assert envelope.subject.strip() == text.strip()
    if not smtputf8:
        assert field.isascii()


@given(st.text(st.sampled_from("aé =?_x"), max_size=200))
def test_python_reads_the_subject(text: str) -> None:
    assert " ".join(str(read_by_python(subject(text) + b"\r\n")["Subject"]).split()) == " ".join(text.split())


# Addresses.


def test_addresses_have_their_names() -> None:
    assert to(("", "a@example.org")) == b"To: <a@example.org>\r\n"
    assert to(("Jan Klaassen", "a@example.org")) == b"To: Jan Klaassen <a@example.org>\r\n"
    assert to(('Klaassen, "J."', "a@example.org")) == b'To: "Klaassen, \\"J.\\"" <a@example.org>\r\n'
    assert to(("Zoë", "a@grün.example")) == b"To: =?utf-8?q?Zo=C3=AB?= <a@xn--grn-ioa.example>\r\n"
    assert to(("", '"a b"@example.org')) == b'To: <"a b"@example.org>\r\n'
    assert to() == b""


def test_a_long_list_is_folded_between_addresses() -> None:
    field = to(*(("", f"recipient{number}@example.org") for number in range(50)))
    assert max(len(line) for line in field.split(b"\r\n")) <= 78
    assert field.count(b",") == 49


@given(st.lists(sayable, min_size=1, max_size=5), st.booleans())
def test_names_are_read_as_they_were_written(names: list[str], smtputf8: bool) -> None:
    envelope = parse(to(*((name, "a@example.org") for name in names), smtputf8=smtputf8) + b"\r\n").envelope
    assert envelope is not None
    assert [(a.user, a.host) for a in envelope.to] == [("a", "example.org")] * len(names)
    assert [" ".join(a.name.split()) for a in envelope.to] == [" ".join(name.split()) for name in names]


# Bodies.


@pytest.mark.parametrize(
    ("text", "charset", "encoding", "content"),
    [
        ("", "us-ascii", "7bit", b""),
        ("a", "us-ascii", "7bit", b"a\r\n"),
        ("a\nb\r\n", "us-ascii", "7bit", b"a\r\nb\r\n"),
        ("é\n", "utf-8", "8bit", b"\xc3\xa9\r\n"),
        ("a \n", "us-ascii", "quoted-printable", b"a=20\r\n"),
        ("a\t\nb", "us-ascii", "quoted-printable", b"a=09\r\nb\r\n"),
        ("a\rb", "us-ascii", "quoted-printable", b"a=0Db\r\n"),
        ("a\0b", "us-ascii", "quoted-printable", b"a=00b\r\n"),
        ("x" * 78, "us-ascii", "7bit", b"x" * 78 + b"\r\n"),
        ("x" * 79, "us-ascii", "quoted-printable", b"x" * 75 + b"=\r\n" + b"x" * 4 + b"\r\n"),
        ("é" * 40, "utf-8", "quoted-printable", None),
    ],
)
def test_a_text_is_encoded_only_if_it_must_be(text: str, charset: str, encoding: str, content: bytes | None) -> None:
    body = text_body(text)
    assert (body.charset, body.encoding) == (charset, encoding)
    assert content is None or body.content == content


@given(st.text(max_size=300) | st.text(st.sampled_from("a \t\r\n\0=é."), max_size=100))
def test_a_text_is_read_as_it_was_written(text: str) -> None:
    message = composed(lambda composer: composer.text("plain", text))
    part = parse(message, strict=True)
    expected = text.encode("utf-8", "replace").decode().replace("\r\n", "\n").replace("\n", "\r\n")
    assert part.text(message) == expected + ("" if expected.endswith("\r\n") or not expected else "\r\n")


def test_a_multipart_nests() -> None:
    def write(composer: Composer) -> None:
        composer.header("MIME-Version", "1.0")
        with composer.multipart("mixed") as mixed:
            mixed.part()
            with composer.multipart("alternative") as alternative:
                alternative.part()
                composer.text("plain", "Grüße\n")
                alternative.part()
                composer.text("html", "<p>Grüße</p>\n")
            mixed.part()
            composer.attachment(io.BytesIO(b"\0" * 100_000), "image/png", "Übersicht.png", content_id="<plot@x>")
            mixed.part()
            composer.attachment(b"abc", "text/csv", "a b.csv", disposition="inline")
        assert composer.has_8bit

    message = composed(write)
    parse(message, strict=True)
    read = read_by_python(message)
    assert [part.get_content_type() for part in read.walk()] == [
        "multipart/mixed",
        "multipart/alternative",
        "text/plain",
        "text/html",
        "image/png",
        "text/csv",
    ]
    alternative, image, table = read.iter_parts()
    assert [part.get_content() for part in alternative.iter_parts()] == ["Grüße\r\n", "<p>Grüße</p>\r\n"]
    assert (image.get_filename(), image.get_content(), image["Content-Id"]) == (
        "Übersicht.png",
        b"\0" * 100_000,
        "<plot@x>",
    )
    assert (table.get_filename(), table.get_content_disposition()) == ("a b.csv", "inline")
    assert max(len(line) for line in message.split(b"\r\n")) <= 78


def test_too_much_is_an_error_before_it_is_written() -> None:
    file = io.BytesIO()
    composer = Composer(file, max_size=100)
    composer.header("X", "y" * 90)
    with pytest.raises(MessageTooLarge, match="larger than 100 bytes"):
        composer.header("X", "y")
    assert len(file.getvalue()) <= 100


# File names.


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a.txt", ["filename=a.txt"]),
        ("a b.txt", ['filename="a b.txt"']),
        ('a"\\.txt', ['filename="a\\"\\\\.txt"']),
        ("", ['filename=""']),
        ("é.txt", ["filename*=utf-8''%C3%A9.txt"]),
        ("x" * 70, ["filename*0*=utf-8''" + "x" * 60, "filename*1*=" + "x" * 10]),
    ],
)
def test_names_of_files_take_what_they_need(value: str, expected: list[str]) -> None:
    assert parameters("filename", value) == expected


@given(sayable | st.text(st.sampled_from("a'%*\"\\;= é😀"), max_size=300))
def test_names_of_files_are_read_as_they_were_written(name: str) -> None:
    field = composed(lambda composer: composer.attachment(b"", "a/b", name)).partition(b"Content-Disposition:")[2]
    value = field.partition(b"\r\n\r\n")[0].replace(b"\r\n", b"")
    assert parse_parameterized(value).params.get("filename", "") == name


# Identifiers.


def test_message_ids_are_new_and_of_the_host() -> None:
    host = parse_domain("grün.example")
    assert re.fullmatch(r"<[A-Za-z0-9_-]{22}@xn--grn-ioa\.example>", message_id(host, False))
    assert message_id(host, True).endswith("@grün.example>")
    assert message_id(host, False) != message_id(host, False)


def test_boundaries_are_new() -> None:
    assert re.fullmatch(r"[0-9a-f]{32}", boundary())
    assert boundary() != boundary()


@pytest.mark.parametrize("unit", ["x", " ", "é", "a é", "=?", "\n", " \n", "\r", '"'])
def test_it_takes_time_by_the_length(unit: str) -> None:
    def seconds(size: int) -> float:
        text = unit * size
        line = re.sub("[\r\n]", "", text)
        best = 9.0
        for _ in range(5):
            start = time.process_time()
            text_body(text)
            subject(line)
            to((line, "a@example.org"))
            parameters("filename", line)
            comment(line)
            best = min(best, time.process_time() - start)
        return best

    assert seconds(24_000) / max(seconds(3_000), 1e-5) < 20
