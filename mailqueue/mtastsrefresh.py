"""Keeping the policies of `mtastscache` fresh without deliveries (RFC 8461 section 10.2), and what administrators do.

Each day every policy gets a moment of the next hours at which its domain is asked anew; each minute those whose moment
has come are. So the work of a night is spread, survives a restart, and can be shared by any number of workers.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Final

from django.db import connection
from django.db.models import Q

from protocols.dns import Resolver
from protocols.mtasts import ErrorKind, Mode, StsError, lookup_record
from protocols.names import BadDomain, Domain, parse_domain
from protocols.pkix import Roots
from server import db
from server.models import ServerSettings
from store.pool import Threads

from . import network
from .models import MTASTSPolicy
from .mtastscache import Found, Known, Lookup, claim, known_of

log = logging.getLogger(__name__)

UNUSED: Final = timedelta(days=180)  # since the last delivery
ROWS_MAX: Final = 100_000  # those used least recently go first
NOT_UPDATED: Final = timedelta(hours=12)
SPREAD: Final = timedelta(hours=3)
REFRESH_SECONDS: Final = 60.0  # for one domain
SLICE: Final = 200  # domains of one task: it is over before the next comes, but for hosts that do not answer
AT_ONCE: Final = 10
BATCH: Final = 500  # rows of a transaction
PAGE: Final = 100  # rows of a list


class UnknownPolicy(Exception):
    """There is no policy of this domain in the cache."""


def plan() -> int:
    """Remove what nobody needs, and give all others that were not updated lately their moment. How many have one."""
    if ServerSettings.current().localserve:
        return 0
    now = db.now()
    _remove(MTASTSPolicy.objects.filter(last_use__lt=now - UNUSED).values_list("pk", flat=True))
    _remove(MTASTSPolicy.objects.order_by("-last_use", "-pk").values_list("pk", flat=True)[ROWS_MAX:])
    ids = list(MTASTSPolicy.objects.filter(last_update__lt=now - NOT_UPDATED).values_list("pk", flat=True))
    for start in range(0, len(ids), BATCH):
        rows = [
            MTASTSPolicy(pk=pk, refresh_at=now + random.random() * SPREAD)  # in an order that nobody can foresee
            for pk in ids[start : start + BATCH]
        ]
        with db.write():
            MTASTSPolicy.objects.bulk_update(rows, ["refresh_at"])
    return len(ids)


def refresh_due() -> int:
    """Ask the domains anew whose moment has come, a slice of them. How many."""
    names = _take_due()
    if names:
        asyncio.run(_refresh_all(names))
    return len(names)


async def refresh(key: str, resolver: Resolver, roots: Roots, database: Threads) -> Found | None:
    """Ask one domain anew; None where nothing is to be had or kept. ``key``: as the row has it."""
    try:
        async with asyncio.timeout(REFRESH_SECONDS):
            return await _refresh(parse_domain(key), resolver, roots, database)
    except TimeoutError:
        log.info("mta-sts policy is not refreshed", extra={"domain": key, "err": f"over {REFRESH_SECONDS:g} seconds"})
        return None


# What pages and commands call.


def policies(after: str = "", count: int = PAGE) -> Sequence[MTASTSPolicy]:
    """The cache by domain, from the one that follows ``after`` on; with those whose policy cannot be fetched."""
    known = MTASTSPolicy.objects.filter(Q(backoff=True) | ~Q(record_id=""), domain__gt=after)
    return list(known.order_by("domain")[:count])


def refresh_now(name: str) -> MTASTSPolicy | None:
    """Ask a domain of the cache anew; its row, None if the domain has ended its policy. Raises UnknownPolicy."""
    key = _existing(name)
    asyncio.run(_refresh_all([key]))
    return MTASTSPolicy.objects.filter(domain=key).first()


def forget(name: str) -> None:
    """Drop a policy: until the next delivery, nothing of it is enforced. Raises UnknownPolicy."""
    key = _existing(name)
    with db.write():
        MTASTSPolicy.objects.filter(domain=key).delete()


def _existing(name: str) -> str:
    try:
        key = parse_domain(name).name()
    except BadDomain as exc:
        raise UnknownPolicy(f'"{name}" is not a domain: {exc}') from exc
    if not MTASTSPolicy.objects.filter(domain=key).exists():
        raise UnknownPolicy(f"there is no policy of {key} in the cache")
    return key


# One domain.


async def _refresh(domain: Domain, resolver: Resolver, roots: Roots, database: Threads) -> Found | None:
    key = domain.name()
    try:
        record = await lookup_record(resolver, domain)
    except StsError as exc:
        log.info("mta-sts record cannot be had", extra={"domain": domain.log(), "err": str(exc)})
        if exc.kind is ErrorKind.NO_RECORD:
            await database.call(_ended, key)
        return None
    if await database.call(_extend, key, record.id):
        return None
    if not await database.call(claim, key):
        return None
    return await Lookup(domain, resolver, roots, database).fetch(record, await database.call(_policy, key))


def _policy(key: str) -> Known | None:
    """The row, where it has a policy that counts."""
    known = known_of(MTASTSPolicy.objects.get(domain=key), db.now())
    return known if known is not None and known.policy is not None else None


def _ended(key: str) -> None:
    """The domain has no record any more: of a policy that asks for something, the time must run out first."""
    with db.write():
        ended = Q(mode=Mode.NONE) | Q(valid_end__lte=db.now())
        MTASTSPolicy.objects.filter(ended, domain=key).delete()


def _extend(key: str, record_id: str) -> bool:
    """Whether the policy in the cache is the newest one; then it counts for as long again as it says."""
    with db.write():
        now = db.now()
        row = MTASTSPolicy.objects.filter(domain=key, record_id=record_id, backoff=False, valid_end__gt=now).first()
        if row is None:
            return False
        valid_end = now + timedelta(seconds=row.max_age)
        MTASTSPolicy.objects.filter(pk=row.pk).update(valid_end=valid_end, last_update=now, retry_after=None)
        return True


# Many of them.


def _take_due() -> list[str]:
    with db.write():
        due = MTASTSPolicy.objects.filter(refresh_at__lte=db.now()).order_by("refresh_at")
        if connection.features.has_select_for_update_skip_locked:
            due = due.select_for_update(skip_locked=True)
        rows = list(due.values_list("pk", "domain")[:SLICE])
        MTASTSPolicy.objects.filter(pk__in=[pk for pk, _ in rows]).update(refresh_at=None)
    return [domain for _, domain in rows]


async def _refresh_all(keys: Sequence[str]) -> None:
    places = asyncio.Semaphore(AT_ONCE)
    resolver, roots = network.resolver(), network.roots(ServerSettings.current())

    async def one(key: str) -> None:
        async with places:
            await refresh(key, resolver, roots, network.database())

    await asyncio.gather(*(one(key) for key in keys))


def _remove(ids: Iterable[int]) -> None:
    found = list(ids)
    for start in range(0, len(found), BATCH):
        with db.write():
            MTASTSPolicy.objects.filter(pk__in=found[start : start + BATCH]).delete()
