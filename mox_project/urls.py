"""What the metrics endpoint answers. Other endpoints have the views of their own packages."""

from __future__ import annotations

from django.urls import path

from web import errors

from . import health

handler400 = errors.bad_request
handler403 = errors.forbidden
handler404 = errors.not_found
handler500 = errors.server_error

urlpatterns = [
    path("", health.index),
    path("healthz", health.healthz),
    path("readyz", health.readyz),
    path("metrics", health.metrics),
]
