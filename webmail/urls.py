"""The webmail's addresses, below the path of its endpoint."""

from __future__ import annotations

from django.urls import path

from web import errors, login

from . import views
from .interface import INTERFACE

handler400 = errors.bad_request
handler403 = errors.forbidden
handler404 = errors.not_found
handler500 = errors.server_error

urlpatterns = [
    path("", views.overview, name="webmail"),
    *login.urls(INTERFACE),
]
