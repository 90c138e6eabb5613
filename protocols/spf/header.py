"""The result of SPF in header fields: Received-SPF (RFC 7208 section 9.1), Authentication-Results (RFC 8601 2.7.2)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from protocols.errors import ProtocolError
from protocols.message.authresults import AuthMethod, AuthProp
from protocols.message.headerwriter import FOLD_AT, HeaderWriter, comment, quoted
from protocols.message.valuereader import ValueReader
from protocols.names import address_literal

from .evaluation import Identity, SpfArgs, SpfResult, SpfStatus

MAX_VALUE: Final = 16 * 1024  # characters of a field that is read; real ones have some hundred

_DOT_ATOM: Final = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_WORD: Final = re.compile(r"[^\s\"();=]+")
_STATUSES: Final = frozenset(SpfStatus)


class BadReceivedSpf(ProtocolError, ValueError):
    """A value is not that of a Received-SPF field."""


@dataclass(frozen=True, slots=True)
class ReceivedSpf:
    """What a Received-SPF field says. ``values`` by key in lower case: client-ip, envelope-from, helo, ..."""

    status: SpfStatus
    comment: str
    values: Mapping[str, str]


def received_spf_header(result: SpfResult, args: SpfArgs, *, smtputf8: bool = False) -> bytes:
    """The field with its line end; U-labels and localparts outside ASCII only with ``smtputf8``."""
    writer = HeaderWriter("Received-SPF:")
    writer.add(" ", result.status)
    if result.domain is not None:
        writer.add(" ", *comment(f"domain {result.domain.xname(smtputf8)}").split(" "))
    helo = args.helo.domain.ascii if args.helo.domain is not None else ""
    pairs = [
        ("client-ip", str(args.remote_ip)),
        ("envelope-from", args.mail_from.text(smtputf8=smtputf8)),
        ("helo", address_literal(args.helo.ip) if args.helo.ip is not None else helo),
        ("problem", result.error),
        ("mechanism", result.mechanism),
        ("receiver", args.local_hostname.xname(smtputf8)),
        ("identity", result.identity.value),
    ]
    texts = [_pair(key, value) for key, value in pairs if value or key == "envelope-from"]
    writer.add(" ", *(f"{text};" for text in texts[:-1]), texts[-1])
    return writer.bytes()


def parse_received_spf(text: str) -> ReceivedSpf:
    """What an unfolded value says; of keys given twice the first. Raises BadReceivedSpf."""
    if len(text) > MAX_VALUE:
        raise BadReceivedSpf(f"longer than {MAX_VALUE} characters")
    reader = ValueReader(text, BadReceivedSpf)
    said = reader.comments()
    status = reader.require(_WORD, "result").lower()
    if status not in _STATUSES:
        raise BadReceivedSpf(f"unknown result {status[:40]!r}")
    said += reader.comments()
    values: dict[str, str] = {}
    while not reader.at_end:
        if reader.take(";"):
            reader.comments()
            continue
        key = reader.require(_WORD, "key").lower()
        reader.comments()
        reader.expect("=")
        reader.comments()
        value = "" if reader.at_end_of_item else reader.value("value")  # envelope-from=; is seen
        values.setdefault(key, value)
        reader.comments()
    return ReceivedSpf(SpfStatus(status), " ".join(said), values)


def auth_method(result: SpfResult, args: SpfArgs, *, smtputf8: bool = False) -> AuthMethod:
    """The method for Authentication-Results: ``spf=pass (with dnssec) smtp.mailfrom=example.org``."""
    name = "helo" if result.identity is Identity.HELO else "mailfrom"
    place = args.helo if result.identity is Identity.HELO else args.mail_from.domain
    props: tuple[AuthProp, ...] = ()
    if result.domain is not None:
        props = (AuthProp.of_domain("smtp", name, result.domain, smtputf8=smtputf8),)
    elif place.ip is not None:
        props = (AuthProp("smtp", name, address_literal(place.ip)),)
    dnssec = "with dnssec" if result.authentic else "without dnssec"
    return AuthMethod("spf", result.status, comment=dnssec, reason=result.error, props=props)


def _pair(key: str, value: str) -> str:
    if key == "problem":
        value = value[: FOLD_AT - len('\tproblem="";')]
        while len(text := f"{key}={_value(value)}") > FOLD_AT - len("\t;"):  # quotes within
            value = value[:-1]
        return text
    return f"{key}={_value(value)}"


def _value(value: str) -> str:
    return value if _DOT_ATOM.fullmatch(value) else quoted(value)
