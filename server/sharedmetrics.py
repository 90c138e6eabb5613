"""Metrics that are not of a process but of the database: read when somebody asks for them, the same from each node."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client.registry import Collector

_collectors: list[Collector] = []


def register(collector: Collector) -> None:
    """Have it asked together with the metrics of the processes."""
    if collector not in _collectors:
        _collectors.append(collector)


def collectors() -> Sequence[Collector]:
    return tuple(_collectors)
