"""The key records of selectors in DNS (RFC 6376 section 3.6.2)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from protocols.dns import DNSError, Resolver
from protocols.names import Domain

from .errors import ErrorKind
from .parsing import key_record_name
from .record import BadRecord, DkimRecord, parse_record
from .results import DkimStatus, one_line

TIMEOUT: Final = 30.0  # seconds for all lookups of a message


@dataclass(frozen=True, slots=True)
class LookupResult:
    """The record of a selector, or why there is none: then ``status`` is permerror or temperror, else neutral."""

    status: DkimStatus
    record: DkimRecord | None = None
    txt: bytes = b""
    authentic: bool = False
    """Whether DNSSEC has verified the record, or that there is none."""
    error_kind: ErrorKind | None = None
    error: str = ""


async def lookup(
    resolver: Resolver,
    selector: Domain,
    domain: Domain,
    *,
    timeout: float = TIMEOUT,  # noqa: ASYNC109 # it ends in a result, not in an exception
) -> LookupResult:
    """The record of a selector. ``timeout``: seconds.

    Of several TXT records the only one that is a key record counts. Several of these are a temporary error: somebody
    is changing keys.
    """
    name = key_record_name(selector, domain)
    try:
        async with asyncio.timeout(timeout):
            answer = await resolver.txt(name)
    except TimeoutError:
        return _temporary(ErrorKind.DNS, f"no answer for {name} in time")
    except DNSError as exc:
        if exc.is_not_found:
            kind = ErrorKind.NO_RECORD
            return LookupResult(DkimStatus.PERMERROR, None, b"", exc.authentic, kind, f"no record at {name}")
        return _temporary(ErrorKind.DNS, one_line(str(exc)))
    return choose(answer.records, authentic=answer.authentic)


def choose(records: Iterable[bytes], *, authentic: bool) -> LookupResult:
    """The key record among the TXT records of a name."""
    found: tuple[DkimRecord, bytes] | None = None
    other: tuple[BadRecord, bytes] | None = None
    for txt in records:
        try:
            record = parse_record(txt)
        except BadRecord as exc:
            if exc.claims_dkim:
                return LookupResult(DkimStatus.PERMERROR, None, txt, authentic, exc.kind, one_line(str(exc)))
            other = exc, txt
            continue
        if found is not None:
            return _temporary(ErrorKind.MULTIPLE_RECORDS, "several key records", authentic=authentic)
        found = record, txt
    if found is not None:
        return LookupResult(DkimStatus.NEUTRAL, found[0], found[1], authentic)
    if other is None:
        return LookupResult(DkimStatus.PERMERROR, None, b"", authentic, ErrorKind.NO_RECORD, "no record")
    error = f"no key record among the TXT records: {other[0]}"
    return _temporary(other[0].kind, one_line(error), txt=other[1], authentic=authentic)


async def lookup_all(
    resolver: Resolver, names: Iterable[tuple[Domain, Domain]], *, at_once: int, seconds: float
) -> dict[tuple[Domain, Domain], LookupResult]:
    """The records for pairs of selector and domain, each looked up once, ``at_once`` at a time."""
    results: dict[tuple[Domain, Domain], LookupResult] = {}
    ends = asyncio.get_running_loop().time() + seconds
    distinct = dict.fromkeys(names)
    waiting = iter(distinct)

    async def work() -> None:
        for selector, domain in waiting:
            left = ends - asyncio.get_running_loop().time()
            results[selector, domain] = await lookup(resolver, selector, domain, timeout=left)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(min(at_once, len(distinct))):
            tasks.create_task(work())
    return results


def _temporary(kind: ErrorKind, error: str, *, txt: bytes = b"", authentic: bool = False) -> LookupResult:
    return LookupResult(DkimStatus.TEMPERROR, None, txt, authentic, kind, error)
