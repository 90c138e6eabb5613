"""The Django application of the queue."""

from __future__ import annotations

from django.apps import AppConfig


class MailQueueConfig(AppConfig):
    name = "mailqueue"
    label = "queue"  # the package's name would hide the standard library's module from Celery
    verbose_name = "Queue"

    def ready(self) -> None:
        from accounts import removal, transports  # models can be imported only once the apps are ready
        from server import sharedmetrics

        from . import (
            checks,  # noqa: F401 # registers the checks; models are ready only now
            ownips,
            routing,
        )
        from .removal import REMOVER

        removal.register(REMOVER)
        transports.on_remove(routing.queued_use)
        sharedmetrics.register(ownips.Gauge())
