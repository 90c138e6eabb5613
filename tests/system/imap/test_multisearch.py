"""ESEARCH: one search over many mailboxes (RFC 7377)."""

from __future__ import annotations

import pytest

from tests.system.imap.conftest import User
from tests.system.imap.transcript import simple
from tests.system.imap.wire import Answer, Wire

pytestmark = pytest.mark.database


@pytest.fixture
def wire(imap_user: User) -> Wire:
    """A session without a selected mailbox; messages 1 to 4 in Inbox, 2 and 4 in a/b, 4 in z."""
    wire = imap_user.session()
    for name in ("a/b", "z"):
        wire.ok(f"CREATE {name}")
    for number in range(1, 5):
        flags = "(\\Flagged)" if number == 4 else "()"
        wire.ok(f"APPEND Inbox {flags}", simple("mail", number), nonsync=True)
    wire.ok("SELECT Inbox")
    wire.ok("COPY 2,4 a/b")
    wire.ok("COPY 4 z")
    wire.ok("UNSELECT")
    return wire


def found(answer: Answer) -> list[tuple[str, str]]:
    """Mailboxes with what was returned of each."""
    results = []
    for response in answer.named("ESEARCH"):
        correlators = dict(zip(response.data[0][::2], response.data[0][1::2], strict=True))
        assert set(correlators) == {"TAG", "MAILBOX", "UIDVALIDITY"}
        assert int(correlators["UIDVALIDITY"]) > 0
        assert response.data[1] == "UID"
        results.append((str(correlators["MAILBOX"]), " ".join(response.data[2:])))
    return results


def test_results_are_those_of_mailboxes_with_matches_sorted_by_name(wire: Wire) -> None:
    assert found(wire.ok("ESEARCH IN (PERSONAL) FLAGGED")) == [
        ("Inbox", "ALL 4"),
        ("a/b", "ALL 2"),
        ("z", "ALL 1"),
    ]
    assert found(wire.ok("ESEARCH IN (MAILBOXES (a/b z nowhere) INBOXES) RETURN (MIN COUNT) SUBJECT mail")) == [
        ("Inbox", "MIN 1 COUNT 4"),
        ("a/b", "MIN 1 COUNT 2"),
        ("z", "MIN 1 COUNT 1"),
    ]
    assert found(wire.ok("ESEARCH IN (SUBTREE-ONE a) RETURN (MAX) ALL")) == [("a/b", "MAX 2")]
    assert wire.ok("ESEARCH IN (SUBTREE a) RETURN (COUNT) DELETED").untagged == []
    # Numbers are those of each mailbox, and may be beyond its end.
    assert found(wire.ok("ESEARCH IN (MAILBOXES Inbox SUBTREE a) 2:3")) == [("Inbox", "ALL 2:3"), ("a/b", "ALL 2")]


def test_the_selected_mailbox_is_meant_where_none_is_named(wire: Wire, imap_user: User) -> None:
    wire.bad("ESEARCH ALL")
    wire.bad("ESEARCH IN (SELECTED SUBTREE a) ALL")
    wire.ok("SELECT a/b")
    assert found(wire.ok("ESEARCH ALL")) == [("a/b", "ALL 1:2")]
    assert found(wire.ok("ESEARCH IN (SELECTED MAILBOXES z) RETURN (COUNT) ALL")) == [
        ("a/b", "COUNT 2"),
        ("z", "COUNT 1"),
    ]
    assert wire.ok("ESEARCH RETURN (SAVE) FLAGGED").untagged == []
    assert found(wire.ok("ESEARCH $")) == [("a/b", "ALL 2")]
    wire.bad("ESEARCH IN (MAILBOXES z) RETURN (SAVE) ALL")
    # It neither selects nor changes anything.
    assert wire.ok("FETCH 1:2 UID").numbers() == []
    wire.ok("ENABLE UIDONLY")
    wire.bad("ESEARCH IN (PERSONAL) 1", code="UIDREQUIRED")
    assert found(wire.ok("ESEARCH IN (PERSONAL) UID 2")) == [("Inbox", "ALL 2"), ("a/b", "ALL 2")]


def test_modification_sequences_and_charsets(wire: Wire) -> None:
    (mailbox, result) = found(wire.ok("ESEARCH IN (MAILBOXES z) MODSEQ 1"))[0]
    assert (mailbox, result.partition(" MODSEQ ")[0]) == ("z", "ALL 1")
    assert int(result.partition(" MODSEQ ")[2]) > 1
    wire.no("ESEARCH IN (PERSONAL) CHARSET KOI8-R SUBJECT x", code="BADCHARSET")


def test_wrong_commands_are_refused(wire: Wire) -> None:
    for command in (
        "ESEARCH",
        "ESEARCH IN (PERSONAL)",
        "ESEARCH IN () ALL",
        "ESEARCH IN (NOWHERE) ALL",
        "ESEARCH IN (SELECTED-DELAYED) ALL",
        "ESEARCH IN (SUBTREE) ALL",
        "ESEARCH IN (PERSONAL (option)) ALL",
        "ESEARCH IN (PERSONAL) RETURN (SOME) ALL",
    ):
        wire.bad(command)
