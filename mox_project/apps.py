from __future__ import annotations

from django.apps import AppConfig


class ProjectConfig(AppConfig):
    name = "mox_project"

    def ready(self) -> None:
        from .celery import app  # Celery reads the settings, which are there only now

        app.set_default()  # the app that the tasks of all packages belong to
