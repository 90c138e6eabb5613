"""What a connection announces, in the order in which it is sent (imap.md section 2)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from protocols.sasl import plus_announced

APPENDLIMIT_NONE: Final = (1 << 63) - 1  # what stands for no limit (RFC 7889 2)

# A capability is listed only when all of its RFC works: clients rely on it silently. The order is what the first
# release has, exactly; then the second wave in the order of imap.md 10; what is built beyond that comes last.
_FIRST_RELEASE: Final = (
    "IMAP4rev2",
    "IMAP4rev1",
    "ENABLE",
    "LITERAL+",
    "IDLE",
    "SASL-IR",
    "BINARY",
    "UNSELECT",
    "UIDPLUS",
    "ESEARCH",
    "SEARCHRES",
    "MOVE",
    "UTF8=ACCEPT",
    "LIST-EXTENDED",
    "SPECIAL-USE",
    "CREATE-SPECIAL-USE",
    "LIST-STATUS",
    "ID",
    "APPENDLIMIT",
    "CONDSTORE",
    "QRESYNC",
    "STATUS=SIZE",
    "QUOTA",
    "QUOTA=RES-STORAGE",
    "NAMESPACE",
    "MULTIAPPEND",
    "REPLACE",
    "WITHIN",
    "SAVEDATE",
    "PREVIEW",
    "INPROGRESS",
)
_SECOND_WAVE: Final = ("METADATA", "LIST-METADATA", "NOTIFY", "MULTISEARCH", "UIDONLY")
_BEYOND: Final = (
    "UNAUTHENTICATE",
    "SORT",
    "SORT=DISPLAY",
    "THREAD=ORDEREDSUBJECT",
    "THREAD=REFERENCES",
    "ESORT",
    "PARTIAL",
    "OBJECTID",
)
BASE: Final = (*_FIRST_RELEASE, *_SECOND_WAVE, *_BEYOND)
COMPRESS: Final = "COMPRESS=DEFLATE"  # offered to who is logged in, and does not compress yet
_SCRAM_AND_CRAM: Final = ("AUTH=SCRAM-SHA-256", "AUTH=SCRAM-SHA-1", "AUTH=CRAM-MD5")
_WITH_PLUS: Final = (
    "AUTH=SCRAM-SHA-256-PLUS",
    "AUTH=SCRAM-SHA-256",
    "AUTH=SCRAM-SHA-1-PLUS",
    "AUTH=SCRAM-SHA-1",
    "AUTH=CRAM-MD5",
)


def before_login(
    *, append_limit: int, tls_version: str | None, can_start_tls: bool, cleartext_allowed: bool, shows_key: bool
) -> bytes:
    """The list for a connection that is not logged in. ``tls_version`` None: no TLS. ``append_limit`` 0: none."""
    words = _base(append_limit)
    if tls_version is not None:
        words += _WITH_PLUS if plus_announced(tls_version) else _SCRAM_AND_CRAM
        words.append("AUTH=PLAIN")
        if shows_key:
            words.append("AUTH=EXTERNAL")  # of the second wave: behind what the first release has
    else:
        words += _SCRAM_AND_CRAM
        if can_start_tls:
            words.append("STARTTLS")
        words.append("AUTH=PLAIN" if cleartext_allowed else "LOGINDISABLED")
    return " ".join(words).encode("ascii")


def after_login(disabled: Collection[str], *, append_limit: int, compressed: bool) -> bytes:
    """The list for a connection that is logged in, without what the account has disabled (upper-case names)."""
    words = _base(append_limit)
    if not compressed:
        words.append(COMPRESS)
    return " ".join(word for word in words if not is_disabled(word, disabled)).encode("ascii")


def is_disabled(word: str, disabled: Collection[str]) -> bool:
    """Whether an account has this capability disabled, by its whole word or by the name before its value."""
    name = word.upper()
    return name in disabled or name.partition("=")[0] in disabled


def _base(append_limit: int) -> list[str]:
    with_value = f"APPENDLIMIT={append_limit or APPENDLIMIT_NONE}"
    return [with_value if word == "APPENDLIMIT" else word for word in BASE]
