"""Which TLSA records count for a host: aliases, DNSSEC, errors, records that cannot be used."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from protocols.dane import TlsaLookup, gather_tlsa
from protocols.dns import TLSA, Answer, ErrorKind, MockResolver
from protocols.names import Domain

HOST, EXPANDED = Domain("mx.far.example"), Domain("host.hoster.example")
OWN, THEIRS = "tlsa _25._tcp.mx.far.example.", "tlsa _25._tcp.host.hoster.example."
RECORD, OTHER = TLSA(3, 1, 1, bytes(32)), TLSA(2, 0, 1, bytes(32))
UNUSABLE = TLSA(1, 1, 1, bytes(32))


def gather(
    records: dict[str, list[Any]], *, expanded: Domain = HOST, expanded_authentic: bool = True, **options: Any
) -> TlsaLookup:
    resolver = MockResolver(records, **({"authentic": True} | options))
    return asyncio.run(gather_tlsa(resolver, HOST, expanded, expanded_authentic))


def test_a_host_has_records() -> None:
    assert gather({OWN: [RECORD, OTHER]}) == TlsaLookup(True, HOST, (RECORD, OTHER), (RECORD, OTHER))


@pytest.mark.parametrize(
    ("records", "base", "found"),
    [
        ({OWN: [RECORD], THEIRS: [OTHER]}, EXPANDED, (OTHER,)),
        ({OWN: [RECORD]}, HOST, (RECORD,)),
        ({THEIRS: [OTHER]}, EXPANDED, (OTHER,)),
    ],
    ids=["both", "own", "theirs"],
)
def test_the_end_of_an_alias_comes_first(records: dict[str, list[Any]], base: Domain, found: tuple[TLSA, ...]) -> None:
    looked_up = gather(records, expanded=EXPANDED)
    assert (looked_up.base_domain, looked_up.records) == (base, found)


def test_an_alias_that_is_not_authentic_is_not_followed() -> None:
    looked_up = gather({OWN: [RECORD], THEIRS: [OTHER]}, expanded=EXPANDED, expanded_authentic=False)
    assert (looked_up.base_domain, looked_up.records) == (HOST, (RECORD,))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"records": {}}, "no tlsa records"),
        ({"records": {}, "authentic": False}, "dns lookups insecure"),
        ({"records": {OWN: [RECORD]}, "inauthentic": [OWN]}, "dns lookups insecure"),
        (
            {"records": {OWN: [RECORD], THEIRS: [RECORD]}, "authentic": False, "expanded": EXPANDED},
            "dns lookups insecure",
        ),
    ],
    ids=["absent", "absence not proven", "insecure", "both insecure"],
)
def test_without_authentic_records_it_is_not_dane(options: dict[str, Any], reason: str) -> None:
    looked_up = gather(**options)
    assert looked_up == TlsaLookup(False, HOST, reason=reason)


def test_an_insecure_answer_for_the_alias_leaves_the_own_name() -> None:
    looked_up = gather({OWN: [RECORD], THEIRS: [OTHER]}, expanded=EXPANDED, inauthentic=[THEIRS])
    assert (looked_up.base_domain, looked_up.records) == (HOST, (RECORD,))


@pytest.mark.parametrize("kind", [ErrorKind.TEMPORARY, ErrorKind.TIMEOUT, ErrorKind.BOGUS])
@pytest.mark.parametrize("key", [OWN, THEIRS])
def test_without_an_answer_nothing_may_be_delivered(kind: ErrorKind, key: str) -> None:
    """An attacker must not get around DANE by withholding or breaking an answer."""
    records: dict[str, list[Any]] = {OWN: [RECORD]} if key == THEIRS else {}
    looked_up = gather(records, expanded=EXPANDED, fail={key: kind})
    assert looked_up.dane
    assert not looked_up.records
    assert looked_up.error is not None
    assert looked_up.error.kind is kind
    assert looked_up.base_domain == (HOST if key == OWN else EXPANDED)


def test_records_that_cannot_be_used_still_ask_for_tls() -> None:
    looked_up = gather({OWN: [UNUSABLE, RECORD]})
    assert (looked_up.dane, looked_up.records, looked_up.found) == (True, (RECORD,), (UNUSABLE, RECORD))
    looked_up = gather({OWN: [UNUSABLE]})
    assert (looked_up.dane, looked_up.records, looked_up.found) == (True, (), (UNUSABLE,))


@pytest.mark.parametrize(("inauthentic", "dane"), [((), True), (("cname _25._tcp.mx.far.example.",), False)])
def test_records_may_be_kept_elsewhere(inauthentic: tuple[str, ...], dane: bool) -> None:
    zone: dict[str, list[Any]] = {
        "cname _25._tcp.mx.far.example.": ["tlsa.far.example."],
        "tlsa tlsa.far.example.": [RECORD],
    }
    assert gather(zone, inauthentic=inauthentic).dane is dane


class Silent(MockResolver):
    """Never answers."""

    async def tlsa(self, name: str) -> Answer[TLSA]:
        await asyncio.Event().wait()
        raise AssertionError


def test_it_ends_in_time() -> None:
    looked_up = asyncio.run(gather_tlsa(Silent(), HOST, HOST, True, timeout=0.01))
    assert looked_up.dane
    assert looked_up.error is not None
    assert looked_up.error.kind is ErrorKind.TIMEOUT
