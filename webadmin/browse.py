"""What an operator may look at and search, but not change here. No content of mail, and no secrets."""

from __future__ import annotations

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from accounts.aliases import members_of
from accounts.models import (
    Account,
    Address,
    Alias,
    DKIMSelector,
    Domain,
    LoginSession,
    Route,
    TLSPublicKey,
    Transport,
    WebhookEndpoint,
)
from junk.models import Decision
from mailqueue.models import (
    DeliveryAttempt,
    HoldRule,
    Hook,
    MTASTSPolicy,
    OwnIPStatus,
    QueueDestination,
    QueueMessage,
    RetiredHook,
    RetiredMessage,
    Suppression,
    TLSResult,
)
from server.models import LoginAttempt
from store.models import Blob, Mailbox, Message

from .base import ReadOnlyAdmin


@admin.register(Domain)
class DomainAdmin(ReadOnlyAdmin[Domain]):
    list_display = ("__str__", "name", "disabled", "description")
    search_fields = ("name", "unicode_name", "description")
    list_filter = ("disabled",)


@admin.register(Account)
class AccountAdmin(ReadOnlyAdmin[Account]):
    list_display = ("name", "domain", "full_name", "login_disabled")
    list_select_related = ("domain",)
    search_fields = ("name", "full_name", "description", "addresses__canonical")


@admin.register(Address)
class AddressAdmin(ReadOnlyAdmin[Address]):
    list_display = ("__str__", "account", "default_mailbox")
    list_select_related = ("domain", "account")
    search_fields = ("canonical", "full_name", "account__name")


@admin.register(Alias)
class AliasAdmin(ReadOnlyAdmin[Alias]):
    list_display = ("__str__", "post_public", "list_members", "allow_msg_from")
    list_select_related = ("domain",)
    search_fields = ("canonical", "members__canonical")
    readonly_fields = ("member_addresses",)

    @admin.display(description="members")
    def member_addresses(self, alias: Alias) -> str:
        return ", ".join(map(str, members_of(alias)))


@admin.register(DKIMSelector)
class DKIMSelectorAdmin(ReadOnlyAdmin[DKIMSelector]):
    list_display = ("__str__", "algorithm", "hash", "sign")
    list_select_related = ("domain",)
    search_fields = ("name", "domain__name")
    exclude = ("private_key",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[DKIMSelector]:
        """Keys are not even decrypted."""
        return super().get_queryset(request).defer("private_key")


@admin.register(Transport)
class TransportAdmin(ReadOnlyAdmin[Transport]):
    list_display = ("name", "kind", "host", "port")
    search_fields = ("name", "host")
    exclude = ("password",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Transport]:
        """Passwords are not even decrypted."""
        return super().get_queryset(request).defer("password")


@admin.register(Route)
class RouteAdmin(ReadOnlyAdmin[Route]):
    list_display = ("__str__", "position", "account", "domain", "transport", "minimum_attempts")
    list_select_related = ("account", "domain", "transport")


@admin.register(LoginSession)
class LoginSessionAdmin(ReadOnlyAdmin[LoginSession]):
    list_display = ("kind", "login_address", "created", "last_used", "expires", "remote_ip", "user_agent")
    list_filter = ("kind",)
    search_fields = ("login_address", "account__name", "remote_ip")
    exclude = ("token_hash", "csrf_hash")
    ordering = ("-last_used",)


@admin.register(TLSPublicKey)
class TLSPublicKeyAdmin(ReadOnlyAdmin[TLSPublicKey]):
    list_display = ("account", "name", "login_address", "type", "no_imap_preauth", "created")
    list_select_related = ("account",)
    search_fields = ("account__name", "name", "login_address", "fingerprint")


@admin.register(LoginAttempt)
class LoginAttemptAdmin(ReadOnlyAdmin[LoginAttempt]):
    list_display = ("last", "result", "count", "account_name", "login_address", "protocol", "mechanism", "remote_ip")
    list_filter = ("result", "protocol", "mechanism")
    search_fields = ("account_name", "login_address", "remote_ip", "user_agent")
    exclude = ("key",)
    ordering = ("-last",)


@admin.register(QueueMessage)
class QueueMessageAdmin(ReadOnlyAdmin[QueueMessage]):
    list_display = ("id", "recipient", "sender", "account_name", "state", "hold", "attempts", "next_attempt", "subject")
    list_filter = ("state", "hold", "kind")
    search_fields = (
        "rcpt_localpart",
        "rcpt_domain",
        "rcpt_domain_ascii",
        "sender_localpart",
        "sender_domain",
        "account_name",
        "message_id",
        "subject",
    )
    exclude = ("blob", "prefix", "dsn_utf8")
    ordering = ("next_attempt", "pk")


@admin.register(RetiredMessage)
class RetiredMessageAdmin(ReadOnlyAdmin[RetiredMessage]):
    list_display = (
        "id",
        "recipient_address",
        "sender",
        "account_name",
        "success",
        "attempts",
        "last_activity",
        "subject",
    )
    list_filter = ("success", "kind")
    search_fields = ("recipient_address", "sender_localpart", "sender_domain", "account_name", "message_id", "subject")
    ordering = ("-last_activity",)


@admin.register(DeliveryAttempt)
class DeliveryAttemptAdmin(ReadOnlyAdmin[DeliveryAttempt]):
    list_display = (
        "message_id",
        "start",
        "duration_ms",
        "success",
        "code",
        "remote_host",
        "remote_ip",
        "tls_mode",
        "error",
    )
    list_filter = ("success", "tls_mode")
    search_fields = ("=message_id", "remote_host", "remote_ip", "error")
    ordering = ("-start",)


@admin.register(WebhookEndpoint)
class WebhookEndpointAdmin(ReadOnlyAdmin[WebhookEndpoint]):
    list_display = ("account", "kind", "url", "events")
    list_select_related = ("account",)
    search_fields = ("account__name", "url")
    exclude = ("authorization",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[WebhookEndpoint]:
        """Secrets are not even decrypted."""
        return super().get_queryset(request).defer("authorization")


@admin.register(Hook)
class HookAdmin(ReadOnlyAdmin[Hook]):
    list_display = ("id", "account", "event", "queue_msg_id", "message_id", "attempts", "next_attempt", "url")
    list_select_related = ("account",)
    list_filter = ("is_incoming", "outgoing_event")
    search_fields = ("account__name", "message_id", "subject", "url")
    exclude = ("authorization", "lease_token")
    ordering = ("next_attempt", "pk")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Hook]:
        """Secrets are not even decrypted."""
        return super().get_queryset(request).defer("authorization")


@admin.register(RetiredHook)
class RetiredHookAdmin(ReadOnlyAdmin[RetiredHook]):
    list_display = ("id", "account", "event", "queue_msg_id", "message_id", "success", "attempts", "last_activity")
    list_select_related = ("account",)
    list_filter = ("success", "is_incoming", "outgoing_event")
    search_fields = ("account__name", "message_id", "subject", "url")
    ordering = ("-last_activity",)


@admin.register(Suppression)
class SuppressionAdmin(ReadOnlyAdmin[Suppression]):
    list_display = ("account", "original_address", "base_address", "manual", "reason", "created")
    list_select_related = ("account",)
    list_filter = ("manual",)
    search_fields = ("account__name", "original_address", "base_address", "reason")
    ordering = ("-created",)


@admin.register(QueueDestination)
class QueueDestinationAdmin(ReadOnlyAdmin[QueueDestination]):
    list_display = ("name", "slot", "lease_until", "used")
    search_fields = ("name",)


@admin.register(MTASTSPolicy)
class MTASTSPolicyAdmin(ReadOnlyAdmin[MTASTSPolicy]):
    list_display = ("domain", "mode", "backoff", "record_id", "last_use", "last_update", "valid_end")
    search_fields = ("domain",)
    list_filter = ("mode", "backoff")


@admin.register(TLSResult)
class TLSResultAdmin(ReadOnlyAdmin[TLSResult]):
    list_display = ("policy_domain", "recipient_domain", "day_utc", "is_host", "send_report")
    search_fields = ("policy_domain", "recipient_domain")


@admin.register(OwnIPStatus)
class OwnIPStatusAdmin(ReadOnlyAdmin[OwnIPStatus]):
    list_display = ("zone", "ip", "status", "explanation", "checked")
    list_filter = ("status",)


@admin.register(HoldRule)
class HoldRuleAdmin(ReadOnlyAdmin[HoldRule]):
    list_display = ("__str__", "account", "sender_domain", "recipient_domain")
    list_select_related = ("account",)


@admin.register(Mailbox)
class MailboxAdmin(ReadOnlyAdmin[Mailbox]):
    list_display = ("name", "account", "total", "unread", "size", "uidvalidity", "expunged")
    list_select_related = ("account",)
    list_filter = ("expunged",)
    search_fields = ("name", "account__name")
    exclude = ("parent",)


@admin.register(Message)
class MessageAdmin(ReadOnlyAdmin[Message]):
    """Metadata: who needs content makes an export, which is recorded."""

    list_display = ("id", "account", "mailbox", "uid", "received", "size", "mail_from", "seen", "expunged")
    list_select_related = ("account", "mailbox")
    list_filter = ("expunged", "is_reject", "is_dsn")
    search_fields = ("message_id", "mail_from", "msg_from_domain", "account__name")
    exclude = ("blob", "prefix", "preview", "message_hash", "subject_base")
    ordering = ("-pk",)


@admin.register(Blob)
class BlobAdmin(ReadOnlyAdmin[Blob]):
    list_display = ("id", "size", "sha256_hex", "storage_name", "created")
    fields = ("size", "sha256_hex", "storage_name", "headerless", "structure_version", "text_due", "created")
    readonly_fields = fields
    search_fields = ("=id", "storage_name")
    ordering = ("-pk",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Blob]:
        """Content is not even read."""
        columns = ("data", "structure", "envelope", "imap_envelope", "imap_bodystructure")
        return super().get_queryset(request).defer(*columns)

    @admin.display(description="SHA-256")
    def sha256_hex(self, blob: Blob) -> str:
        return bytes(blob.sha256).hex()


@admin.register(Decision)
class DecisionAdmin(ReadOnlyAdmin[Decision]):
    """Why incoming mail was taken or refused."""

    list_display = ("received", "result", "reason", "account", "mail_from", "recipient", "remote_ip", "reply")
    list_select_related = ("account",)
    list_filter = ("result",)
    search_fields = ("mail_from", "recipient", "msg_from", "message_id", "received_id")
    ordering = ("-id",)
    exclude = ("subject",)
