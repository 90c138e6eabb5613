"""What transports and routes must keep to (queue.md section 9); looks at values alone, not at the database."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final

from protocols.names import BadDomain, parse_domain
from protocols.sasl.client import PREFERENCE
from protocols.socks import Proxy

if TYPE_CHECKING:
    from .models import Route, Transport

PORT_MAX: Final = 65535
FAIL_MESSAGE_MAX: Final = 256  # characters
LIST_MAX: Final = 1000  # domains or addresses in one list
ANY_DOMAIN: Final = "."

_DIRECT: Final = ("disable_ipv4", "disable_ipv6")
_SOCKS: Final = ("socks_address", "socks_remote_ips", "socks_remote_hostname")
_RELAY: Final = ("host", "port", "no_starttls", "starttls_insecure_skip_verify", "mechanisms")
_LOGIN: Final = ("username", "password")
_FAIL: Final = ("fail_message",)
# Which fields have a meaning, by kind; of the others each must be as it is made.
_MEANT: Final = {
    "direct": _DIRECT,
    "socks": (*_SOCKS, *_LOGIN, *_DIRECT),
    "smtp": (*_RELAY, *_LOGIN),
    "submission": (*_RELAY, *_LOGIN),
    "submissions": (*_RELAY, *_LOGIN),
    "fail": _FAIL,
}

Problem = tuple[str, str]
"""A field, and what is wrong with it and how to mend that."""


def transport_problems(transport: Transport) -> Iterator[Problem]:
    """What is wrong with the settings of a transport, which are put into their canonical form."""
    meant = _MEANT.get(transport.kind)
    if meant is None:
        return  # the field's own check tells
    for field in (*_DIRECT, *_SOCKS, *_RELAY, *_LOGIN, *_FAIL):
        if field not in meant and getattr(transport, field):
            yield field, f"has no meaning for a transport of kind {transport.kind}: leave it empty"
    if transport.disable_ipv4 and transport.disable_ipv6:
        yield "disable_ipv6", "both IPv4 and IPv6 are disabled: nothing could be delivered"
    if transport.kind == "socks":
        yield from _socks_problems(transport)
    elif "host" in meant:
        yield from _relay_problems(transport)
    elif transport.kind == "fail":
        yield from _fail_problems(transport)


def _relay_problems(transport: Transport) -> Iterator[Problem]:
    try:
        transport.host = _host(transport.host)
    except ValueError as exc:
        yield "host", f"{transport.host!r} is no host: {exc}" if transport.host else "name the host of the relay"
    if transport.port is not None and not 0 < transport.port <= PORT_MAX:
        yield "port", f"{transport.port} is no port: use a number from 1 to {PORT_MAX}"
    if transport.kind == "submissions":
        for field, what in (("no_starttls", "no STARTTLS"), ("starttls_insecure_skip_verify", "skip verification")):
            if getattr(transport, field):
                yield field, f'submissions is TLS from the start: "{what}" does not apply'
    elif transport.no_starttls and transport.starttls_insecure_skip_verify:
        yield "starttls_insecure_skip_verify", "without STARTTLS there is nothing to verify: choose one of the two"
    mechanisms = transport.mechanisms
    if not isinstance(mechanisms, list) or not all(isinstance(name, str) for name in mechanisms):
        yield "mechanisms", 'use a list of names, as in ["SCRAM-SHA-256"]'
        mechanisms = []
    transport.mechanisms = mechanisms = [name.strip().upper() for name in mechanisms]
    if unknown := [name for name in mechanisms if name not in PREFERENCE]:
        yield "mechanisms", f"unknown mechanism {', '.join(unknown)}: use some of {', '.join(PREFERENCE)}"
    if len(set(mechanisms)) != len(mechanisms):
        yield "mechanisms", "a mechanism is named twice"
    if bool(transport.username) != bool(transport.password):
        yield (
            ("username", "a password needs a user name")
            if transport.password
            else (
                "password",
                "a user name needs a password",
            )
        )
    if mechanisms and not transport.username:
        yield "username", "mechanisms are for logging in: name the user, or leave them out"


def _socks_problems(transport: Transport) -> Iterator[Problem]:
    try:
        proxy_of(transport)
    except ValueError as exc:
        yield "socks_address", str(exc)
    ips = transport.socks_remote_ips
    if not isinstance(ips, list) or not all(isinstance(ip, str) for ip in ips):
        yield "socks_remote_ips", 'use a list of addresses, as in ["192.0.2.1"]'
    else:
        yield from (("socks_remote_ips", text) for text in _ip_problems(ips))
    if transport.socks_remote_hostname:
        try:
            transport.socks_remote_hostname = parse_domain(transport.socks_remote_hostname).ascii
        except BadDomain as exc:
            yield "socks_remote_hostname", f"{transport.socks_remote_hostname!r} is not a domain: {exc}"


def _fail_problems(transport: Transport) -> Iterator[Problem]:
    if not 400 <= transport.fail_code <= 599:
        yield "fail_code", f"{transport.fail_code} is no code of a failure: use one from 400 to 599"
    message = transport.fail_message
    if len(message) > FAIL_MESSAGE_MAX:
        yield "fail_message", f"the text is longer than {FAIL_MESSAGE_MAX} characters"
    if not message.isascii() or not message.isprintable():
        yield "fail_message", "the text must be ASCII without control characters: it goes into replies"


def proxy_of(transport: Transport) -> Proxy:
    """The proxy of a transport of kind socks. Raises ValueError."""
    address = transport.socks_address
    host, colon, port = address.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or not 0 < int(port[:6]) <= PORT_MAX:
        raise ValueError(f"{address!r} is no address of a proxy: use host:port, with brackets around IPv6")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError(f"{address!r}: put brackets around the IPv6 address, as in [::1]:1080")
    try:
        name = _host(host)
    except ValueError as exc:
        raise ValueError(f"{address!r}: {exc}") from exc
    return Proxy(name, int(port), transport.username, bytes(transport.password).decode("utf-8", "replace"))


def route_problems(route: Route) -> Iterator[Problem]:
    """What is wrong with a route, whose domains are put into their canonical form, A-labels."""
    if route.account_id is not None and route.domain_id is not None:
        yield "domain", "a route is of an account, of a domain, or of all: not of both"
    for field in ("from_domains", "to_domains"):
        entries = getattr(route, field)
        if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
            yield field, 'use a list of domains, as in ["example.org", ".example.net"]'
        elif len(entries) > LIST_MAX:
            yield field, f"more than {LIST_MAX} domains"
        else:
            canonical, texts = _domains(entries)
            setattr(route, field, canonical)
            yield from ((field, text) for text in texts)


def _domains(entries: Iterable[str]) -> tuple[list[str], list[str]]:
    canonical: list[str] = []
    texts = []
    for entry in entries:
        dot = "." if entry.startswith(".") else ""
        try:
            name = ANY_DOMAIN if entry == ANY_DOMAIN else dot + parse_domain(entry.removeprefix(".")).ascii
        except BadDomain as exc:
            texts.append(f"{entry!r} is not a domain: {exc}")
            continue
        if name not in canonical:
            canonical.append(name)
    return canonical, texts


def _host(text: str) -> str:
    """A name in A-labels, or an address without brackets. Raises ValueError."""
    bare = text.removeprefix("[").removesuffix("]")
    try:
        return str(ip_address(bare))
    except ValueError:
        return parse_domain(text).ascii  # BadDomain is a ValueError


def _ip_problems(texts: Collection[Any]) -> Iterator[str]:
    seen = set()
    for text in texts:
        try:
            ip = ip_address(text)
        except ValueError:
            yield f"{text!r} is not an IP address"
            continue
        if ip in seen:
            yield f"{text} is named twice"
        seen.add(ip)
    if len(texts) > LIST_MAX:
        yield f"more than {LIST_MAX} addresses"
