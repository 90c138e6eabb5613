"""What the content filter of an account has learnt."""

from __future__ import annotations

from typing import Final

from django.db import models
from django.db.models import Q

from accounts.models import Account

from .words import WORD_BYTES_MAX, WORDS_VERSION

DECISION_TEXT_MAX: Final = 400  # characters of a text that others made up; it is cut


class JunkFilter(models.Model):
    """How many messages were trained, with which words, and who trains right now.

    Which words count stays as it was until all is trained anew: what a message added is what it takes away again.
    """

    account = models.OneToOneField(Account, on_delete=models.CASCADE, related_name="trained_filter", primary_key=True)
    generation = models.PositiveIntegerField(default=0, help_text="The words that count; others are being made or go.")
    hams = models.BigIntegerField(default=0)
    spams = models.BigIntegerField(default=0)
    onegrams = models.BooleanField(default=True)
    twograms = models.BooleanField(default=False)
    threegrams = models.BooleanField(default=False)
    words_version = models.PositiveSmallIntegerField(default=WORDS_VERSION)
    lease_token = models.UUIDField(null=True)
    lease_until = models.DateTimeField(null=True, help_text="Until then one worker trains, and no other.")

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(hams__gte=0, spams__gte=0), name="junk_filter_not_negative")]

    def __str__(self) -> str:
        return f"{self.hams} ham and {self.spams} spam of account {self.account_id}"


class JunkWord(models.Model):
    """In how many trained messages a word was; a word that is in none has no row."""

    pk = models.CompositePrimaryKey("account_id", "generation", "word")
    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="+", db_index=False)
    generation = models.PositiveIntegerField()
    word = models.CharField(max_length=WORD_BYTES_MAX)
    ham = models.IntegerField()
    spam = models.IntegerField()

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(ham__gte=0, spam__gte=0), name="junk_word_not_negative")]

    def __str__(self) -> str:
        return self.word


class SubjectPassKey(models.Model):
    """The key of the tokens that wrongly rejected senders of an address may put into their subject."""

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="+")
    canonical_address = models.CharField(max_length=400)
    key = models.CharField(max_length=16)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["account", "canonical_address"], name="subject_pass_key_once")]

    def __str__(self) -> str:
        return f"subjectpass key of {self.canonical_address}"


class Decision(models.Model):
    """What became of an incoming message for one recipient, and why: for its user, and for the postmaster.

    A record for people, kept for a while (junk.decisions); nothing is decided by it.
    """

    account = models.ForeignKey(
        Account,
        null=True,
        on_delete=models.CASCADE,
        related_name="+",
        db_index=False,
        help_text="Null: of nobody here.",
    )
    received = models.DateTimeField()
    recipient = models.CharField(max_length=DECISION_TEXT_MAX)
    mail_from = models.CharField(max_length=DECISION_TEXT_MAX, blank=True)
    msg_from = models.CharField(max_length=DECISION_TEXT_MAX, blank=True)
    subject = models.CharField(max_length=DECISION_TEXT_MAX, blank=True)
    message_id = models.CharField(max_length=DECISION_TEXT_MAX, blank=True)
    remote_ip = models.CharField(max_length=45)
    size = models.BigIntegerField()
    result = models.CharField(max_length=16, help_text="delivered, reject, highrate, unknownuser, ...")
    mailbox = models.CharField(max_length=1000, blank=True, help_text="Where it is, or would have been put.")
    reason = models.CharField(max_length=32, blank=True, help_text="As in X-Mox-Reason.")
    reply = models.CharField(max_length=DECISION_TEXT_MAX, blank=True, help_text="What its sender was told.")
    explanation = models.JSONField(default=list, help_text="What was found on the way, for people.")
    received_id = models.CharField(max_length=64, help_text="As in the Received field, and in replies.")

    class Meta:
        indexes = [
            models.Index(fields=["account", "id"], name="decision_of_account"),
            models.Index(fields=["received"], name="decision_expiry"),
        ]

    def __str__(self) -> str:
        return f"{self.result} for {self.recipient}, {self.received:%Y-%m-%d %H:%M:%S}"
