"""Pending messages by recipient, their attempts, what became of them, and who is told; what holds or stops mail."""

from __future__ import annotations

from typing import Final

from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Coalesce, Lower

from accounts.models import Account, OutgoingEvent
from protocols.names import BadDomain, parse_domain
from server.encryption import EncryptedField
from store.content import Reader
from store.models import Blob

ADDRESS_MAX: Final = 400  # characters of an address: localpart, @, domain in Unicode


class MessageKind(models.TextChoices):
    MESSAGE = "message"
    DSN = "dsn", "DSN"
    DMARC_REPORT = "dmarc_report", "DMARC report"
    TLS_REPORT = "tls_report", "TLS report"


class State(models.TextChoices):
    QUEUED = "queued"
    DELIVERING = "delivering"


class Phase(models.TextChoices):
    """How far a running attempt is. Before DOT the other side cannot have accepted; after it, it may have."""

    NONE = "", "none"
    CLAIMED = "claimed"
    DOT = "dot", "end of data"


class Outgoing(models.Model):
    """What pending and retired messages have in common: one recipient of one message."""

    base_id = models.BigIntegerField(
        default=0, help_text="The same for all recipients of a message that share content."
    )
    queued = models.DateTimeField()
    hold = models.BooleanField(default=False, help_text="Not attempted while set.")
    account = models.ForeignKey(Account, null=True, on_delete=models.SET_NULL, related_name="+")
    account_name = models.CharField(max_length=64)
    sender_localpart = models.CharField(max_length=128, blank=True)
    sender_domain = models.CharField(max_length=255, blank=True, help_text="In Unicode, or an address literal.")
    from_id = models.CharField(max_length=128, blank=True, default="")
    rcpt_localpart = models.CharField(max_length=128)
    rcpt_domain = models.CharField(max_length=255, help_text="In Unicode, or an address literal.")
    rcpt_domain_ascii = models.CharField(max_length=255)
    attempts = models.PositiveIntegerField(default=0)
    max_attempts = models.PositiveIntegerField(default=0, help_text="0: as the server does.")
    next_attempt = models.DateTimeField()
    last_attempt = models.DateTimeField(null=True)
    dialed_ips = models.JSONField(default=dict, help_text="Addresses dialed, in order, by host.")
    has_8bit = models.BooleanField(default=False)
    smtputf8 = models.BooleanField(default=False)
    size = models.BigIntegerField(help_text="Bytes of prefix and content.")
    kind = models.CharField(max_length=16, choices=MessageKind.choices, default=MessageKind.MESSAGE)
    message_id = models.CharField(max_length=1000, blank=True, help_text="With its angle brackets.")
    subject = models.TextField(blank=True)
    transport = models.CharField(max_length=64, blank=True, default="", help_text="Set by hand; overrides the routes.")
    require_tls = models.BooleanField(
        null=True, help_text="REQUIRETLS, TLS-Required: No, or (unset) as the recipient's domain asks."
    )
    future_release_request = models.CharField(max_length=64, blank=True, default="")
    extra = models.JSONField(default=dict)

    class Meta:
        abstract = True

    @property
    def sender(self) -> str:
        """The address in Unicode; "" for the null sender."""
        return f"{self.sender_localpart}@{self.sender_domain}" if self.sender_domain else ""

    @property
    def recipient(self) -> str:
        return f"{self.rcpt_localpart}@{self.rcpt_domain}"


class QueueMessage(Outgoing):
    """One recipient of a message that is still to be delivered."""

    blob = models.ForeignKey(Blob, on_delete=models.PROTECT, related_name="+")
    prefix = models.BinaryField(help_text="Header lines before the content: Received, signatures.")
    dsn_utf8 = models.BinaryField(null=True, help_text="Of a DSN: its other form, for servers with SMTPUTF8.")
    state = models.CharField(max_length=16, choices=State.choices, default=State.QUEUED)
    destination = models.CharField(
        max_length=255,
        help_text="Recipient domain or relay host, as the routes had it last; resolved anew at each attempt.",
    )
    lease_token = models.UUIDField(null=True)
    lease_until = models.DateTimeField(null=True)
    phase = models.CharField(max_length=8, choices=Phase.choices, default=Phase.NONE, blank=True)
    interruptions = models.PositiveIntegerField(default=0, help_text="In a row, of workers that were killed.")

    class Meta:
        indexes = [
            models.Index(fields=["next_attempt"], condition=Q(state="queued", hold=False), name="queue_due"),
            models.Index(
                fields=["destination", "next_attempt", "id"],
                condition=Q(state="queued", hold=False),
                name="queue_due_by_destination",
            ),
            models.Index(
                F("destination"),
                Coalesce("account_id", 0),
                F("next_attempt"),
                F("id"),
                condition=Q(state="queued", hold=False),
                name="queue_due_by_sender",
            ),
            models.Index(fields=["base_id"], condition=Q(base_id__gt=0), name="queue_by_base"),
            models.Index(fields=["lease_until"], condition=Q(state="delivering"), name="queue_leased"),
            models.Index(fields=["lease_token"], condition=Q(state="delivering"), name="queue_by_lease"),
            models.Index(fields=["account", "queued"], name="queue_by_account"),
            models.Index(fields=["account", "next_attempt"], name="queue_of_account_by_time"),
            models.Index(fields=["next_attempt", "id"], name="queue_by_time"),
            models.Index(fields=["queued", "id"], name="queue_by_submission"),
            models.Index(fields=["rcpt_domain", "next_attempt"], name="queue_by_recipient_domain"),
            models.Index(fields=["next_attempt"], condition=Q(hold=True), name="queue_on_hold"),
            models.Index(Lower("from_id"), condition=~Q(from_id=""), name="queue_by_from_id"),
            models.Index(fields=["transport", "next_attempt"], condition=~Q(transport=""), name="queue_by_transport"),
        ]

    def __str__(self) -> str:
        return f"queued message {self.pk} to {self.recipient}"

    def reader(self, *, smtputf8: bool = False) -> Reader:
        """The message as it will be sent, to a server with or without SMTPUTF8: its prefix, and its content."""
        if smtputf8 and self.dsn_utf8 is not None:
            content = bytes(self.dsn_utf8)
            return Reader(b"", len(content), content, "", f"queued message {self.pk}")
        data = bytes(self.blob.data) if self.blob.data is not None else None
        what = f"queued message {self.pk}"
        return Reader(bytes(self.prefix), self.blob.size, data, self.blob.storage_name, what)


class RetiredMessage(Outgoing):
    """What became of a message to one recipient; ``id`` is that of the queued message. Content is not kept."""

    id = models.BigIntegerField(primary_key=True)
    recipient_address = models.CharField(max_length=ADDRESS_MAX)
    success = models.BooleanField()
    last_activity = models.DateTimeField()
    keep_until = models.DateTimeField()

    class Meta:
        indexes = [
            models.Index(Lower("from_id"), condition=~Q(from_id=""), name="retired_by_folded_from_id"),
            models.Index(fields=["last_activity"], name="retired_by_activity"),
            models.Index(fields=["queued"], name="retired_by_submission"),
            models.Index(fields=["keep_until"], name="retired_expiry"),
            models.Index(fields=["account", "recipient_address", "last_activity"], name="retired_by_recipient"),
        ]

    def __str__(self) -> str:
        return f"retired message {self.pk} to {self.recipient_address}"


class DeliveryAttempt(models.Model):
    """One try to deliver, or something else that decided about a message; kept with the retired message."""

    message_id = models.BigIntegerField(help_text="Of the queued, later retired, message.")
    start = models.DateTimeField()
    duration_ms = models.PositiveIntegerField(default=0)
    success = models.BooleanField(default=False)
    code = models.PositiveSmallIntegerField(default=0, help_text="Of the SMTP reply; 0: none.")
    secode = models.CharField(max_length=16, blank=True, default="", help_text="Enhanced code without its class: 7.1")
    error = models.TextField(blank=True, default="")
    smtp_lines = models.JSONField(default=list)
    transport = models.CharField(max_length=64, blank=True, default="")
    remote_host = models.CharField(max_length=255, blank=True, default="")
    remote_ip = models.CharField(max_length=45, blank=True, default="")
    local_ip = models.CharField(max_length=45, blank=True, default="")
    tls_mode = models.CharField(max_length=32, blank=True, default="")
    tls_version = models.CharField(max_length=16, blank=True, default="")
    dane = models.BooleanField(default=False)
    mtasts_mode = models.CharField(max_length=8, blank=True, default="")

    class Meta:
        indexes = [models.Index(fields=["message_id", "start"], name="attempt_history")]

    def __str__(self) -> str:
        return f"attempt of message {self.message_id} at {self.start}"


class QueueDestination(models.Model):
    """A recipient domain, or a relay, and the lease of the task that delivers to it."""

    name = models.CharField(max_length=255)
    slot = models.PositiveSmallIntegerField(default=0, help_text="Of several leases at a time.")
    token = models.UUIDField(null=True)
    lease_until = models.DateTimeField(null=True)
    owner = models.CharField(max_length=512, blank=True, default="", help_text="The worker that holds the lease.")
    used = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["name", "slot"], name="queue_destination_slot")]
        indexes = [models.Index(fields=["lease_until"], name="queue_destination_lease")]

    def __str__(self) -> str:
        return self.name


class HoldRule(models.Model):
    """New messages that match all of its non-empty fields are put on hold."""

    account = models.ForeignKey(Account, null=True, blank=True, on_delete=models.CASCADE, related_name="+")
    sender_domain = models.CharField(max_length=255, blank=True, default="")
    recipient_domain = models.CharField(max_length=255, blank=True, default="")

    def clean(self) -> None:
        """Domains are kept in Unicode, as those of the messages. Raises ValidationError for what is none."""
        for name in ("sender_domain", "recipient_domain"):
            value = getattr(self, name)
            try:
                setattr(self, name, parse_domain(value).name() if value else "")
            except BadDomain as exc:
                raise ValidationError({name: f"{value!r} is not a domain: {exc}"}) from exc

    def __str__(self) -> str:
        fields = (self.account and f"account {self.account}", self.sender_domain, self.recipient_domain)
        return " ".join(str(field) for field in fields if field) or "everything"


class OutgoingRecipient(models.Model):
    """An address that an account submitted a message to, for the limits on outgoing mail."""

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="+", db_index=False)
    recipient = models.CharField(max_length=ADDRESS_MAX)
    submitted = models.DateTimeField()
    is_first = models.BooleanField(default=False, help_text="The account never wrote to the address before.")

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["account", "recipient"], condition=Q(is_first=True), name="outgoing_first_once"
            )
        ]
        indexes = [models.Index(fields=["account", "submitted"], name="outgoing_in_window")]

    def __str__(self) -> str:
        return self.recipient


class OutgoingCount(models.Model):
    """How many OutgoingRecipient rows of an account are later than a time: what the limits look at."""

    account = models.OneToOneField(Account, primary_key=True, on_delete=models.CASCADE, related_name="+")
    since = models.DateTimeField(help_text="Rows of this time, and before, are not counted.")
    messages = models.BigIntegerField(default=0)
    first_time = models.BigIntegerField(default=0, help_text="Those to addresses that were new then.")

    def __str__(self) -> str:
        return f"{self.messages} messages of {self.account} since {self.since}"


class FromID(models.Model):
    """A from id that was given out: unique for good, whatever becomes of the message."""

    from_id = models.CharField(max_length=128, unique=True)
    created = models.DateTimeField()

    def __str__(self) -> str:
        return self.from_id


class MTASTSPolicy(models.Model):
    """The MTA-STS policy of a recipient domain (RFC 8461), or that none could be had; `mtastscache` keeps the rows."""

    class Mode(models.TextChoices):
        ENFORCE = "enforce"
        TESTING = "testing"
        NONE = "none"

    domain = models.CharField(max_length=255, unique=True, help_text="In Unicode.")
    inserted = models.DateTimeField()
    valid_end = models.DateTimeField(help_text="Until when it counts.")
    last_update = models.DateTimeField(help_text="When the domain was last asked, and answered.")
    last_use = models.DateTimeField()
    backoff = models.BooleanField(default=False, help_text="The domain has a record, but no policy could be fetched.")
    record_id = models.CharField(max_length=32, blank=True, default="")
    mode = models.CharField(max_length=8, choices=Mode.choices, default=Mode.NONE)
    mx = models.JSONField(default=list)
    max_age = models.PositiveIntegerField(default=0, help_text="Seconds.")
    extensions = models.JSONField(default=list, help_text="Names and values that this version does not know.")
    policy_text = models.TextField(blank=True, default="", help_text="As it was fetched.")
    fetching_until = models.DateTimeField(null=True, help_text="While somebody fetches the policy: nobody else does.")
    retry_after = models.DateTimeField(null=True, help_text="After a failed fetch of a newer policy.")
    refresh_at = models.DateTimeField(null=True, help_text="When to look for a newer policy without need.")

    class Meta:
        verbose_name = "MTA-STS policy"
        verbose_name_plural = "MTA-STS policies"
        indexes = [
            models.Index(fields=["refresh_at"], condition=Q(refresh_at__isnull=False), name="mtasts_to_refresh"),
            models.Index(fields=["last_use"], name="mtasts_by_use"),
            models.Index(fields=["last_update"], name="mtasts_by_update"),
        ]

    def __str__(self) -> str:
        return f"MTA-STS policy of {self.domain}"


class TLSResult(models.Model):
    """How connections of a day to a recipient domain, or one of its hosts, went, for TLS reports (RFC 8460)."""

    policy_domain = models.CharField(max_length=255, help_text="Recipient domain, or host; A-labels.")
    day_utc = models.CharField(max_length=8, help_text="yyyymmdd")
    recipient_domain = models.CharField(max_length=255, help_text="A-labels.")
    is_host = models.BooleanField(default=False, help_text="Whether the policy domain is a host.")
    send_report = models.BooleanField(
        default=False, help_text="Some of this is of other mail than reports: those alone are no reason for a report."
    )
    results = models.JSONField(default=list, help_text="As in the policies of a report.")
    created = models.DateTimeField()
    updated = models.DateTimeField()
    sent_to_recipient_domain = models.BooleanField(default=False)
    sent_to_policy_domain = models.BooleanField(default=False)
    recipient_domain_reporting_addresses = models.JSONField(default=list)

    class Meta:
        verbose_name = "TLS result"
        constraints = [
            models.UniqueConstraint(fields=["policy_domain", "day_utc", "recipient_domain"], name="tls_result_of_day")
        ]
        indexes = [models.Index(fields=["day_utc", "recipient_domain"], name="tls_result_by_day")]

    def __str__(self) -> str:
        return f"TLS results of {self.policy_domain} on {self.day_utc}, mail to {self.recipient_domain}"


class RecipientDomainTLS(models.Model):
    """What a domain's server offered at the last connection, as a hint to whoever writes a message."""

    domain = models.CharField(max_length=255, unique=True, help_text="In Unicode.")
    updated = models.DateTimeField()
    starttls = models.BooleanField()
    requiretls = models.BooleanField()

    class Meta:
        verbose_name = "TLS of a recipient domain"
        verbose_name_plural = "TLS of recipient domains"

    def __str__(self) -> str:
        return f"TLS of {self.domain}"


class Suppression(models.Model):
    """An address that an account's mail is not sent to any more: it was refused, or somebody said so."""

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="+", db_index=False)
    created = models.DateTimeField()
    base_address = models.CharField(max_length=ADDRESS_MAX, help_text="What variants of the address have in common.")
    original_address = models.CharField(max_length=ADDRESS_MAX)
    manual = models.BooleanField(default=False)
    reason = models.TextField(blank=True, default="")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["account", "base_address"], name="suppression_once")]

    def __str__(self) -> str:
        return self.original_address


class Webhook(models.Model):
    """What pending and retired calls of webhooks have in common."""

    queue_msg_id = models.BigIntegerField(default=0, help_text="Of the message it is about; 0 for incoming mail.")
    from_id = models.CharField(max_length=128, blank=True, default="")
    message_id = models.CharField(max_length=1000, blank=True, default="", help_text="With its angle brackets.")
    subject = models.TextField(blank=True, default="")
    extra = models.JSONField(default=dict)
    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="+")
    url = models.CharField(max_length=2048)
    has_authorization = models.BooleanField(default=False)
    is_incoming = models.BooleanField(default=False)
    outgoing_event = models.CharField(max_length=16, choices=OutgoingEvent.choices, blank=True, default="")
    payload = models.TextField(help_text="The JSON that is sent, the same at each attempt.")
    submitted = models.DateTimeField()
    attempts = models.PositiveIntegerField(default=0)
    next_attempt = models.DateTimeField()

    class Meta:
        abstract = True

    @property
    def event(self) -> str:
        return self.outgoing_event or "incoming"


class Hook(Webhook):
    """A call that is still to be made."""

    authorization = EncryptedField(default=bytes, blank=True, help_text="Value of the Authorization header.")
    lease_token = models.UUIDField(null=True)
    lease_until = models.DateTimeField(null=True)

    class Meta:
        indexes = [
            models.Index(fields=["next_attempt", "id"], name="hook_by_time"),
            models.Index(fields=["submitted", "id"], name="hook_by_submission"),
            models.Index(fields=["queue_msg_id"], condition=Q(queue_msg_id__gt=0), name="hook_of_message"),
        ]

    def __str__(self) -> str:
        return f"webhook {self.pk}, {self.event}"


class RetiredHook(Webhook):
    """What became of a call; ``id`` is that of the pending one."""

    id = models.BigIntegerField(primary_key=True)
    superseded_by_id = models.BigIntegerField(default=0, help_text="A later event of the message took its place.")
    success = models.BooleanField()
    last_activity = models.DateTimeField()
    keep_until = models.DateTimeField()

    class Meta:
        indexes = [
            models.Index(fields=["last_activity"], name="retired_hook_by_activity"),
            models.Index(fields=["keep_until"], name="retired_hook_expiry"),
            models.Index(fields=["account", "last_activity"], name="retired_hook_by_account"),
        ]

    def __str__(self) -> str:
        return f"retired webhook {self.pk}, {self.event}"


class HookAttempt(models.Model):
    """One call, or something else that decided about it; kept with the retired one."""

    hook_id = models.BigIntegerField(help_text="Of the pending, later retired, call.")
    start = models.DateTimeField()
    duration_ms = models.PositiveIntegerField(default=0)
    url = models.CharField(max_length=2048)
    success = models.BooleanField(default=False)
    code = models.PositiveSmallIntegerField(default=0, help_text="HTTP status; 0: none.")
    error = models.TextField(blank=True, default="")
    response = models.TextField(blank=True, default="", help_text="The first 512 bytes of its body.")

    class Meta:
        indexes = [models.Index(fields=["hook_id", "start"], name="hook_history")]

    def __str__(self) -> str:
        return f"attempt of webhook {self.hook_id} at {self.start}"


class OwnIPStatus(models.Model):
    """Whether a DNS blocklist has an address that mail goes out from, when it was last asked."""

    class Status(models.TextChoices):
        PASS = "pass"  # noqa: S105 # a result, no password
        FAIL = "fail", "listed"
        TEMPERROR = "temperror", "could not be asked"
        UNKNOWN = "unknown", "own addresses are not known"

    zone = models.CharField(max_length=255)
    ip = models.CharField(max_length=45, blank=True, help_text="Empty: not known.")
    status = models.CharField(max_length=16, choices=Status.choices)
    explanation = models.CharField(max_length=500, blank=True, default="")
    checked = models.DateTimeField()

    class Meta:
        verbose_name = "status of an own IP"
        verbose_name_plural = "status of own IPs"
        constraints = [models.UniqueConstraint(fields=["zone", "ip"], name="own_ip_status_once")]

    def __str__(self) -> str:
        return f"{self.ip or 'own addresses'} in {self.zone}: {self.status}"


class OwnIPMonitor(models.Model):
    """The one row that says when blocklists were last asked about all own addresses, and what went out since."""

    checked = models.DateTimeField(null=True)
    connections = models.PositiveIntegerField(default=0, help_text="Direct ones, since the last check.")

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(pk=1), name="own_ip_monitor_one_row")]

    def __str__(self) -> str:
        return f"own IPs checked at {self.checked}"


class IdempotencyKey(models.Model):
    """A call that a client may repeat without its being done twice, and what was answered."""

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="+", db_index=False)
    method = models.CharField(max_length=32)
    key = models.CharField(max_length=256)
    request_hash = models.BinaryField(max_length=32, help_text="SHA-256 of what was asked for.")
    response = models.TextField(null=True, help_text="What was answered, in JSON; none while the call is worked on.")
    status = models.PositiveSmallIntegerField(default=0, help_text="Of the answer.")
    owner = models.UUIDField(help_text="The call that works on it.")
    locked_until = models.DateTimeField(help_text="A call that did not end until then is dead.")
    expires = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["account", "method", "key"], name="idempotency_key_once")]
        indexes = [models.Index(fields=["expires"], name="idempotency_key_expiry")]

    def __str__(self) -> str:
        return f"{self.method} {self.key}"
