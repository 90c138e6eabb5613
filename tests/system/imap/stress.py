"""Clients that work on the same mailboxes at once, each believing only what it is told; compared at checkpoints."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from tests.system.imap.conftest import User
from tests.system.imap.mirror import Mirror, Remembered
from tests.system.imap.transcript import simple
from tests.system.imap.wire import Answer

MAILBOXES = ("Inbox", "other")
FLAGS = ("\\Seen", "\\Answered", "\\Flagged", "\\Draft", "\\Deleted", "work", "todo")
REMEMBERED = 5  # states that a client may come back with
CROWDED = 40  # messages from which clients remove more than they add

EXTENSIONS = ("", "CONDSTORE", "QRESYNC", "IMAP4rev2", "QRESYNC IMAP4rev2")


@dataclass(slots=True)
class Actor:
    """One client. Everything that it does comes from its seed."""

    user: User
    seed: int
    random: random.Random = field(init=False)
    mirror: Mirror = field(init=False)
    enabled: str = field(init=False)
    remembered: list[Remembered] = field(default_factory=list)
    appended: int = 0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self._connect()

    def _connect(self) -> None:
        self.enabled = self.random.choice(EXTENSIONS)
        self.remembered.clear()
        self.mirror = Mirror(self.user.session(enable=self.enabled))
        if not self.qresync and self.random.random() < 0.5:
            # It hears of changes between its commands too; its message numbers stay while they are on their way.
            self.mirror.run("NOTIFY SET (SELECTED-DELAYED (MessageNew MessageExpunge FlagChange))")
        if self.random.random() < 0.3:
            self.mirror.wire.compress()
        self.mirror.select(self.random.choice(MAILBOXES))

    @property
    def qresync(self) -> bool:
        return "QRESYNC" in self.enabled

    def work(self, operations: int) -> None:
        for _ in range(operations):
            name, operation = self.random.choice(self._operations())
            try:
                operation()
                self._fill_in()
            except BaseException as exc:
                exc.add_note(f"client {self.seed} in {self.mirror.name} during {name}:\n" + self.transcript())
                raise

    def transcript(self) -> str:
        return "\n".join(self.mirror.wire.log[-30:])

    def check(self) -> None:
        """Hear what is left to hear, and compare with what a fresh session sees."""
        self.mirror.run("NOOP")
        self._fill_in()
        fresh = Mirror(self.user.session())
        fresh.select(self.mirror.name)
        fresh.wire.close()
        assert self.mirror.state() == fresh.state(), f"client {self.seed}, {self.mirror.name}:\n{self.transcript()}"

    def _operations(self) -> list[tuple[str, Callable[[], None]]]:
        operations: list[tuple[str, Callable[[], None]]] = [
            ("append", self._append),
            ("noop", self._noop),
            ("idle", self._idle),
            ("reopen", self._reopen),
            ("reconnect", self._reconnect),
        ]
        if self.mirror.by_number:
            operations += [
                ("store", self._store),
                ("store", self._store),
                ("expunge", self._expunge),
                ("move", self._move),
                ("replace", self._replace),
                ("read", self._read),
                ("search", self._search),
            ]
            if len(self.mirror.by_number) > CROWDED:
                operations += [("expunge", self._expunge), ("move", self._move)]
            else:
                operations += [("append", self._append), ("copy", self._copy)]
        return operations

    def _fill_in(self) -> None:
        """Ask for what the server need not tell: UIDs of what this client itself added."""
        for number, uid in enumerate(self.mirror.by_number, 1):
            if uid is None:
                self.mirror.run(f"FETCH {number}:* (UID FLAGS)")
                return

    def _numbers(self, most: int = 5) -> list[int]:
        everything = range(1, len(self.mirror.by_number) + 1)
        return sorted(self.random.sample(everything, min(self.random.randint(1, most), len(everything))))

    def _which(self, most: int = 5) -> tuple[str, str, list[int]]:
        """A set of messages: "UID " or "", its text, and the UIDs."""
        numbers = self._numbers(most)
        uids = [uid for uid in (self.mirror.by_number[number - 1] for number in numbers) if uid is not None]
        by_uid = self.random.random() < 0.5
        return "UID " if by_uid else "", ",".join(map(str, uids if by_uid else numbers)), uids

    def _tolerant(self, command: str, *literals: bytes) -> Answer:
        """Run what may find that another client was faster."""
        answer = self.mirror.wire.command(command, *literals, nonsync=True)
        assert answer.status == "OK" or answer.code == ["EXPUNGEISSUED"], f"{command}: {answer.tagged}"
        self.mirror.take(answer)
        return answer

    def _message(self) -> tuple[str, bytes]:
        """Flags of a new message, and the message."""
        self.appended += 1
        flags = " ".join(self.random.sample(FLAGS, self.random.randint(0, 2)))
        return f"({flags})", simple(f"client{self.seed}", self.appended)

    def _append(self) -> None:
        flags, message = self._message()
        several = [part for _ in range(self.random.choice([0, 0, 0, 1, 3])) for part in self._message()]
        name = self.random.choice(MAILBOXES)
        parts = [f" {part}" if isinstance(part, str) else part for part in several]
        self.mirror.take(self.mirror.wire.ok(f"APPEND {name} {flags}", message, *parts, nonsync=True))

    def _replace(self) -> None:
        uid, which, _ = self._which(1)
        flags, message = self._message()
        self._tolerant(f"{uid}REPLACE {which} {self.random.choice(MAILBOXES)} {flags}", message)

    def _noop(self) -> None:
        self.mirror.run(self.random.choice(["NOOP", "CHECK", "STATUS other (MESSAGES)"]))
        if self.random.random() < 0.3:
            assert None not in self.mirror.by_number, "a UID was not told with a new message"
        if self.qresync and None not in self.mirror.by_number:
            self.remembered = [*self.remembered[-REMEMBERED + 1 :], self.mirror.remember()]

    def _idle(self) -> None:
        tag = self.mirror.wire.idle()
        self.mirror.take(self.mirror.wire.done(tag))

    def _reopen(self) -> None:
        self.mirror.wire.ok("UNSELECT")
        if self.qresync and self.random.random() < 0.7:
            self.mirror.reopen()
        else:
            self.mirror.select(self.random.choice(MAILBOXES))

    def _reconnect(self) -> None:
        if self.remembered and self.random.random() < 0.7:
            self.mirror.wire.close()
            self.mirror.return_with(self.user.session(enable=self.enabled), self.random.choice(self.remembered))
        elif self.random.random() < 0.3:
            self.mirror.wire.close()
            self._connect()

    def _store(self) -> None:
        uid, which, uids = self._which()
        chosen = self.random.sample(FLAGS, self.random.randint(1, 3))
        sign, silent = self.random.choice(["", "+", "-"]), self.random.choice(["", ".SILENT"])
        if silent:  # the client knows what it did, and is told only what others did
            for known in uids:
                before, change = self.mirror.flags[known], frozenset(flag.lower() for flag in chosen)
                self.mirror.flags[known] = {"": change, "+": before | change, "-": before - change}[sign]
        self._tolerant(f"{uid}STORE {which} {sign}FLAGS{silent} ({' '.join(chosen)})")

    def _expunge(self) -> None:
        uid, which, uids = self._which()
        self._tolerant(f"{uid}STORE {which} +FLAGS (\\Deleted)")
        if self.random.random() < 0.5:
            self.mirror.run("EXPUNGE")
        else:
            self.mirror.run(f"UID EXPUNGE {','.join(map(str, uids))}")

    def _copy(self) -> None:
        uid, which, _ = self._which(3)
        self._tolerant(f"{uid}COPY {which} {self.random.choice(MAILBOXES)}")

    def _move(self) -> None:
        uid, which, _ = self._which(4)
        self._tolerant(f"{uid}MOVE {which} {self.random.choice(MAILBOXES)}")

    def _read(self) -> None:
        uid, which, _ = self._which(2)
        self._tolerant(f"{uid}FETCH {which} (FLAGS {self.random.choice(['BODY[]', 'BODY.PEEK[TEXT]', 'ENVELOPE'])})")

    def _search(self) -> None:
        answer = self.mirror.run("UID SEARCH UNSEEN" if self.random.random() < 0.5 else "UID SEARCH ALL")
        assert answer.numbers() == sorted(set(answer.numbers()))


def run(user: User, clients: int, rounds: Callable[[int], bool], operations: int, seed: int) -> int:
    """Play rounds of so many operations for each client while ``rounds(number)`` says so; gives their number."""
    user.session().ok("CREATE other")
    actors = [Actor(user, seed + number) for number in range(clients)]
    played = 0
    with ThreadPoolExecutor(clients) as pool:
        while rounds(played):
            for done in [pool.submit(actor.work, operations) for actor in actors]:
                done.result()
            for actor in actors:
                actor.check()
            user.forget_closed()
            played += 1
    return played


def until(seconds: float) -> Callable[[int], bool]:
    end = time.monotonic() + seconds
    return lambda _: time.monotonic() < end
