"""Settings of the installation: listeners and their endpoints, server settings."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import Model
from django.forms.models import BaseInlineFormSet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse

from accounts.models import Account
from accounts.reportaddresses import address_at
from server import listener_rules
from server.models import Listener, ListenerEndpoint, ServerSettings

from .base import BaseAdmin, LinesField


class ListenerForm(forms.ModelForm):  # type: ignore[type-arg]  # generic in the stubs, not at run time
    ips = LinesField(label="IPs", help_text="Addresses to bind, one per line; 0.0.0.0 and :: are all.")
    nat_ips = LinesField(label="NAT IPs", help_text="Public addresses when behind NAT, one per line.")
    smtp_dnsbls = LinesField(label="DNSBL zones", help_text="One per line.")

    class Meta:
        model = Listener
        fields = "__all__"


class EndpointFormSet(BaseInlineFormSet):  # type: ignore[type-arg]  # generic in the stubs, not at run time
    """Rules over all endpoints, the mail ports and the other listeners together (setup.md 11)."""

    def clean(self) -> None:
        super().clean()
        listener: Listener = self.instance
        kept = [f for f in self.forms if f not in self.deleted_forms and (f.instance.pk or f.has_changed())]
        others = [
            (other, list(other.endpoints.all()))
            for other in Listener.objects.exclude(pk=listener.pk).prefetch_related("endpoints")
        ]
        endpoints = [form.instance for form in kept]
        # What Listener.clean() and ListenerEndpoint.clean() say stands at their fields already.
        known = {
            p.text for p in (*listener_rules.address_problems(listener), *listener_rules.tls_problems(listener, ()))
        }
        known |= {text for e in endpoints for text in listener_rules.endpoint_problems(listener, e)}
        problems = [p for p in listener_rules.listener_problems(listener, endpoints, others) if p.text not in known]
        for problem in problems:
            if problem.endpoint is not None:
                kept[problem.endpoint].add_error(None, problem.text)
        if texts := [problem.text for problem in problems if problem.endpoint is None]:
            raise forms.ValidationError(texts)


class EndpointInline(admin.TabularInline):  # type: ignore[type-arg]  # as above
    model = ListenerEndpoint
    formset = EndpointFormSet
    extra = 0
    fields = ("kind", "tls", "enabled", "port", "path", "forwarded", "allow_public")


@admin.register(Listener)
class ListenerAdmin(BaseAdmin[Listener]):
    form = ListenerForm
    inlines = [EndpointInline]
    list_display = ("name", "node", "addresses", "tls_mode", "hostname")
    fieldsets = [
        (None, {"fields": ["name", "node", "ips", "nat_ips", "ips_nated", "hostname", "max_message_size"]}),
        ("TLS", {"fields": ["tls_mode", "tls_min_version"]}),
        (
            "SMTP",
            {
                "fields": [
                    ("smtp_enabled", "smtp_port"),
                    "smtp_no_starttls",
                    "smtp_require_starttls",
                    "smtp_no_requiretls",
                    "smtp_dnsbls",
                    "smtp_first_time_sender_delay",
                ]
            },
        ),
        (
            "Submission",
            {
                "fields": [
                    ("submission_enabled", "submission_port"),
                    "submission_no_require_starttls",
                    ("submissions_enabled", "submissions_port"),
                ]
            },
        ),
        (
            "IMAP",
            {
                "fields": [
                    ("imap_enabled", "imap_port"),
                    "imap_no_require_starttls",
                    ("imaps_enabled", "imaps_port"),
                ]
            },
        ),
    ]

    @admin.display(description="IPs")
    def addresses(self, listener: Listener) -> str:
        return ", ".join(listener.ips)

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)
        if _changes_sockets(form, formsets):
            messages.info(request, "Changed addresses and ports are listened on after the next start of the server.")


def _changes_sockets(form: Any, formsets: Any) -> bool:
    changed = set(form.changed_data)
    for formset in formsets:
        for endpoint in formset.forms:
            changed.update(endpoint.changed_data)
    return any(
        name in ("ips", "node", "enabled", "port", "tls") or name.endswith(("_port", "_enabled")) for name in changed
    )


class ServerSettingsForm(forms.ModelForm):  # type: ignore[type-arg]  # generic in the stubs, not at run time
    monitor_dnsbls = LinesField(label="Monitored DNSBL zones", help_text="One per line.")
    webhook_private_hosts = LinesField(
        help_text="Hosts and networks that webhooks may reach although private, one per line."
    )

    class Meta:
        model = ServerSettings
        fields = "__all__"

    def clean(self) -> dict[str, Any] | None:
        cleaned = super().clean()
        for field in ("postmaster_account", "host_tlsrpt_account"):
            name = self.cleaned_data.get(field, "")
            if name and not Account.objects.filter(name=name).exists():
                self.add_error(field, f"There is no account {name!r}: use the name of one, or leave it empty.")
        taken = address_at(self.cleaned_data.get("host_tlsrpt_localpart", ""), self.cleaned_data.get("hostname", ""))
        if self.cleaned_data.get("host_tlsrpt_account") and taken is not None:
            self.add_error("host_tlsrpt_localpart", f"{taken} exists: use another, or remove that first.")
        return cleaned


@admin.register(ServerSettings)
class ServerSettingsAdmin(BaseAdmin[ServerSettings]):
    form = ServerSettingsForm

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """There is one row."""
        settings = ServerSettings.objects.first()
        if settings is None:
            return super().changelist_view(request, extra_context)
        return HttpResponseRedirect(reverse("admin:server_serversettings_change", args=[settings.pk]))
