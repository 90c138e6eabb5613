"""MTA-STS policies of recipient domains (RFC 8461): looked up for each delivery, kept for as long as they say.

found = await find(domain, resolver, roots, database)

The rows of `MTASTSPolicy` are shared by all processes, and so is the claim to fetch: two never ask a policy host at the
same time. What keeps the rows fresh without deliveries is `mtastsrefresh`.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from django.conf import settings
from django.db.models import Q
from prometheus_client import Counter

from protocols.dns import Resolver
from protocols.mtasts import ErrorKind, Mode, MxPattern, Policy, StsError, StsRecord, fetch_policy, lookup_record
from protocols.names import Domain, parse_domain_lax
from protocols.pkix import Roots
from server import db
from store.pool import Threads

from .models import MTASTSPolicy

log = logging.getLogger(__name__)

BACKOFF: Final = timedelta(minutes=5)  # RFC 8461 section 3.3: not to be tried again before
FETCHING: Final = timedelta(seconds=75)  # a claim to fetch: a fetch ends within 60 s, or with its process
LOOK_AGAIN: Final = 0.5  # seconds between looks at what another process fetches
USE_PRECISION: Final = timedelta(minutes=1)  # of last_use, which decides about months: not a commit for each delivery

FALLBACK: Final = "+fallback-to-cached-policy"
_FETCH_ERROR: Final = "sts-policy-fetch-error"
_BACKING_OFF: Final = "back-off-after-recent-fetch-error"

gets = Counter("mox_mtastsdb_get", "MTA-STS policies wanted for deliveries.", ["result"])


@dataclass(frozen=True, slots=True)
class Found:
    """What is known of a domain's policy."""

    policy: Policy | None = None
    """None: the domain counts as having none; ``mode`` may be none as well."""
    text: str = ""
    """The policy as it was served, for reports."""
    failure: tuple[str, str] = ("", "")
    """Result type and failure reason for TLS reports; set beside a policy where a cached one stands in."""
    error: str = ""
    """It cannot be known now whether there is one: nothing may be delivered. One line."""


async def find(domain: Domain, resolver: Resolver, roots: Roots, database: Threads) -> Found:
    """The policy for a recipient domain as the message has it. Called on an event loop; ``database``: for the ORM."""
    result = "error"
    try:
        found = await Lookup(domain, resolver, roots, database).find()
        if found.policy is not None:
            result = "ok"
        elif not found.error:
            result = "backoff" if found.failure[1] == _BACKING_OFF else "notfound"
        return found
    finally:
        gets.labels(result).inc()


@dataclass(frozen=True, slots=True)
class Known:
    """A row that counts now: a policy, or that none could be fetched (``policy`` is None)."""

    record_id: str
    policy: Policy | None
    text: str
    retry_after: datetime | None
    now: datetime

    @property
    def found(self) -> Found:
        if self.policy is None:
            return Found(failure=(_FETCH_ERROR, _BACKING_OFF))
        return Found(self.policy, self.text)

    def in_place_of(self, failure: tuple[str, str]) -> Found:
        """The policy where a newer one, or its record, could not be had."""
        return replace(self.found, failure=(failure[0], f"{failure[1]}{FALLBACK}"))


class Lookup:
    """One look for the policy of one domain."""

    def __init__(self, domain: Domain, resolver: Resolver, roots: Roots, database: Threads) -> None:
        self._domain = domain
        self._key = domain.name()
        self._resolver = resolver
        self._roots = roots
        self._database = database

    async def find(self) -> Found:
        known = await self._database.call(_use, self._key)
        if known is None:
            return await self._find_new()
        if known.policy is None:
            return known.found
        return await self._check(known, known.policy)

    async def _find_new(self) -> Found:
        try:
            record = await lookup_record(self._resolver, self._domain)
        except StsError as exc:
            # RFC 8461 section 3.1: without exactly one record that can be read, the domain does not do MTA-STS.
            return Found(failure=exc.failure, error=str(exc) if exc.kind is ErrorKind.DNS else "")
        deadline = asyncio.get_running_loop().time() + FETCHING.total_seconds()
        while not await self._database.call(claim, self._key):
            if asyncio.get_running_loop().time() > deadline:
                text = f"policy of {self._domain.ascii} is still being fetched"
                return Found(failure=(_FETCH_ERROR, "cannot-fetch-policy"), error=text)
            await asyncio.sleep(LOOK_AGAIN)
        known = await self._database.call(_use, self._key)
        if known is not None:  # somebody else has fetched it meanwhile
            await self._database.call(release, self._key)
            return known.found
        return await self.fetch(record, None)

    async def _check(self, known: Known, policy: Policy) -> Found:
        """Whether the domain has a newer policy than that in the cache."""
        try:
            record = await lookup_record(self._resolver, self._domain)
        except StsError as exc:
            if exc.kind is not ErrorKind.NO_RECORD:
                return known.in_place_of(exc.failure)
            if policy.mode is Mode.NONE:  # the way to end it, RFC 8461 section 8.3
                return known.found
            # RFC 8461 section 5.1: or else who can forge DNS could end it.
            return known.in_place_of((_FETCH_ERROR, "no-mta-sts-record"))
        if record.id == known.record_id:
            return known.found
        if known.retry_after is not None and known.retry_after > known.now:
            return known.in_place_of((_FETCH_ERROR, _BACKING_OFF))
        if not await self._database.call(claim, self._key):
            return known.found
        return await self.fetch(record, known)

    async def fetch(self, record: StsRecord, known: Known | None) -> Found:
        """The policy from its host, which then is stored; to be called with the claim, which ends here."""
        environment = settings.MOX
        try:
            policy, text = await fetch_policy(
                self._resolver,
                self._domain,
                self._roots,
                port=environment.mtasts_port,
                private=environment.mtasts_private,
            )
        except StsError as exc:
            log.info("mta-sts policy cannot be had", extra={"domain": self._domain.log(), "err": str(exc)})
            if known is not None:
                await self._database.call(_retry_later, self._key)
                return known.in_place_of(exc.failure)
            await self._database.call(_store, self._key, record.id, None, "")
            return Found(failure=exc.failure)
        except BaseException:
            await self._database.call(release, self._key)
            raise
        await self._database.call(_store, self._key, record.id, policy, text)
        return Found(policy, text)


# The rows. All of these are run in a thread for the database.


def _use(domain: str) -> Known | None:
    """What counts for a domain, which is in use now."""
    now = db.now()
    row = MTASTSPolicy.objects.filter(domain=domain).first()
    if row is None:
        return None
    if now - row.last_use > USE_PRECISION:
        with db.write():
            MTASTSPolicy.objects.filter(pk=row.pk).update(last_use=now)
    return known_of(row, now)


def known_of(row: MTASTSPolicy, now: datetime) -> Known | None:
    """What a row says; None where its time is over."""
    if row.valid_end <= now:
        return None
    return Known(row.record_id, None if row.backoff else policy_of(row), row.policy_text, row.retry_after, now)


def policy_of(row: MTASTSPolicy) -> Policy:
    """The policy of a row that has one."""
    patterns = [MxPattern(parse_domain_lax(name.removeprefix("*.")), name.startswith("*.")) for name in row.mx]
    extensions = tuple((name, value) for name, value in row.extensions)
    return Policy(Mode(row.mode), tuple(patterns), row.max_age, extensions)


def claim(domain: str) -> bool:
    """Whether the policy is now this process's to fetch; not while another one does."""
    with db.write():
        now = db.now()
        # A row without policy, which says nothing but who fetches.
        new = MTASTSPolicy(domain=domain, inserted=now, valid_end=now, last_update=now, last_use=now)
        MTASTSPolicy.objects.bulk_create([new], ignore_conflicts=True)
        free = Q(fetching_until=None) | Q(fetching_until__lte=now)
        return bool(MTASTSPolicy.objects.filter(free, domain=domain).update(fetching_until=now + FETCHING))


def release(domain: str) -> None:
    """End a claim without a result."""
    with db.write():
        MTASTSPolicy.objects.filter(domain=domain).update(fetching_until=None)


def _retry_later(domain: str) -> None:
    with db.write():
        MTASTSPolicy.objects.filter(domain=domain).update(fetching_until=None, retry_after=db.now() + BACKOFF)


def _store(domain: str, record_id: str, policy: Policy | None, text: str) -> None:
    with db.write():
        now = db.now()
        values = {
            "valid_end": now + (BACKOFF if policy is None else timedelta(seconds=policy.max_age)),
            "last_update": now,
            "backoff": policy is None,
            "record_id": record_id,
            "mode": Mode.NONE if policy is None else policy.mode.value,
            "mx": [] if policy is None else [str(pattern) for pattern in policy.mx],
            "max_age": 0 if policy is None else policy.max_age,
            "extensions": [] if policy is None else policy.extensions,
            "policy_text": text,
            "fetching_until": None,
            "retry_after": None,
        }
        MTASTSPolicy.objects.update_or_create(
            domain=domain, defaults=values, create_defaults={**values, "inserted": now, "last_use": now}
        )
