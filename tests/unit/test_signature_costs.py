"""What verifying DKIM and ARC costs on hostile mail: in proportion to its size, and never an exception."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols import arc, dkim
from protocols.arc import ArcResult, ArcStatus
from protocols.dkim import (
    Canonicalization,
    DkimError,
    DkimRecord,
    DkimResult,
    DkimStatus,
    Selector,
    Signature,
    generate_ed25519,
    parse_record,
    parse_signature,
    sign,
)
from protocols.dns import MockResolver
from protocols.message import AuthResults
from protocols.names import parse_domain

ED25519: Final = generate_ed25519()
DOMAIN: Final = parse_domain("example.org")
NOW: Final = 1_900_000_000
RELAXED: Final = Selector(parse_domain("s1"), ED25519, header_relaxed=True, body_relaxed=True)
RESOLVER: Final = MockResolver({"txt s1._domainkey.example.org.": [DkimRecord.for_key(ED25519).compose()]})
HEADER: Final = b"From: Jan <jan@example.org>\r\nSubject: dinner\r\n"
MESSAGE: Final = HEADER + b"\r\nAt eight.\r\n"
FIELD: Final = sign(MESSAGE, "jan", DOMAIN, [RELAXED], now=NOW)


def signed(message: bytes) -> bytes:
    return sign(message, "jan", DOMAIN, [RELAXED], now=NOW) + message


def chain(sets: int) -> bytes:
    message = MESSAGE
    for _ in range(sets):
        before = ArcResult(ArcStatus.PASS if message != MESSAGE else ArcStatus.NONE)
        message = arc.seal(message, RELAXED, DOMAIN, "mx", "dkim=pass", before, now=NOW) + message
    return message


DKIM_HOSTILE: Final[dict[str, Callable[[int], bytes]]] = {
    "a line of spaces in the body": lambda n: signed(HEADER + b"\r\n" + b" " * n + b"x\r\n"),
    "tabs and spaces in the body": lambda n: signed(HEADER + b"\r\n" + b"\t " * (n // 2) + b"x\r\n"),
    "lines of a space": lambda n: signed(HEADER + b"\r\n" + b" \r\n" * (n // 3)),
    "empty lines": lambda n: signed(HEADER + b"\r\n" + b"\r\n" * (n // 2) + b"x\r\n"),
    "carriage returns in the body": lambda n: signed(HEADER + b"\r\n" + b" \r" * (n // 2)),
    "a subject of spaces": lambda n: signed(b"Subject: a" + b" " * n + b"b\r\n" + HEADER[:29] + b"\r\n"),
    "a subject of folds": lambda n: signed(b"Subject: a" + b"\r\n " * (n // 3) + b"b\r\n" + HEADER[:29] + b"\r\n"),
    "fields": lambda n: signed(b"X: 1\r\n" * (n // 6) + MESSAGE),
    "lines of no field": lambda n: FIELD + b"nothing\r\n" * (n // 9) + MESSAGE,
    "signatures": lambda n: FIELD * (n // len(FIELD)) + MESSAGE,
    "empty signatures": lambda n: b"DKIM-Signature:\r\n" * (n // 17) + MESSAGE,
    "tags": lambda n: b"DKIM-Signature: " + b"a=1;" * min(n // 4, 4000) + b"\r\n" + MESSAGE,
    "semicolons": lambda n: b"DKIM-Signature: " + b";" * n + b"\r\n" + MESSAGE,
    "ten signatures that name every field": lambda n: (
        (FIELD.replace(b"h=", b"h=" + b"x:" * 6000) * 10) + b"X: 1\r\n" * (n // 6) + MESSAGE
    ),
    "no header at all": lambda n: b"x" * n,
    "line ends": lambda n: b"\n" * n,
}
ARC_HOSTILE: Final[dict[str, Callable[[int], bytes]]] = {
    "a line of spaces in the body": lambda n: chain_over(b" " * n + b"x\r\n"),
    "seals": lambda n: b"ARC-Seal: i=1; cv=none; a=rsa-sha256; b=AAAA; d=a.b; s=c\r\n" * (n // 56) + MESSAGE,
    "fields before a chain": lambda n: b"X: 1\r\n" * (n // 6) + chain(3),
    "authentication results": lambda n: chain(1).replace(
        b"dkim=pass", b"dkim=pass" + b"(" * (n // 2) + b")" * (n // 2), 1
    ),
}


def chain_over(body: bytes) -> bytes:
    message = HEADER + b"\r\n" + body
    return arc.seal(message, RELAXED, DOMAIN, "mx", "dkim=pass", ArcResult(ArcStatus.NONE), now=NOW) + message


def dkim_verify(message: bytes) -> list[DkimResult]:
    return dkim.verify_sync(RESOLVER, message, now=NOW)


def arc_verify(message: bytes) -> ArcResult:
    return arc.verify_sync(RESOLVER, message, now=NOW)


def cost(verify: Callable[[bytes], object], message: bytes) -> float:
    """Seconds of processor time, the least of three tries."""
    best = float("inf")
    for _ in range(3):
        began = time.process_time()
        verify(message)
        best = min(best, time.process_time() - began)
    return best


@pytest.mark.parametrize("name", DKIM_HOSTILE)
def test_dkim_costs_no_more_than_the_length_of_a_message(name: str) -> None:
    small, large = DKIM_HOSTILE[name](60_000), DKIM_HOSTILE[name](480_000)
    # Small costs do not grow by 8: what is the same for any message is most of them.
    assert cost(dkim_verify, large) < 20 * max(cost(dkim_verify, small), 0.001)


@pytest.mark.parametrize("name", ARC_HOSTILE)
def test_arc_costs_no_more_than_the_length_of_a_message(name: str) -> None:
    small, large = ARC_HOSTILE[name](60_000), ARC_HOSTILE[name](480_000)
    assert cost(arc_verify, large) < 20 * max(cost(arc_verify, small), 0.001)


def test_fifty_sets_cost_no_more_than_what_their_seals_cover() -> None:
    # The seal of a set covers all before it: eight times the sets are up to 64 times the bytes, none more than once.
    small, large = chain(6), chain(48)
    assert arc_verify(large).status is ArcStatus.PASS
    assert cost(arc_verify, large) < 100 * cost(arc_verify, small)
    assert cost(arc_verify, large) < 1


@pytest.mark.parametrize(
    "message",
    [
        b"From: " + b"x" * 10_000_000 + b"\r\n\r\n",
        b"From: a@example.org\r\n" * 500_000 + b"\r\n",
        FIELD + b"From: " + b" \r\n " * 2_500_000 + b"\r\n\r\n",
        b"DKIM-Signature: " + b" " * 10_000_000,
        b"ARC-Seal: i=1; " * 700_000,
    ],
    ids=["one field", "many fields", "folds", "a signature", "a seal"],
)
def test_a_header_of_ten_megabytes_is_refused_at_once(message: bytes) -> None:
    assert cost(dkim_verify, message) + cost(arc_verify, message) < 0.5
    assert [result.status for result in dkim_verify(message)] == [DkimStatus.PERMERROR]
    assert arc_verify(message).status is ArcStatus.FAIL


# What fuzzing is made of: pieces of signatures, chains and headers, and anything else.
PIECES: Final = [
    b"DKIM-Signature: ",
    b"ARC-Seal: ",
    b"ARC-Message-Signature: ",
    b"ARC-Authentication-Results: ",
    b"v=1; ",
    b"a=rsa-sha256; ",
    b"a=ed25519-sha256; ",
    b"b=" + base64.b64encode(bytes(64)) + b"; ",
    b"bh=" + base64.b64encode(bytes(32)) + b"; ",
    b"c=relaxed/simple; ",
    b"cv=none; ",
    b"cv=pass; ",
    b"d=example.org; ",
    b"d=xn--; ",
    b"h=From:Subject; ",
    b"i=1; ",
    b"i=2; ",
    b"i=@example.org; ",
    b"l=0; ",
    b"q=dns/txt; ",
    b"s=s1; ",
    b"t=1; ",
    b"x=9999999999; ",
    b"z=From:a|b; ",
    b"mx.example.org; dkim=pass",
    b"=",
    b";",
    b":",
    b" ",
    b"\t",
    b"\r\n",
    b"\n",
    b"\r\n ",
    b"\0",
    b"\xff",
    "é".encode(),
    b"From: a@example.org\r\n",
    b"Subject: b\r\n",
    b"\r\n\r\nbody\r\n",
    FIELD,
]
MESSAGES: Final = st.lists(st.one_of(st.sampled_from(PIECES), st.binary(max_size=8)), max_size=40).map(b"".join)


@given(MESSAGES, st.booleans())
def test_any_message_has_results(message: bytes, smtputf8: bool) -> None:
    check(message, smtputf8)


@given(st.data())
def test_a_damaged_message_has_results(data: st.DataObject) -> None:
    message = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(message) - 1))
        message[at : at + data.draw(st.integers(0, 3))] = data.draw(
            st.one_of(st.binary(max_size=3), st.sampled_from(PIECES))
        )
    check(bytes(message), smtputf8=False)


WHOLE: Final = signed(chain(2))


def check(message: bytes, smtputf8: bool) -> None:
    results = dkim.verify_sync(RESOLVER, message, smtputf8=smtputf8, now=NOW)
    for result in results:
        assert (result.error_kind is None) is (result.error == "") is (result.status is DkimStatus.PASS)
    chain_result = arc_verify(message)
    methods = [*dkim.auth_methods(results, smtputf8=smtputf8), arc.auth_method(chain_result)]
    field = AuthResults("mx.example.net", methods=methods).compose()
    assert smtputf8 or field.isascii()
    try:
        sealed = arc.seal(message, RELAXED, DOMAIN, "mx", "dkim=pass", chain_result, now=NOW)
    except DkimError:
        return
    assert sealed == b"" or sealed.startswith(b"ARC-Seal: ")


@given(st.one_of(MESSAGES, st.binary(max_size=200)), st.booleans())
def test_any_field_is_a_signature_or_an_error(field: bytes, smtputf8: bool) -> None:
    try:
        sig = parse_signature(field, smtputf8=smtputf8)
    except DkimError:
        return
    assert isinstance(sig, Signature)
    assert sig.canon_header in Canonicalization


@given(st.one_of(st.binary(max_size=200), st.text(alphabet="vDKIM1=;kphst:*y \tABCé\0").map(str.encode)))
def test_any_text_is_a_record_or_an_error(text: bytes) -> None:
    try:
        parse_record(text)
    except DkimError:
        return


@given(st.lists(st.binary(max_size=100), min_size=1, max_size=3))
def test_any_records_give_a_result(records: list[bytes]) -> None:
    resolver = MockResolver({"txt s1._domainkey.example.org.": records})
    (result,) = dkim.verify_sync(resolver, FIELD + MESSAGE, now=NOW)
    assert result.status in (DkimStatus.TEMPERROR, DkimStatus.PERMERROR, DkimStatus.FAIL)
