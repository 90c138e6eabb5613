"""The admin's addresses, below the path of its endpoint."""

from __future__ import annotations

from django.contrib import admin
from django.urls import path
from django.views.generic import RedirectView

from web import errors, login

from .interface import INTERFACE

handler400 = errors.bad_request
handler403 = errors.forbidden
handler404 = errors.not_found
handler500 = errors.server_error

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="admin:index")),
    path("django/", admin.site.urls),
    *login.urls(INTERFACE),
]
