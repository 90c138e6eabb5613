"""The header lines put before a message: for each recipient its own where it is received (RFC 5321 4.4)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from ipaddress import ip_address
from typing import Final

from protocols.message.dates import format_date
from protocols.message.headerwriter import HeaderWriter
from protocols.names import Domain, address_literal
from protocols.smtpsyntax import Path
from server.cids import received_id

from .transaction import Peer

KNOWN_ADDRESSES: Final = 4096  # whose text is remembered: clients send more than one message


def prefix(
    peer: Peer,
    reverse_path: Path,
    recipient: Path,
    delivered_to: Path,
    received: datetime,
    results: bytes,
    *,
    smtputf8: bool,
    require_tls: bool,
    verdict: bytes = b"",
) -> bytes:
    """``verdict``, Delivered-To, Return-Path, the fields with what was verified, and Received.

    ``delivered_to`` is the recipient, or where that is an alias its member. In UTF-8 if the message is
    internationalised, else ASCII.
    """
    address = HeaderWriter("Delivered-To:")
    address.add(" ", delivered_to.text(smtputf8=smtputf8))
    return_path = HeaderWriter("Return-Path:")
    return_path.add(" ", f"<{reverse_path.text(smtputf8=smtputf8)}>")
    trace = _received(peer, recipient, received, smtputf8=smtputf8, require_tls=require_tls)
    return verdict + address.bytes() + return_path.bytes() + results + trace


def verdict_fields(reason: str, explanation: Sequence[str], errors: Sequence[tuple[str, str]] = ()) -> bytes:
    """Why a message was delivered, or kept among the rejects: the reason as one word, and for people what was found.

    ``errors``: fields, of what it was not taken for.
    """
    field = HeaderWriter("X-Mox-Reason:")
    field.add(" ", reason)
    fields = [field]
    if explanation:
        told = HeaderWriter("X-Mox-Explanation:")
        text = "; ".join(explanation).encode("ascii", "backslashreplace").decode()
        told.add(" ", *text.split())
        fields.append(told)
    for name, why in errors:
        error = HeaderWriter(f"{name}:")
        error.add(" ", *why.split())
        fields.append(error)
    return b"".join(each.bytes() for each in fields)


def submitted(peer: Peer, recipient: Path | None, received: datetime, *, smtputf8: bool, require_tls: bool) -> bytes:
    """The Received field of a submitted message: nothing of the client, and ``recipient`` where there is but one."""
    field = HeaderWriter("Received:")
    field.add(" ", "from", _name(peer.hostname, smtputf8))
    field.add(" ", "by", _name(peer.hostname, smtputf8))
    _add_a_labels(field, peer.hostname, smtputf8)
    protocol = with_protocol(peer, smtputf8=smtputf8, authenticated=True)
    _add_circumstances(field, peer, protocol, recipient, received, smtputf8=smtputf8, require_tls=require_tls)
    return field.bytes()


def with_protocol(peer: Peer, *, smtputf8: bool, authenticated: bool = False) -> str:
    """The protocol in a Received field (RFC 3848, RFC 6531 section 4.3)."""
    name = "UTF8SMTP" if smtputf8 else "ESMTP" if peer.hello.extended or authenticated else "SMTP"
    return f"{name}{'S' if peer.tls_version else ''}{'A' if authenticated else ''}"


def _received(peer: Peer, recipient: Path, received: datetime, *, smtputf8: bool, require_tls: bool) -> bytes:
    field = HeaderWriter("Received:")
    field.add(" ", "from")
    name = peer.hello.name
    field.add(" ", address_literal(name.ip) if name.ip is not None else _name(name.domain, smtputf8))
    field.add(" ", f"({_literal(peer.remote_ip)})")
    _add_a_labels(field, name.domain, smtputf8)
    field.add(" ", "by", _name(peer.hostname, smtputf8), f"({_literal(peer.local_ip)})")
    _add_a_labels(field, peer.hostname, smtputf8)
    protocol = with_protocol(peer, smtputf8=smtputf8)
    _add_circumstances(field, peer, protocol, recipient, received, smtputf8=smtputf8, require_tls=require_tls)
    return field.bytes()


def _add_circumstances(
    field: HeaderWriter,
    peer: Peer,
    protocol: str,
    recipient: Path | None,
    received: datetime,
    *,
    smtputf8: bool,
    require_tls: bool,
) -> None:
    texts = ["via", "tcp", "with", protocol]
    if require_tls:
        texts.append("(requiretls)")  # RFC 8689 section 4.1
    texts += ["id", received_id(peer.cid)]
    if peer.tls_version:
        texts += [f"({peer.tls_version.replace('TLSv', 'TLS')}", f"{peer.tls_cipher})"]
    if recipient is not None:
        texts += ["for", f"<{recipient.text(smtputf8=smtputf8)}>"]
    texts[-1] += ";"
    field.add(" ", *texts)
    field.add(" ", *format_date(received).split(" ", 2))


@lru_cache(maxsize=KNOWN_ADDRESSES)
def _literal(ip: str) -> str:
    return address_literal(ip_address(ip))


def _name(domain: Domain | None, smtputf8: bool) -> str:
    return domain.xname(smtputf8) if domain is not None else "unknown"


def _add_a_labels(field: HeaderWriter, domain: Domain | None, smtputf8: bool) -> None:
    """A name that is written in U-labels has its A-labels beside it."""
    if smtputf8 and domain is not None and domain.unicode:
        field.add(" ", f"({domain.ascii})")
