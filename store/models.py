"""Mailboxes, messages and content as they are stored."""

from __future__ import annotations

from typing import Final

from django.db import models
from django.db.models import Q

from accounts.models import Account

UINT32_MAX: Final = (1 << 32) - 1
INDEXED_TEXT_MAX: Final = 512  # characters; longer values are stored cut and hashed (protocols.message.index_text)


class AccountState(models.Model):
    """The counters of an account; whoever changes the account locks this row first, and holds it until commit."""

    account = models.OneToOneField(Account, on_delete=models.CASCADE, related_name="state", primary_key=True)
    last_modseq = models.BigIntegerField(default=1)
    highest_deleted_modseq = models.BigIntegerField(
        default=0, help_text="Highest modseq of a tombstone that was truly removed."
    )
    next_uidvalidity = models.BigIntegerField()
    message_size = models.BigIntegerField(default=0, help_text="Bytes of live messages, for the quota.")

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(message_size__gte=0), name="account_state_size_not_negative"),
            models.CheckConstraint(condition=Q(last_modseq__gte=1), name="account_state_modseq_positive"),
        ]

    def __str__(self) -> str:
        return f"state of account {self.account_id}"


SPECIAL_USES: Final = ("archive", "drafts", "junk", "sent", "trash")


class Mailbox(models.Model):
    """A mailbox, or (expunged) its tombstone. ``name`` is the full path."""

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="mailboxes")
    parent = models.ForeignKey("self", null=True, on_delete=models.PROTECT, related_name="children")
    name = models.CharField(max_length=1000)
    uidvalidity = models.BigIntegerField()
    uidnext = models.BigIntegerField(default=1)
    create_modseq = models.BigIntegerField()
    modseq = models.BigIntegerField(help_text="Highest of any change in or to this mailbox; never goes down.")
    expunged = models.BooleanField(default=False)
    special_archive = models.BooleanField(default=False)
    special_drafts = models.BooleanField(default=False)
    special_junk = models.BooleanField(default=False)
    special_sent = models.BooleanField(default=False)
    special_trash = models.BooleanField(default=False)
    keywords = models.JSONField(default=list, help_text="Sorted; every keyword ever used by a message in it.")
    total = models.BigIntegerField(default=0, help_text="Live messages that are not marked deleted.")
    deleted = models.BigIntegerField(default=0)
    unread = models.BigIntegerField(default=0, help_text="Neither seen nor marked deleted.")
    unseen = models.BigIntegerField(default=0)
    size = models.BigIntegerField(default=0)

    class Meta:
        verbose_name_plural = "mailboxes"
        constraints = [
            models.UniqueConstraint(fields=["account", "name"], condition=Q(expunged=False), name="mailbox_live_name"),
            models.CheckConstraint(
                condition=Q(total__gte=0, deleted__gte=0, unread__gte=0, unseen__gte=0, size__gte=0),
                name="mailbox_counts_not_negative",
            ),
            models.CheckConstraint(
                condition=Q(uidvalidity__gte=1, uidvalidity__lte=UINT32_MAX, uidnext__gte=1), name="mailbox_uids_valid"
            ),
        ]
        indexes = [models.Index(fields=["account", "modseq"], name="mailbox_changes")]

    def __str__(self) -> str:
        return self.name

    def special_uses(self) -> tuple[str, ...]:
        """The mailbox's special uses, lower case (RFC 6154)."""
        return tuple(use for use in SPECIAL_USES if getattr(self, f"special_{use}"))


class Subscription(models.Model):
    """A subscribed mailbox name, which need not exist as mailbox."""

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="subscriptions")
    name = models.CharField(max_length=1000)
    modseq = models.BigIntegerField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["account", "name"], name="subscription_once")]

    def __str__(self) -> str:
        return self.name


class Blob(models.Model):
    """Message content, stored once whoever and how many receive it, with what FETCH answers about it."""

    size = models.BigIntegerField()
    sha256 = models.BinaryField()
    data = models.BinaryField(null=True, help_text="Small content; null when it is in storage.")
    storage_name = models.CharField(max_length=255, blank=True, default="", help_text="Name in STORAGES['messages'].")
    headerless = models.BooleanField(default=False)
    structure = models.JSONField(help_text="MIME structure; offsets are relative to this content.")
    structure_version = models.PositiveSmallIntegerField(default=1)
    envelope = models.JSONField(help_text="The structure's envelope, here for cheap reading.")
    imap_envelope = models.BinaryField(help_text="What FETCH sends as ENVELOPE.")
    imap_bodystructure = models.BinaryField(help_text="What FETCH sends as BODYSTRUCTURE.")
    text_due = models.BooleanField(default=True, help_text="The search text is still to be made.")
    created = models.DateTimeField()

    class Meta:
        indexes = [
            models.Index(fields=["id"], condition=Q(text_due=True), name="blob_text_due"),
            models.Index(fields=["created"], name="blob_created"),
        ]

    def __str__(self) -> str:
        return f"blob {self.pk}, {self.size} bytes"


class BlobText(models.Model):
    """What text search looks at: decoded, NFC, case-folded. Made by a worker after delivery."""

    blob = models.OneToOneField(Blob, on_delete=models.CASCADE, related_name="text", primary_key=True)
    headers = models.TextField()
    body = models.TextField()
    truncated = models.BooleanField(default=False)
    made = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return f"text of blob {self.blob_id}"


class Validation(models.IntegerChoices):
    """How a domain of a message was validated."""

    UNKNOWN = 0
    STRICT = 1
    DMARC = 2
    RELAXED = 3
    PASS = 4
    NEUTRAL = 5
    TEMPERROR = 6
    PERMERROR = 7
    FAIL = 8
    SOFTFAIL = 9
    NONE = 10


def _text(length: int = INDEXED_TEXT_MAX) -> models.CharField[str, str]:
    return models.CharField(max_length=length, blank=True, default="")


# Only $Junk or only $NotJunk: its user, or the mailbox that it was put into, has said what it is.
JUDGED: Final = Q(junk=True, notjunk=False) | Q(junk=False, notjunk=True)


def _reputation(column: str, name: str, *more: str, **also: bool) -> models.Index:
    """An index of messages that were judged and have something in this column. Queries say both in the same words."""
    condition = Q(JUDGED, expunged=False, **also) & ~Q(**{column: ""})
    return models.Index(fields=["mailbox_orig_id", column, *more, "received"], condition=condition, name=name)


def _validation() -> models.PositiveSmallIntegerField[int, int]:
    return models.PositiveSmallIntegerField(choices=Validation.choices, default=Validation.UNKNOWN)


# What a message was trained as and what its flags ask for differ: the junk filter finds it by the index of this.
TRAINING_DUE: Final = (
    (Q(junk=True, notjunk=False, expunged=False) & (Q(trained_junk__isnull=True) | Q(trained_junk=False)))
    | (Q(junk=False, notjunk=True, expunged=False) & (Q(trained_junk__isnull=True) | Q(trained_junk=True)))
    | ((Q(expunged=True) | Q(junk=True, notjunk=True) | Q(junk=False, notjunk=False)) & Q(trained_junk__isnull=False))
)


class Message(models.Model):
    """One placement of content in a mailbox, or its tombstone (expunged; erased once its data is gone)."""

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="messages", db_index=False)
    mailbox = models.ForeignKey(Mailbox, on_delete=models.CASCADE, related_name="messages", db_index=False)
    uid = models.BigIntegerField()
    create_modseq = models.BigIntegerField()
    modseq = models.BigIntegerField()
    expunged = models.BooleanField(default=False)
    expunged_at = models.DateTimeField(null=True)
    erased = models.BooleanField(default=False)
    blob = models.ForeignKey(Blob, null=True, on_delete=models.PROTECT, related_name="messages", db_index=False)
    prefix = models.BinaryField(default=bytes, help_text="Header lines that this server added for this recipient.")
    size = models.BigIntegerField(default=0, help_text="Bytes of prefix and content.")
    received = models.DateTimeField(help_text="INTERNALDATE.")
    received_offset = models.SmallIntegerField(default=0, help_text="Zone of INTERNALDATE, minutes east of UTC.")
    save_date = models.DateTimeField(null=True)

    seen = models.BooleanField(default=False)
    answered = models.BooleanField(default=False)
    flagged = models.BooleanField(default=False)
    forwarded = models.BooleanField(default=False)
    junk = models.BooleanField(default=False)
    notjunk = models.BooleanField(default=False)
    deleted = models.BooleanField(default=False)
    draft = models.BooleanField(default=False)
    phishing = models.BooleanField(default=False)
    mdnsent = models.BooleanField(default=False)
    keywords = models.TextField(blank=True, default="", help_text="Sorted, each surrounded by single spaces.")

    mailbox_orig_id = models.BigIntegerField(null=True, help_text="Mailbox of first delivery; it may be gone.")
    mailbox_destined_id = models.BigIntegerField(null=True, help_text="Where a reject would have gone.")
    is_reject = models.BooleanField(default=False)
    is_forward = models.BooleanField(default=False)
    is_mailing_list = models.BooleanField(default=False)
    is_dsn = models.BooleanField(default=False)
    remote_ip = _text(45)
    remote_ip_masked1 = _text(45)
    remote_ip_masked2 = _text(45)
    remote_ip_masked3 = _text(45)
    ehlo_domain = _text()
    mail_from = _text()
    mail_from_localpart = _text()
    mail_from_domain = _text()
    rcpt_to_localpart = _text()
    rcpt_to_domain = _text()
    msg_from_localpart = _text()
    msg_from_domain = _text()
    msg_from_org_domain = _text()
    ehlo_validated = models.BooleanField(default=False)
    mail_from_validated = models.BooleanField(default=False)
    msg_from_validated = models.BooleanField(default=False)
    ehlo_validation = _validation()
    mail_from_validation = _validation()
    msg_from_validation = _validation()
    orig_ehlo_domain = _text()
    orig_dkim_domains = models.JSONField(default=list)
    received_tls_version = models.PositiveIntegerField(default=0, help_text="0 unknown, 1 none, else TLS version.")
    received_tls_ciphersuite = _text(64)
    received_require_tls = models.BooleanField(default=False)
    message_hash = models.BinaryField(null=True, help_text="SHA-256, only of rejects without Message-ID.")
    trained_junk = models.BooleanField(null=True, help_text="Null: not trained.")

    message_id = _text()
    subject_base = _text()
    thread_id = models.BigIntegerField(null=True)
    thread_parent_ids = models.JSONField(default=list, help_text="Nearest parent first, root last.")
    thread_missing_link = models.BooleanField(default=False)
    thread_muted = models.BooleanField(default=False)
    thread_collapsed = models.BooleanField(default=False)
    preview = models.CharField(max_length=256, null=True)
    indexed = models.BooleanField(null=True, help_text="True once the search index has it; null while it is due.")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["mailbox", "uid"], name="message_uid"),
            models.CheckConstraint(condition=Q(uid__gte=1, uid__lte=UINT32_MAX), name="message_uid_valid"),
            models.CheckConstraint(
                condition=Q(create_modseq__gte=1, modseq__gte=models.F("create_modseq")), name="message_modseq_valid"
            ),
            models.CheckConstraint(
                condition=Q(expunged=True) | Q(blob__isnull=False, erased=False), name="message_live_has_content"
            ),
        ]
        indexes = [
            models.Index(fields=["mailbox", "modseq"], name="message_mailbox_changes"),
            models.Index(fields=["account", "modseq"], name="message_account_changes"),
            models.Index(fields=["mailbox", "received"], condition=Q(expunged=False), name="message_list"),
            models.Index(fields=["account", "received"], condition=Q(expunged=False), name="message_all_mail"),
            models.Index(
                fields=["account", "message_id", "id"], condition=Q(expunged=False), name="message_by_message_id"
            ),
            models.Index(
                fields=["account", "subject_base", "mailbox_orig_id", "received"],
                condition=Q(expunged=False),
                name="message_by_subject",
            ),
            models.Index(fields=["account", "thread_id"], name="message_by_thread"),
            models.Index(
                fields=["account", "remote_ip_masked3", "received"], condition=~Q(remote_ip=""), name="message_rates"
            ),
            _reputation("remote_ip_masked1", "message_rep_ip1"),
            _reputation("remote_ip_masked2", "message_rep_ip2"),
            _reputation("remote_ip_masked3", "message_rep_ip3"),
            _reputation("ehlo_domain", "message_rep_ehlo", ehlo_validated=True),
            _reputation("mail_from_domain", "message_rep_mailfrom", mail_from_validated=True),
            _reputation("msg_from_domain", "message_rep_msgfrom", "msg_from_validated"),
            _reputation("msg_from_org_domain", "message_rep_orgdomain", "msg_from_validated"),
            # A stranger at a large provider must not cost a look at all mail from there.
            _reputation("mail_from_localpart", "message_rep_mailaddress", "mail_from_domain", mail_from_validated=True),
            _reputation("msg_from_localpart", "message_rep_address", "msg_from_domain", "msg_from_validated"),
            models.Index(fields=["mailbox"], condition=Q(expunged=False, seen=False), name="message_unread"),
            models.Index(fields=["mailbox"], condition=Q(expunged=False, deleted=True), name="message_deleted"),
            models.Index(fields=["expunged_at"], condition=Q(expunged=True, erased=False), name="message_to_erase"),
            models.Index(fields=["blob"], name="message_by_blob"),
            models.Index(fields=["account"], condition=TRAINING_DUE, name="message_training_due"),
            models.Index(
                fields=["account", "mailbox"],
                condition=Q(expunged=False, indexed__isnull=True),
                name="message_index_due",
            ),
            models.Index(fields=["mailbox"], condition=Q(expunged=True, erased=False), name="message_left_behind"),
        ]

    def __str__(self) -> str:
        return f"message {self.pk} (uid {self.uid} of mailbox {self.mailbox_id})"


class MessageDKIMDomain(models.Model):
    """A domain with a passing DKIM signature on a message; gone once that is expunged.

    The columns that reputation asks for are those of the message: `store.signatures` keeps them so.
    """

    message = models.ForeignKey(Message, on_delete=models.CASCADE, related_name="dkim_domains")
    domain = models.CharField(max_length=255)
    received = models.DateTimeField()
    mailbox_orig_id = models.BigIntegerField(null=True)
    junk = models.BooleanField(null=True, help_text="What the user called the message; null: nothing.")

    class Meta:
        indexes = [
            models.Index(
                fields=["mailbox_orig_id", "domain", "received"],
                condition=Q(junk__isnull=False),
                name="dkim_domain_reputation",
            )
        ]

    def __str__(self) -> str:
        return self.domain


class SearchSegment(models.Model):
    """A part of an account's search index: up to 256 messages, and in its pages which of them have which grams."""

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="+")
    first_id = models.BigIntegerField(help_text="The lowest id of its messages.")
    last_id = models.BigIntegerField(help_text="The highest.")
    message_ids = models.BinaryField(help_text="Ids of its messages, ascending, 8 bytes each.")
    live = models.BinaryField(help_text="Set of message numbers: those that still exist.")
    undecided = models.BinaryField(help_text="Set of message numbers: those with more text than is indexed.")

    def __str__(self) -> str:
        return f"search segment {self.pk} of account {self.account_id}"


class SearchPage(models.Model):
    """The grams of a segment whose numbers begin alike (store.grams)."""

    segment = models.ForeignKey(SearchSegment, on_delete=models.CASCADE, related_name="pages", db_index=False)
    number = models.PositiveSmallIntegerField()
    data = models.BinaryField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["segment", "number"], name="search_page")]

    def __str__(self) -> str:
        return f"page {self.number} of search segment {self.segment_id}"


class Recipient(models.Model):
    """An address that this account wrote to: for reputation and for completing addresses."""

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="+", db_index=False)
    message = models.ForeignKey(Message, on_delete=models.CASCADE, related_name="recipients")
    localpart = models.CharField(max_length=INDEXED_TEXT_MAX)
    domain = models.CharField(max_length=255)
    org_domain = models.CharField(max_length=255)
    sent = models.DateTimeField()

    class Meta:
        indexes = [
            models.Index(fields=["account", "domain", "localpart"], name="recipient_address"),
            models.Index(fields=["account", "org_domain"], name="recipient_org_domain"),
        ]

    def __str__(self) -> str:
        return f"{self.localpart}@{self.domain}"


class Annotation(models.Model):
    """A value that a client keeps with a mailbox, or with the account, under a name (RFC 5464)."""

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="annotations")
    mailbox = models.ForeignKey(
        Mailbox,
        null=True,
        on_delete=models.CASCADE,
        related_name="annotations",
        db_index=False,
        help_text="Null: the account's.",
    )
    key = models.CharField(max_length=255, help_text="Name of the entry, in lower case.")
    is_string = models.BooleanField(default=True, help_text="It goes out as a string; else as literal8.")
    value = models.BinaryField(default=bytes)
    create_modseq = models.BigIntegerField()
    modseq = models.BigIntegerField()
    expunged = models.BooleanField(default=False, help_text="Removed; the next value takes this row again.")

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["mailbox", "key"], condition=Q(mailbox__isnull=False), name="annotation_of_mailbox"
            ),
            models.UniqueConstraint(
                fields=["account", "key"], condition=Q(mailbox__isnull=True), name="annotation_of_account"
            ),
            models.CheckConstraint(
                condition=Q(create_modseq__gte=1, modseq__gte=models.F("create_modseq")), name="annotation_modseq_valid"
            ),
        ]

    def __str__(self) -> str:
        return self.key


class ChangeEvent(models.Model):
    """A change that is not a message row, for listeners that ask what came after a modseq. Kept for 24 hours."""

    class Kind(models.TextChoices):
        MAILBOX_ADD = "mailbox_add"
        MAILBOX_REMOVE = "mailbox_remove"
        MAILBOX_RENAME = "mailbox_rename"
        MAILBOX_SPECIAL_USE = "mailbox_special_use"
        MAILBOX_KEYWORDS = "mailbox_keywords"
        SUBSCRIPTION_ADD = "subscription_add"
        SUBSCRIPTION_REMOVE = "subscription_remove"
        ANNOTATION = "annotation"
        THREAD = "thread"

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="+", db_index=False)
    modseq = models.BigIntegerField()
    seq = models.PositiveIntegerField(help_text="Order among the events of one modseq.")
    kind = models.CharField(max_length=24, choices=Kind.choices)
    mailbox_id = models.BigIntegerField(null=True)
    data = models.JSONField(default=dict)
    created = models.DateTimeField()

    class Meta:
        indexes = [
            models.Index(fields=["account", "modseq", "seq"], name="change_event_feed"),
            models.Index(fields=["created"], name="change_event_expiry"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} at {self.modseq}"


class ImportJob(models.Model):
    """An import into an account: how far it is, and what it met. Nothing of it is visible before it is done."""

    class State(models.TextChoices):
        UPLOADING = "uploading"
        RUNNING = "running"
        DONE = "done"
        ABORTED = "aborted"

    class Format(models.TextChoices):
        ARCHIVE = "archive", "zip, gzipped tar or tar"
        MAILDIR = "maildir"
        MBOX = "mbox"

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="imports")
    token = models.CharField(max_length=32, unique=True, help_text="What a page names it by.")
    state = models.CharField(max_length=9, choices=State.choices)
    completing = models.BooleanField(default=False, help_text="Its one transaction may have begun: no abort any more.")
    format = models.CharField(max_length=7, choices=Format.choices, default=Format.ARCHIVE)
    source = models.TextField(help_text="Name in STORAGES['messages'], or a path on ``node``; empty once removed.")
    node = models.CharField(max_length=255, blank=True, default="", help_text="Empty: the source was uploaded.")
    mailbox = models.CharField(max_length=1000, blank=True, default="", help_text="For a Maildir or mbox.")
    skip_mailbox_prefix = models.CharField(max_length=1000, blank=True, default="")
    step = models.CharField(max_length=64, blank=True, default="", help_text="What it does now, for people.")
    position = models.JSONField(null=True, help_text="Member and number in it of what was read last.")
    read_whole = models.BooleanField(default=False, help_text="All of the source is staged.")
    messages = models.PositiveIntegerField(default=0, help_text="Staged so far.")
    size = models.BigIntegerField(default=0, help_text="Bytes of them.")
    problems = models.JSONField(default=list, help_text="Texts, of the first 1000.")
    problem_count = models.PositiveIntegerField(default=0)
    error = models.TextField(blank=True, default="", help_text="Why it was aborted, if not on request.")
    lease_token = models.UUIDField(null=True)
    lease_until = models.DateTimeField(help_text="Afterwards another worker may go on with it.")
    tries = models.PositiveSmallIntegerField(default=0, help_text="Workers that took it up since it last got on.")
    created = models.DateTimeField()
    finished = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["account"], condition=Q(state__in=("uploading", "running")), name="import_one_per_account"
            ),
        ]

    def __str__(self) -> str:
        return f"import {self.token} ({self.state})"


class ImportMailbox(models.Model):
    """A mailbox that an import brings, and how many messages; the page shows these counts until the job is dropped."""

    job = models.ForeignKey(ImportJob, on_delete=models.CASCADE, related_name="mailboxes", db_index=False)
    name = models.CharField(max_length=1000)
    messages = models.PositiveIntegerField(default=0)
    letters = models.JSONField(default=dict, help_text="Words of its dovecot-keywords by letter.")
    keywords = models.JSONField(default=list, help_text="Sorted; those of its messages.")
    target_id = models.BigIntegerField(null=True, help_text="The mailbox that it became.")
    first_uid = models.BigIntegerField(null=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["job", "name"], name="import_mailbox_once")]

    def __str__(self) -> str:
        return self.name


class ImportItem(models.Model):
    """A message that an import has read: columns of a Message that will be, under names that are the same there."""

    job = models.ForeignKey(ImportJob, on_delete=models.CASCADE, related_name="items", db_index=False)
    seq = models.PositiveIntegerField(help_text="Order in the import, from 0 without gaps.")
    mailbox = models.ForeignKey(ImportMailbox, on_delete=models.CASCADE, related_name="items")
    number = models.PositiveIntegerField(help_text="Order in its mailbox, from 0 without gaps.")
    message_pk = models.BigIntegerField(help_text="The id that the message will have.")
    letters = models.CharField(max_length=26, blank=True, default="", help_text="Keywords of a Maildir's file name.")
    referenced_ids = models.JSONField(default=list, help_text="Message-IDs, nearest first.")
    is_response = models.BooleanField(default=False, help_text="Its subject is that of an answer.")

    blob = models.ForeignKey(Blob, on_delete=models.PROTECT, related_name="import_items")
    prefix = models.BinaryField(default=bytes)
    size = models.BigIntegerField()
    received = models.DateTimeField()
    received_offset = models.SmallIntegerField(default=0)
    seen = models.BooleanField(default=False)
    answered = models.BooleanField(default=False)
    flagged = models.BooleanField(default=False)
    forwarded = models.BooleanField(default=False)
    junk = models.BooleanField(default=False)
    notjunk = models.BooleanField(default=False)
    deleted = models.BooleanField(default=False)
    draft = models.BooleanField(default=False)
    phishing = models.BooleanField(default=False)
    mdnsent = models.BooleanField(default=False)
    keywords = models.TextField(blank=True, default="")
    is_dsn = models.BooleanField(default=False)
    message_id = _text()
    subject_base = _text()
    thread_id = models.BigIntegerField()
    thread_parent_ids = models.JSONField(default=list)
    thread_missing_link = models.BooleanField(default=False)
    thread_muted = models.BooleanField(default=False)
    thread_collapsed = models.BooleanField(default=False)
    preview = models.CharField(max_length=256, null=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["job", "seq"], name="import_item_order")]
        indexes = [
            models.Index(fields=["job", "message_id"], name="import_item_by_message_id"),
            models.Index(fields=["job", "subject_base", "received"], name="import_item_by_subject"),
        ]

    def __str__(self) -> str:
        return f"message {self.seq} of import {self.job_id}"


class ImportRecipient(models.Model):
    """An address that a message on its way to a Sent mailbox was written to: a Recipient that will be."""

    item = models.ForeignKey(ImportItem, on_delete=models.CASCADE, related_name="recipients")
    localpart = models.CharField(max_length=INDEXED_TEXT_MAX)
    domain = models.CharField(max_length=255)
    org_domain = models.CharField(max_length=255)
    sent = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.localpart}@{self.domain}"
