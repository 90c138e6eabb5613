"""What calls take and answer. Those of requests validate; all of them make the OpenAPI document and the pages."""

from __future__ import annotations

from rest_framework import serializers

from . import fields
from .fields import Object


class NameAddress(Object):
    Name = fields.Text(help_text="To be shown; may be empty.")
    Address = fields.Text(help_text="localpart@domain, both may be international.")


class File(Object):
    Name = fields.Text(help_text="File name.")
    ContentType = fields.Text(help_text="Such as image/png; found by the content when empty.")
    ContentID = fields.Text(help_text="With angle brackets, for cid: links in the HTML.")
    Data = fields.Text(help_text="Content in base64, with padding.")


class SendRequest(Object):
    From = fields.ListOf(NameAddress(), help_text="At most one; the account's name and the login address when empty.")
    To = fields.ListOf(NameAddress())
    CC = fields.ListOf(NameAddress())
    BCC = fields.ListOf(NameAddress(), help_text="Recipients that the message does not show.")
    ReplyTo = fields.ListOf(NameAddress())
    MessageID = fields.Text(help_text="With angle brackets; made when empty.")
    References = fields.ListOf(fields.Text(), help_text="Message ids with angle brackets, the oldest first.")
    Date = fields.Moment(help_text="Now when absent.")
    Subject = fields.Text()
    Text = fields.Text(help_text="Plain text; lines end in \\n.")
    HTML = fields.Text(help_text="One of Text and HTML must not be empty.")
    Extra = fields.TextByName(help_text="Given back in each webhook about the message; not in the message.")
    Headers = fields.ListOf(fields.PairOfTexts(), help_text="More header fields: [name, value], in this order.")
    AlternativeFiles = fields.ListOf(File(), help_text="More forms of the text, such as text/calendar.")
    InlineFiles = fields.ListOf(File(), help_text="Shown by the HTML.")
    AttachedFiles = fields.ListOf(File())
    RequireTLS = fields.Flag(
        default=None,
        allow_null=True,
        help_text="true: only over verified TLS; false: policies for TLS do not count; absent: as the recipient asks.",
    )
    FutureRelease = fields.Moment(help_text="Not to be sent before; at most 60 days ahead.")
    SaveSent = fields.Flag(help_text="Store a copy in the mailbox for sent mail.")


class Submission(serializers.Serializer[object]):
    Address = serializers.CharField(help_text="As in the request.")
    QueueMsgID = serializers.IntegerField(help_text="Webhooks repeat it.")
    FromID = serializers.CharField(allow_blank=True, help_text="In MAIL FROM, so that a bounce names the message.")


class SendResult(serializers.Serializer[object]):
    MessageID = serializers.CharField()
    Submissions = Submission(many=True, help_text="One for each recipient, in the order To, CC, BCC.")


class Empty(Object):
    """Nothing."""


class SuppressionAddRequest(Object):
    EmailAddress = fields.Text()
    Manual = fields.Flag(help_text="Added by a person.")
    Reason = fields.Text()


class EmailAddressRequest(Object):
    EmailAddress = fields.Text(help_text="In any spelling that has the same base address.")


class Suppression(serializers.Serializer[object]):
    ID = serializers.IntegerField()
    Created = serializers.DateTimeField()
    Account = serializers.CharField()
    BaseAddress = serializers.CharField(help_text="What variants of the address have in common.")
    OriginalAddress = serializers.CharField()
    Manual = serializers.BooleanField()
    Reason = serializers.CharField(allow_blank=True)


class SuppressionListResult(serializers.Serializer[object]):
    Suppressions = Suppression(many=True)


class SuppressionPresentResult(serializers.Serializer[object]):
    Present = serializers.BooleanField()


class MessageRequest(Object):
    MsgID = fields.Integer(help_text="As incoming webhooks have it.")


class PartRequest(MessageRequest):
    PartPath = fields.ListOf(fields.Integer(), help_text="Indexes into Structure.Parts; empty: the body.")


class FlagsRequest(MessageRequest):
    Flags = fields.ListOf(fields.Text(), help_text="Such as \\\\Seen, $Junk, or a keyword.")


class MoveRequest(MessageRequest):
    DestMailboxName = fields.Text()


class ShownAddress(serializers.Serializer[object]):
    Name = serializers.CharField(allow_blank=True)
    Address = serializers.CharField(allow_blank=True)


class Message(serializers.Serializer[object]):
    From = ShownAddress(many=True)
    To = ShownAddress(many=True)
    CC = ShownAddress(many=True)
    BCC = ShownAddress(many=True)
    ReplyTo = ShownAddress(many=True)
    MessageID = serializers.CharField(allow_blank=True)
    References = serializers.ListField(child=serializers.CharField())
    Date = serializers.DateTimeField(allow_null=True)
    Subject = serializers.CharField(allow_blank=True)
    Text = serializers.CharField(allow_blank=True, help_text="At most 1 MiB.")
    HTML = serializers.CharField(allow_blank=True)


class Structure(serializers.Serializer[object]):
    ContentType = serializers.CharField(allow_blank=True)
    ContentTypeParams = serializers.DictField(child=serializers.CharField(allow_blank=True))
    ContentID = serializers.CharField(allow_blank=True)
    ContentDisposition = serializers.CharField(allow_blank=True)
    Filename = serializers.CharField(allow_blank=True)
    DecodedSize = serializers.IntegerField()
    Parts = serializers.ListField(child=serializers.DictField(), help_text="Each like this object.")


class MessageMeta(serializers.Serializer[object]):
    Size = serializers.IntegerField()
    DSN = serializers.BooleanField()
    Flags = serializers.ListField(child=serializers.CharField())
    MailFrom = serializers.CharField(allow_blank=True)
    MailFromValidated = serializers.BooleanField()
    RcptTo = serializers.CharField(allow_blank=True)
    MsgFrom = serializers.CharField(allow_blank=True)
    MsgFromValidated = serializers.BooleanField()
    DKIMVerifiedDomains = serializers.ListField(child=serializers.CharField())
    RemoteIP = serializers.CharField(allow_blank=True)
    MailboxName = serializers.CharField()


class MessageGetResult(serializers.Serializer[object]):
    Message = Message()
    Structure = Structure()
    Meta = MessageMeta()


class Error(serializers.Serializer[object]):
    Code = serializers.CharField()
    Message = serializers.CharField(help_text="For people; it may change.")


class EmptyResult(serializers.Serializer[object]):
    """Done."""
