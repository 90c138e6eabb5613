"""Whatever comes over the wire is an answer or a DNSError, soon; whatever is looked up is a name or an error."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

import dns.flags
import dns.message
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from protocols.dns import EDE, Answer, DNSError, ErrorKind, MockResolver
from protocols.dns.lookups import MAX_LABEL, MAX_NAME, format_name, parse_name
from protocols.dns.stub import StubResolver
from tests.unit.name_server import Reply, answer, serving

TIMEOUT = 0.02  # seconds: what is not taken for an answer is waited out

RECORDS = {
    "txt": ("a.example. 300 IN CNAME example.org.", 'example.org. 300 IN TXT "some" "text"'),
    "mx": ("a.example. 300 IN MX 10 mail.example.org.", "a.example. 300 IN MX 20 ."),
    "tlsa": (f"a.example. 300 IN TLSA 3 1 1 {'ab' * 32}",),
    "srv": ("a.example. 300 IN SRV 1 2 3 imap.example.org.",),
    "soa": ("a.example. 300 IN SOA ns.example. admin.example. 1 2 3 4 5",),
    "aaaa": ("a.example. 300 IN AAAA 2001:db8::1",),
}


def lookup(reply: Callable[[dns.message.Message, bool], Reply], rtype: str) -> Answer[object] | DNSError:
    """What comes of a lookup that this is the answer to."""

    async def main() -> Answer[object] | DNSError:
        async with serving(reply) as server:
            resolver = StubResolver([server.address], timeout=TIMEOUT)
            try:
                result: Answer[object] = await getattr(resolver, rtype)("a.example.")
            except DNSError as error:
                return error
            return result

    return asyncio.run(main())


def check(result: Answer[object] | DNSError) -> None:
    if isinstance(result, DNSError):
        assert result.kind is not ErrorKind.INVALID
        assert str(result).isascii()
        assert str(result).isprintable()
    else:
        assert result.records
        assert 0 <= result.ttl <= 3600
        assert parse_name(result.canonical, "test")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(sorted(RECORDS)),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4),
    st.integers(0, 400) | st.none(),
    st.binary(max_size=40),
    st.booleans(),
)
def test_an_answer_with_wrong_octets_is_an_answer_or_an_error(
    rtype: str, changes: list[tuple[int, int]], cut: int | None, tail: bytes, over_tcp: bool
) -> None:
    def reply(query: dns.message.Message, is_tcp: bool) -> Reply:
        response = answer(query, *RECORDS[rtype], ede=((6, "broken"),), ad=True)
        if over_tcp and not is_tcp:
            response.flags |= dns.flags.TC
            return response
        wire = bytearray(response.to_wire())
        for position, octet in changes:
            if 2 <= position < len(wire):  # with another id it is not looked at
                wire[position] = octet
        return bytes(wire[:cut]) + tail

    check(lookup(reply, rtype))


@settings(max_examples=20, deadline=None)
@given(st.binary(max_size=200))
def test_what_is_no_message_is_no_answer(wire: bytes) -> None:
    result = lookup(lambda query, is_tcp: query.id.to_bytes(2, "big") + wire, "txt")
    assert isinstance(result, DNSError)
    check(result)


def truncated(long: Callable[[dns.message.Message], bytes]) -> Callable[[dns.message.Message, bool], Reply]:
    def reply(query: dns.message.Message, is_tcp: bool) -> Reply:
        if is_tcp:
            return long(query)
        response = answer(query)
        response.flags |= dns.flags.TC
        return response

    return reply


def many_records(query: dns.message.Message) -> bytes:
    """As many addresses as a message has room for: 16 octets each, and 2 for the name."""
    wire = bytearray(answer(query).to_wire())
    wire[6:8] = (4000).to_bytes(2, "big")
    wire[10:12] = b"\0\0"  # no additional records
    wire = wire[: 12 + len(b"\1a\7example\0") + 4]
    for number in range(4000):
        wire += b"\xc0\x0c" + b"\0\1" + b"\0\1" + b"\0\0\1\0" + b"\0\4" + number.to_bytes(4, "big")
    return bytes(wire)


def pointers_to_pointers(query: dns.message.Message) -> bytes:
    """Names compressed to pointers that point to pointers: as many steps as dnspython takes."""
    wire = bytearray(answer(query).to_wire())
    wire[6:8] = (800).to_bytes(2, "big")
    wire[10:12] = b"\0\0"
    wire = wire[: 12 + len(b"\1a\7example\0") + 4]
    for number in range(800):
        target = 12 if number % 15 == 0 else len(wire) - 4  # the target of the record before
        wire += b"\xc0\x0c" + b"\0\x0f" + b"\0\1" + b"\0\0\1\0" + b"\0\6" + number.to_bytes(2, "big")
        wire += b"\1x" + (0xC000 | target).to_bytes(2, "big")
    return bytes(wire)


@pytest.mark.parametrize(("long", "rtype", "count"), [(many_records, "a", 4000), (pointers_to_pointers, "mx", 800)])
def test_the_longest_answers_take_less_than_a_second(
    long: Callable[[dns.message.Message], bytes], rtype: str, count: int
) -> None:
    async def main() -> float:
        async with serving(truncated(long)) as server:
            start = time.process_time()
            found = await getattr(StubResolver([server.address]), rtype)("a.example.")
            assert len(found.records) == count
            return time.process_time() - start

    assert asyncio.run(main()) < 1


@given(st.text(max_size=300) | st.text("ab.\\0129*_-", max_size=300))
def test_any_text_is_a_name_or_invalid(text: str) -> None:
    labels: tuple[bytes, ...] = ()
    problem = None
    try:
        labels = parse_name(text, "txt")
    except DNSError as error:
        problem = error
    if problem:
        assert problem.kind is ErrorKind.INVALID
        assert str(problem).isascii()
        assert str(problem).isprintable()
    else:
        assert sum(len(label) + 1 for label in labels) <= MAX_NAME
        assert parse_name(format_name(labels), "txt") == labels


@given(st.lists(st.binary(min_size=1, max_size=MAX_LABEL), max_size=3))
def test_any_labels_have_a_form_that_reads_back(labels: list[bytes]) -> None:
    name = (*(label.lower() for label in labels), b"")
    text = format_name(name)
    assert text.isascii()
    assert text.isprintable()
    assert parse_name(text, "ptr") == name


@given(st.text(max_size=50), st.integers(0, 65535))
def test_what_a_server_says_is_shown_in_one_line_of_ascii(text: str, code: int) -> None:
    error = DNSError(ErrorKind.TEMPORARY, text, "a", text, ede=(EDE(code, text),), server="192.0.2.53:53")
    assert str(error).isascii()
    assert str(error).isprintable()


@example(".", "")
@given(st.text(max_size=30), st.text(max_size=30))
def test_any_records_are_taken_by_the_mock_or_refused(key: str, value: str) -> None:
    for full in (key, f"mx {key}", f"a {key}", f"tlsa {key}.", f"soa {key}.", f"ptr {key}"):
        with contextlib.suppress(ValueError):
            MockResolver({full: [value]})
