"""Replies of servers, good and hostile: what is read from them, and that none costs more than a bounded amount."""

from __future__ import annotations

import contextlib
import re
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.smtpclient import Delivery, Reply, SMTPError
from protocols.smtpclient.extensions import parse_extensions
from protocols.smtpclient.replies import KEPT, MAX_LINE, MAX_LINES, ReplyParser
from protocols.stream import StreamClosed
from tests.unit.smtp_sink import CONTENT, Peer, Sink, converse, deliver, path


def parse(data: bytes) -> Reply | None:
    """The reply in the lines of ``data``, which must end with its last."""
    parser = ReplyParser()
    *before, last = re.findall(rb"[^\n]*\n", data)
    for line in before:
        assert parser.feed(line) is None
    return parser.feed(last)


@pytest.mark.parametrize(
    ("data", "reply"),
    [
        (b"250 OK\r\n", Reply(250, "", "OK", ("250 OK",))),
        (b"250\r\n", Reply(250, "", "", ("250",))),
        (b"250 \r\n", Reply(250, "", "", ("250 ",))),
        (b"250 2.1.0 fine\n", Reply(250, "2.1.0", "fine", ("250 2.1.0 fine",))),
        (b"550 5.1.1\r\n", Reply(550, "5.1.1", "", ("550 5.1.1",))),
        (
            b"550-5.1.1 no such\r\n550 5.1.1 user\r\n",
            Reply(550, "5.1.1", "no such user", ("550-5.1.1 no such", "550 5.1.1 user")),
        ),
        (b"550-sorry\r\n550 5.7.1 no\r\n", Reply(550, "5.7.1", "sorry no", ("550-sorry", "550 5.7.1 no"))),
        (b"550 2.1.0 odd\r\n", Reply(550, "", "2.1.0 odd", ("550 2.1.0 odd",))),  # another class than the code's
        (b"550 5.1.1.1 odd\r\n", Reply(550, "", "5.1.1.1 odd", ("550 5.1.1.1 odd",))),
        (b"550 5.1.1234 odd\r\n", Reply(550, "", "5.1.1234 odd", ("550 5.1.1234 odd",))),
        (b"354 go\r\n", Reply(354, "", "go", ("354 go",))),
        (b"250-\r\n250\r\n", Reply(250, "", "", ("250-", "250"))),
        ("550 gr\N{LATIN SMALL LETTER U WITH DIAERESIS}n\r\n".encode(), Reply(550, "", "grün", ("550 grün",))),
        (b"550 \xff\r\n", Reply(550, "", "\\xff", ("550 \\xff",))),
    ],
)
def test_it_reads_code_enhanced_code_and_text(data: bytes, reply: Reply) -> None:
    assert parse(data) == reply


@pytest.mark.parametrize(
    "line",
    [
        b"25\r\n",
        b"\r\n",
        b"2500 OK\r\n",
        b"250OK\r\n",
        b"25x OK\r\n",
        b"199 OK\r\n",
        b"600 OK\r\n",
        b"HTTP/1.0 400\r\n",
    ],
)
def test_it_refuses_what_is_no_reply(line: bytes) -> None:
    with pytest.raises(ValueError, match="malformed"):
        ReplyParser().feed(line)


def test_the_text_of_an_error_has_no_line_ends_or_other_controls() -> None:
    """It goes into the header of a DSN and into logs."""
    reply = parse(b"550 5.1.1 a\rX-Evil: b\x1b[2J\x0b\xc2\x85c\xe2\x80\xa8d\r\n")
    assert reply is not None
    for text in (str(reply.error("rcpt")), *reply.error("rcpt").lines):
        assert text.isprintable()
        assert "X-Evil: b" in text


def test_an_error_keeps_a_bounded_part_of_a_reply() -> None:
    lines = [b"550-5.1.1 " + b"x" * 2000 + b"\r\n"] * (MAX_LINES - 1) + [b"550 5.1.1 end\r\n"]
    reply = parse(b"".join(lines))
    assert reply is not None
    error = reply.error("rcpt")
    assert (error.code, error.enhanced) == (550, "5.1.1")
    assert len(str(error)) <= KEPT
    assert sum(map(len, error.lines)) <= KEPT


@given(st.lists(st.binary(max_size=60)))
def test_no_line_makes_the_parser_fail_in_another_way(lines: list[bytes]) -> None:
    parser = ReplyParser()
    try:
        for line in lines:
            reply = parser.feed(line + b"\r\n")
            if reply is not None:
                parse_extensions(reply)
                return
    except ValueError:
        pass


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0")), min_size=1, max_size=20))
def test_no_answer_to_ehlo_makes_reading_the_extensions_fail(lines: list[str]) -> None:
    data = "".join(f"250-{line}\r\n" for line in lines[:-1]) + f"250 {lines[-1]}\r\n"
    reply = parse(data.encode())
    assert reply is not None
    extensions = parse_extensions(reply)
    assert extensions.size is None or extensions.size >= 0


# A hostile reply at each step.

HOSTILE = {
    "a line of 10 KiB": (b"250 " + b"x" * 10240 + b"\r\n", "line of more than 2048 bytes"),
    "a line without end": (b"250 " + b"x" * 300_000, "line of more than 2048 bytes"),
    "10 000 continuation lines": (b"250-more\r\n" * 10_000 + b"250 OK\r\n", "reply of more than 100 lines"),
    "NUL": (b"250 O\0K\r\n", "malformed reply line"),
    "two digits": (b"25\r\n", "malformed reply line"),
    "codes that differ": (b"250-fine\r\n550 no\r\n", "reply has lines with codes 250 and 550"),
    "nothing like it": (b"\x16\x03\x01\x02\x00\x01\r\n", "malformed reply line"),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("step", ["greeting", "ehlo"])
def test_a_hostile_reply_while_connecting_is_a_temporary_error(step: str, name: str) -> None:
    data, text = HOSTILE[name]

    async def script(peer: Peer) -> None:
        if step == "ehlo":
            await peer.play("S: 220 far.example\nC: EHLO client.example")
        await peer.say_bytes(data)

    async def talk(sink: Sink) -> None:
        with pytest.raises(SMTPError, match=text) as caught:
            await sink.connect()
        assert not caught.value.permanent
        assert (caught.value.code, caught.value.remote_ip) == (0, "127.0.0.1")

    converse(talk, script)


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("step", ["mail", "rcpt", "data", "end-of-data"])
def test_a_hostile_reply_in_a_transaction_is_a_temporary_error(step: str, name: str) -> None:
    data, text = HOSTILE[name]
    before = {"mail": 0, "rcpt": 1, "data": 2, "end-of-data": 2}[step]

    async def script(peer: Peer) -> None:
        await peer.greet("PIPELINING")
        await peer.play("C: MAIL FROM:<a@client.example>\nC: RCPT TO:<b@far.example>\nC: DATA")
        await peer.say(*["250 OK"] * before)
        if step == "end-of-data":
            await peer.say("354 go")
            await peer.content()
        await peer.say_bytes(data)

    (result,) = deliver(script).results
    assert result.error is not None
    assert not result.error.permanent
    assert str(result.error).startswith(f"bad reply to {step}: {text}")
    assert result.error.sent == (step == "end-of-data")


def test_a_flood_of_replies_costs_no_memory() -> None:
    """A thousand recipients, each refused with as long a reply as there can be; then lines without end."""
    recipients = tuple(f"r{number}@far.example" for number in range(1000))
    line = b"x" * (MAX_LINE - 7) + b"\r\n"
    refusal = b"".join([b"550-" + line] * (MAX_LINES - 2) + [b"550 " + line])

    async def script(peer: Peer) -> None:
        await peer.greet("PIPELINING")
        while (await peer.line()) != b"DATA":
            pass
        await peer.say("250 OK")
        for _ in range(400):
            await peer.say_bytes(refusal)
        with contextlib.suppress(StreamClosed):
            while True:
                await peer.say_bytes(b"250-" + line)
                await peer.stream.look()

    async def talk(sink: Sink) -> Delivery:
        session = await sink.connect()
        tracemalloc.start()
        try:
            delivery = await session.deliver(
                path("a@client.example"), [path(to) for to in recipients], CONTENT, has_8bit=False
            )
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 16 << 20, f"{peak} bytes for a flood of {400 * len(refusal)}"
        return delivery

    delivery = converse(talk, script)
    permanent = [result for result in delivery.results if result.error is not None and result.error.permanent]
    assert len(permanent) == 400
    assert len(delivery.results) == 1000
