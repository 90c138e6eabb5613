"""The webapi's addresses, below the path of its endpoint."""

from __future__ import annotations

from django.urls import path

from web import errors

from . import openapi, pages
from .methods import METHODS

handler400 = errors.bad_request
handler403 = errors.forbidden
handler404 = errors.not_found
handler500 = errors.server_error

urlpatterns = [
    path("", pages.root),
    path("v0/", pages.index, name="index"),
    path("v0/openapi.json", openapi.as_json, name="openapi.json"),
    path("v0/openapi.yaml", openapi.as_yaml, name="openapi.yaml"),
    path("v0/webhooks", pages.webhooks_page, name="webhooks"),
    *(path(f"v0/{method.name()}", method.as_view(), name=method.name()) for method in METHODS),
]
