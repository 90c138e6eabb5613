"""A task goes on with the id of the connection that asked for it, and is counted."""

from __future__ import annotations

import queue

import pytest
from celery import Celery
from celery.contrib.testing.worker import start_worker
from prometheus_client import REGISTRY

import mox_project.celery
from server.connections import current_cid

assert mox_project.celery.app  # its handlers hear the tasks of any app

app = Celery("of the test", broker="memory://")
app.conf.update(task_ignore_result=True, worker_hijack_root_logger=False)
ids: queue.Queue[int] = queue.Queue()


@app.task(name="test.remember")
def remember() -> None:
    ids.put(current_cid.get())


@app.task(name="test.fail")
def fail() -> None:
    ids.put(current_cid.get())
    raise RuntimeError("on purpose")


def count(metric: str, /, **labels: str) -> float:
    return REGISTRY.get_sample_value(metric, labels) or 0


def test_an_id_is_carried_to_the_worker_and_made_where_there_is_none() -> None:
    with start_worker(app, pool="solo", perform_ping_check=False, loglevel="ERROR"):
        before = current_cid.set(0x18BD2F3A1C7)
        try:
            remember.delay()
        finally:
            current_cid.reset(before)
        remember.delay()
        assert ids.get(timeout=20) == 0x18BD2F3A1C7
        made = ids.get(timeout=20)
        assert made not in (0, 0x18BD2F3A1C7)
    assert current_cid.get() == 0
    assert count("mox_task_runs_total", name="test.remember", result="success") == 2
    assert count("mox_task_duration_seconds_count", name="test.remember") == 2


@pytest.mark.filterwarnings("ignore")
def test_a_task_that_fails_is_counted_as_a_fault() -> None:
    before = count("mox_panic_total", pkg="test")
    with start_worker(app, pool="solo", perform_ping_check=False, loglevel="CRITICAL"):
        fail.delay()
        ids.get(timeout=20)
    assert count("mox_task_runs_total", name="test.fail", result="failure") == 1
    assert count("mox_panic_total", pkg="test") == before + 1
