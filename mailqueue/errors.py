"""Why a message is not taken for sending. The texts are for the sender; interfaces add the code of their protocol."""

from __future__ import annotations


class SubmitError(Exception):
    """Nothing was queued, for any recipient."""


class BadMessage(SubmitError):
    """The message as a whole cannot be sent: it has no header, say."""


class BadHeader(SubmitError):
    """The header lacks what it must have, or has it twice."""


class BadFrom(SubmitError):
    """The account may not send with this From or MAIL FROM address."""


class MessageLimitReached(SubmitError):
    def __init__(self, limit: int) -> None:
        super().__init__(
            f"the account may send {limit} messages in 24 hours (max_outgoing_messages_per_day), try again later"
        )
        self.limit = limit


class RecipientLimitReached(SubmitError):
    def __init__(self, limit: int) -> None:
        super().__init__(
            f"the account may write to {limit} new recipients in 24 hours (max_first_time_recipients_per_day),"
            " try again later"
        )
        self.limit = limit


class ExtraTwice(SubmitError):
    def __init__(self, key: str) -> None:
        super().__init__(f"X-Mox-Extra-{key} is there more than once")


class FromIDNeedsOneRecipient(SubmitError):
    def __init__(self) -> None:
        super().__init__("a message with an id of its own in MAIL FROM has one recipient")


class FromIDUsed(SubmitError):
    def __init__(self, from_id: str) -> None:
        super().__init__(f"the id {from_id!r} in MAIL FROM was used for a message before")
