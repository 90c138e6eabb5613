"""The counters that take over while Redis is away stay small and forget in time."""

from __future__ import annotations

from server.ratelimit_local import LimitedCounter, LocalCounters


def counter(name: str, limit: int = 2, lifetime: int = 60) -> list[LimitedCounter]:
    return [LimitedCounter(name, limit, lifetime)]


def test_counters_expire() -> None:
    counters = LocalCounters()
    assert [counters.count(counter("a"), now=0) for _ in range(3)] == [True, True, False]
    assert not counters.below(counter("a"), now=59)
    assert counters.below(counter("a"), now=60)


def test_a_flood_of_clients_is_bounded_and_the_oldest_make_room() -> None:
    counters = LocalCounters(max_counters=100)
    for number in range(1000):
        assert counters.count(counter(str(number)), now=0)
    assert len(counters) <= 100
    assert counters.any_counted(counter("999"), now=0)
    assert not counters.any_counted(counter("0"), now=0)


def test_expired_counters_go_first() -> None:
    counters = LocalCounters(max_counters=10)
    for number in range(10):
        counters.count(counter(str(number), lifetime=10 if number > 2 else 1000), now=0)
    counters.count(counter("new"), now=500)
    assert counters.any_counted(counter("0"), now=500)
    assert len(counters) == 4
