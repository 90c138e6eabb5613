"""What machines ask a running server: is it alive, is it ready, how is it doing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

import redis
from django.conf import settings
from django.db import DatabaseError, connection
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.http import require_safe
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from server import metricfiles, sharedmetrics

FREE_DISK_MIN: Final = 100 << 20  # bytes; with less, mail may be refused at any moment
REDIS_TIMEOUT: Final = 1.0  # seconds


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    """Where the rest is."""
    return HttpResponse("/metrics\n/healthz\n/readyz\n", content_type="text/plain")


@require_safe
def healthz(request: HttpRequest) -> HttpResponse:
    """The process is alive."""
    return HttpResponse("ok\n", content_type="text/plain")


@require_safe
def readyz(request: HttpRequest) -> HttpResponse:
    """Database, Redis and disk can be used; 503 names what cannot."""
    problems = {name: problem for name, check in _CHECKS.items() if (problem := check())}
    return JsonResponse({"ready": not problems, "problems": problems}, status=503 if problems else 200)


@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    """The metrics of all processes together, in Prometheus's text format."""
    directory = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    shared = CollectorRegistry()
    for collector in sharedmetrics.collectors():
        shared.register(collector)
    of_all = generate_latest(shared)
    if directory is None:
        return HttpResponse(generate_latest(REGISTRY) + of_all, content_type=CONTENT_TYPE_LATEST)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # the package types only part of itself
    with metricfiles.reading(Path(directory)):
        return HttpResponse(generate_latest(registry) + of_all, content_type=CONTENT_TYPE_LATEST)


def _database() -> str:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError as exc:
        return str(exc)
    return ""


def _redis() -> str:
    try:
        redis.Redis.from_url(
            settings.MOX.cache_url, socket_timeout=REDIS_TIMEOUT, socket_connect_timeout=REDIS_TIMEOUT
        ).ping()
    except redis.RedisError as exc:
        return str(exc)
    return ""


def _disk() -> str:
    free = shutil.disk_usage(settings.MOX.data_dir).free
    return f"{free} bytes free, at least {FREE_DISK_MIN} are needed" if free < FREE_DISK_MIN else ""


_CHECKS: Final = {"database": _database, "redis": _redis, "disk": _disk}
