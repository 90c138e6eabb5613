"""Addresses of messages: as columns, and as the paths of SMTP."""

from __future__ import annotations

from ipaddress import ip_address

from protocols.names import IPDomain, parse_domain
from protocols.smtpsyntax import Path


def path_of(localpart: str, domain: str) -> Path:
    """The path for two columns; the domain in Unicode, or as an address literal; both "" for the null path."""
    if not domain:
        return Path(localpart)
    if domain.startswith("["):
        return Path(localpart, IPDomain(ip=ip_address(domain[1:-1].removeprefix("IPv6:"))))
    return Path(localpart, IPDomain(domain=parse_domain(domain)))


def domain_texts(path: Path) -> tuple[str, str]:
    """The domain of a path as A-label and in Unicode; an address literal is its own form of both, the null path ""."""
    if path.domain.ip is not None:
        literal = path.text().rpartition("@")[2]
        return literal, literal
    domain = path.domain.domain
    return (domain.ascii, domain.name()) if domain is not None else ("", "")


def ascii_domain(domain: str) -> str:
    """The A-label form of a domain column; "" and address literals as they are."""
    if not domain or domain.startswith("[") or domain.isascii():
        return domain
    return parse_domain(domain).ascii
