"""The TXT record that tells of a policy and when it changes (RFC 8461 section 3.1)."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import Final

from protocols import metrics
from protocols.dns import DNSError, Resolver
from protocols.names import Domain
from protocols.taglist import WHITE_SPACE, BadTagList, split_tags

from .errors import ErrorKind, StsError

VERSION: Final = "STSv1"
MAX_RECORD: Final = 4 * 1024  # bytes; real ones have 30
TIMEOUT: Final = 30.0  # seconds for the lookup

_ID: Final = re.compile(r"[A-Za-z0-9]{1,32}")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}")
_VALUE: Final = re.compile(r"[!-:<>-~]+")


@dataclass(frozen=True, slots=True)
class StsRecord:
    """A record. The policy is to be fetched anew when ``id`` is another."""

    id: str
    extensions: tuple[tuple[str, str], ...] = ()
    version: str = VERSION

    def compose(self) -> str:
        """The text of the record."""
        return "".join(f"{name}={value}; " for name, value in self._fields()).rstrip()

    def _fields(self) -> list[tuple[str, str]]:
        return [("v", self.version), ("id", self.id), *self.extensions]


def is_sts(txt: bytes) -> bool:
    """Whether a TXT record is one of MTA-STS, be it good or bad."""
    head, semicolon, _ = txt[:64].partition(b";")
    return bool(semicolon) and head.rstrip(b" \t") == b"v=STSv1"


def parse_record(txt: bytes) -> StsRecord:
    """The record in the joined strings of a TXT record. The first of duplicate fields counts. Raises StsError."""
    try:
        if not is_sts(txt):
            raise BadTagList(f"record does not begin with v={VERSION};")
        if len(txt) > MAX_RECORD:
            raise BadTagList(f"record longer than {MAX_RECORD} bytes")
        fields: dict[str, str] = {}
        for name, value in split_tags(txt.decode("ascii")):
            if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value.strip(WHITE_SPACE)):
                raise BadTagList(f"bad field {name[:32]!a}")
            fields.setdefault(name, value)
        if not _ID.fullmatch(fields.get("id", "")):
            raise BadTagList(f"id= must be 1 to 32 letters and digits, not {fields.get('id', '')[:40]!a}")
    except (BadTagList, UnicodeDecodeError) as exc:
        text = str(exc) if isinstance(exc, BadTagList) else "record is not ASCII"
        raise StsError(ErrorKind.RECORD_SYNTAX, text) from exc
    extensions = tuple((name, value) for name, value in fields.items() if name not in ("v", "id"))
    return StsRecord(fields["id"], extensions)


async def lookup_record(
    resolver: Resolver,
    domain: Domain,
    *,
    timeout: float = TIMEOUT,  # noqa: ASYNC109 # it ends in an error of its own
) -> StsRecord:
    """The record of a domain. Raises StsError: no-record, multiple-records, dns, record-syntax."""
    start = asyncio.get_running_loop().time()
    try:
        return await _lookup(resolver, f"_mta-sts.{domain.ascii}.", timeout)
    except StsError as exc:
        if exc.kind is not ErrorKind.NO_RECORD:
            seconds = asyncio.get_running_loop().time() - start
            metrics.observe("mox_mtasts_get_duration_seconds", seconds, {"result": "lookuperror"})
        raise


async def _lookup(resolver: Resolver, name: str, timeout: float) -> StsRecord:  # noqa: ASYNC109 # as above
    try:
        async with asyncio.timeout(timeout):
            answer = await resolver.txt(name)
    except TimeoutError:
        raise StsError(ErrorKind.DNS, f"dns: txt {name}: no answer within {timeout:g} seconds") from None
    except DNSError as exc:
        raise StsError(ErrorKind.DNS if exc.is_temporary else ErrorKind.NO_RECORD, str(exc)) from exc
    records = [txt for txt in answer.records if is_sts(txt)]
    if len(records) > 1:
        raise StsError(ErrorKind.MULTIPLE_RECORDS, f"several mta-sts records at {name}")
    if not records:
        raise StsError(ErrorKind.NO_RECORD, f"no mta-sts record at {name}")
    return parse_record(records[0])
