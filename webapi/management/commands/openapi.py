"""``manage.py openapi``: the OpenAPI document of the webapi."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand

from webapi import openapi


class Command(BaseCommand):
    help = "Print the OpenAPI document of the webapi, in YAML, as docs/openapi.yaml has it."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        self.stdout.write(openapi.text(openapi.document()), ending="")
