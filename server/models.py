"""The settings of this installation and what it listens on."""

from __future__ import annotations

import time
from collections.abc import Collection
from datetime import timedelta
from typing import Any, ClassVar, Self

from cryptography.x509 import load_pem_x509_certificates
from django.conf import settings
from django.core.exceptions import NON_FIELD_ERRORS, ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models

from protocols.names import BadDomain, parse_domain

from . import listener_rules

SETTINGS_MAX_AGE = 1.0  # seconds that a process may act on settings that another one has just changed


def default_initial_mailboxes() -> dict[str, Any]:
    """The mailboxes of a new account besides Inbox, by special use, and further regular ones."""
    return {
        "sent": "Sent",
        "archive": "Archive",
        "trash": "Trash",
        "drafts": "Drafts",
        "junk": "Junk",
        "regular": [],
    }


class LogLevel(models.TextChoices):
    ERROR = "error"
    WARN = "warn"
    INFO = "info"
    DEBUG = "debug"
    TRACE = "trace"
    TRACEAUTH = "traceauth"
    TRACEDATA = "tracedata"


def checked_hostname(name: str, problems: dict[str, list[str]]) -> str:
    """The name as A-labels in lower case; if it is none, that is added to ``problems``."""
    try:
        return parse_domain(name).ascii
    except BadDomain as exc:
        problems.setdefault("hostname", []).append(f"{name!r} is not a domain name: {exc}")
        return name


class ServerSettings(models.Model):
    """The one row of settings of this installation. Account fields hold names: accounts live in a layer above."""

    hostname = models.CharField(
        max_length=255, help_text="Fully qualified name in banners, EHLO, Received, certificates."
    )
    localserve = models.BooleanField(
        default=False, editable=False, help_text="Made by localserve: for trying out, without DNS, on high ports."
    )
    postmaster_account = models.CharField(max_length=64, blank=True, default="")
    postmaster_mailbox = models.CharField(max_length=1000, default="Postmaster")
    host_tlsrpt_account = models.CharField(max_length=64, blank=True, default="")
    host_tlsrpt_localpart = models.CharField(max_length=128, default="tls-reports")
    host_tlsrpt_mailbox = models.CharField(max_length=1000, default="TLSRPT")
    initial_mailboxes = models.JSONField(default=default_initial_mailboxes)
    quota_message_size = models.BigIntegerField(default=0, help_text="Bytes of messages per account; 0 is no limit.")
    no_outgoing_dmarc_reports = models.BooleanField(default=False)
    no_outgoing_tls_reports = models.BooleanField(default=False)
    outgoing_tls_reports_for_all_success = models.BooleanField(default=False)
    check_updates = models.BooleanField(default=False)
    pedantic = models.BooleanField(
        default=False, help_text="Protocol violations that are common in the wild are errors."
    )
    monitor_dnsbls = models.JSONField(default=list, blank=True)
    extra_ca_pem = models.TextField(blank=True, default="")
    extra_ca_only = models.BooleanField(default=False)
    log_level = models.CharField(max_length=16, choices=LogLevel.choices, default=LogLevel.INFO)
    log_levels = models.JSONField(default=dict, blank=True, help_text="Level per package.")
    imap_append_limit = models.BigIntegerField(default=0, help_text="Bytes per appended message; 0: only quota limits.")
    tombstone_days = models.PositiveIntegerField(default=0, help_text="Days that removals are remembered; 0: for good.")
    report_retention_days = models.PositiveIntegerField(default=730)
    webhook_private_hosts = models.JSONField(default=list, blank=True)
    http_rate_limits = models.BooleanField(
        default=True, help_text="Refuse clients that send more than 1000 HTTP requests a minute or 5000 an hour."
    )

    _cached: ClassVar[tuple[float, ServerSettings] | None] = None

    class Meta:
        verbose_name_plural = "server settings"
        constraints = [models.CheckConstraint(condition=models.Q(pk=1), name="server_settings_one_row")]

    def __str__(self) -> str:
        return self.hostname

    def clean(self) -> None:
        problems: dict[str, list[str]] = {}
        self.hostname = checked_hostname(self.hostname, problems)
        if text := _initial_mailboxes_problem(self.initial_mailboxes):
            problems["initial_mailboxes"] = [text]
        if not isinstance(self.log_levels, dict):
            problems["log_levels"] = ['use a level per package, as in {"smtp": "debug"}']
        elif unknown := {str(level) for level in self.log_levels.values()} - set(LogLevel.values):
            problems["log_levels"] = [
                f"unknown level {', '.join(sorted(unknown))}: use one of {', '.join(LogLevel.values)}"
            ]
        listeners = Listener.objects.filter(smtp_enabled=True)
        of_listeners = {zone.lower() for listener in listeners for zone in listener.smtp_dnsbls}
        if texts := _zone_problems(self.monitor_dnsbls, of_listeners):
            problems["monitor_dnsbls"] = texts
        if self.extra_ca_pem.strip():
            try:
                load_pem_x509_certificates(self.extra_ca_pem.encode())
            except ValueError:
                problems["extra_ca_pem"] = ["there is no certificate in PEM form (-----BEGIN CERTIFICATE-----)"]
        elif self.extra_ca_only:
            problems["extra_ca_only"] = ["no certificate would be trusted: add some to extra_ca_pem first"]
        if problems:
            raise ValidationError(problems)

    def save(self, *args: Any, **kwargs: Any) -> None:
        self.pk = 1
        super().save(*args, **kwargs)
        type(self)._cached = None

    @classmethod
    def current(cls) -> Self:
        """The settings, at most a second old. Raises ServerSettings.DoesNotExist where nothing was set up yet."""
        now = time.monotonic()
        cached = cls._cached
        if cached is not None and now - cached[0] < SETTINGS_MAX_AGE:
            return cached[1]  # type: ignore[return-value]  # the cache is filled below with this very class
        row = cls.objects.get()
        if settings.MOX_PEDANTIC is not None:
            row.pedantic = settings.MOX_PEDANTIC  # for this run only: localserve --no-pedantic
        cls._cached = (now, row)
        return row


def _initial_mailboxes_problem(value: Any) -> str:
    """Why these cannot be the mailboxes of new accounts; "" if they can."""
    if not isinstance(value, dict) or not isinstance(value.get("regular", []), list):
        return 'use a name per role, and a list of "regular" ones, as in {"sent": "Sent", "regular": []}'
    names = [name for role, name in value.items() if role != "regular" and name] + value.get("regular", [])
    if unknown := set(value) - set(default_initial_mailboxes()):
        return f"unknown role {', '.join(sorted(unknown))}: use {', '.join(default_initial_mailboxes())}"
    if not all(isinstance(name, str) and name for name in names):
        return "each name is a text that is not empty"
    if any(name.lower() == "inbox" for name in names):
        return "Inbox is there always: leave it out"
    if len(set(names)) != len(names):
        return "a name is there twice"
    return ""


def _zone_problems(zones: Any, used: Collection[str]) -> list[str]:
    """Why these cannot be DNS blocklists to ask; ``used``: those that are asked anyhow."""
    if not isinstance(zones, list) or not all(isinstance(zone, str) for zone in zones):
        return ['use a list of zones, as in ["sbl.example.org"]']
    texts: list[str] = []
    seen: set[str] = set()
    for zone in zones:
        try:
            name = parse_domain(zone).ascii
        except BadDomain as exc:
            texts.append(f"{zone!r} is not a domain: {exc}")
            continue
        if name in seen:
            texts.append(f"DNSBL zone {zone} is there twice")
        elif name in used:
            texts.append(f"DNSBL zone {zone} is asked for incoming mail already: leave it out here")
        seen.add(name)
    return texts


class TLSMode(models.TextChoices):
    NONE = "none", "no TLS"
    ACME = "acme", "ACME"
    MANUAL = "manual", "key and certificate files"


class TLSVersion(models.TextChoices):
    TLS10 = "TLSv1.0", "TLSv1.0"
    TLS11 = "TLSv1.1", "TLSv1.1"
    TLS12 = "TLSv1.2", "TLSv1.2"
    TLS13 = "TLSv1.3", "TLSv1.3"


def _port(default: int) -> models.PositiveIntegerField[int, int]:
    return models.PositiveIntegerField(default=default, validators=[MinValueValidator(1), MaxValueValidator(65535)])


class Listener(models.Model):
    """Addresses, and the mail services on them. HTTP services are rows of ListenerEndpoint."""

    name = models.CharField(max_length=64, unique=True)
    node = models.CharField(max_length=255, default="*", help_text="The node that listens, or * for all.")
    ips = models.JSONField(default=list, help_text="Addresses to bind.")
    nat_ips = models.JSONField(default=list, blank=True, help_text="Public addresses when behind NAT.")
    ips_nated = models.BooleanField(default=False, help_text="Behind NAT, public addresses unknown.")
    hostname = models.CharField(max_length=255, blank=True, default="", help_text="Empty: the server's hostname.")
    tls_mode = models.CharField(max_length=8, choices=TLSMode.choices, default=TLSMode.NONE)
    tls_min_version = models.CharField(max_length=8, choices=TLSVersion.choices, default=TLSVersion.TLS12)
    max_message_size = models.BigIntegerField(default=100 << 20, validators=[MinValueValidator(1)])

    smtp_enabled = models.BooleanField(default=False)
    smtp_port = _port(25)
    smtp_no_starttls = models.BooleanField(default=False)
    smtp_require_starttls = models.BooleanField(default=False)
    smtp_no_requiretls = models.BooleanField(default=False)
    smtp_dnsbls = models.JSONField(default=list, blank=True)
    smtp_first_time_sender_delay = models.DurationField(default=timedelta(seconds=15))

    submission_enabled = models.BooleanField(default=False)
    submission_port = _port(587)
    submission_no_require_starttls = models.BooleanField(default=False)
    submissions_enabled = models.BooleanField(default=False)
    submissions_port = _port(465)

    imap_enabled = models.BooleanField(default=False)
    imap_port = _port(143)
    imap_no_require_starttls = models.BooleanField(default=False)
    imaps_enabled = models.BooleanField(default=False)
    imaps_port = _port(993)

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        """Its own fields; `listener_rules.listener_problems` looks at endpoints and other listeners too."""
        problems: dict[str, list[str]] = {}
        for problem in (*listener_rules.address_problems(self), *listener_rules.tls_problems(self, ())):
            problems.setdefault(problem.field or NON_FIELD_ERRORS, []).append(problem.text)
        if self.hostname:
            self.hostname = checked_hostname(self.hostname, problems)
        if texts := _zone_problems(self.smtp_dnsbls, ()):
            problems["smtp_dnsbls"] = [f"listener {self.name}: {text}" for text in texts]
        if problems:
            raise ValidationError(problems)


class EndpointKind(models.TextChoices):
    ACCOUNT = "account"
    ADMIN = "admin"
    WEBMAIL = "webmail"
    WEBAPI = "webapi"
    METRICS = "metrics"
    PROFILING = "profiling"
    AUTOCONFIG = "autoconfig"
    MTASTS = "mtasts"
    WEBSITE = "website"


class ListenerEndpoint(models.Model):
    """One HTTP service on a listener."""

    listener = models.ForeignKey(Listener, on_delete=models.CASCADE, related_name="endpoints")
    kind = models.CharField(max_length=16, choices=EndpointKind.choices)
    tls = models.BooleanField(default=False)
    enabled = models.BooleanField(default=True)
    port = _port(80)
    path = models.CharField(max_length=255, default="/")
    forwarded = models.BooleanField(default=False, help_text="Behind a reverse proxy that sets X-Forwarded headers.")
    allow_public = models.BooleanField(default=False, help_text="Serve metrics or profiling on public addresses too.")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["listener", "kind", "tls"], name="listener_endpoint_once")]

    def __str__(self) -> str:
        return f"{self.listener}: {self.kind}_{'https' if self.tls else 'http'}"

    def clean(self) -> None:
        if self.path.startswith("/") and not self.path.endswith("/"):
            self.path += "/"
        if texts := list(listener_rules.endpoint_problems(self.listener, self)):
            raise ValidationError(texts)


class LoginResult(models.TextChoices):
    OK = "ok", "ok"
    BADUSER = "baduser", "baduser"
    BADPASSWORD = "badpassword", "badpassword"  # the name of a result
    BADCREDS = "badcreds", "badcreds"
    BADCHANBIND = "badchanbind", "badchanbind"
    BADPROTOCOL = "badprotocol", "badprotocol"
    LOGINDISABLED = "logindisabled", "logindisabled"
    RATELIMITED = "ratelimited", "ratelimited"
    ERROR = "error", "error"
    ABORTED = "aborted", "aborted"


class LoginAttempt(models.Model):
    """Equal login attempts of any service merged into one row; by account name, since accounts live above."""

    key = models.CharField(max_length=64, unique=True, help_text="SHA-256 over all fields but times and count.")
    first = models.DateTimeField()
    last = models.DateTimeField()
    count = models.PositiveIntegerField(default=1)
    result = models.CharField(max_length=16, choices=LoginResult.choices)
    account_name = models.CharField(max_length=64)
    login_address = models.CharField(max_length=512)
    remote_ip = models.CharField(max_length=45)
    local_ip = models.CharField(max_length=45)
    tls = models.CharField(max_length=128, blank=True)
    client_key_fingerprint = models.CharField(max_length=64, blank=True)
    protocol = models.CharField(max_length=16)
    user_agent = models.CharField(max_length=512, blank=True)
    mechanism = models.CharField(max_length=32)

    class Meta:
        indexes = [
            models.Index(fields=["account_name", "last"], name="login_attempt_by_account"),
            models.Index(fields=["last"], name="login_attempt_expiry"),
        ]

    def __str__(self) -> str:
        return f"{self.login_address} {self.protocol} {self.result} x{self.count}"
