from __future__ import annotations

from django.apps import AppConfig


class WebapiConfig(AppConfig):
    name = "webapi"
