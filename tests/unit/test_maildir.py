"""Names of files in a Maildir, and the file that names keywords."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from protocols import maildir

RECEIVED = datetime(2024, 3, 5, 10, 11, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("name", "words", "letters"),
    [
        ("1709633472.M1P2.host,S=10,W=11:2,FS", {"\\Flagged", "\\Seen"}, ""),
        ("1709633472.1.host:2,DRTPbza", {"\\Draft", "\\Answered", "\\Deleted"}, "abz"),
        ("1709633472.1.host", set(), ""),
        ("1709633472.1.host:1,FS", set(), ""),
        ("1709633472.1.host:2,S,FF", {"\\Seen"}, ""),
    ],
)
def test_names_tell_time_and_flags(name: str, words: set[str], letters: str) -> None:
    parsed = maildir.parse_name(name)
    assert parsed.received == RECEIVED
    assert set(parsed.words) == words
    assert parsed.letters == letters


@pytest.mark.parametrize("name", ["", "a:2,S", "0.x", "99999999999999999.a", "999999999999.a", "-1.a", "١٢.a"])
def test_a_name_without_a_time_has_none(name: str) -> None:
    assert maildir.parse_name(name).received is None


def test_names_are_read_as_they_are_written() -> None:
    name = maildir.format_name(RECEIVED, "17.mox", ["\\Seen", "\\Flagged", "$Junk"], "ca")
    assert name == "1709633472.17.mox:2,FSac"
    assert maildir.parse_name(name) == maildir.MaildirName("1709633472.17.mox", RECEIVED, ("\\Flagged", "\\Seen"), "ac")


def test_keywords_have_letters() -> None:
    text = "0 $Forwarded\n1 todo\n25 last\n26 toomany\nx y\n\n3\n"
    words, bad = maildir.parse_keywords(text)
    assert words == {"a": "$Forwarded", "b": "todo", "z": "last"}
    assert bad == ["26 toomany", "x y", "3"]
    assert maildir.parse_keywords(maildir.format_keywords(words)) == (words, [])
