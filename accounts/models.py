"""Hosted domains, and the accounts and addresses in them."""

from __future__ import annotations

from datetime import timedelta

from django.core.validators import MinValueValidator
from django.db import models

REGEXP_MAX = 1024  # bytes of a regular expression that a user writes


def default_separators() -> list[str]:
    return ["+"]


class MTASTSMode(models.TextChoices):
    NONE = "none"
    TESTING = "testing"
    ENFORCE = "enforce"


class Domain(models.Model):
    """A hosted domain. ``name`` is the A-label form; ``unicode_name`` the U-label form where it differs."""

    name = models.CharField(max_length=255, unique=True)
    unicode_name = models.CharField(max_length=255, blank=True, default="")
    description = models.TextField(blank=True, default="", max_length=4096)
    disabled = models.BooleanField(default=False, help_text="Mail in and out is refused for now: for migrations.")
    client_settings_domain = models.CharField(max_length=255, blank=True, default="")
    localpart_catchall_separators = models.JSONField(default=default_separators, blank=True)
    localpart_case_sensitive = models.BooleanField(default=False)

    dmarc_localpart = models.CharField(max_length=128, blank=True, default="")
    dmarc_domain = models.ForeignKey("self", null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    dmarc_account = models.ForeignKey("Account", null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    dmarc_mailbox = models.CharField(max_length=1000, default="DMARC")
    tlsrpt_localpart = models.CharField(max_length=128, blank=True, default="")
    tlsrpt_domain = models.ForeignKey("self", null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    tlsrpt_account = models.ForeignKey("Account", null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    tlsrpt_mailbox = models.CharField(max_length=1000, default="TLSRPT")

    mtasts_policy_id = models.CharField(max_length=32, blank=True, default="")
    mtasts_mode = models.CharField(max_length=8, choices=MTASTSMode.choices, default=MTASTSMode.ENFORCE)
    mtasts_max_age = models.DurationField(default=timedelta(hours=24))
    mtasts_mx = models.JSONField(default=list, blank=True)

    def __str__(self) -> str:
        return self.unicode_name or self.name


class Account(models.Model):
    """An owner of mail and settings."""

    name = models.CharField(max_length=64, unique=True)
    domain = models.ForeignKey(Domain, on_delete=models.PROTECT, related_name="accounts")
    full_name = models.CharField(max_length=256, blank=True, default="")
    description = models.TextField(blank=True, default="", max_length=4096)
    login_disabled = models.CharField(
        max_length=256, blank=True, default="", help_text="Logins are refused with this text; mail is still delivered."
    )
    no_custom_password = models.BooleanField(default=True)
    quota_message_size = models.BigIntegerField(default=0, help_text="Bytes; 0: the server's default, negative: none.")
    max_outgoing_messages_per_day = models.PositiveIntegerField(default=1000)
    max_first_time_recipients_per_day = models.PositiveIntegerField(default=200)
    no_first_time_sender_delay = models.BooleanField(default=False)

    rejects_mailbox = models.CharField(max_length=1000, default="Rejects", blank=True)
    keep_rejects = models.BooleanField(default=False)
    introbox = models.CharField(max_length=1000, blank=True, default="")
    automatic_junk_flags = models.BooleanField(default=True)
    junk_mailbox_regexp = models.CharField(max_length=REGEXP_MAX, blank=True, default="^(junk|spam)")
    neutral_mailbox_regexp = models.CharField(
        max_length=REGEXP_MAX, blank=True, default="^(inbox|neutral|postmaster|dmarc|tlsrpt|rejects)"
    )
    not_junk_mailbox_regexp = models.CharField(max_length=REGEXP_MAX, blank=True, default="")
    subject_pass_period = models.DurationField(default=timedelta(hours=12))
    subscribe_on_create = models.BooleanField(default=True)
    imap_capabilities_disabled = models.JSONField(default=list, blank=True)

    keep_retired_message_period = models.DurationField(default=timedelta(0))
    keep_retired_webhook_period = models.DurationField(default=timedelta(0))
    outgoing_webhook_url = models.CharField(max_length=2048, blank=True, default="")
    outgoing_webhook_authorization = models.CharField(max_length=2048, blank=True, default="")
    outgoing_webhook_events = models.JSONField(default=list, blank=True)
    incoming_webhook_url = models.CharField(max_length=2048, blank=True, default="")
    incoming_webhook_authorization = models.CharField(max_length=2048, blank=True, default="")
    version = models.PositiveIntegerField(default=1, validators=[MinValueValidator(1)], help_text="Optimistic lock.")

    def __str__(self) -> str:
        return self.name


class Address(models.Model):
    """An address that delivers to an account and logs in to it; with an empty localpart, the catchall of its domain."""

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="addresses")
    domain = models.ForeignKey(Domain, on_delete=models.PROTECT, related_name="addresses")
    localpart = models.CharField(max_length=128, blank=True)
    canonical = models.CharField(max_length=400, unique=True, help_text="What resolution compares: localpart@A-label.")
    default_mailbox = models.CharField(max_length=1000, blank=True, default="")
    full_name = models.CharField(max_length=256, blank=True, default="")
    smtp_error = models.CharField(max_length=400, blank=True, default="")
    message_auth_required_error = models.CharField(max_length=400, blank=True, default="")
    version = models.PositiveIntegerField(default=1, validators=[MinValueValidator(1)], help_text="Optimistic lock.")

    class Meta:
        verbose_name_plural = "addresses"

    def __str__(self) -> str:
        return f"{self.localpart}@{self.domain}"


class Credential(models.Model):
    """What a password was turned into when it was set: verifiers for each login mechanism, never the password."""

    account = models.OneToOneField(Account, on_delete=models.CASCADE, related_name="credential")
    password_hash = models.CharField(max_length=256)
    cram_md5_inner = models.BinaryField(help_text="MD5 state after the inner key block (RFC 2104).")
    cram_md5_outer = models.BinaryField(help_text="MD5 state after the outer key block.")
    scram_sha1_salt = models.BinaryField()
    scram_sha1_iterations = models.PositiveIntegerField()
    scram_sha1_stored_key = models.BinaryField()
    scram_sha1_server_key = models.BinaryField()
    scram_sha256_salt = models.BinaryField()
    scram_sha256_iterations = models.PositiveIntegerField()
    scram_sha256_stored_key = models.BinaryField()
    scram_sha256_server_key = models.BinaryField()

    def __str__(self) -> str:
        return f"credential of {self.account}"
