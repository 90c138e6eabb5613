"""Hosted domains, and the accounts and addresses in them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models

from protocols.names import format_localpart
from server.encryption import EncryptedField
from server.regexps import REGEXP_MAX, check_regexp

from . import transport_rules


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


def _regexp(default: str) -> models.CharField[str, str]:
    return models.CharField(max_length=REGEXP_MAX, blank=True, default=default, validators=[check_regexp])


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
    junk_mailbox_regexp = _regexp("^(junk|spam)")
    neutral_mailbox_regexp = _regexp("^(inbox|neutral|postmaster|dmarc|tlsrpt|rejects)")
    not_junk_mailbox_regexp = _regexp("")
    subject_pass_period = models.DurationField(default=timedelta(hours=12))
    subscribe_on_create = models.BooleanField(default=True)
    imap_capabilities_disabled = models.JSONField(default=list, blank=True)

    keep_retired_message_period = models.DurationField(default=timedelta(0))
    keep_retired_webhook_period = models.DurationField(default=timedelta(0))
    no_webapi_password = models.BooleanField(
        default=False, help_text="The webapi takes tokens only, not the account's password."
    )
    version = models.PositiveIntegerField(default=1, validators=[MinValueValidator(1)], help_text="Optimistic lock.")

    def __str__(self) -> str:
        return self.name


class AccountRemoval(models.Model):
    """The order to remove an account with all that it has, until and after that is done."""

    account = models.OneToOneField(Account, null=True, on_delete=models.SET_NULL, related_name="removal")
    name = models.CharField(max_length=64, help_text="Of the account.")
    deliver_queued = models.BooleanField(default=False, help_text="Deliver what it sent and still waits; else fail it.")
    requested = models.DateTimeField()
    finished = models.DateTimeField(null=True)
    next_uidvalidity = models.BigIntegerField(
        default=0, help_text="New accounts have higher ones: clients may know them by the same address."
    )

    class Meta:
        indexes = [models.Index(fields=["id"], condition=models.Q(finished=None), name="removal_due")]

    def __str__(self) -> str:
        return f"removal of account {self.name}"


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
        return f"{format_localpart(self.localpart) if self.localpart else ''}@{self.domain}"


class Alias(models.Model):
    """An address whose mail goes to its members: addresses of accounts, so that no alias leads to another."""

    domain = models.ForeignKey(Domain, on_delete=models.PROTECT, related_name="aliases")
    localpart = models.CharField(max_length=128)
    canonical = models.CharField(max_length=400, unique=True, help_text="As that of an address, and never one's.")
    members = models.ManyToManyField(Address, through="AliasMember", related_name="aliases")
    post_public = models.BooleanField(default=False, help_text="Anybody may send to it; else only its members.")
    list_members = models.BooleanField(default=False, help_text="Members see each other in their account pages.")
    allow_msg_from = models.BooleanField(default=False, help_text="Members may use it as their From address.")
    version = models.PositiveIntegerField(default=1, validators=[MinValueValidator(1)], help_text="Optimistic lock.")

    class Meta:
        verbose_name_plural = "aliases"

    def __str__(self) -> str:
        return f"{format_localpart(self.localpart)}@{self.domain}"


class AliasMember(models.Model):
    """A member of an alias. Their order is that of the rows: the first one's rejection is the alias's."""

    alias = models.ForeignKey(Alias, on_delete=models.CASCADE, related_name="memberships")
    address = models.ForeignKey(Address, on_delete=models.CASCADE, related_name="memberships")

    class Meta:
        ordering = ["pk"]
        constraints = [models.UniqueConstraint(fields=["alias", "address"], name="alias_member_once")]

    def __str__(self) -> str:
        return f"{self.address} in {self.alias}"


class JunkFilterConfig(models.Model):
    """How the content filter of an account weighs words; an account without one has no content filter."""

    account = models.OneToOneField(Account, on_delete=models.CASCADE, related_name="junk_filter")
    threshold = models.FloatField(
        default=0.95,
        validators=[MinValueValidator(0.0), MaxValueValidator(1.0)],
        help_text="Messages with a higher probability of junk are refused.",
    )
    onegrams = models.BooleanField(default=True, help_text="Single words count.")
    twograms = models.BooleanField(default=False, help_text="Pairs of words count.")
    threegrams = models.BooleanField(default=False, help_text="Groups of three words count.")
    max_power = models.FloatField(
        default=0.01,
        validators=[MinValueValidator(0.0), MaxValueValidator(0.5)],
        help_text="No word is surer than this.",
    )
    top_words = models.PositiveIntegerField(default=10, help_text="That many ham words and spam words decide.")
    ignore_words = models.FloatField(
        default=0.1,
        validators=[MinValueValidator(0.0), MaxValueValidator(0.5)],
        help_text="Words closer to a half than this say nothing.",
    )
    rare_words = models.PositiveIntegerField(default=2, help_text="Words seen this often or less count less.")

    def __str__(self) -> str:
        return f"junk filter of {self.account}"


class Ruleset(models.Model):
    """Where messages of some kind for an address are delivered; the first one that matches decides."""

    address = models.ForeignKey(Address, on_delete=models.CASCADE, related_name="rulesets")
    position = models.PositiveIntegerField(default=0)
    smtp_mail_from_regexp = models.CharField(max_length=REGEXP_MAX, blank=True, default="")
    msg_from_regexp = models.CharField(max_length=REGEXP_MAX, blank=True, default="")
    verified_domain = models.CharField(
        max_length=255, blank=True, default="", help_text="A domain, or one above it, that SPF or DKIM vouch for."
    )
    mailbox = models.CharField(max_length=1000)
    is_forward = models.BooleanField(default=False, help_text="The sender forwards mail of others, as told to.")
    list_allow_domain = models.CharField(
        max_length=255, blank=True, default="", help_text="Mail that this domain vouches for is taken unseen."
    )
    accept_rejects_to_mailbox = models.CharField(
        max_length=1000, blank=True, default="", help_text="What would be refused as junk is put here instead."
    )
    comment = models.TextField(blank=True, default="", max_length=4096)

    class Meta:
        ordering = ["position", "pk"]

    def __str__(self) -> str:
        return f"ruleset {self.position} of {self.address}"


class RulesetHeader(models.Model):
    """A header field that must be there for a ruleset to match; both expressions are in lower case."""

    ruleset = models.ForeignKey(Ruleset, on_delete=models.CASCADE, related_name="headers")
    position = models.PositiveIntegerField(default=0)
    name_regexp = models.CharField(max_length=REGEXP_MAX)
    value_regexp = models.CharField(max_length=REGEXP_MAX, blank=True, default="")

    class Meta:
        ordering = ["position", "pk"]

    def __str__(self) -> str:
        return f"{self.name_regexp}: {self.value_regexp}"


class RulesetNoListID(models.Model):
    """A mailing list for which no ruleset is to be suggested when its mail is moved."""

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="+")
    rcpt_to = models.CharField(max_length=400, help_text="Canonical address that the mail came for.")
    list_id = models.CharField(max_length=255)
    to_inbox = models.BooleanField(help_text="On moves to the address's mailbox; else on moves away from it.")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["account", "rcpt_to", "list_id", "to_inbox"], name="no_list_id_once")
        ]

    def __str__(self) -> str:
        return f"no ruleset for list {self.list_id} at {self.rcpt_to}"


class RulesetNoMsgFrom(models.Model):
    """A sender for whom no ruleset is to be suggested."""

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="+")
    rcpt_to = models.CharField(max_length=400, help_text="Canonical address that the mail came for.")
    msg_from = models.CharField(max_length=400)
    to_inbox = models.BooleanField(help_text="On moves to the address's mailbox; else on moves away from it.")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["account", "rcpt_to", "msg_from", "to_inbox"], name="no_msg_from_once")
        ]

    def __str__(self) -> str:
        return f"no ruleset for {self.msg_from} at {self.rcpt_to}"


class RulesetNoMailbox(models.Model):
    """A mailbox for which no ruleset is to be suggested, whatever is moved to it, or from it."""

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="+")
    mailbox_id = models.BigIntegerField(help_text="It may be gone.")
    to_mailbox = models.BooleanField(help_text="On moves to it; else on moves from it.")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["account", "mailbox_id", "to_mailbox"], name="no_mailbox_once")]

    def __str__(self) -> str:
        return f"no ruleset for mailbox {self.mailbox_id}"


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


class TLSPublicKey(models.Model):
    """A key that TLS clients of an account log in with, without a password."""

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="tls_public_keys")
    login_address = models.CharField(max_length=512, help_text="The address that it logs in as.")
    name = models.CharField(max_length=256, blank=True, default="")
    type = models.CharField(max_length=64, help_text="Algorithm and size.")
    fingerprint = models.CharField(
        max_length=64, unique=True, help_text="SHA-256 of the SubjectPublicKeyInfo, in base64url."
    )
    no_imap_preauth = models.BooleanField(
        default=False, help_text="IMAP sessions with it do not start logged in: for clients that do not know PREAUTH."
    )
    created = models.DateTimeField()

    class Meta:
        verbose_name = "TLS public key"

    def __str__(self) -> str:
        return f"{self.name} ({self.fingerprint})"


class DKIMSelector(models.Model):
    """A key that signs outgoing mail of a domain, or whose DNS record only waits for its turn (RFC 6376, 8463)."""

    class Algorithm(models.TextChoices):
        RSA = "rsa", "RSA"
        ED25519 = "ed25519", "Ed25519"

    class Hash(models.TextChoices):
        SHA256 = "sha256", "SHA-256"
        SHA1 = "sha1", "SHA-1 (deprecated)"

    domain = models.ForeignKey(Domain, on_delete=models.CASCADE, related_name="dkim_selectors")
    name = models.CharField(max_length=255, help_text="DNS labels, in A-label form.")
    algorithm = models.CharField(max_length=8, choices=Algorithm.choices)
    hash = models.CharField(max_length=8, choices=Hash.choices, default=Hash.SHA256)
    header_relaxed = models.BooleanField(default=False)
    body_relaxed = models.BooleanField(default=False)
    headers = models.JSONField(default=list, blank=True, help_text="Names of the signed fields; empty: the usual ones.")
    seal_headers = models.BooleanField(default=True, help_text="A field that is added later breaks the signature.")
    expiration = models.DurationField(null=True, blank=True)
    private_key = EncryptedField(help_text="PKCS #8, PEM.")
    sign = models.BooleanField(default=False)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["domain", "name"], name="dkim_selector_once")]

    def __str__(self) -> str:
        return f"{self.name}._domainkey.{self.domain.name}"


class RemovedKey(models.Model):
    """A DKIM key of a selector or domain that was removed, kept for a while in case that was a mistake."""

    domain = models.CharField(max_length=255, help_text="A-label form.")
    name = models.CharField(max_length=255, help_text="Of the selector.")
    private_key = EncryptedField(help_text="PKCS #8, PEM.")
    removed = models.DateTimeField(db_index=True)

    def __str__(self) -> str:
        return f"{self.name}._domainkey.{self.domain}, removed {self.removed:%Y-%m-%d}"


class Transport(models.Model):
    """A way to deliver other than straight to the recipient's servers."""

    class Kind(models.TextChoices):
        DIRECT = "direct"
        SOCKS = "socks", "direct through SOCKS"
        SMTP = "smtp", "SMTP"
        SUBMISSION = "submission"
        SUBMISSIONS = "submissions", "submission with TLS from the first byte"
        FAIL = "fail"

    name = models.CharField(max_length=64, unique=True, validators=[RegexValidator(r"\A[A-Za-z0-9_-]{1,64}\Z")])
    kind = models.CharField(max_length=16, choices=Kind.choices)
    host = models.CharField(max_length=255, blank=True, default="", help_text="Name that the certificate must have.")
    port = models.PositiveIntegerField(null=True, blank=True, help_text="Empty: as the kind has it.")
    no_starttls = models.BooleanField(default=False)
    starttls_insecure_skip_verify = models.BooleanField(default=False)
    username = models.CharField(max_length=256, blank=True, default="")
    password = EncryptedField(default=bytes, blank=True)
    mechanisms = models.JSONField(default=list, blank=True, help_text="In this order; empty: the safe ones.")
    disable_ipv4 = models.BooleanField(default=False)
    disable_ipv6 = models.BooleanField(default=False)
    socks_address = models.CharField(max_length=280, blank=True, default="", help_text="host:port of the proxy.")
    socks_remote_ips = models.JSONField(default=list, blank=True)
    socks_remote_hostname = models.CharField(max_length=255, blank=True, default="")
    destination_connections = models.PositiveSmallIntegerField(
        default=0, help_text="To one destination at a time; 0: as the server does (MOX_QUEUE_PER_DESTINATION)."
    )
    fail_code = models.PositiveSmallIntegerField(default=554)
    fail_message = models.CharField(max_length=256, blank=True, default="")

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        """Raises ValidationError, by field."""
        _refuse(transport_rules.transport_problems(self))


class Route(models.Model):
    """Which mail goes over a transport. The first that matches wins: of the account, of the domain, then of all."""

    account = models.ForeignKey(Account, null=True, blank=True, on_delete=models.CASCADE, related_name="routes")
    domain = models.ForeignKey(Domain, null=True, blank=True, on_delete=models.CASCADE, related_name="routes")
    position = models.PositiveIntegerField(default=0)
    from_domains = models.JSONField(default=list, blank=True, help_text="A leading dot matches subdomains too.")
    to_domains = models.JSONField(default=list, blank=True)
    minimum_attempts = models.PositiveIntegerField(default=0)
    transport = models.ForeignKey(Transport, null=True, blank=True, on_delete=models.PROTECT, related_name="routes")

    class Meta:
        ordering = ["position", "pk"]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(account__isnull=True) | models.Q(domain__isnull=True), name="route_one_scope"
            )
        ]

    def __str__(self) -> str:
        scope = self.account or self.domain or "all"
        return f"route {self.position + 1} of {scope} over {self.transport or 'direct delivery'}"

    def clean(self) -> None:
        """Raises ValidationError, by field."""
        _refuse(transport_rules.route_problems(self))


def _refuse(problems: Iterable[tuple[str, str]]) -> None:
    by_field: dict[str, list[str]] = {}
    for field, text in problems:
        by_field.setdefault(field, []).append(text)
    if by_field:
        raise ValidationError(by_field)


class FromIDLoginAddress(models.Model):
    """A login whose messages get a unique MAIL FROM each, so that a bounce names its message."""

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="fromid_login_addresses")
    address = models.ForeignKey(
        Address, on_delete=models.CASCADE, related_name="+", help_text="The account's, that the login is a form of."
    )
    login = models.CharField(
        max_length=512, unique=True, help_text="As it is typed, such as app+fromid@example.org; domain in Unicode."
    )

    def __str__(self) -> str:
        return self.login


class OutgoingEvent(models.TextChoices):
    """What became of a message that was sent, as webhooks name it."""

    DELIVERED = "delivered"
    SUPPRESSED = "suppressed"
    DELAYED = "delayed"
    FAILED = "failed"
    RELAYED = "relayed"
    EXPANDED = "expanded"
    CANCELED = "canceled"
    UNRECOGNIZED = "unrecognized"


class WebhookEndpoint(models.Model):
    """Where an account is told what became of its mail, or what came in for it."""

    class Kind(models.TextChoices):
        OUTGOING = "outgoing"
        INCOMING = "incoming"

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="webhook_endpoints")
    kind = models.CharField(max_length=8, choices=Kind.choices)
    url = models.CharField(max_length=2048)
    authorization = EncryptedField(default=bytes, blank=True, help_text="Value of the Authorization header.")
    events = models.JSONField(default=list, blank=True, help_text="Of outgoing mail; none: all.")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["account", "kind"], name="webhook_endpoint_of_kind")]

    def __str__(self) -> str:
        return f"{self.kind} webhook of {self.account}"


class APIToken(models.Model):
    """A secret that a program logs in to the webapi with instead of the password; only its hash is kept."""

    class Scope(models.TextChoices):
        SEND = "send"
        MESSAGES_READ = "messages:read"
        MESSAGES_WRITE = "messages:write"
        SUPPRESSIONS_READ = "suppressions:read"
        SUPPRESSIONS_WRITE = "suppressions:write"
        EVENTS_READ = "events:read"

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="api_tokens")
    label = models.CharField(max_length=256, blank=True, default="")
    login_address = models.CharField(max_length=512, help_text="The address that it logs in as.")
    prefix = models.CharField(max_length=8, help_text="Its first characters after mox_, to tell tokens apart.")
    token_hash = models.BinaryField(max_length=32, unique=True, help_text="SHA-256 of the token.")
    scopes = models.JSONField(default=list, help_text="What it may do.")
    from_addresses = models.JSONField(default=list, blank=True, help_text="From addresses it may use; none: all.")
    networks = models.JSONField(default=list, blank=True, help_text="Where it may be used from; none: everywhere.")
    expires = models.DateTimeField(null=True, blank=True)
    created = models.DateTimeField()
    last_used = models.DateTimeField(null=True, blank=True, help_text="To the minute.")
    revoked = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name = "API token"
        constraints = [models.UniqueConstraint(fields=["account", "prefix"], name="api_token_prefix_once")]

    def __str__(self) -> str:
        return f"token mox_{self.prefix}... of {self.account}"


class LoginSession(models.Model):
    """A session in a browser. Only hashes of its tokens are kept."""

    class Kind(models.TextChoices):
        WEBMAIL = "webmail"
        ACCOUNT = "account"
        ADMIN = "admin"

    kind = models.CharField(max_length=8, choices=Kind.choices)
    account = models.ForeignKey(Account, null=True, on_delete=models.CASCADE, related_name="sessions")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.CASCADE, related_name="+")
    token_hash = models.BinaryField(max_length=32, unique=True, help_text="SHA-256 of the session token.")
    csrf_hash = models.BinaryField(max_length=32)
    login_address = models.CharField(max_length=512)
    created = models.DateTimeField()
    last_used = models.DateTimeField()
    expires = models.DateTimeField()
    remote_ip = models.CharField(max_length=45)
    user_agent = models.CharField(max_length=512, blank=True, default="")

    class Meta:
        indexes = [models.Index(fields=["account", "expires"], name="login_session_of_account")]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(account__isnull=False, user__isnull=True)
                | models.Q(account__isnull=True, user__isnull=False),
                name="login_session_one_owner",
            )
        ]

    def __str__(self) -> str:
        return f"{self.kind} session of {self.login_address}"
