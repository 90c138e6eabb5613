"""Django's view of this package."""

from __future__ import annotations

from django.apps import AppConfig


class JunkConfig(AppConfig):
    """The junk filter: what it learnt, and its part of the consistency checks."""

    name = "junk"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from accounts import removal

        from . import checks  # noqa: F401 # registers the checks; models are ready only now
        from .removal import REMOVER

        removal.register(REMOVER)
