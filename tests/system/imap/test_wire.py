"""The tests' own client and transcript runner refuse what is no IMAP: a lenient one would let the server get away."""

from __future__ import annotations

import pytest

from tests.system.imap.mirror import Mirror, ranges
from tests.system.imap.transcript import matches
from tests.system.imap.wire import BadResponse, Literal8, Wire, expand, parse


@pytest.mark.parametrize(
    "line",
    [
        b"* OK no line end",
        b"* OK bare line feed\n",
        b"* OK [UNCLOSED text\r\n",
        b"* OK [ALERT]\r\n",
        b"a1 FETCH ()\r\n",
        b"* 0 FETCH (UID 1)\r\n",
        b"* 1 FETCH (UID 1\r\n",
        b"* 1 FETCH (UID)\r\n",
        b"* 1 FETCH (UID 1) x\r\n",
        b"* 1 FETCH (UID  1)\r\n",
        b'* LIST () "/" "\xc3\xa4"\r\n',
        b'* LIST () "/" "a\\b"\r\n',
        b'* LIST () "/" a b(\r\n',
        b"* 1 FETCH (BODY[] {3}\r\na\0b)\r\n",
        b"* 5 UNHEARD\r\n",
    ],
)
def test_it_refuses_what_the_grammar_does_not_have(line: bytes) -> None:
    with pytest.raises(BadResponse):
        parse(line)


def test_it_reads_values() -> None:
    line = (
        b"* 12 FETCH (UID 5 FLAGS (\\Seen) BODY[1.MIME]<0> {2}\r\n"
        b'x" BINARY[2] ~{3}\r\na\0b ENVELOPE (NIL "q\\"" ()))\r\n'
    )
    response = parse(line)
    assert (response.name, response.number) == ("FETCH", 12)
    assert response.items == {
        "UID": "5",
        "FLAGS": ["\\Seen"],
        "BODY[1.MIME]<0>": b'x"',
        "BINARY[2]": Literal8(b"a\0b"),
        "ENVELOPE": [None, b'q"', []],
    }
    code = parse(b"* OK [PERMANENTFLAGS (\\Seen \\*)] flags\r\n").code
    assert code == ["PERMANENTFLAGS", ["\\Seen", "\\*"]]
    assert expand("4,7:5,1:2") == [4, 7, 6, 5, 1, 2]
    assert ranges([1, 2, 3, 5, 7, 8]) == "1:3,5,7:8"


@pytest.mark.parametrize(
    ("pattern", "line", "equal"),
    [
        ("* 3 EXISTS", b"* 3 EXISTS\r\n", True),
        ("* 3 EXISTS", b"* 4 EXISTS\r\n", False),
        ("* <> EXISTS", b"* 4 EXISTS\r\n", True),
        ("* SEARCH 1 2", b"* SEARCH 1 2\r\n", True),
        ("* SEARCH 1", b"* SEARCH 1 2\r\n", False),
        ("* SEARCH", b"* SEARCH\r\n", True),
        ("* SEARCH", b"* SEARCH 1\r\n", False),
        ("* 1 FETCH (FLAGS {\\Seen a})", b"* 1 FETCH (UID 9 FLAGS (A \\Seen))\r\n", True),
        ("* 1 FETCH (FLAGS {\\Seen})", b"* 1 FETCH (UID 9 FLAGS (a \\Seen))\r\n", False),
        ("* 1 FETCH (FLAGS {\\Seen ...})", b"* 1 FETCH (UID 9 FLAGS (a \\Seen))\r\n", True),
        ("* 1 FETCH (FLAGS ())", b"* 1 FETCH (FLAGS () MODSEQ (4))\r\n", False),
        ('* 1 FETCH (BODY[] "a\\r\\n")', b"* 1 FETCH (BODY[] {3}\r\na\r\n)\r\n", True),
        ("* 1 FETCH (BODY[9] NIL)", b'* 1 FETCH (BODY[9] "NIL")\r\n', False),
        ('* LIST () "/" Box', b'* LIST () "/" "box"\r\n', False),
        ("OK [COPYUID 5 1:2 3:4]", b"a1 OK [COPYUID 5 1,2 3:4] done\r\n", True),
        ("OK [COPYUID 5 1:2 3:4]", b"a1 OK [COPYUID 5 1:2 4:3] done\r\n", False),
        ("OK [-]", b"a1 OK [ALERT] done\r\n", False),
        ("OK", b"a1 OK [ALERT] done\r\n", True),
        ("NO", b"a1 OK done\r\n", False),
    ],
)
def test_patterns_match_what_they_say(pattern: str, line: bytes, equal: bool) -> None:
    assert matches(pattern, parse(line), {}) is equal


def test_a_mirror_refuses_what_cannot_be() -> None:
    mirror = Mirror(Wire.__new__(Wire))
    mirror.told(parse(b"* 2 EXISTS\r\n"))
    mirror.told(parse(b"* 1 FETCH (UID 5 FLAGS (\\Seen))\r\n"))
    for line in (
        b"* 1 EXISTS\r\n",
        b"* 3 EXPUNGE\r\n",
        b"* 3 FETCH (UID 9 FLAGS ())\r\n",
        b"* 1 FETCH (UID 6 FLAGS ())\r\n",
        b"* 2 FETCH (UID 5 FLAGS ())\r\n",
        b"* VANISHED 7\r\n",
    ):
        with pytest.raises(AssertionError):
            mirror.told(parse(line))
    mirror.told(parse(b"* 1 EXPUNGE\r\n"))
    mirror.told(parse(b"* 1 FETCH (UID 8 FLAGS ())\r\n"))
    assert mirror.state() == {8: frozenset()}
