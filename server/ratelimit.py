"""Limits on connections and failed logins per client network, counted in Redis by all processes and nodes together.

Every limit holds for three networks around the client (IPv4 /32, /26, /21; IPv6 /64, /48, /32) in fixed windows
(``now // window``). One Lua script per operation checks and counts all of them in one step and one round trip; an
attempt over any limit is not counted. With Redis away the same rules run on a dictionary of this process, and mail
keeps flowing.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Final, cast

import redis
import redis.asyncio
from django.conf import settings
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.commands.core import Script
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry

from . import ratelimit_scripts as scripts
from .perprocess import PerProcess
from .ratelimit_local import LimitedCounter, LocalCounters

log = logging.getLogger(__name__)

MINUTE: Final = 60  # seconds
HOUR: Final = 3600  # seconds
DAY: Final = 86400  # seconds
LEASE: Final = 30  # seconds that the open connections of a process count after its last sign of life
LEASE_RENEWAL: Final = 10  # seconds: two renewals may fail before the lease ends
REDIS_TIMEOUT: Final = (
    2.0  # seconds for an answer, which takes well under a millisecond: Redis hangs, or this machine does
)
REDIS_RETRY: Final = 5.0  # seconds on the dictionary before Redis is tried again, so that not every client waits for it
REDIS_CONNECTIONS: Final = (
    16  # per process and way of calling; more callers wait for one, each for a fraction of a millisecond
)
OPEN_COUNT_LIFETIME: Final = 7 * DAY  # what a killed process leaves behind goes; no connection is open for longer
IPV4_PREFIXES: Final = (32, 26, 21)
IPV6_PREFIXES: Final = (64, 48, 32)
NETWORKS: Final = 3


class Service(enum.StrEnum):
    """What connections are counted for, each by itself."""

    SMTP = "smtp"
    SUBMISSION = "submission"
    IMAP = "imap"


class Refusal(enum.Enum):
    """Which limit a new connection is over, in the order they are looked at."""

    CONNECTION_RATE = 1
    FAILED_LOGINS = 2
    OPEN_CONNECTIONS = 3


@dataclass(frozen=True, slots=True)
class Limit:
    """How many are allowed in the narrow, the middle and the wide network; per window, or at a time if it is None."""

    window: int | None  # seconds
    narrow: int
    middle: int
    wide: int


@dataclass(frozen=True, slots=True)
class LimitTable:
    """All limits; the defaults are those of the server."""

    new_connections: Limit = Limit(MINUTE, 300, 900, 2700)
    open_connections: Limit = Limit(None, 30, 90, 270)
    failed_logins: tuple[Limit, ...] = (Limit(MINUTE, 10, 30, 90), Limit(DAY, 50, 150, 450))
    http_requests: tuple[Limit, ...] = (Limit(MINUTE, 1000, 3000, 9000), Limit(HOUR, 5000, 15000, 45000))


@dataclass(frozen=True, slots=True)
class Allowance:
    """Whether a login may be tried, and whether there are counted failures that a success would clear."""

    allowed: bool
    has_failures: bool


@dataclass(eq=False, slots=True)
class OpenConnection:
    """A counted connection. ``close()`` when it ends, once or more, from the event loop; it never waits or raises."""

    limiter: Limiter
    counters: tuple[str, ...]
    closed: bool = False

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.limiter.forget_connection(self.counters)


@dataclass(frozen=True, slots=True)
class Admission:
    """The verdict on a new connection: exactly one of the two is set."""

    refusal: Refusal | None
    connection: OpenConnection | None


class Limiter:
    """The limits of this installation, as one process sees them.

    ``admit``, ``count_request``, ``keep_lease`` and ``aclose`` belong to one event loop; the methods for failed logins
    are for any thread.
    ``url`` is that of Redis, ``clock`` gives seconds since the epoch.
    """

    def __init__(self, url: str, table: LimitTable | None = None, clock: Callable[[], float] = time.time) -> None:
        self.table = table or LimitTable()
        self._clock = clock
        self._breaker = _Breaker(clock)
        self._local = LocalCounters()
        # Once more on a connection that turns out to be closed; never after a timeout, which may have counted.
        self._sync = redis.Redis(
            connection_pool=redis.BlockingConnectionPool.from_url(
                url,
                max_connections=REDIS_CONNECTIONS,
                timeout=REDIS_TIMEOUT,
                socket_timeout=REDIS_TIMEOUT,
                socket_connect_timeout=REDIS_TIMEOUT,
                retry=Retry(NoBackoff(), 1, (RedisConnectionError,)),
            )
        )
        self._check_script = self._sync.register_script(scripts.CHECK)
        self._count_script = self._sync.register_script(scripts.COUNT)
        self._clear_script = self._sync.register_script(scripts.CLEAR)
        self._async = redis.asyncio.Redis(
            connection_pool=redis.asyncio.BlockingConnectionPool.from_url(
                url,
                max_connections=REDIS_CONNECTIONS,
                timeout=REDIS_TIMEOUT,
                socket_timeout=REDIS_TIMEOUT,
                socket_connect_timeout=REDIS_TIMEOUT,
                retry=AsyncRetry(NoBackoff(), 1, (RedisConnectionError,)),
            )
        )
        self._admit_script = self._async.register_script(scripts.ADMIT)
        self._request_script = self._async.register_script(scripts.COUNT)
        self._adjust_script = self._async.register_script(scripts.ADJUST)
        # The connections of this process by counter key; in Redis they stand under the token of a lease.
        self._open: Counter[str] = Counter()
        self._token = _new_token()
        self._entered = True  # Redis has the connections of this process, as far as is known here
        self._entering = asyncio.Lock()
        self._adjusting: set[asyncio.Task[None]] = set()

    # New connections, on the event loop.

    async def admit(self, service: Service, remote_ip: str, *, refuse_failed_logins: bool) -> Admission:
        """Count a new connection, unless the client is over a limit: then say which.

        ``refuse_failed_logins``: refuse also where too many logins failed (submission and IMAP). Whoever gets a
        connection closes it when it ends.
        """
        networks = networks_of(remote_ip)
        now = self._clock()
        rate = _counters(f"{_PREFIX}conn:{service}", networks, self.table.new_connections, now)
        failures = self._failure_counters(networks, now) if refuse_failed_logins else []
        opened = _counters(f"{_PREFIX}open:{service}", networks, self.table.open_connections, now)
        verdict = await self._admit_in_redis(rate, failures, opened)
        if verdict is None:
            verdict = self._admit_locally(rate, failures, opened, now)
        if verdict != _ADMITTED:
            return Admission(Refusal(verdict), None)
        return Admission(None, OpenConnection(self, tuple(counter.key for counter in opened)))

    def forget_connection(self, keys: tuple[str, ...]) -> None:
        """For ``OpenConnection.close()``."""
        self._open.subtract(keys)
        for key in keys:
            if self._open[key] <= 0:
                del self._open[key]
        self._adjust(keys, -1)

    async def count_request(self, remote_ip: str) -> bool:
        """Count an HTTP request. False if the client is over a limit already; then it is not counted."""
        now = self._clock()
        networks = networks_of(remote_ip)
        counters = [
            counter
            for limit in self.table.http_requests
            for counter in _counters(f"{_PREFIX}http", networks, limit, now)
        ]
        if self._breaker.is_open():
            return self._local.count(counters, now)
        args = [*(counter.limit for counter in counters), *(counter.lifetime for counter in counters)]
        try:
            answer = await cast(
                "Awaitable[int]", self._request_script(keys=[counter.key for counter in counters], args=args)
            )
        except redis.RedisError as exc:
            self._redis_failed(exc)
            return self._local.count(counters, now)
        self._breaker.worked()
        return bool(answer)

    async def keep_lease(self) -> None:
        """Renew the lease of this process's open connections until cancelled: run it as a task beside the servers."""
        while True:
            await asyncio.sleep(LEASE_RENEWAL)
            if self._open:
                await self.renew_lease()

    async def renew_lease(self) -> None:
        """One renewal. After a loss (Redis restarted, or was away) the open connections are entered anew."""
        if self._breaker.is_open():
            return
        try:
            if self._entered and not await self._async.expire(_lease_key(self._token), LEASE):
                self._entered = False
            if not self._entered:
                await self._enter_anew()
        except redis.RedisError as exc:
            self._redis_failed(exc)
        else:
            self._breaker.worked()

    async def aclose(self) -> None:
        """At the end of the process: give up its open connections, and close those to Redis."""
        await asyncio.gather(*self._adjusting)
        try:
            if not self._breaker.is_open():
                await self._async.delete(_lease_key(self._token))
            await self._async.aclose()
        except redis.RedisError as exc:
            log.info("the lease of open connections is left to expire", extra={"err": str(exc)})
        self._sync.close()

    # Failed logins, of all services together, from any thread.

    def login_allowance(self, remote_ip: str) -> Allowance:
        """Whether another login may be tried from here: to be asked before the password is looked at."""
        now = self._clock()
        counters = self._failure_counters(networks_of(remote_ip), now)
        answer = self._ask(self._check_script, counters, [counter.limit for counter in counters])
        if answer is None:
            return Allowance(self._local.below(counters, now), self._local.any_counted(counters, now))
        return Allowance(allowed=bool(answer & 1), has_failures=bool(answer & 2))

    def count_failed_login(self, remote_ip: str) -> bool:
        """Count a failed login. False if the client is over a limit already; then it is not counted."""
        now = self._clock()
        counters = self._failure_counters(networks_of(remote_ip), now)
        args = [*(counter.limit for counter in counters), *(counter.lifetime for counter in counters)]
        answer = self._ask(self._count_script, counters, args)
        return self._local.count(counters, now) if answer is None else bool(answer)

    def clear_failed_logins(self, remote_ip: str) -> None:
        """After a success: forget the failures of the narrow network, and take as many off the wider ones."""
        now = self._clock()
        counters = self._failure_counters(networks_of(remote_ip), now)
        if self._ask(self._clear_script, counters, []) is None:
            for start in range(0, len(counters), NETWORKS):
                self._local.clear(counters[start : start + NETWORKS], now)

    def _failure_counters(self, networks: list[str], now: float) -> list[LimitedCounter]:
        return [
            counter
            for limit in self.table.failed_logins
            for counter in _counters(f"{_PREFIX}login", networks, limit, now)
        ]

    def _ask(self, script: Script, counters: list[LimitedCounter], args: list[int]) -> int | None:
        if self._breaker.is_open():
            return None
        try:
            answer = cast(int, script(keys=[counter.key for counter in counters], args=args))
        except redis.RedisError as exc:
            self._redis_failed(exc)
            return None
        self._breaker.worked()
        return answer

    # Open connections in Redis, under a lease; all on the event loop.

    async def _admit_in_redis(
        self, rate: list[LimitedCounter], failures: list[LimitedCounter], opened: list[LimitedCounter]
    ) -> int | None:
        """The verdict, or None with Redis away."""
        if self._breaker.is_open():
            return None
        counters = [*rate, *failures, *opened]
        try:
            for _ in range(2):
                if not self._entered:
                    await self._enter_anew()
                token = self._token
                verdict = await cast(
                    "Awaitable[int]",
                    self._admit_script(
                        keys=[_lease_key(token), *(counter.key for counter in counters)],
                        args=[
                            token,
                            _LEASE_PREFIX,
                            LEASE,
                            int(bool(self._open)),
                            len(rate),
                            len(failures),
                            OPEN_COUNT_LIFETIME,
                            *(counter.limit for counter in counters),
                            *(counter.lifetime for counter in counters),
                        ],
                    ),
                )
                if verdict != _LEASE_LOST:
                    break
                if token == self._token:
                    self._entered = False
            else:
                return None  # lost twice within a millisecond: the next client will find it again
        except redis.RedisError as exc:
            self._redis_failed(exc)
            return None
        except asyncio.CancelledError:
            self._entered = False  # it may have been counted
            raise
        self._breaker.worked()
        if verdict == _ADMITTED:
            keys = tuple(counter.key for counter in opened)
            self._open.update(keys)
            if token != self._token:
                # The lease was made anew while we waited, without this connection.
                self._adjust(keys, 1)
        return verdict

    def _admit_locally(
        self, rate: list[LimitedCounter], failures: list[LimitedCounter], opened: list[LimitedCounter], now: float
    ) -> int:
        if not self._local.count(rate, now):
            return Refusal.CONNECTION_RATE.value
        if not self._local.below(failures, now):
            return Refusal.FAILED_LOGINS.value
        if any(self._open[counter.key] >= counter.limit for counter in opened):
            return Refusal.OPEN_CONNECTIONS.value
        self._open.update(counter.key for counter in opened)
        self._entered = False
        return _ADMITTED

    def _adjust(self, keys: tuple[str, ...], by: int) -> None:
        """Change the counts in Redis, without waiting."""
        if not self._entered:
            return  # all of them are entered anew
        task = asyncio.get_running_loop().create_task(self._adjust_in_redis(self._token, keys, by))
        self._adjusting.add(task)
        task.add_done_callback(self._adjusting.discard)

    async def _adjust_in_redis(self, token: str, keys: tuple[str, ...], by: int) -> None:
        async with self._entering:
            if token != self._token or not self._entered:
                return  # what stood under an older token lapses, and the next one starts from all that is open
        try:
            await cast("Awaitable[int]", self._adjust_script(keys=list(keys), args=[token, by, OPEN_COUNT_LIFETIME]))
        except redis.RedisError as exc:
            self._redis_failed(exc)

    async def _enter_anew(self) -> None:
        """Count all open connections of this process under a new lease; what stood under the old one lapses."""
        async with self._entering:
            if self._entered:
                return
            self._token = _new_token()
            pipeline = self._async.pipeline(transaction=True)
            for key, count in self._open.items():
                pipeline.hincrby(key, self._token, count)
                pipeline.expire(key, OPEN_COUNT_LIFETIME)
            pipeline.set(_lease_key(self._token), 1, ex=LEASE)
            self._entered = True  # from here on changes are adjustments, which wait for the lock
            try:
                await pipeline.execute()
            except BaseException:
                self._entered = False
                raise

    def _redis_failed(self, exc: redis.RedisError) -> None:
        self._entered = False
        self._breaker.failed(exc)


class _Breaker:
    """Remembers that Redis does not answer, so that not every caller finds out by waiting; logs each change once."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failed_at: float | None = None
        self._reported = False

    def is_open(self) -> bool:
        """Whether Redis is left alone for now."""
        return self._failed_at is not None and 0 <= self._clock() - self._failed_at < REDIS_RETRY

    def failed(self, exc: redis.RedisError) -> None:
        self._failed_at = self._clock()
        if not self._reported:
            self._reported = True
            log.warning(
                "redis does not answer: limits are counted per process until it does; see MOX_CACHE_URL",
                extra={"err": str(exc)},
            )

    def worked(self) -> None:
        if self._failed_at is not None:
            self._failed_at = None
            self._reported = False
            log.warning("redis answers again: limits are counted for all processes together")


def networks_of(remote_ip: str) -> list[str]:
    """The narrow, middle and wide network around an address, e.g. ``192.0.2.1/32``. Raises ValueError."""
    address = ip_address(remote_ip.partition("%")[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    prefixes = IPV6_PREFIXES if isinstance(address, IPv6Address) else IPV4_PREFIXES
    return [str(ip_network((address, prefix), strict=False)) for prefix in prefixes]


def _counters(name: str, networks: list[str], limit: Limit, now: float) -> list[LimitedCounter]:
    if limit.window is None:
        suffix, lifetime = "", 0
    else:
        suffix, lifetime = f":{limit.window}:{int(now // limit.window)}", limit.window
    return [
        LimitedCounter(f"{name}:{network}{suffix}", most, lifetime)
        for network, most in zip(networks, (limit.narrow, limit.middle, limit.wide), strict=True)
    ]


def _lease_key(token: str) -> str:
    return f"{_LEASE_PREFIX}{token}"


def _new_token() -> str:
    return secrets.token_hex(8)


_PREFIX: Final = "mox:{limit}:"  # the braces keep all counters in one slot of a Redis cluster, as a script needs them
_LEASE_PREFIX: Final = f"{_PREFIX}lease:"
_ADMITTED: Final = 0
_LEASE_LOST: Final = -1

limiter: Final = PerProcess(lambda: Limiter(settings.MOX_CACHE_URL))
