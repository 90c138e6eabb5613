"""The mailbox that a session has selected, as its client knows it.

A session takes changes in (``take``) whenever it reads them, and tells its client (``announcements``) only when the
protocol lets it: in between they wait. Until then the client's message numbers are those of ``uids``.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence

from store.changes import MailboxChanges
from store.flags import FLAG_WORDS, words
from store.messages import FlagRow
from store.reading import OpenedMailbox

from .sets import Range, SequenceSet, lines_of_ranges, runs

VANISHED_MAX = 4000  # bytes of UIDs in one VANISHED line


class Pending:
    """Changes by others that were read and not yet told; each message once, as it is now."""

    __slots__ = ("added", "changed", "overflow_since", "removed")

    def __init__(self) -> None:
        self.added: dict[int, FlagRow] = {}
        self.changed: dict[int, FlagRow] = {}
        self.removed: set[int] = set()
        self.overflow_since: int | None = None  # the details from here on were too many

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.removed or self.overflow_since is not None)

    def take(self, changes: MailboxChanges) -> None:
        for row in changes.added:
            self.added[row.uid] = row
        for row in changes.changed:
            target = self.added if row.uid in self.added else self.changed
            target[row.uid] = row
        for uid in changes.removed:
            self.changed.pop(uid, None)
            if self.added.pop(uid, None) is None:
                self.removed.add(uid)


class Selected:
    """A selected mailbox. ``uids`` ascending; ``position`` in the account's change feed, all up to it is taken in."""

    __slots__ = (
        "gone",
        "highest_modseq",
        "keywords",
        "mailbox_id",
        "name",
        "pending",
        "position",
        "read_only",
        "saved",
        "told_keywords",
        "uids",
        "uidvalidity",
    )

    def __init__(self, opened: OpenedMailbox, *, read_only: bool) -> None:
        self.mailbox_id = opened.view.id
        self.name = opened.view.name
        self.uidvalidity = opened.view.uidvalidity
        self.read_only = read_only
        self.uids = opened.uids
        self.position = opened.modseq
        self.highest_modseq = opened.view.modseq  # HIGHESTMODSEQ: everything up to it was told (RFC 7162 3.1.2)
        self.keywords = self.told_keywords = opened.view.keywords
        self.saved = array("I")  # UIDs that $ stands for (RFC 5182)
        self.pending = Pending()
        self.gone = False

    # What the client's numbers mean.

    def number(self, uid: int) -> int:
        """The message number of a known UID."""
        return bisect_left(self.uids, uid) + 1

    def knows(self, uid: int) -> bool:
        at = bisect_left(self.uids, uid)
        return at < len(self.uids) and self.uids[at] == uid

    def resolve(self, numbers: SequenceSet, *, is_uid: bool) -> array[int]:
        """The UIDs that a set means. Raises NoSuchMessage for a message number that there is not."""
        if numbers.saved:
            return self.saved
        return numbers.uids_known(self.uids) if is_uid else numbers.uids_by_number(self.uids)

    def saved_ranges(self) -> list[Range]:
        """What ``$`` stands for, as ranges of UIDs."""
        return runs(self.saved)

    # Changes.

    def take(self, changes: MailboxChanges) -> None:
        """Remember changes by others, to be told later."""
        if changes.modseq <= self.position and not changes.gone:
            return
        if changes.gone:
            self.gone = True  # the client keeps what it knows until it leaves
            return
        if changes.overflow and self.pending.overflow_since is None:
            self.pending.overflow_since = self.position
        self.pending.take(changes)
        self.keywords = changes.keywords
        self.position = changes.modseq

    def changed_by_us(self, modseq: int, keywords: Sequence[str]) -> None:
        """A change of ours to this mailbox is committed, and told with the command's answer."""
        self.keywords = tuple(keywords)
        if not self.pending:
            self.highest_modseq = max(self.highest_modseq, modseq)

    def keyword_lines(self) -> list[bytes]:
        """FLAGS and PERMANENTFLAGS if the mailbox has keywords that the client was not told of."""
        if self.keywords == self.told_keywords:
            return []
        self.told_keywords = self.keywords
        return flag_lines(self.keywords, read_only=self.read_only)

    def announcements(self, *, condstore: bool, qresync: bool) -> list[bytes]:
        """The lines that tell the client what waits; nothing waits afterwards. Not for an overflow."""
        lines = self.keyword_lines()
        pending, self.pending = self.pending, Pending()
        lines += self.remove(sorted(pending.removed), qresync=qresync)
        if pending.added:
            self.add(sorted(pending.added))
            lines.append(self.exists())
        told = [*pending.added.values(), *pending.changed.values()]
        lines += [self.flags_line(row, condstore) for row in sorted(told) if self.knows(row.uid)]
        self.highest_modseq = max(self.highest_modseq, *(row.modseq for row in told), 0)
        if pending.removed:
            self.highest_modseq = max(self.highest_modseq, self.position)
        return lines

    def exists(self) -> bytes:
        return b"* %d EXISTS\r\n" % len(self.uids)

    def flags_line(self, row: FlagRow, condstore: bool) -> bytes:
        flags = words(row.bits, row.keywords)
        if condstore:
            return b"* %d FETCH (UID %d FLAGS (%b) MODSEQ (%d))\r\n" % (
                self.number(row.uid),
                row.uid,
                flags,
                row.modseq,
            )
        return b"* %d FETCH (UID %d FLAGS (%b))\r\n" % (self.number(row.uid), row.uid, flags)

    def add(self, uids: Iterable[int]) -> None:
        """New messages, ascending."""
        for uid in uids:
            if not self.uids or uid > self.uids[-1]:
                self.uids.append(uid)
            elif not self.knows(uid):
                insort(self.uids, uid)

    def remove(self, uids: Sequence[int], *, qresync: bool) -> list[bytes]:
        """Forget messages (ascending), and give the lines that tell so: EXPUNGE, with QRESYNC VANISHED."""
        known = [uid for uid in uids if self.knows(uid)]
        if not known:
            return []
        lines: list[bytes] = []
        if qresync:
            lines = [b"* VANISHED %b\r\n" % part for part in lines_of_ranges(runs(known), VANISHED_MAX)]
        else:
            # Each removal moves the numbers after it.
            lines = [b"* %d EXPUNGE\r\n" % (self.number(uid) - before) for before, uid in enumerate(known)]
        gone = frozenset(known)
        self.uids = array("I", [uid for uid in self.uids if uid not in gone])
        if self.saved:
            self.saved = array("I", [uid for uid in self.saved if uid not in gone])  # RFC 5182 2.1
        return lines


def flag_lines(keywords: Iterable[str], *, read_only: bool) -> list[bytes]:
    """FLAGS and PERMANENTFLAGS of a mailbox."""
    flags = " ".join((*FLAG_WORDS, *keywords)).encode("ascii")
    permanent = b"" if read_only else flags + b" \\*"
    return [b"* FLAGS (%b)\r\n" % flags, b"* OK [PERMANENTFLAGS (%b)] flags\r\n" % permanent]
