"""The TXT record that says where TLS reports go (RFC 8460 section 3)."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from protocols import metrics
from protocols.dns import DNSError, Resolver
from protocols.errors import ProtocolError
from protocols.names import Domain
from protocols.taglist import WHITE_SPACE, BadTagList, split_tags

VERSION: Final = "TLSRPTv1"
MAX_RECORD: Final = 8 * 1024  # bytes
TIMEOUT: Final = 30.0  # seconds for the lookup

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}")
_VALUE: Final = re.compile(r"[!-:<>-~]+")
_URI: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*+:[!-~]+")
_ESCAPES: Final = str.maketrans({",": "%2C", "!": "%21", ";": "%3B"})  # RFC 8460 section 3


class ErrorKind(StrEnum):
    """Why there is no record."""

    NO_RECORD = "no-record"
    MULTIPLE_RECORDS = "multiple-records"
    DNS = "dns"  # it may be there: a temporary error
    RECORD_SYNTAX = "record-syntax"


class TlsRptError(ProtocolError):
    """There is no record, or none that can be used; the text is one line of ASCII."""

    def __init__(self, kind: ErrorKind, text: str) -> None:
        super().__init__(kind, text)
        self.kind = kind

    def __str__(self) -> str:
        return str(self.args[1])


@dataclass(frozen=True, slots=True)
class TlsRptRecord:
    """A record: the URIs of each ``rua``, with their escapes; reports go to all of them."""

    ruas: tuple[tuple[str, ...], ...]
    extensions: tuple[tuple[str, str], ...] = ()
    version: str = VERSION

    @property
    def uris(self) -> tuple[str, ...]:
        """All of them, each once."""
        return tuple(dict.fromkeys(uri for uris in self.ruas for uri in uris))

    def compose(self) -> str:
        """The text of the record; what has a meaning in records is escaped in URIs."""
        fields = [("v", self.version)]
        fields += [("rua", ",".join(uri.translate(_ESCAPES) for uri in uris)) for uris in self.ruas]
        return "; ".join(f"{name}={value}" for name, value in (*fields, *self.extensions))


def is_tlsrpt(txt: bytes) -> bool:
    """Whether a TXT record is one for TLS reports, be it good or bad."""
    head, semicolon, _ = txt[:64].partition(b";")
    return bool(semicolon) and head.rstrip(b" \t") == b"v=TLSRPTv1"


def parse_record(txt: bytes) -> TlsRptRecord:
    """The record in the joined strings of a TXT record. Raises TlsRptError."""
    ruas: list[tuple[str, ...]] = []
    extensions: list[tuple[str, str]] = []
    try:
        if not is_tlsrpt(txt):
            raise BadTagList(f"record does not begin with v={VERSION};")
        if len(txt) > MAX_RECORD:
            raise BadTagList(f"record longer than {MAX_RECORD} bytes")
        for name, value in split_tags(txt.decode("ascii"))[1:]:
            if name == "rua":
                ruas.append(tuple(_uri(text.strip(WHITE_SPACE)) for text in value.split(",")))
            elif _NAME.fullmatch(name) and _VALUE.fullmatch(value):
                extensions.append((name, value))
            else:
                raise BadTagList(f"bad field {name[:32]!a}")
        if not ruas:
            raise BadTagList("missing rua")
    except (BadTagList, UnicodeDecodeError) as exc:
        text = str(exc) if isinstance(exc, BadTagList) else "record is not ASCII"
        raise TlsRptError(ErrorKind.RECORD_SYNTAX, text) from exc
    return TlsRptRecord(tuple(ruas), tuple(extensions))


async def lookup(
    resolver: Resolver,
    domain: Domain,
    *,
    timeout: float = TIMEOUT,  # noqa: ASYNC109 # it ends in an error of its own
) -> tuple[TlsRptRecord, bytes]:
    """The record of a policy domain, and its text. Raises TlsRptError."""
    start = asyncio.get_running_loop().time()
    result = "ok"
    try:
        return await _lookup(resolver, f"_smtp._tls.{domain.ascii}.", timeout)
    except TlsRptError as exc:
        result = exc.kind.value
        raise
    finally:
        seconds = asyncio.get_running_loop().time() - start
        metrics.observe("mox_tlsrpt_lookup_duration_seconds", seconds, {"result": result})


async def _lookup(resolver: Resolver, name: str, timeout: float) -> tuple[TlsRptRecord, bytes]:  # noqa: ASYNC109 # as above
    try:
        async with asyncio.timeout(timeout):
            answer = await resolver.txt(name)
    except TimeoutError:
        raise TlsRptError(ErrorKind.DNS, f"dns: txt {name}: no answer within {timeout:g} seconds") from None
    except DNSError as exc:
        raise TlsRptError(ErrorKind.DNS if exc.is_temporary else ErrorKind.NO_RECORD, str(exc)) from exc
    records = [txt for txt in answer.records if is_tlsrpt(txt)]
    if len(records) > 1:
        raise TlsRptError(ErrorKind.MULTIPLE_RECORDS, f"several records for tls reports at {name}")
    if not records:
        raise TlsRptError(ErrorKind.NO_RECORD, f"no record for tls reports at {name}")
    return parse_record(records[0]), records[0]


def _uri(text: str) -> str:
    if not _URI.fullmatch(text):
        raise BadTagList(f"rua: expected a URI with its scheme, not {text[:60]!a}")
    return text.translate(_ESCAPES)
