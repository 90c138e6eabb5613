"""Metrics of processes that have ended: what they counted stays in the sum, their files go."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from server import metricfiles

COUNTS = """
import os, sys
from pathlib import Path
from prometheus_client import Counter, Gauge, Histogram
sys.path.insert(0, {project!r})
from server import metricfiles
metricfiles.reserve(Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]))
Counter("received", "", ["kind"]).labels("a").inc({count})
Histogram("size", "", buckets=(1, 10)).observe(5)
Gauge("open", "", multiprocess_mode="livesum").set(3)
print(os.getpid())
"""

SUMS = """
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
registry = CollectorRegistry()
MultiProcessCollector(registry)
print(generate_latest(registry).decode())
"""


def run(directory: Path, program: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(directory)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_what_ended_processes_counted_stays_in_the_sum(tmp_path: Path) -> None:
    project = str(Path(__file__).parents[2])
    pids = [int(run(tmp_path, COUNTS.format(project=project, count=count))) for count in (2, 3, 4)]
    for pid in pids[:2]:
        metricfiles.forget(tmp_path, pid)
    left = {path.name for path in tmp_path.glob("*.db")}
    assert not [name for name in left if str(pids[0]) in name or str(pids[1]) in name]
    assert {"counter_ended.db", "histogram_ended.db", f"counter_{pids[2]}.db"} <= left
    with metricfiles.reading(tmp_path):
        text = run(tmp_path, SUMS)
    assert 'received_total{kind="a"} 9.0' in text
    assert "size_count 3.0" in text
    assert 'size_bucket{le="10.0"} 3.0' in text
    assert "open 3.0" in text, "of the one that runs alone"


def test_a_process_without_files_is_forgotten_too(tmp_path: Path) -> None:
    metricfiles.forget(tmp_path, 12345)
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]
