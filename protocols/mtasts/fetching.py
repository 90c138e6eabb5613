"""Getting a domain's policy from its policy host by HTTPS (RFC 8461 section 3.3)."""

from __future__ import annotations

import asyncio
import functools
import ssl
from collections.abc import Sequence
from typing import Final

import h11

from protocols import metrics
from protocols.dns import DNSError, IPAddress, Resolver, absolute
from protocols.names import BadDomain, Domain, parse_domain_lax
from protocols.pkix import Roots, TLSProblem, peer_chain, verify_chain
from protocols.publicaddress import is_public

from .errors import ErrorKind, StsError
from .policy import MAX_POLICY, Policy, parse_policy

TIMEOUT: Final = 60.0  # seconds for all of it, RFC 8461 section 3.3
CONNECT_TIMEOUT: Final = 20.0  # seconds for one address: so that another can still be tried
MAX_ADDRESSES: Final = 4  # that are tried
MAX_HEADER: Final = 16 * 1024  # bytes of a response's header
PORT: Final = 443
PATH: Final = "/.well-known/mta-sts.txt"
BLOCK: Final = 16 * 1024  # bytes of one read


async def fetch_policy(
    resolver: Resolver,
    domain: Domain,
    roots: Roots,
    *,
    timeout: float = TIMEOUT,  # noqa: ASYNC109 # it ends in an error of its own
    port: int = PORT,
    private: bool = False,
) -> tuple[Policy, str]:
    """The policy that a domain serves, and its text. Raises StsError: no-policy, policy-fetch, policy-syntax.

    The certificate is checked before the request is sent; proxies and redirects are not followed. Whoever gets mail
    chooses the host: without ``private``, one that is not in the public network is not connected to.
    """
    start = asyncio.get_running_loop().time()
    result = "fetcherror"
    try:
        async with asyncio.timeout(timeout):
            text = await _fetch(resolver, domain, roots, port, private)
        policy = parse_policy(text)
        result = "ok"
        return policy, text
    except TimeoutError:
        raise StsError(ErrorKind.POLICY_FETCH, f"no policy within {timeout:g} seconds") from None
    finally:
        metrics.observe(
            "mox_mtasts_get_duration_seconds", asyncio.get_running_loop().time() - start, {"result": result}
        )


async def _fetch(resolver: Resolver, domain: Domain, roots: Roots, port: int, private: bool) -> str:
    try:
        host = parse_domain_lax(f"mta-sts.{domain.ascii}")
        addresses = (await resolver.ip(absolute(host))).records
    except (BadDomain, DNSError) as exc:
        raise StsError(ErrorKind.POLICY_FETCH, str(exc)) from exc
    allowed = [address for address in addresses if private or is_public(address)]
    if not allowed:
        raise StsError(ErrorKind.POLICY_FETCH, f"{host.ascii}: {addresses[0]} is not an address of the public network")
    reader, writer = await _connect(host, allowed[:MAX_ADDRESSES], port)
    try:
        problem = verify_chain(peer_chain(writer.get_extra_info("ssl_object")), host, roots)
        if problem is not None:
            raise StsError(ErrorKind.POLICY_FETCH, f"{host.ascii}: {_one_line(problem)}", problem)
        body = await _get(reader, writer, host)
    except (OSError, h11.RemoteProtocolError) as exc:  # ssl.SSLError is an OSError
        raise StsError(ErrorKind.POLICY_FETCH, f"{host.ascii}: {_said(exc)}") from exc
    finally:
        writer.transport.abort()
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise StsError(ErrorKind.POLICY_SYNTAX, "policy is not UTF-8") from exc


async def _connect(
    host: Domain, addresses: Sequence[IPAddress], port: int
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to the first address that gives one. Its certificate is not verified yet."""
    error = "no address"
    for address in addresses:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                return await asyncio.open_connection(str(address), port, ssl=_context(), server_hostname=host.ascii)
        except TimeoutError:
            error = f"{address} port {port}: no connection within {CONNECT_TIMEOUT:g} seconds"
        except OSError as exc:
            error = f"{address} port {port}: {_said(exc)}"
    raise StsError(ErrorKind.POLICY_FETCH, f"{host.ascii}: {error}")


async def _get(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: Domain) -> bytes:
    """The body of the response. Raises StsError, OSError, RemoteProtocolError."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEADER)
    headers = [("Host", host.ascii), ("User-Agent", "mox"), ("Accept", "text/plain"), ("Connection", "close")]
    writer.write(connection.send(h11.Request(method="GET", target=PATH, headers=headers)) or b"")
    writer.write(connection.send(h11.EndOfMessage()) or b"")
    await writer.drain()
    body = bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            data = await reader.read(BLOCK)
            if not data and connection.their_state is h11.SEND_RESPONSE:
                raise StsError(ErrorKind.POLICY_FETCH, f"{host.ascii}: connection closed before a response")
            connection.receive_data(data)
        elif isinstance(event, h11.Response):
            _check_status(event.status_code)
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > MAX_POLICY:
                raise StsError(ErrorKind.POLICY_FETCH, f"policy is longer than {MAX_POLICY} bytes")
        elif isinstance(event, h11.EndOfMessage):
            return bytes(body)
        elif not isinstance(event, h11.InformationalResponse):
            raise StsError(ErrorKind.POLICY_FETCH, f"{host.ascii}: no response but {event!a:.60}")


def _check_status(status: int) -> None:
    if status == 404:
        raise StsError(ErrorKind.NO_POLICY, "no policy is served: status 404")
    if 300 <= status < 400:
        raise StsError(ErrorKind.POLICY_FETCH, f"redirect not allowed: status {status}")
    if status != 200:
        raise StsError(ErrorKind.POLICY_FETCH, f"status {status}, expected 200")


@functools.cache
def _context() -> ssl.SSLContext:
    """The handshake verifies nothing: then it is known what exactly is wrong with a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def _said(exc: Exception) -> str:
    text = (getattr(exc, "reason", None) if isinstance(exc, ssl.SSLError) else None) or str(exc) or type(exc).__name__
    return text.encode("ascii", "replace").decode("ascii")[:200]


def _one_line(problem: TLSProblem) -> str:
    return problem.text.encode("ascii", "replace").decode("ascii")[:200]
