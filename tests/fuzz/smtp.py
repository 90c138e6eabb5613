"""SMTP: command lines, content, replies of both sides."""

from __future__ import annotations

import contextlib

from protocols.names import IPDomain, address_literal
from protocols.smtpclient.extensions import parse_extensions
from protocols.smtpclient.replies import MAX_LINE, ReplyParser
from protocols.smtpdata import BareLineEnd, ContentTooLarge, DataReader, DotStuffer
from protocols.smtpreply import Reply
from protocols.smtpsyntax import (
    POSTMASTER,
    Path,
    SyntaxProblem,
    decode_xtext,
    parse_command,
    parse_hello,
    parse_mail,
    parse_mailbox,
    parse_rcpt,
)

from .targets import Target

LONGEST_LINE = 16 * 1024  # bytes; servers take less


def command(data: bytes) -> None:
    try:
        argument = parse_command(data).argument
    except SyntaxProblem:
        return
    for strict in (False, True):
        for literal in (False, True):
            with contextlib.suppress(SyntaxProblem):
                _check_hello(parse_hello(argument, literal=literal, strict=strict))
        with contextlib.suppress(SyntaxProblem):
            mail = parse_mail(argument, strict=strict)
            _check_path(mail.reverse_path)
            assert mail.size is None or mail.size >= 0
        for smtputf8 in (False, True):
            with contextlib.suppress(SyntaxProblem):
                path = parse_rcpt(argument, smtputf8=smtputf8, strict=strict)
                assert not path.is_null
                assert smtputf8 or path.localpart.isascii()
                _check_path(path)


def _check_hello(name: IPDomain) -> None:
    assert (name.ip is None) != (name.domain is None)
    if name.ip is not None:
        assert parse_hello(f" {address_literal(name.ip)}", literal=True) == name


def _check_path(path: Path) -> None:
    if path.is_null or path.localpart.lower() == POSTMASTER:
        return
    for smtputf8 in (False, True):
        assert parse_mailbox(path.text(smtputf8=smtputf8), smtputf8=True) == path


def xtext(data: bytes) -> None:
    with contextlib.suppress(SyntaxProblem):
        decode_xtext(data.decode("utf-8", "surrogateescape"))


def content(data: bytes) -> None:
    for strict in (False, True):
        whole = _read([data], strict)
        size = len(data) // 4 + 1
        assert _read([data[at : at + size] for at in range(0, len(data), size)], strict) == whole
    with contextlib.suppress(BareLineEnd):
        stuffer = DotStuffer()
        stuffed = stuffer.feed(data) + stuffer.finish() + b".\r\n"
        reader = DataReader(1 << 30, strict=True)
        assert reader.feed(stuffed) == (data if data.endswith(b"\r\n") or not data else data + b"\r\n")
        assert (reader.done, reader.rest, reader.violation) == (True, b"", "")


def _read(blocks: list[bytes], strict: bool) -> tuple[bytes, bytes, bool]:
    reader = DataReader(1 << 30, strict=strict)
    kept = rest = b""
    for block in blocks:
        if reader.done:
            rest += block
        else:
            kept += reader.feed(block)
    with contextlib.suppress(ContentTooLarge):
        DataReader(10, strict=strict).feed(b"".join(blocks))
    return kept, reader.rest + rest, bool(reader.violation)


def written_reply(data: bytes) -> None:
    for enhanced in ("", "5.1.1"):
        wire = Reply(550, enhanced, data.decode("utf-8", "replace")).encode("cid")
        lines = wire.split(b"\r\n")
        assert lines.pop() == b""
        assert all(line.isascii() and len(line) <= 510 and b"\n" not in line for line in lines)
        assert all(line.startswith(b"550-") for line in lines[:-1])
        assert lines[-1].startswith(b"550 ")


def read_reply(data: bytes) -> None:
    parser = ReplyParser()
    for line in data.split(b"\n"):
        try:
            reply = parser.feed(line[:MAX_LINE] + b"\n")
        except ValueError:
            return
        if reply is not None:
            assert str(reply).isprintable()
            assert str(reply.error("mail")).isprintable()
            parse_extensions(reply)
            parser = ReplyParser()


COMMANDS = [
    b"EHLO [IPv6:2001:db8::1]\r\n",
    b"HELO mx_1.example.org x\n",
    b'MAIL FROM:<"a b"@example.org> SIZE=100 BODY=8BITMIME SMTPUTF8 REQUIRETLS\r\n',
    b"MAIL FROM:<@a.example,@b.example:j+k@[192.0.2.1]> AUTH=<> SIZE=99999999999999999999\r\n",
    b"MAIL FROM:<> HOLDFOR=60 HOLDUNTIL=2031-03-03T09:12:44Z\r\n",
    "RCPT TO:<λ@ελληνικά.example>\r\n".encode(),
    b"RCPT TO:<Postmaster>\r\n",
]
WORDS = [
    b" ",
    b"<",
    b">",
    b"@",
    b":",
    b",",
    b'"',
    b"\\",
    b"[",
    b"]",
    b"=",
    b"+",
    b"\xc3\xa9",
    b"\xff",
    b"\r\n",
    b"\t",
    b"\0",
]
WORDS += [
    b"MAIL FROM:",
    b"RCPT TO:",
    b"EHLO ",
    b"SIZE=",
    b"BODY=",
    b"AUTH=",
    b"SMTPUTF8",
    b"IPv6:",
    b"a",
    b".",
    b"+2B",
    b"9",
]
CONTENT = [b"\r\n", b"\r", b"\n", b".", b"\r\n.\r\n", b"\n.\n", b"\r\n.\n", b"a", b"\xe9", b"\r\n.."]
EHLO = (
    b"250-mx.example\r\n250-SIZE 1000\r\n250-AUTH PLAIN LOGIN\r\n250-AUTH=X\r\n250-LIMITS RCPTMAX=9\r\n250 STARTTLS\r\n"
)
REPLIES = [
    b"250",
    b"550",
    b"-",
    b" ",
    b"5.1.1",
    b"2.0.0",
    b"\n",
    b"\r",
    b"\0",
    b"\xe9",
    b"LIMITS",
    b"RCPTMAX=",
    b"SIZE ",
    b"9",
]

TARGETS = [
    Target("SMTP command", command, COMMANDS, WORDS, LONGEST_LINE),
    Target("xtext", xtext, [b"a+2Bb"], [b"+", b"2B", b"a", b"=", b"\xff"]),
    Target("content", content, [b"a\r\n..b\r\n.\r\nQUIT\r\n"], CONTENT),
    Target(
        "written reply",
        written_reply,
        [b"no such user\nreally"],
        [b" ", b"\n", b"\r", b"a", b"\xc3\xa9", b"\0", b"550"],
    ),
    Target("reply", read_reply, [EHLO, b"550-5.1.1 no\r\n550 5.1.1 user\r\n"], REPLIES),
]
