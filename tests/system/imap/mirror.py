"""What a client knows of its selected mailbox, kept only by what the server tells it (RFC 9051 7.5, RFC 7162)."""

from __future__ import annotations

from dataclasses import dataclass

from tests.system.imap.wire import Answer, Response, Wire, expand


@dataclass(frozen=True, slots=True)
class Remembered:
    """What a client knew of a mailbox at one time, and would keep on its disk."""

    name: str
    uidvalidity: int
    modseq: int
    uids: tuple[int, ...]
    flags: dict[int, frozenset[str]]


class Mirror:
    """Sequence numbers, flags and modseqs of a mailbox; AssertionError when the server tells what cannot be.

    ``by_number`` are the UIDs in order, None where a message is known to exist and its UID has not been told.
    """

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.name = ""
        self.uidvalidity = 0
        self.modseq = 0  # HIGHESTMODSEQ as told: the state after all that was told up to here
        self.by_number: list[int | None] = []
        self.flags: dict[int, frozenset[str]] = {}

    @property
    def uids(self) -> list[int]:
        return [uid for uid in self.by_number if uid is not None]

    def state(self) -> dict[int, frozenset[str]]:
        """Flags by UID, of all messages."""
        assert None not in self.by_number, f"{self.name}: UIDs that were never told"
        return {uid: self.flags[uid] for uid in self.uids}

    def remember(self) -> Remembered:
        return Remembered(self.name, self.uidvalidity, self.modseq, tuple(self.uids), dict(self.flags))

    # Commands that change what is known.

    def return_with(self, wire: Wire, known: Remembered) -> None:
        """Come back on another connection, some time after this was known, and hear by QRESYNC what happened since."""
        self.wire, self.name = wire, known.name
        self.uidvalidity, self.modseq = known.uidvalidity, known.modseq
        self.by_number, self.flags = list(known.uids), dict(known.flags)
        self.reopen()

    def select(self, name: str) -> None:
        """Open a mailbox and read all of it."""
        self.name = name
        self.by_number, self.flags, self.modseq = [], {}, 0
        self.take_select(self.wire.ok(f"SELECT {name}"))
        self.refetch()

    def refetch(self) -> None:
        if self.by_number:
            self.take(self.wire.ok("UID FETCH 1:* (UID FLAGS)"))

    def reopen(self) -> None:
        """Open it again by QRESYNC: only what changed is told."""
        known = f" {ranges(self.uids)}" if self.uids else ""
        before = dict(self.flags)
        answer = self.wire.ok(f"SELECT {self.name} (QRESYNC ({self.uidvalidity} {self.modseq}{known}))")
        if uidvalidity(answer) != self.uidvalidity:
            self.select(self.name)
            return
        gone: set[int] = set()
        for response in answer.named("VANISHED"):
            assert response.data[0] == ["EARLIER"], response
            gone |= set(expand(response.data[1]))
        kept = [uid for uid in self.uids if uid not in gone]
        told = {int(r.items["UID"]): r for r in answer.named("FETCH")}
        uids = sorted({*kept, *told})
        exists = answer.one("EXISTS").number
        # New messages are not in the known UIDs, so they are not told by SELECT: a client fetches from there on.
        self.by_number = [*uids]
        self.flags = {uid: before[uid] for uid in kept}
        for uid, response in told.items():
            self.flags[uid] = flags_of(response)
        # By number: during FETCH, unlike UID FETCH, nothing that happened since is told.
        fresh = self.wire.ok(f"FETCH {len(uids) + 1}:* (UID FLAGS)") if exists != len(uids) else None
        if fresh is not None:
            for response in fresh.named("FETCH"):
                uid = int(response.items["UID"])
                if uid not in self.flags:
                    self.by_number.append(uid)
                self.flags[uid] = flags_of(response)
        assert exists == len(self.by_number), f"{self.name}: {exists} messages, resynchronised to {len(self.by_number)}"
        for number, response in enumerate_numbers(answer):
            assert self.by_number[number - 1] == int(response.items["UID"]), response
        self.take_select(answer, counted=False)

    def take_select(self, answer: Answer, *, counted: bool = True) -> None:
        self.uidvalidity = uidvalidity(answer)
        modseq = answer.status_code("HIGHESTMODSEQ")
        self.modseq = int(modseq[0]) if modseq else 0
        if counted:
            self.by_number = [None] * (answer.one("EXISTS").number or 0)

    # What the server tells.

    def run(self, command: str) -> Answer:
        answer = self.wire.ok(command)
        self.take(answer)
        return answer

    def take(self, answer: Answer) -> None:
        for response in answer.untagged:
            self.told(response)
        modseq = answer.status_code("HIGHESTMODSEQ")
        if modseq:
            self.modseq = max(self.modseq, int(modseq[0]))

    def told(self, response: Response) -> None:
        match response.name:
            case "EXISTS":
                assert response.number is not None
                assert response.number >= len(self.by_number), f"{response}, but {len(self.by_number)} were known"
                self.by_number += [None] * (response.number - len(self.by_number))
            case "EXPUNGE":
                assert response.number is not None
                assert 1 <= response.number <= len(self.by_number), f"{response} of {len(self.by_number)}"
                uid = self.by_number.pop(response.number - 1)
                if uid is not None:
                    self.flags.pop(uid, None)
            case "VANISHED" if response.data[0] != ["EARLIER"]:
                for uid in expand(response.data[0]):
                    assert uid in self.by_number, f"{uid} vanished, but was not known"
                    self.by_number.remove(uid)
                    self.flags.pop(uid, None)
            case "FETCH":
                self._fetched(response)

    def _fetched(self, response: Response) -> None:
        number = response.number
        assert number is not None
        assert 1 <= number <= len(self.by_number), f"{response}, but there are {len(self.by_number)}"
        uid = int(response.items["UID"])
        known = self.by_number[number - 1]
        assert known in (None, uid), f"{response}, but number {number} is UID {known}"
        before = next((u for u in reversed(self.by_number[: number - 1]) if u is not None), 0)
        assert before < uid, f"{response} after UID {before}"
        self.by_number[number - 1] = uid
        if "FLAGS" in response.items:
            self.flags[uid] = flags_of(response)
        if "MODSEQ" in response.items:
            assert int(response.items["MODSEQ"][0]) > 0, response


class UidMirror:
    """The same for a session with UIDONLY: UIDs with flags, and how many messages there are (RFC 9586)."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.count = 0
        self.flags: dict[int, frozenset[str]] = {}

    def select(self, name: str) -> None:
        self.count, self.flags = 0, {}
        self.run(f"SELECT {name}")
        self.run("UID FETCH 1:* FLAGS")

    def run(self, command: str) -> Answer:
        answer = self.wire.ok(command)
        for response in answer.untagged:
            self.told(response)
        return answer

    def state(self) -> dict[int, frozenset[str]]:
        assert self.count == len(self.flags), f"{self.count} messages, {len(self.flags)} of which were told"
        return self.flags

    def told(self, response: Response) -> None:
        assert response.name not in ("FETCH", "EXPUNGE"), response
        match response.name:
            case "EXISTS":
                assert response.number is not None
                assert response.number >= self.count, f"{response}, but {self.count} were known"
                self.count = response.number
            case "VANISHED":
                for uid in expand(response.data[0]):
                    self.flags.pop(uid, None)  # its own new messages are told by EXISTS alone
                    self.count -= 1
            case "UIDFETCH":
                assert response.number is not None
                assert int(response.items.get("UID", response.number)) == response.number, response
                if "FLAGS" in response.items:
                    self.flags[response.number] = flags_of(response)


def enumerate_numbers(answer: Answer) -> list[tuple[int, Response]]:
    return [(response.number, response) for response in answer.named("FETCH") if response.number is not None]


def flags_of(response: Response) -> frozenset[str]:
    return frozenset(str(flag).lower() for flag in response.items["FLAGS"])


def uidvalidity(answer: Answer) -> int:
    value = answer.status_code("UIDVALIDITY")
    assert value, "no UIDVALIDITY"
    return int(value[0])


def ranges(numbers: list[int]) -> str:
    """A sequence set of ascending numbers."""
    pieces: list[list[int]] = []
    for number in numbers:
        if pieces and number == pieces[-1][1] + 1:
            pieces[-1][1] = number
        else:
            pieces.append([number, number])
    return ",".join(f"{first}:{last}" if last > first else f"{first}" for first, last in pieces)
