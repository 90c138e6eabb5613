"""Sessions of the SMTP client: which address is dialed, how a session opens, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from protocols.names import IPDomain
from protocols.smtpclient import (
    ConnectFailed,
    Credentials,
    Extensions,
    Limits,
    Session,
    SMTPError,
    Timeouts,
    connect,
    dial,
)
from protocols.smtpclient.channel import TRACE, TRACEAUTH, TRACEDATA
from protocols.stream import Stream, StreamClosed
from tests.unit.smtp_sink import (
    CLIENT,
    CONTENT,
    LOCALHOST,
    PLAIN,
    QUIT,
    SENT,
    SOON,
    Peer,
    Script,
    Sink,
    converse,
    opening,
    path,
)

OTHER = IPv4Address("127.0.0.2")
HELLO = "S: 220 far.example\nC: EHLO client.example\n"


def session(script: Script, **options: object) -> Session:
    async def talk(sink: Sink) -> Session:
        session = await sink.connect(**options)
        await session.quit()
        return session

    return converse(talk, script)


def error(script: Script, **options: object) -> SMTPError:
    async def talk(sink: Sink) -> SMTPError:
        with pytest.raises(SMTPError) as caught:
            await sink.connect(**options)
        return caught.value

    return converse(talk, script)


# Dialing.


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port on which nobody listens."""
    with socket.socket() as reserved:
        reserved.bind((str(LOCALHOST), 0))
        yield reserved.getsockname()[1]


def test_it_takes_the_first_address_that_can_be_reached() -> None:
    async def talk(sink: Sink) -> str:
        addresses: list[IPv4Address | IPv6Address] = [IPv6Address("::1"), OTHER, LOCALHOST]  # the sink is on the last
        session = await connect(addresses, sink.port, hello=CLIENT, tls=PLAIN)
        await session.quit()
        return session.stream.remote_ip

    assert converse(talk, opening() + QUIT) == "127.0.0.1"


def test_it_tells_why_no_address_could_be_reached(closed_port: int) -> None:
    async def main() -> ConnectFailed:
        with pytest.raises(ConnectFailed) as caught:
            await connect([LOCALHOST, OTHER], closed_port, hello=CLIENT, tls=PLAIN)
        return caught.value

    failed = asyncio.run(main())
    assert failed.attempts == (("127.0.0.1", "connection refused"), ("127.0.0.2", "connection refused"))
    assert str(failed) == "could not connect: 127.0.0.1: connection refused; 127.0.0.2: connection refused"
    assert (failed.permanent, failed.enhanced, failed.command) == (False, "4.4.1", "connect")


def test_no_addresses_are_a_failure_to_connect() -> None:
    async def main() -> None:
        await dial([], 25, timeout=1)

    with pytest.raises(ConnectFailed, match="no addresses"):
        asyncio.run(main())


@pytest.fixture
def full_port() -> Iterator[int]:
    """A port whose queue is full: connections to it are not answered."""
    with socket.socket() as server:
        server.bind((str(LOCALHOST), 0))
        server.listen(0)
        port: int = server.getsockname()[1]
        clients = [socket.socket() for _ in range(4)]
        for client in clients:
            client.setblocking(False)
            client.connect_ex((str(LOCALHOST), port))
        yield port
        for client in clients:
            client.close()


def test_the_time_is_shared_out_among_the_addresses(full_port: int) -> None:
    async def main() -> tuple[ConnectFailed, float]:
        began = asyncio.get_running_loop().time()
        with pytest.raises(ConnectFailed) as caught:
            await dial([LOCALHOST, LOCALHOST, OTHER], full_port, timeout=0.3)
        return caught.value, asyncio.get_running_loop().time() - began

    failed, seconds = asyncio.run(main())
    assert [reason for _, reason in failed.attempts] == ["timeout", "timeout", "connection refused"]
    assert seconds > 0.19  # two shares; the third address refuses at once


def test_it_comes_from_the_local_address_of_the_family() -> None:
    async def talk(sink: Sink) -> tuple[str, str]:
        session = await sink.connect(local_addresses=[IPv6Address("::1"), OTHER])
        await session.quit()
        return session.stream.local_ip, session.stream.remote_ip

    assert converse(talk, opening() + QUIT) == ("127.0.0.2", "127.0.0.1")


def test_a_local_address_that_is_not_ours_is_told() -> None:
    async def main() -> None:
        await dial([LOCALHOST], 25, timeout=SOON, local_addresses=[ip_address("192.0.2.1")])

    with pytest.raises(ConnectFailed, match="assign requested address"):
        asyncio.run(main())


def test_a_session_can_be_had_over_a_stream_of_ones_own() -> None:
    """As over a proxy's."""

    async def talk(sink: Sink) -> None:
        _, stream = await asyncio.get_running_loop().create_connection(Stream, str(LOCALHOST), sink.port)
        session = Session(stream, hello=CLIENT, tls=PLAIN)
        await session.start()
        assert session.usable
        await session.quit()
        assert not session.usable

    converse(talk, opening() + QUIT)


# The opening.


def test_it_reads_what_the_server_can() -> None:
    said = session(
        opening(
            "PIPELINING",
            "size 1000",
            "8bitmime",
            "SMTPUTF8",
            "STARTTLS",
            "REQUIRETLS",
            "ENHANCEDSTATUSCODES",
            "AUTH plain LOGIN",
            "AUTH=LOGIN CRAM-MD5",
            "LIMITS MAILMAX=10 RCPTMAX=100 RCPTDOMAINMAX=1 OTHERMAX=x",
            "X-UNKNOWN a b c",
            "",
        )
        + QUIT
    ).extensions
    assert said == Extensions(
        pipelining=True,
        starttls=True,
        eight_bit_mime=True,
        smtputf8=True,
        require_tls=True,
        enhanced_status_codes=True,
        size=1000,
        auth=("PLAIN", "LOGIN", "CRAM-MD5"),
        limits=Limits(mail_max=10, rcpt_max=100, rcpt_domain_max=1),
    )


@pytest.mark.parametrize("code", [500, 501, 502, 503, 504])
def test_a_server_without_ehlo_is_greeted_with_helo(code: int) -> None:
    script = HELLO + f"S: {code} what?\nC: HELO client.example\nS: 250-PIPELINING\nS: 250 SIZE\n" + QUIT
    assert session(script).extensions == Extensions()


@pytest.mark.parametrize(("code", "permanent"), [(421, False), (451, False), (550, True), (554, True)])
def test_ehlo_refused_otherwise_is_an_error(code: int, permanent: bool) -> None:
    goodbye = "" if code == 421 else QUIT
    refused = error(HELLO + f"S: {code} 5.7.1 not you\n" + goodbye)
    assert (refused.code, refused.permanent, refused.command) == (code, permanent, "ehlo")


def test_helo_refused_is_an_error() -> None:
    refused = error(HELLO + "S: 500 what?\nC: HELO client.example\nS: 550 5.7.1 go away\n" + QUIT)
    assert (str(refused), refused.permanent, refused.command) == ("550 5.7.1 go away", True, "helo")


@pytest.mark.parametrize(
    ("greeting", "text", "permanent"),
    [
        ("554 5.7.1 blocked", "554 5.7.1 blocked", True),
        ("451 4.3.2 later", "451 4.3.2 later", False),
        ("421 4.3.2 busy", "421 4.3.2 busy", False),
        ("250 hi", "unexpected reply to greeting: 250 hi", False),
    ],
)
def test_a_greeting_that_is_none_is_an_error(greeting: str, text: str, permanent: bool) -> None:
    polite = QUIT if greeting[0] in "45" and not greeting.startswith("421") else ""
    refused = error(f"S: {greeting}\n{polite}")
    assert (str(refused), refused.permanent, refused.command) == (text, permanent, "greeting")
    assert refused.remote_ip == refused.local_ip == "127.0.0.1"


def test_a_silent_server_is_not_waited_for_long() -> None:
    async def silent(peer: Peer) -> None:
        await peer.left()

    assert str(error(silent, timeouts=Timeouts(reply=0.05))) == "timeout during greeting"


def test_the_whole_opening_has_a_deadline() -> None:
    """A server that always says a little more, just in time for the single reply."""

    async def script(peer: Peer) -> None:
        await peer.say("220-welcome")
        await peer.left()

    assert str(error(script, timeouts=Timeouts(setup=0.05))) == "timeout during greeting"


def test_a_reply_as_a_whole_has_a_deadline() -> None:
    async def script(peer: Peer) -> None:
        with contextlib.suppress(StreamClosed):
            while True:
                await peer.say_bytes(b"2")
                await asyncio.sleep(0.02)  # less than the client waits for a reply

    assert str(error(script, timeouts=Timeouts(reply=0.1))) == "timeout during greeting"


@pytest.mark.parametrize(("ip", "name"), [("192.0.2.1", "[192.0.2.1]"), ("2001:db8::1", "[IPv6:2001:db8::1]")])
def test_it_can_call_itself_by_its_address(ip: str, name: str) -> None:
    script = f"S: 220 far.example\nC: EHLO {name}\nS: 250 far.example\n" + QUIT
    session(script, hello=IPDomain(ip=ip_address(ip)))


def test_a_greeting_may_have_many_lines() -> None:
    session("S: 220-far.example\nS: 220-no spam\nS: 220 welcome\nC: EHLO client.example\nS: 250 far.example\n" + QUIT)


# The end.


def test_quit_does_not_wait_long_and_raises_nothing() -> None:
    session(opening() + "C: QUIT\n", timeouts=Timeouts(quit=0.05))
    session(opening() + "C: QUIT\ncloses\n")
    session(opening() + "C: QUIT\nresets\n")
    session(opening() + "C: QUIT\nS: 500 what?\n")


def test_quit_of_a_connection_that_is_gone_does_nothing() -> None:
    async def talk(sink: Sink) -> None:
        session = await sink.connect()
        session.abort()
        await session.quit()
        await session.quit()

    converse(talk, opening())


# What is observed.


def test_each_reply_is_observed_with_its_command_codes_and_time() -> None:
    seen: list[tuple[str, int, str]] = []

    def observe(command: str, code: int, enhanced: str, seconds: float) -> None:
        assert 0 <= seconds < SOON
        seen.append((command, code, enhanced))

    async def talk(sink: Sink) -> None:
        session = await sink.connect(observe=observe)
        await session.deliver(path("a@client.example"), [path("b@far.example")], CONTENT, has_8bit=False)
        await session.quit()

    transaction = "C: MAIL FROM:<a@client.example>\nC: RCPT TO:<b@far.example>\nC: DATA\n"
    replies = "S: 250 2.1.0 OK\nS: 250 2.1.5 OK\nS: 354 go\n" + SENT + "S: 250 2.0.0 queued\n"
    converse(talk, opening("PIPELINING") + transaction + replies + QUIT)
    assert seen == [
        ("greeting", 220, ""),
        ("ehlo", 250, ""),
        ("mail", 250, "2.1.0"),
        ("rcpt", 250, "2.1.5"),
        ("data", 354, ""),
        ("end-of-data", 250, "2.0.0"),
        ("quit", 221, ""),
    ]


@pytest.mark.parametrize("level", [logging.DEBUG, TRACE, TRACEAUTH, TRACEDATA])
def test_the_transcript_has_secrets_and_content_at_levels_of_their_own(
    level: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def talk(sink: Sink) -> None:
        credentials = Credentials("jo", "secret", mechanisms=("PLAIN",), allow_cleartext=True)
        session = await sink.connect(credentials=credentials)
        await session.deliver(path("a@client.example"), [path("b@far.example")], CONTENT, has_8bit=False)
        await session.quit()

    transaction = "C: MAIL FROM:<a@client.example>\nC: RCPT TO:<b@far.example>\nC: DATA\n"
    replies = "S: 250 OK\nS: 250 OK\nS: 354 go\n" + SENT + "S: 250 OK\n"
    auth = "C: AUTH PLAIN AGpvAHNlY3JldA==\nS: 235 OK\n"
    with caplog.at_level(level, "protocols.smtpclient"):
        converse(talk, opening("PIPELINING", "AUTH PLAIN") + auth + transaction + replies + QUIT)
    lines = [record.__dict__["data"] for record in caplog.records if record.message.startswith("smtp client")]
    assert ("MAIL FROM:<a@client.example>" in lines) == (level <= TRACE)
    assert ("354 go" in lines) == (level <= TRACE)
    assert ("AUTH PLAIN ***" in lines) == (level == TRACE)
    assert any("AGpvAHNlY3JldA" in line for line in lines) == (level <= TRACEAUTH)
    assert any("Hello." in line for line in lines) == (level <= TRACEDATA)
