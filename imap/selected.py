"""The mailbox that a session has selected, as its client knows it.

A session takes changes in (``take``) whenever it reads them, and tells its client (``announcements``) only when the
protocol lets it: in between they wait. Until then the client's message numbers are those of ``uids``.

With UIDONLY (RFC 9586) there are no message numbers, and no list of UIDs is kept: ``uids`` holds for the time of a
command those that the command is about. How many messages there are is counted.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Sequence

from store.changes import MailboxChanges
from store.flags import FLAG_WORDS, FlagRow, words
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

    def take(self, changes: MailboxChanges, knows: Callable[[int], bool]) -> None:
        """``knows``: whether the client was told of a message. Removal of what it never had is no news."""
        for row in changes.added:
            self.added[row.uid] = row
        for row in changes.changed:
            target = self.added if row.uid in self.added else self.changed
            target[row.uid] = row
        for uid in changes.removed:
            self.changed.pop(uid, None)
            if self.added.pop(uid, None) is None and knows(uid):
                self.removed.add(uid)


class Selected:
    """A selected mailbox. ``uids`` ascending; ``position`` in the account's change feed, all up to it is taken in.

    ``uidnext``: the client knows no UID from here on. ``deaf``: it wants to hear of no messages (NOTIFY), so that the
    position stays where it is, until it wants to again.
    """

    __slots__ = (
        "_count",
        "_removed_unheard",
        "deaf",
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
        "uidnext",
        "uidonly",
        "uids",
        "uidvalidity",
    )

    def __init__(self, opened: OpenedMailbox, *, read_only: bool, uidonly: bool = False) -> None:
        self.mailbox_id = opened.view.id
        self.name = opened.view.name
        self.uidvalidity = opened.view.uidvalidity
        self.read_only = read_only
        self.uids = opened.uids
        self.uidonly = uidonly
        self.uidnext = opened.view.uidnext
        self._count = opened.view.messages
        self.deaf = False
        self._removed_unheard: set[int] = set()  # by us while deaf, with UIDONLY: the feed will have them again
        self.position = opened.modseq
        self.highest_modseq = opened.view.modseq  # HIGHESTMODSEQ: everything up to it was told (RFC 7162 3.1.2)
        self.keywords = self.told_keywords = opened.view.keywords
        self.saved = array("I")  # UIDs that $ stands for (RFC 5182)
        self.pending = Pending()
        self.gone = False

    def start_uidonly(self) -> None:
        """From now on no list of UIDs is kept."""
        self._count = len(self.uids)
        self.uidonly = True
        self.uids = array("I")

    # What the client's numbers mean.

    def number(self, uid: int) -> int:
        """The message number of a known UID."""
        return bisect_left(self.uids, uid) + 1

    def numbers(self, uids: Sequence[int]) -> Sequence[int]:
        """What stands before FETCH for known UIDs (ascending): message numbers, with UIDONLY the UIDs."""
        if self.uidonly:
            return uids
        first, last = self.number(uids[0]), self.number(uids[-1])
        if last - first + 1 == len(uids):
            return range(first, last + 1)
        return [self.number(uid) for uid in uids]

    def knows(self, uid: int) -> bool:
        if self.uidonly:
            return uid < self.uidnext and uid not in self._removed_unheard
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
        self.pending.take(changes, self.knows)
        self.keywords = changes.keywords
        self.position = changes.modseq

    def changed_by_us(self, modseq: int, keywords: Sequence[str]) -> None:
        """A change of ours to this mailbox is committed, and told with the command's answer."""
        self.keywords = tuple(keywords)
        if not self.pending and not self.deaf:
            self.highest_modseq = max(self.highest_modseq, modseq)

    def keyword_lines(self) -> list[bytes]:
        """FLAGS and PERMANENTFLAGS if the mailbox has keywords that the client was not told of."""
        if self.keywords == self.told_keywords:
            return []
        self.told_keywords = self.keywords
        return flag_lines(self.keywords, read_only=self.read_only)

    def announcements(
        self,
        *,
        condstore: bool,
        qresync: bool,
        delay_removals: bool = False,
        flag_changes: bool = True,
        flags_of_new: bool = True,
    ) -> list[bytes]:
        """The lines that tell the client what waits; nothing waits afterwards. Not for an overflow.

        ``delay_removals``: those go on waiting, so that message numbers stay as they are. Changes of flags, and the
        flags of new messages, can be left out.
        """
        lines = self.keyword_lines()
        pending, self.pending = self.pending, Pending()
        if delay_removals:
            self.pending.removed = pending.removed
        else:
            lines += self.remove(sorted(pending.removed), qresync=qresync)
        if pending.added:
            self.add(sorted(pending.added))
            lines.append(self.exists())
        told = [
            *(pending.added.values() if flags_of_new else ()),
            *(pending.changed.values() if flag_changes else ()),
        ]
        lines += [self.flags_line(row, condstore) for row in sorted(told) if self.knows(row.uid)]
        if not self.pending:  # else a client that comes back must hear of what it was not told
            self.highest_modseq = max(self.highest_modseq, *(row.modseq for row in told), 0)
            if pending.removed:
                self.highest_modseq = max(self.highest_modseq, self.position)
        return lines

    def exists(self) -> bytes:
        return b"* %d EXISTS\r\n" % (self._count if self.uidonly else len(self.uids))

    def flags_line(self, row: FlagRow, condstore: bool) -> bytes:
        flags = words(row.bits, row.keywords)
        if condstore:
            return self.fetch_line(row.uid, b"FLAGS (%b) MODSEQ (%d)" % (flags, row.modseq))
        return self.fetch_line(row.uid, b"FLAGS (%b)" % flags)

    def fetch_line(self, uid: int, items: bytes) -> bytes:
        """A FETCH response about a known message; with UIDONLY it is UIDFETCH (RFC 9586 3.3)."""
        if self.uidonly:
            return b"* %d UIDFETCH (%b)\r\n" % (uid, items)
        return b"* %d FETCH (UID %d %b)\r\n" % (self.number(uid), uid, items)

    def add(self, uids: Iterable[int]) -> None:
        """New messages, ascending."""
        for uid in uids:
            self.uidnext = max(self.uidnext, uid + 1)
            if self.uidonly:
                self._count += 1
            elif not self.uids or uid > self.uids[-1]:
                self.uids.append(uid)
            elif not self.knows(uid):
                insort(self.uids, uid)

    def remove(self, uids: Sequence[int], *, qresync: bool) -> list[bytes]:
        """Forget messages (ascending), and give the lines that tell so: EXPUNGE, with QRESYNC or UIDONLY VANISHED."""
        known = [uid for uid in uids if self.knows(uid)]
        if not known:
            return []
        lines: list[bytes] = []
        if self.uidonly:
            self._count -= len(known)
            if self.deaf:
                self._removed_unheard.update(known)
        if qresync or self.uidonly:
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
