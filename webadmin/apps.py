from __future__ import annotations

from django.apps import AppConfig
from django.contrib.admin.apps import AdminConfig


class WebAdminConfig(AppConfig):
    name = "webadmin"
    verbose_name = "Administration"


class DjangoAdminConfig(AdminConfig):
    """Django's admin with our login instead of its own."""

    default_site = "webadmin.site.AdminSite"
