"""NOTIFY: events that a client asked for come at any time, and no others (RFC 5465)."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.system.imap.conftest import User
from tests.system.imap.mirror import Mirror, UidMirror
from tests.system.imap.transcript import simple
from tests.system.imap.wire import Response, Wire

pytestmark = pytest.mark.database

ALL = "(MessageNew MessageExpunge FlagChange)"


@pytest.fixture
def actor(imap_user: User) -> Wire:
    """Another session; Inbox has three messages."""
    wire = imap_user.session()
    for number in range(1, 4):
        wire.ok("APPEND Inbox", simple("mail", number), nonsync=True)
    wire.ok("SELECT Inbox")
    return wire


def told(wire: Wire, count: int) -> list[str]:
    """So many responses that come without a command."""
    return [str(wire.take()) for _ in range(count)]


# The selected mailbox.


def test_events_of_the_selected_mailbox_come_without_a_command(imap_user: User, actor: Wire) -> None:
    wire = imap_user.session("Inbox")
    wire.ok(f"NOTIFY SET (SELECTED {ALL})")
    actor.ok("APPEND Inbox (\\Seen)", simple("new", 4))
    assert told(wire, 2) == ["* 4 EXISTS", "* 4 FETCH (UID 4 FLAGS (\\Seen))"]
    actor.ok("STORE 2 +FLAGS.SILENT (\\Deleted)")
    assert told(wire, 1) == ["* 2 FETCH (UID 2 FLAGS (\\Deleted))"]
    actor.ok("EXPUNGE")
    assert told(wire, 1) == ["* 2 EXPUNGE"]
    # Commands work as ever, and what they change themselves is not told.
    assert len(wire.ok("UID STORE 3 +FLAGS (\\Flagged)").untagged) == 1
    wire.ok("COPY 1 Archive")
    assert wire.ok("NOOP").untagged == []
    tag = wire.idle()
    actor.ok("UID STORE 1 +FLAGS.SILENT (\\Draft)")
    assert told(wire, 1) == ["* 1 FETCH (UID 1 FLAGS (\\Draft))"]
    wire.done(tag)


def test_new_messages_are_told_with_the_items_asked_for(imap_user: User, actor: Wire) -> None:
    wire = imap_user.session("Inbox", enable="QRESYNC")
    items = "UID BODY.PEEK[HEADER.FIELDS (Subject)] BODY[TEXT]<0.4>"
    wire.ok(f"NOTIFY SET (SELECTED (MessageNew ({items}) MessageExpunge))")
    actor.ok("APPEND Inbox", simple("new", 4))
    exists, fetch = wire.take(), wire.take()
    assert exists.number == 4
    assert fetch.number == 4
    assert fetch.items["BODY[HEADER.FIELDS (SUBJECT)]"] == b"Subject: new 4\r\n\r\n"
    assert fetch.items["BODY[TEXT]<0>"] == b"Body"
    assert "MODSEQ" in fetch.items
    # Nothing was read by anybody, and changes of flags were not asked for.
    actor.ok("STORE 1 +FLAGS (\\Flagged)")
    actor.ok("APPEND Inbox", simple("new", 5))
    assert [wire.take().name for _ in range(2)] == ["EXISTS", "FETCH"]
    assert wire.ok("FETCH 4:5 FLAGS").by_uid()[4]["FLAGS"] == []


def test_delayed_removals_wait_for_a_command_that_allows_them(imap_user: User, actor: Wire) -> None:
    wire = imap_user.session("Inbox")
    wire.ok(f"NOTIFY SET (SELECTED-DELAYED {ALL})")
    actor.ok("STORE 1 +FLAGS.SILENT (\\Deleted)")
    assert told(wire, 1) == ["* 1 FETCH (UID 1 FLAGS (\\Deleted))"]
    actor.ok("EXPUNGE")
    actor.ok("APPEND Inbox", simple("new", 4))
    assert told(wire, 2) == ["* 4 EXISTS", "* 4 FETCH (UID 4 FLAGS ())"]
    assert list(wire.ok("FETCH 4 FLAGS").by_uid()) == [4]
    assert wire.ok("SEARCH 4").numbers() == [4]
    assert wire.ok("STORE 2 +FLAGS (\\Seen)").one("FETCH").items["UID"] == "2"
    assert [str(r) for r in wire.ok("NOOP").untagged] == ["* 1 EXPUNGE"]
    actor.ok("STORE 1 +FLAGS.SILENT (\\Deleted)")
    told(wire, 1)
    actor.ok("EXPUNGE")
    tag = wire.idle()
    assert told(wire, 1) == ["* 1 EXPUNGE"]
    wire.done(tag)


def test_without_the_selected_mailbox_nothing_of_its_messages_is_told(imap_user: User, actor: Wire) -> None:
    for command in ("NOTIFY NONE", "NOTIFY SET (PERSONAL (MailboxName))", "NOTIFY SET (SELECTED NONE)"):
        for enable in ("", "UIDONLY"):
            wire = imap_user.session(enable=enable)
            mirror: Mirror | UidMirror = UidMirror(wire) if enable else Mirror(wire)
            mirror.select("Inbox")
            before = dict(mirror.state())
            mirror.run(command)
            actor.ok("APPEND Inbox", simple("new", 4))
            actor.ok("STORE 1 +FLAGS.SILENT (\\Deleted)")
            actor.ok("EXPUNGE")
            # Its own changes are told by their own answers only.
            last = max(before)
            assert wire.ok("APPEND Inbox", simple("own", 5)).untagged == []
            mirror.run(f"UID STORE {last} +FLAGS (\\Deleted)")
            mirror.run("EXPUNGE")
            assert set(mirror.state()) == set(before) - {last}
            assert wire.ok("NOOP").untagged == []
            # With NOTIFY SET all that was left out is told at once.
            mirror.run(f"NOTIFY SET (SELECTED {ALL})")
            mirror.run("NOOP")
            actor.ok("NOOP")
            now = set(actor.ok("UID FETCH 1:* FLAGS").by_uid())
            assert set(mirror.state()) == now
            wire.close()


def test_the_watch_goes_with_the_selection(imap_user: User, actor: Wire) -> None:
    wire = imap_user.session("Inbox")
    wire.ok(f"NOTIFY SET (SELECTED {ALL}) (PERSONAL (MessageNew MessageExpunge))")
    actor.ok("COPY 1 Archive")
    (status,) = told(wire, 1)
    assert status.startswith("* STATUS Archive (MESSAGES 1 UIDNEXT 2 UIDVALIDITY ")
    wire.ok("SELECT Archive")
    actor.ok("COPY 2 Archive")
    assert told(wire, 2) == ["* 2 EXISTS", "* 2 FETCH (UID 2 FLAGS ())"]
    actor.ok("APPEND Inbox", simple("new", 4))
    assert told(wire, 1)[0].startswith("* STATUS Inbox (MESSAGES 4 UIDNEXT 5 ")


# Other mailboxes.


def test_status_of_others_says_what_kind_of_change_it_was(imap_user: User, actor: Wire) -> None:
    wire = imap_user.session()
    answer = wire.ok(
        f"NOTIFY SET STATUS (MAILBOXES (inbox nowhere) {ALL}) (SUBTREE Archive (MessageNew MessageExpunge))"
    )
    assert [str(r).partition(" UIDVALIDITY")[0] for r in answer.untagged] == [
        "* STATUS Archive (MESSAGES 0 UIDNEXT 1",
        "* STATUS Inbox (MESSAGES 3 UIDNEXT 4",
    ]
    assert "HIGHESTMODSEQ" in str(answer.untagged[1])
    actor.ok("STORE 1 +FLAGS.SILENT (\\Flagged)")  # no count changes, and CONDSTORE is off: nothing to tell
    actor.ok("STORE 1 +FLAGS.SILENT (\\Seen)")
    assert told(wire, 1)[0].endswith(" UNSEEN 2)")
    actor.ok("STORE 1 +FLAGS.SILENT (\\Deleted)")
    actor.ok("EXPUNGE")
    assert told(wire, 1)[0].startswith("* STATUS Inbox (MESSAGES 2 UIDNEXT 4 ")
    actor.ok("COPY 1 Drafts")  # which nobody asked about
    actor.ok("COPY 1 Archive")
    assert told(wire, 1)[0].startswith("* STATUS Archive (MESSAGES 1 ")
    wire.ok("ENABLE CONDSTORE")
    actor.ok("STORE 1 +FLAGS.SILENT (\\Draft)")
    assert "HIGHESTMODSEQ" in told(wire, 1)[0]
    # What it does itself is no event.
    wire.ok("APPEND Archive", simple("own", 1))
    wire.ok("APPEND Inbox", simple("own", 2))
    assert wire.ok("NOOP").untagged == []


def test_filters_by_name_and_subscription(imap_user: User, actor: Wire) -> None:
    for name in ("a", "a/b", "a/b/c", "Inbox/x", "z"):
        actor.ok(f"CREATE {name}")
    new = "(MessageNew MessageExpunge)"
    expected = {
        "SUBTREE a": {"a", "a/b", "a/b/c"},
        "SUBTREE-ONE (a z)": {"a", "a/b", "z"},
        "MAILBOXES (a a/b/c)": {"a", "a/b/c"},
        "INBOXES": {"Inbox", "Inbox/x"},
        "SUBSCRIBED": {"z"},
        "PERSONAL": {"a", "a/b", "a/b/c", "Inbox", "Inbox/x", "z"},
    }
    for name in ("a", "Inbox", "Archive", "Drafts", "Junk", "Sent", "Trash"):
        actor.ok(f"UNSUBSCRIBE {name}")
    actor.ok("SUBSCRIBE z")
    watchers = {given: imap_user.session() for given in expected}
    for given, wire in watchers.items():
        wire.ok(f"NOTIFY SET ({given} {new})")
    for name in ("a", "a/b", "a/b/c", "Inbox/x", "z"):
        actor.ok(f"COPY 1 {name}")
    actor.ok("APPEND Inbox", simple("last", 9))
    for given, wire in watchers.items():
        heard = {str(response.data[0]) for response in wire.ok("NOOP").untagged}
        assert heard == expected[given], given


def test_names_subscriptions_and_annotations(imap_user: User, actor: Wire) -> None:
    wire = imap_user.session()
    wire.ok(
        "NOTIFY SET (SUBTREE (Lists Other) (MailboxName SubscriptionChange MailboxMetadataChange))"
        " (MAILBOXES Inbox (ServerMetadataChange))"
    )
    actor.ok("CREATE elsewhere")
    actor.ok("CREATE Lists/python")
    assert told(wire, 2) == [
        '* LIST (\\HasChildren) "/" Lists',
        '* LIST (\\HasNoChildren) "/" Lists/python',
    ]
    actor.ok("SUBSCRIBE Lists/python")
    assert told(wire, 1) == ['* LIST (\\Subscribed \\HasNoChildren) "/" Lists/python']
    actor.ok("RENAME Lists Other")
    assert told(wire, 1) == ['* LIST (\\HasChildren) "/" Other ("OLDNAME" (Lists))']
    actor.ok('SETMETADATA Other/python (/private/comment "x")')
    assert told(wire, 1) == ["* METADATA Other/python /private/comment"]
    actor.ok('SETMETADATA "" (/shared/comment "x")')
    assert told(wire, 1) == ['* METADATA "" /shared/comment']
    actor.ok("UNSUBSCRIBE Lists/python")
    assert told(wire, 1) == ['* LIST (\\NonExistent) "/" Lists/python']
    actor.ok("DELETE Other/python")
    assert told(wire, 2) == ['* LIST (\\HasNoChildren) "/" Other', '* LIST (\\NonExistent) "/" Other/python']
    wire.ok("CREATE Other/own")
    assert wire.ok("NOOP").untagged == []


# What is refused.


def test_wrong_commands_are_refused(imap_user: User) -> None:
    wire = imap_user.session()
    answer = wire.no(f"NOTIFY SET (SELECTED {ALL}) (PERSONAL (MessageNew MessageExpunge AnnotationChange))")
    assert answer.code == [
        "BADEVENT",
        [
            "MessageNew",
            "MessageExpunge",
            "FlagChange",
            "MailboxName",
            "SubscriptionChange",
            "MailboxMetadataChange",
            "ServerMetadataChange",
        ],
    ]
    for command in (
        "NOTIFY",
        "NOTIFY SET",
        "NOTIFY NONE x",
        "NOTIFY SET (SELECTED)",
        "NOTIFY SET (SELECTED ())",
        "NOTIFY SET (NOWHERE (MessageNew MessageExpunge))",
        "NOTIFY SET (SELECTED (MessageNew))",
        "NOTIFY SET (PERSONAL (MessageExpunge))",
        "NOTIFY SET (PERSONAL (FlagChange))",
        "NOTIFY SET (PERSONAL (AnnotationChange))",
        "NOTIFY SET (SELECTED (MailboxName))",
        f"NOTIFY SET (SELECTED {ALL}) (SELECTED-DELAYED {ALL})",
        "NOTIFY SET (SUBTREE () (MailboxName))",
        "NOTIFY SET (PERSONAL (MailboxName)))",
    ):
        wire.bad(command)
    assert wire.ok("NOOP").untagged == []


def test_commands_without_measure_are_refused(imap_user: User) -> None:
    imap_user.connect().bad("NOTIFY NONE")
    wire = imap_user.session()
    wire.bad("NOTIFY SET " + " ".join(["(PERSONAL NONE)"] * 101))
    wire.bad("NOTIFY SET (MAILBOXES (" + " ".join(["a"] * 1002) + ") (MailboxName))")
    items = " ".join(f"BODY.PEEK[{number}]" for number in range(1, 300))
    wire.bad(f"NOTIFY SET (SELECTED (MessageNew ({items}) MessageExpunge))")
    wire.bad("NOTIFY SET (PERSONAL (" + " ".join(f"Event{number}" for number in range(200)) + "))")
    # At the limits, with names that are none among them, it is neither slow nor wrong.
    names = " ".join(["inbox", '"a//b"', '"#x"', "&bad-", *(f"box{number}" for number in range(900))])
    wire.ok(f"NOTIFY SET STATUS (SUBTREE ({names}) {ALL})" + f" (MAILBOXES Inbox {ALL})" * 98)
    imap_user.session().ok("APPEND Inbox", simple("mail", 1))
    assert wire.take().name == "STATUS"


def test_commands_in_one_packet_are_answered_in_order(imap_user: User, actor: Wire) -> None:
    wire = imap_user.session()
    wire.send(f"a NOTIFY SET (SELECTED {ALL})\r\nb SELECT Inbox\r\nc UID FETCH 1 FLAGS\r\n".encode())
    assert [wire.answer(tag).status for tag in "abc"] == ["OK"] * 3
    actor.ok("STORE 1 +FLAGS.SILENT (\\Seen)")
    assert told(wire, 1) == ["* 1 FETCH (UID 1 FLAGS (\\Seen))"]
    wire.ok("UNAUTHENTICATE")
    actor.ok("STORE 1 +FLAGS.SILENT (\\Flagged)")
    wire.login(imap_user.address, imap_user.password)
    wire.ok("SELECT Inbox")
    actor.ok("STORE 1 +FLAGS.SILENT (\\Draft)")
    assert [r.name for r in wire.ok("NOOP").untagged] == ["FETCH"], "a new login has asked for nothing yet"


def test_too_many_delayed_removals_end_the_watch(imap_user: User) -> None:
    actor = imap_user.session("Inbox")
    actor.ok("APPEND Inbox", simple("mail", 1))
    for _ in range(11):  # 2048 messages
        actor.ok("UID COPY 1:* Inbox")
    wire = imap_user.session("Inbox")
    wire.ok(f"NOTIFY SET (SELECTED-DELAYED {ALL})")
    actor.ok("UID MOVE 1:1100 Archive")
    assert wire.take().code == ["NOTIFICATIONOVERFLOW"]
    assert wire.ok("NOOP").untagged == []
    answer = wire.ok(f"NOTIFY SET (SELECTED {ALL})")
    assert len(answer.named("EXPUNGE")) == 1100


# Everything at once.


class Watcher:
    """Believes what it is told: messages of the selected mailbox, counts of the others, and which mailboxes exist."""

    def __init__(self, user: User, enable: str, selected: str) -> None:
        self.wire = wire = user.session(enable=enable)
        self.condstore = "CONDSTORE" in enable
        self.selected = selected
        self.mirror: Mirror | UidMirror = UidMirror(wire) if "UIDONLY" in enable else Mirror(wire)
        self.mirror.select(selected)
        self.counts: dict[str, dict[str, str]] = {}
        self.names = {str(r.data[2]) for r in wire.ok('LIST "" *').untagged}
        for response in wire.ok(
            f"NOTIFY SET STATUS (SELECTED {ALL})"
            " (PERSONAL (MessageNew MessageExpunge FlagChange MailboxName SubscriptionChange))"
        ).untagged:
            self.told(response)

    def told(self, response: Response) -> None:
        match response.name:
            case "STATUS":
                name, items = str(response.data[0]), response.data[1]
                self.counts.setdefault(name, {}).update(dict(zip(items[::2], items[1::2], strict=True)))
            case "LIST":
                flags, name = response.data[0], str(response.data[2])
                if len(response.data) > 3:
                    old = str(response.data[3][1][0])
                    self.names = {
                        name + n.removeprefix(old) if f"{n}/".startswith(f"{old}/") else n for n in self.names
                    }
                (self.names.discard if "\\NonExistent" in flags else self.names.add)(name)
            case _:
                self.mirror.told(response)

    def hear_until(self, mailbox: str, messages: int) -> None:
        """Hear what comes by itself, up to the news that a mailbox has so many messages."""
        while self.counts.get(mailbox, {}).get("MESSAGES") != str(messages):
            self.told(self.wire.take())


def changes(actor: Wire, choose: random.Random) -> Iterator[str]:
    """Commands of a session that does as it likes."""
    boxes = ["Inbox", "one", "two/three"]
    for number in range(1000):
        uids = f"{choose.randint(1, 8)}:{choose.randint(1, 30)}"
        flag = choose.choice(["\\Seen", "\\Flagged", "\\Deleted", "todo"])
        yield choose.choice(
            [
                f"UID STORE {uids} +FLAGS.SILENT ({flag})",
                f"UID STORE {uids} -FLAGS.SILENT ({flag})",
                "EXPUNGE",
                f"UID COPY {uids} {choose.choice(boxes)}",
                f"UID MOVE {uids} {choose.choice(boxes)}",
                f"CREATE new{number}",
                f"RENAME new{choose.randint(0, number)} renamed{number}",
                f"DELETE new{choose.randint(0, number)}",
                f"CREATE new{choose.randint(0, number)}/below",
                f"DELETE renamed{choose.randint(0, number)}",
                f"SELECT {choose.choice(boxes)}",
                f"SELECT {choose.choice(boxes)}",
            ]
        )


@pytest.mark.parametrize("seed", range(2))
def test_what_it_was_told_is_what_there_is(imap_user: User, actor: Wire, seed: int) -> None:
    choose = random.Random(seed)
    for name in ("one", "two/three", "zzz"):
        actor.ok(f"CREATE {name}")
    watchers = [
        Watcher(imap_user, enable, name) for enable, name in (("IMAP4rev2", "Inbox"), ("CONDSTORE UIDONLY", "one"))
    ]
    sequence = changes(actor, choose)
    for checkpoint in range(1, 5):
        for _ in range(20):
            command = next(sequence)
            if actor.command(command).status == "OK" and command.startswith("SELECT"):
                actor.ok("APPEND Inbox", simple("mail", 1), nonsync=True)
        actor.ok("APPEND zzz", simple("checkpoint", checkpoint), nonsync=True)
        fresh = imap_user.session()
        names = {str(r.data[2]) for r in fresh.ok('LIST "" *').untagged}
        for watcher in watchers:
            watcher.hear_until("zzz", checkpoint)
            assert watcher.names == names
            for name in names - {watcher.selected}:
                items = (
                    fresh.ok(f"STATUS {name} (MESSAGES UIDNEXT UIDVALIDITY UNSEEN HIGHESTMODSEQ)").one("STATUS").data[1]
                )
                actual = dict(zip(items[::2], items[1::2], strict=True))
                heard = watcher.counts.get(name, {"MESSAGES": "0", "UIDNEXT": "1"})
                if not watcher.condstore:
                    heard.pop("HIGHESTMODSEQ", None)  # told at first only
                assert heard == {item: actual[item] for item in heard}, name
            fresh.ok(f"SELECT {watcher.selected}")
            messages = fresh.ok("UID FETCH 1:* FLAGS").by_uid()
            assert watcher.mirror.state() == {
                uid: frozenset(str(flag).lower() for flag in items["FLAGS"]) for uid, items in messages.items()
            }
        fresh.close()
