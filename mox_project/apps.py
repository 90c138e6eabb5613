from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.core.signals import got_request_exception


class ProjectConfig(AppConfig):
    name = "mox_project"

    def ready(self) -> None:
        from .celery import app  # Celery reads the settings, which are there only now

        app.set_default()  # the app that the tasks of all packages belong to
        got_request_exception.connect(_count_panic)


def _count_panic(**kwargs: Any) -> None:
    from server.connections import panic_total  # imports models

    panic_total.labels("web").inc()
