"""What can go wrong in the store. Texts are made for users: interfaces add the code of their protocol."""

from __future__ import annotations


class StoreError(Exception):
    """A store operation was refused, and changed nothing."""


class BadFlag(StoreError):
    """A word that is neither a flag nor a valid keyword."""


class TooManyKeywords(StoreError):
    """More distinct keywords than a message or mailbox may have."""


class MailboxError(StoreError):
    """A mailbox name that is not allowed, or an operation that this mailbox does not allow."""


class InboxForbidden(MailboxError):
    def __init__(self) -> None:
        super().__init__("Inbox cannot be created, removed or used as destination")


class MailboxExists(MailboxError):
    """A mailbox of that name exists."""


class MailboxNotFound(MailboxError):
    """No mailbox of that name exists."""


class MailboxHasChildren(MailboxError):
    def __init__(self) -> None:
        super().__init__("mailbox has a child, only leaf mailboxes can be deleted")


class MailboxGone(StoreError):
    """The mailbox was removed in the meantime."""


class MessageGone(StoreError):
    """The message was removed, and its content is no longer kept."""


class OverQuota(StoreError):
    def __init__(self, limit: int) -> None:
        super().__init__(f"account over maximum total message size {limit}")
        self.limit = limit


class TooManyAnnotations(StoreError):
    """More annotations than an account may have."""


class AnnotationsTooLarge(StoreError):
    def __init__(self, limit: int) -> None:
        super().__init__(f"annotations of the account would be larger than {limit} bytes together")
        self.limit = limit


class OutOfUIDs(StoreError):
    def __init__(self) -> None:
        super().__init__("mailbox has run out of UIDs, create a new mailbox and move messages there")


class StorageFull(StoreError):
    """The disk, or the database's, is full."""


class ContentError(StoreError):
    """Stored content is missing or has another size than recorded. Names the message or blob and what was expected."""
