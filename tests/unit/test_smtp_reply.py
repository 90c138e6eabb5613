"""SMTP replies as they go over the wire."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from protocols.smtpreply import Reply

ID = "k3w0uXbqL4oVrJ0m2tXh5g"


def test_a_reply_is_one_line_with_both_codes() -> None:
    assert Reply(250, "2.1.0", "looking good").encode(ID) == b"250 2.1.0 looking good\r\n"
    assert Reply(354, "", "go on").encode(ID) == b"354 go on\r\n"


def test_errors_end_in_the_id_that_leads_to_the_log() -> None:
    assert Reply(550, "5.1.1", "no such user").encode(ID) == f"550 5.1.1 no such user ({ID})\r\n".encode()
    assert Reply(451, "4.3.0", "one\ntwo").encode(ID) == f"451-4.3.0 one\r\n451 4.3.0 two ({ID})\r\n".encode()


def test_a_long_text_wraps_at_a_space_after_400_bytes() -> None:
    lines = Reply(550, "5.7.0", "word " * 200).encode(ID).decode().split("\r\n")[:-1]
    assert len(lines) > 1
    assert all(line.startswith("550-5.7.0 ") for line in lines[:-1])
    assert lines[-1].startswith("550 5.7.0 ")
    assert all(400 < len(line) <= 510 for line in lines[:-1])
    assert all(line.endswith("word") for line in lines[:-1])


def test_a_text_without_spaces_is_cut() -> None:
    lines = Reply(550, "5.7.0", "x" * 1200).encode().decode().split("\r\n")[:-1]
    assert "".join(line[10:] for line in lines) == "x" * 1200
    assert max(map(len, lines)) == 510


def test_what_is_not_printable_ascii_cannot_break_a_line() -> None:
    reply = Reply(550, "5.1.1", "no <é\r\x00\x1b@b.example>").encode()
    assert reply == b"550 5.1.1 no <\\xe9???@b.example>\r\n"


@given(st.text(max_size=3000), st.sampled_from([250, 451, 550]))
def test_every_reply_is_well_formed(text: str, code: int) -> None:
    wire = Reply(code, f"{code // 100}.0.0", text).encode(ID)
    lines = wire.split(b"\r\n")
    assert lines.pop() == b""
    assert all(len(line) <= 510 and re.fullmatch(rb"\d{3}[- ]\d\.0\.0 [\t -~]*", line) for line in lines)
    assert [line[3:4] for line in lines] == [b"-"] * (len(lines) - 1) + [b" "]
