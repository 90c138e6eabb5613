"""Message ids and base subjects: what threads are made of (RFC 5322 3.6.4, RFC 5256 2.1)."""

from __future__ import annotations

import pytest

from protocols.message import message_id_canonical, referenced_ids, thread_subject


@pytest.mark.parametrize(
    ("subject", "base", "is_response"),
    [
        ("Hello", "hello", False),
        ("Re: Hello", "hello", True),
        ("RE:Hello", "hello", True),
        ("Re : Re: FW: Fwd: Hello", "hello", True),
        ("Re[2]: Hello", "hello", True),
        ("[list] Hello", "hello", False),
        ("[list] Re: [list] Hello", "hello", True),
        ("Re: [list] Hello (fwd)", "hello", True),
        ("Hello (fwd) (FWD) ", "hello", True),
        ("[Fwd: Hello]", "hello", True),
        ("[fwd: Re: [list] Hello (fwd)]", "hello", True),
        ("[list]", "[list]", False),
        ("[list] [other]", "[other]", False),
        ("Re:", "", True),
        ("Regarding: Hello", "regarding: hello", False),
        ("Re Hello", "re hello", False),
        ("a\t b\r\n  c", "a b c", False),
        ("[a[b] Hello", "[a[b] hello", False),
        ("", "", False),
    ],
)
def test_it_finds_the_base_subject(subject: str, base: str, is_response: bool) -> None:
    found = thread_subject(subject)
    assert (found.base, found.is_response) == (base, is_response)


@pytest.mark.parametrize(
    ("field", "value", "raw"),
    [
        ("<1@Example.org>", "1@example.org", False),
        (" <1@example.org> (comment)", "1@example.org", False),
        ('<"a.b"@example.org>', "a.b@example.org", False),
        ('<"a b"@example.org>', '"a b"@example.org', False),
        ("<1234   @   local  .machine .example>", "1234@local.machine.example", False),
        ("<no-at-sign>", "no-at-sign", True),
        ("<@example.org>", "@example.org", True),
        ("<1@>", "1@", True),
        ("1@example.org", "", False),
        ("<1@example.org", "", False),
        ("<>", "", False),
        ("", "", False),
    ],
)
def test_it_compares_message_ids(field: str, value: str, raw: bool) -> None:
    found = message_id_canonical(field)
    assert (found.value, found.raw) == (value, raw)


@pytest.mark.parametrize(
    ("references", "in_reply_to", "ids"),
    [
        ("<1@a> <2@b>", "<3@c>", ["1@a", "2@b"]),
        ("", "<3@c>", ["3@c"]),
        ("<broken", "<3@c> from Jan", ["3@c"]),
        ("<1@a><2@b>,<1@A>", "", ["1@a", "2@b"]),
        ("<1@a> <2@ b> <cut@off", "", ["1@a", "2@b"]),
        ("<no-at> <1@a>", "", ["1@a"]),
        ("", "", []),
    ],
)
def test_it_finds_what_is_referred_to(references: str, in_reply_to: str, ids: list[str]) -> None:
    assert referenced_ids(references, in_reply_to) == ids


def test_of_too_many_ids_the_last_are_kept() -> None:
    ids = referenced_ids(" ".join(f"<{number}@a>" for number in range(1500)))
    assert (len(ids), ids[-1]) == (1000, "1499@a")
