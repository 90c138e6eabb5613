"""What the other side of a connection may say to our clients: name servers, SMTP servers, policy hosts."""

from __future__ import annotations

import asyncio
import contextlib
import selectors
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from typing import Any, Final, cast

import dns.asyncresolver
import dns.message
import dns.nameserver
import h11

from protocols import smtpclient, socks
from protocols.dns import DNSError, ErrorKind
from protocols.dns.lookups import parse_name
from protocols.dns.servers import Servers
from protocols.dns.stub import StubResolver
from protocols.mtasts import StsError, fetching
from protocols.mtasts.policy import MAX_POLICY
from protocols.names import Domain, IPDomain
from protocols.smtpclient import Credentials, Session, SMTPError, TLSMode, TLSPolicy
from protocols.smtpsyntax import Path
from protocols.stream import Stream, StreamClosed

from .targets import Target

FAR: Final = IPDomain(domain=Domain("far.example"))
NEAR: Final = IPDomain(domain=Domain("near.example"))
RECIPIENTS: Final = [Path("b", FAR), Path("c", FAR)]
CREDENTIALS: Final = Credentials(
    "jan", "secret", (*smtpclient.authentication.DEFAULT_MECHANISMS, "PLAIN", "LOGIN"), allow_cleartext=True
)
TYPES: Final = ("txt", "a", "aaaa", "mx", "ptr", "cname", "ns", "srv", "tlsa", "soa")
TIMEOUT: Final = 0.003  # seconds: dnspython asks again when an answer makes no sense


class CannedServer(dns.nameserver.Do53Nameserver):
    """Answers with the same octets."""

    def __init__(self, wire: bytes) -> None:
        super().__init__("192.0.2.53")
        self._wire = wire

    async def async_query(self, request: dns.message.QueryMessage, *args: Any, **options: Any) -> dns.message.Message:
        response = dns.message.from_wire(request.id.to_bytes(2, "big") + self._wire)
        if not request.is_response(response):
            raise dns.query.BadResponse
        return response


class CannedResolver(StubResolver):
    def __init__(self, wire: bytes) -> None:
        super().__init__(timeout=TIMEOUT, lifetime=TIMEOUT)
        self._wire = wire

    def _client(self, servers: Servers) -> dns.asyncresolver.Resolver:
        client = super()._client(servers)
        client.nameservers = [CannedServer(self._wire)]
        return client


def dns_answer(data: bytes) -> None:
    """The first octet chooses the type, the rest is the answer without its id."""
    rtype = TYPES[data[0] % len(TYPES)] if data else "txt"
    try:
        answer = asyncio.run(CannedResolver(data[1:])._lookup("a.example.", rtype))
    except DNSError as exc:
        error = exc
    else:
        assert answer.records
        assert 0 <= answer.ttl <= 3600
        assert parse_name(answer.canonical, rtype)
        return
    assert error.kind is not ErrorKind.INVALID
    assert str(error).isascii()
    assert str(error).isprintable()


class HastyLoop(asyncio.SelectorEventLoop):
    """When nothing is left to be done but to wait, the time has come."""

    def __init__(self) -> None:
        self._skipped = 0.0
        super().__init__(HastySelector(self._skip))

    def time(self) -> float:
        return super().time() + self._skipped

    def _skip(self, seconds: float) -> None:
        self._skipped += seconds


class HastySelector(selectors.DefaultSelector):
    def __init__(self, skip: Callable[[float], None]) -> None:
        super().__init__()
        self._skip = skip

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "it would wait for ever"
        self._skip(timeout)
        return super().select(0)


class ScriptedServer(asyncio.Transport):
    """Says the next of its lines whenever the client has said something; then it closes the connection."""

    def __init__(self, stream: Stream, said: Iterator[bytes]) -> None:
        super().__init__()
        self._stream = stream
        self._said = said
        self._closing = False
        stream.connection_made(self)
        self.write(b"")

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closing:
            return
        said = next(self._said, None)
        if said is None:
            self._stream.eof_received()
        else:
            self._stream.data_received(said)

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            asyncio.get_running_loop().call_soon(self._stream.connection_lost, None)

    abort = close

    def is_closing(self) -> bool:
        return self._closing

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


def smtp_server(data: bytes) -> None:
    """Replies between empty lines, each to what the client said last."""
    replies = [reply + b"\n" for reply in data.split(b"\n\n")]
    for credentials in (None, CREDENTIALS):
        with asyncio.Runner(loop_factory=HastyLoop) as runner:
            runner.run(_deliver(replies, credentials))


async def _deliver(replies: list[bytes], credentials: Credentials | None) -> None:
    stream = Stream()
    ScriptedServer(stream, iter(replies))
    session = Session(stream, hello=NEAR, tls=TLSPolicy(TLSMode.SKIP))
    try:
        await session.start(credentials)
    except SMTPError as exc:
        _check_error(exc)
        return
    delivery = await session.deliver(Path("a", NEAR), RECIPIENTS, b"Subject: x\r\n\r\n.x\r\n", has_8bit=False)
    assert [*(result.recipient for result in delivery.results), *delivery.untried] == RECIPIENTS
    for result in delivery.results:
        assert (result.accepted is None) == (result.error is not None)
        if result.accepted is not None:
            assert result.accepted.ok
            assert result.accepted.code // 100 == 2
        if result.error is not None:
            _check_error(result.error)
    await session.quit()


def _check_error(error: SMTPError) -> None:
    assert str(error).isprintable(), error
    assert all(line.isprintable() for line in error.lines)


def socks_proxy(data: bytes) -> None:
    """Answers of a proxy, each with its length before it."""
    answers = [b""]  # it says nothing by itself
    while data:
        answers.append(data[1 : 1 + data[0]])
        data = data[1 + data[0] :]
    with asyncio.Runner(loop_factory=HastyLoop) as runner:
        runner.run(_connect_through(answers))


async def _connect_through(answers: list[bytes]) -> None:
    stream = Stream()
    ScriptedServer(stream, iter(answers))
    with contextlib.suppress(socks.SocksError, StreamClosed, TimeoutError):
        await socks._log_in(stream, socks.Proxy("proxy.example", 1080, "jan", "secret"))
        await socks._connect(stream, ip_address("192.0.2.1"), 25)


def policy_host(data: bytes) -> None:
    """A response to the request for an MTA-STS policy."""
    with contextlib.suppress(StsError, h11.RemoteProtocolError):
        assert len(asyncio.run(_fetched(data))) <= MAX_POLICY


async def _fetched(data: bytes) -> bytes:
    reader = asyncio.StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    return await fetching._get(reader, cast(asyncio.StreamWriter, Unheard()), Domain("mta-sts.a.example"))


class Unheard:
    """A writer to nobody."""

    def write(self, data: bytes) -> None:
        pass

    async def drain(self) -> None:
        pass


def _answer(rtype: str, *records: str) -> bytes:
    question = f"a.example. IN {rtype.upper()}"
    sections = [
        "id 1",
        "opcode QUERY",
        "rcode NOERROR",
        "flags QR RD RA AD",
        ";QUESTION",
        question,
        ";ANSWER",
        *records,
    ]
    response = dns.message.from_text("\n".join(sections))
    return bytes([TYPES.index(rtype)]) + response.to_wire()[2:]


ANSWERS: Final = [
    _answer("txt", "a.example. 300 IN CNAME b.example.", 'b.example. 300 IN TXT "some" "text"'),
    _answer("a", "a.example. 300 IN A 192.0.2.1", "a.example. 300 IN A 192.0.2.2"),
    _answer("aaaa", "a.example. 300 IN AAAA 2001:db8::1"),
    _answer("mx", "a.example. 300 IN MX 10 mail.example.org.", "a.example. 300 IN MX 20 ."),
    _answer("ptr", "a.example. 300 IN PTR x.example."),
    _answer("srv", "a.example. 300 IN SRV 1 2 3 imap.example.org."),
    _answer("tlsa", f"a.example. 300 IN TLSA 3 1 1 {'ab' * 32}"),
    _answer("soa", "a.example. 300 IN SOA ns.example. admin.example. 1 2 3 4 5"),
]
OCTETS: Final = [b"\xc0\x0c", b"\0\1", b"\0\5", b"\0\x10", b"\0\0\1\x2c", b"\0\x29", b"\1a\7example\0", b"\xff", b"\0"]
DIALOGUE: Final = b"\r\n\n".join(
    [
        b"220 far.example",
        b"250-far.example\r\n250-PIPELINING\r\n250-SIZE 1000\r\n250-AUTH PLAIN\r\n250 8BITMIME",
        b"235 2.7.0 welcome",
        b"250 2.1.0 ok\r\n250 2.1.5 ok\r\n550 5.1.1 no\r\n354 go",
        b"250 2.0.0 queued as 1",
        b"221 bye",
    ]
)
SLOWLY: Final = b"\r\n\n".join(
    [b"220 x", b"500 what", b"250 x", b"250 ok", b"250 ok", b"452 4.5.3 more later", b"354 go", b"250 ok", b"421 bye"]
)
SCRAM: Final = b"\r\n\n".join(
    [
        b"220 x",
        b"250-x\r\n250 AUTH SCRAM-SHA-256",
        b"334 cj1meWtvLHM9UVNYLGk9NDA5Ng==",
        b"334 dj1BQUFB",
        b"535 5.7.8 no",
    ]
)
REPLIES = [b"250 ", b"250-", b"354 go\r\n", b"334 ", b"421 ", b"452 4.5.3 ", b"550 5.1.1 ", b"\r\n", b"\n\n"]
REPLIES += [b"AUTH LOGIN CRAM-MD5", b"LIMITS MAILMAX=1 RCPTMAX=1", b"PIPELINING", b"\0", b"\xe9", b"-", b" ", b"235 ok"]
RESPONSES: Final = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\nversion: STSv1",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\ne\r\nversion: STSv1\r\n0\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 404 Not Found\r\n\r\n",
]
HTTP: Final = [
    b"HTTP/1.1 ",
    b"200 OK",
    b"301 ",
    b"\r\n",
    b"\r\n\r\n",
    b": ",
    b"Content-Length: ",
    b"chunked",
    b"0",
    b"f",
]

PROXIES: Final = [
    b"\2\5\0\x0a\5\0\0\1\xc0\0\2\7\0\x19",
    b"\2\5\2\2\1\0\x08\5\0\0\3\1a\0\x19",
    b"\2\5\0\4\5\5\0\1",
]

TARGETS = [
    Target("DNS answer", dns_answer, ANSWERS, OCTETS, seconds_per_mib=16),
    Target("SMTP server", smtp_server, [DIALOGUE, SLOWLY, SCRAM], REPLIES, seconds_per_mib=16),
    Target(
        "SOCKS proxy",
        socks_proxy,
        PROXIES,
        [b"\2\5\0", b"\2\5\2", b"\2\1\0", b"\x0a\5\0\0\1", b"\5\0\0\3\xff", b"\xff"],
    ),
    Target("policy host", policy_host, RESPONSES, HTTP),
]
