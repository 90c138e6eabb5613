"""Verifying signatures: the examples of the RFCs, and each rule with the message or record that breaks it."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import hashlib
import io
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers

from protocols import metrics
from protocols.dkim import (
    Canonicalization,
    DkimRecord,
    DkimResult,
    DkimStatus,
    ErrorKind,
    HeaderSection,
    Selector,
    Signature,
    auth_methods,
    generate_ed25519,
    generate_rsa,
    lookup,
    parse_signature,
    sign,
    verify,
    verify_sync,
)
from protocols.dkim import ErrorKind as Kind
from protocols.dkim.keys import PrivateKey, make_signature
from protocols.dkim.section import read_header_section
from protocols.dkim.verification import BODY_BLOCK
from protocols.dns import Answer, MockResolver
from protocols.dns import ErrorKind as DNSErrorKind
from protocols.message import AuthResults
from protocols.message.source import BytesSource
from protocols.names import Domain, parse_domain
from protocols.publicsuffix import is_public_suffix

from .test_dkim_records import WEAK_RSA
from .test_dkim_signing import (
    FOOTBALL,
    FOOTBALL_BODY,
    FOOTBALL_ED25519,
    FOOTBALL_ED25519_RECORD,
    FOOTBALL_RSA,
    FOOTBALL_RSA_RECORD,
)

RSA = generate_rsa()
ED25519 = generate_ed25519()
DOMAIN = parse_domain("example.org")
NOW = 1_900_000_000
NAME = "txt s1._domainkey.example.org."
HEADER = b"From: Jan <jan@example.org>\r\nTo: a@example.net\r\nSubject: dinner\r\n"
MESSAGE = HEADER + b"\r\nAt eight.\r\n"

# RFC 6376 appendix A.2, its key from appendix C; one space in the body as erratum 3192 has it.
DINNER = (
    b"DKIM-Signature: v=1; a=rsa-sha256; s=brisbane; d=example.com;\r\n"
    b"      c=simple/simple; q=dns/txt; i=joe@football.example.com;\r\n"
    b"      h=Received : From : To : Subject : Date : Message-ID;\r\n"
    b"      bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;\r\n"
    b"      b=AuUoFEfDxTDkHlLXSZEpZj79LICEps6eda7W3deTVFOk4yAUoqOB\r\n"
    b"      4nujc7YopdG5dWLSdNg6xNAZpOPr+kHxt1IrE+NahM6L/LbvaHut\r\n"
    b"      KVdkLLkpVaVVQPzeRDI009SO2Il5Lu7rDNH6mZckBdrIx0orEtZV\r\n"
    b"      4bmp/YzhwvcubU4=;\r\n"
    b"Received: from client1.football.example.com  [192.0.2.1]\r\n"
    b"      by submitserver.example.com with SUBMISSION;\r\n"
    b"      Fri, 11 Jul 2003 21:01:54 -0700 (PDT)\r\n"
    b"From: Joe SixPack <joe@football.example.com>\r\n"
    b"To: Suzie Q <suzie@shopping.example.net>\r\n"
    b"Subject: Is dinner ready?\r\n"
    b"Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)\r\n"
    b"Message-ID: <20030712040037.46341.5F8J@football.example.com>\r\n"
    b"\r\n"
    b"Hi.\r\n\r\nWe lost the game. Are you hungry yet?\r\n\r\nJoe.\r\n"
)
DINNER_RECORD = (
    "v=DKIM1; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDwIRP/UC3SBsEmGqZ9ZJW3/DkMoGeLnQg1fWn7/zYtIxN2SnFCjxOCKG9v3b4j"
    "YfcTNh5ijSsq631uBItLa7od+v/RtdC2UzJ1lWT947qR+Rcac2gbto/NMqJ0fzfVjH4OuKhitdY9tf6mcwGjaNBcWToIMmPSPDdQPNUYckcQ2QID"
    "AQAB"
)


def zone(*records: DkimRecord | str | bytes, authentic: bool = False) -> MockResolver:
    """A resolver that knows these records of selector s1."""
    texts = [record.compose() if isinstance(record, DkimRecord) else record for record in records]
    return MockResolver({NAME: texts}, authentic=authentic)


def signed(message: bytes = MESSAGE, key: PrivateKey = ED25519, *, domain: Domain = DOMAIN, **options: object) -> bytes:
    selector = Selector(parse_domain("s1"), key, **options)  # type: ignore[arg-type]  # options of each test
    return sign(message, "jan", domain, [selector], now=NOW) + message


def resigned(old: bytes, new: bytes, key: PrivateKey = ED25519, message: bytes = MESSAGE) -> bytes:
    """A signed message of which the signature field is another, with the signature that fits it."""
    field = signed(message, key).removesuffix(message).replace(old, new, 1)
    assert new in field
    head, equals, _ = field.rpartition(b"\tb=")
    try:
        sig = parse_signature(head + equals + b"AAAA")
    except ValueError:
        return head + equals + b"AAAA\r\n" + message
    section, _ = read_header_section(BytesSource(message))
    data = HeaderSection(section).signed_data(sig.signed_headers, sig.canon_header, head + equals)
    return head + equals + base64.b64encode(make_signature(key, data)) + b"\r\n" + message


def one(resolver: MockResolver, message: bytes, **options: object) -> DkimResult:
    options = {"now": NOW, **options}
    (result,) = verify_sync(resolver, message, **options)  # type: ignore[arg-type]  # options of each test
    return result


OURS = zone(DkimRecord.for_key(ED25519))


def test_it_verifies_the_example_of_rfc_6376() -> None:
    resolver = MockResolver({"txt brisbane._domainkey.example.com.": [DINNER_RECORD]})
    assert one(resolver, DINNER).status is DkimStatus.PASS
    for changed in (DINNER.replace(b"hungry", b"thirsty"), DINNER.replace(b"game. Are", b"game.  Are")):
        assert one(resolver, changed).error_kind is Kind.BODY_HASH_MISMATCH
    assert one(resolver, DINNER.replace(b"Subject: ", b"Subject:  ")).error_kind is Kind.SIGNATURE_MISMATCH


def test_it_verifies_both_signatures_of_the_example_of_rfc_8463() -> None:
    resolver = MockResolver(
        {
            "txt brisbane._domainkey.football.example.com.": [FOOTBALL_ED25519_RECORD],
            "txt test._domainkey.football.example.com.": [FOOTBALL_RSA_RECORD],
        },
        authentic=["txt test._domainkey.football.example.com."],
    )
    results = verify_sync(resolver, FOOTBALL_ED25519 + FOOTBALL_RSA + FOOTBALL + b"\r\n" + FOOTBALL_BODY)
    assert [result.status for result in results] == [DkimStatus.PASS, DkimStatus.PASS]
    assert [result.authentic for result in results] == [False, True]
    written = AuthResults("mx.example.net", methods=auth_methods(results)).compose().decode().replace("\r\n\t", " ")
    assert " ".join(written.split()) == (
        "Authentication-Results: mx.example.net;"
        " dkim=pass (without dnssec) header.d=football.example.com header.s=brisbane header.a=ed25519-sha256"
        ' header.b="/gCrinpcQOoI" header.i=@football.example.com;'
        " dkim=pass (1024 bit rsa, with dnssec) header.d=football.example.com header.s=test header.a=rsa-sha256"
        " header.b=F45dVWDfMbQD header.i=@football.example.com"
    )


@pytest.mark.parametrize("header_relaxed", [False, True])
@pytest.mark.parametrize("body_relaxed", [False, True])
@pytest.mark.parametrize("key", [RSA, ED25519], ids=["rsa", "ed25519"])
def test_it_verifies_what_it_signs(key: PrivateKey, header_relaxed: bool, body_relaxed: bool) -> None:
    resolver = zone(DkimRecord.for_key(key))
    message = signed(key=key, header_relaxed=header_relaxed, body_relaxed=body_relaxed)
    assert one(resolver, message) == DkimResult(
        DkimStatus.PASS, parse_signature(message.removesuffix(MESSAGE)), DkimRecord.for_key(key)
    )
    assert verify_sync(resolver, io.BytesIO(message), now=NOW)[0].status is DkimStatus.PASS
    assert one(resolver, message.replace(b"dinner", b"lunch")).error_kind is Kind.SIGNATURE_MISMATCH
    assert one(resolver, message.replace(b"eight", b"nine")).error_kind is Kind.BODY_HASH_MISMATCH
    spaced = one(resolver, message.replace(b"At eight", b"At  eight"))
    assert spaced.status is (DkimStatus.PASS if body_relaxed else DkimStatus.FAIL)


@pytest.mark.parametrize("body", [b"", b"\r\n", b"no line end", b"8 bit \xe4 \x00\r\n", b" \r\n\r\n x \r\n\r\n"])
@pytest.mark.parametrize("relaxed", [False, True])
def test_it_verifies_odd_bodies(body: bytes, relaxed: bool) -> None:
    assert one(OURS, signed(HEADER + b"\r\n" + body, body_relaxed=relaxed)).status is DkimStatus.PASS


def test_it_verifies_a_message_without_a_body() -> None:
    assert one(OURS, signed(HEADER)).status is DkimStatus.PASS


def test_a_message_without_signature_has_no_result() -> None:
    for message in (MESSAGE, b"", b"\r\n", HEADER, b"no header\nat all", b"From: a\nTo: b\n\nbody\n"):
        assert verify_sync(Silent(), message) == []
    assert AuthResults("mx.example.net", methods=auth_methods([])).compose() == (
        b'Authentication-Results: mx.example.net;\r\n\tdkim=none reason="no dkim signatures"\r\n'
    )


def test_a_field_added_to_a_sealed_message_shows() -> None:
    field = signed().removesuffix(MESSAGE)
    for added in (b"From: eve@example.net\r\n", b"Subject: another\r\n", b"Reply-To: eve@example.net\r\n"):
        for message in (
            added + field + MESSAGE,
            field + added + MESSAGE,
            field + HEADER + added + b"\r\nAt eight.\r\n",
        ):
            assert one(OURS, message).error_kind is Kind.SIGNATURE_MISMATCH
    assert one(OURS, field + b"X-Other: any\r\n" + MESSAGE).status is DkimStatus.PASS


def test_a_signature_does_not_cover_itself() -> None:
    # With DKIM-Signature in h=: the one that is verified was not there yet.
    message = signed(headers=("From", "Subject", "DKIM-Signature"))
    assert one(OURS, message).status is DkimStatus.PASS
    twice = signed(message, headers=("From", "Subject", "DKIM-Signature"))
    results = verify_sync(OURS, twice, now=NOW)
    assert results[0].status is DkimStatus.PASS
    assert results[1].error_kind is Kind.SIGNATURE_MISMATCH  # sealed: no further signature


@pytest.mark.parametrize(
    ("old", "new", "status", "kind"),
    [
        (b"h=From:From:", b"h=", "permerror", Kind.FROM_NOT_SIGNED),
        (b":Subject:Subject", b":X", "policy", Kind.POLICY),
        (b" a=", b" l=5; a=", "policy", Kind.POLICY),
        (b"a=ed25519-sha256", b"a=rsa-sha1", "permerror", Kind.SIGNATURE_SYNTAX),  # a hash of the wrong size
        (b"a=ed25519-sha256", b"a=dsa-sha256", "permerror", Kind.UNKNOWN_ALGORITHM),
        (b"a=ed25519-sha256", b"a=ed25519-sha512", "permerror", Kind.UNKNOWN_HASH),
        (b"a=ed25519-sha256", b"a=ed25519", "permerror", Kind.SIGNATURE_SYNTAX),
        (b"a=ed25519-sha256", b"a=rsa-sha256", "permerror", Kind.ALGORITHM_MISMATCH),
        (b"a=ed25519-sha256;", b"", "permerror", Kind.SIGNATURE_SYNTAX),
        (b"t=1900000000", b"x=1900000000; t=1900000000", "permerror", Kind.EXPIRED),  # not after t=
        (b"t=1900000000", b"x=1899999999", "permerror", Kind.EXPIRED),  # by a second
        (b"t=1900000000", b"x=1900000000", "pass", None),
        (b"t=1900000000", b"t=1900000000x", "permerror", Kind.SIGNATURE_SYNTAX),
        (b"t=1900000000", b"t=", "permerror", Kind.SIGNATURE_SYNTAX),
        (b"t=1900000000", b"x=1234567890123", "permerror", Kind.SIGNATURE_SYNTAX),
        (b"v=1;", b"v=2;", "permerror", Kind.SIGNATURE_SYNTAX),
        (b"v=1;", b"", "permerror", Kind.SIGNATURE_SYNTAX),
        (b"v=1;", b"v=1; v=1;", "permerror", Kind.SIGNATURE_SYNTAX),
        (b"v=1;", b"v=1; extra=some; z=From:a=20b|To;", "pass", None),
        (b"v=1;", b"v=1; q=dns/txt;", "pass", None),
        (b"v=1;", b"v=1; q=http : dns/txt;", "pass", None),
        (b"v=1;", b"v=1; q=http;", "permerror", Kind.QUERY_METHOD),
        (b"v=1;", b"v=1; c=relaxed;", "pass", None),
        (b"v=1;", b"v=1; c=strict;", "permerror", Kind.UNKNOWN_CANONICALIZATION),
        (b"v=1;", b"v=1; c=simple/nofws;", "permerror", Kind.UNKNOWN_CANONICALIZATION),
        (b"v=1;", b"v=1; l=x;", "permerror", Kind.SIGNATURE_SYNTAX),
        (b" i=jan@example.org;", b"", "pass", None),
        (b"i=jan@", b"i=@news.", "pass", None),
        (b"i=jan@example.org", b"i=@", "permerror", Kind.SIGNATURE_SYNTAX),
        (b"i=jan@example.org", b"i=jan", "permerror", Kind.SIGNATURE_SYNTAX),
        (b"i=jan@example.org", b"i=jan=0D=0A@example.org", "permerror", Kind.SIGNATURE_SYNTAX),
        (b"i=jan@example.org", b"i=jan@badexample.org", "permerror", Kind.IDENTITY_MISMATCH),
        (b"i=jan@example.org", b"i=jan@org", "permerror", Kind.IDENTITY_MISMATCH),
        (b"d=example.org; s=s1; i=jan@example.org;", b"d=co.uk; s=s1;", "permerror", Kind.TOP_LEVEL_DOMAIN),
        (b"d=example.org; s=s1; i=jan@example.org;", b"d=org; s=s1;", "permerror", Kind.TOP_LEVEL_DOMAIN),
        (b"d=example.org; s=s1; i=jan@example.org;", b"d=localhost; s=s1;", "permerror", Kind.TOP_LEVEL_DOMAIN),
        (b"d=example.org", b"d=example.org.", "permerror", Kind.SIGNATURE_SYNTAX),
        (b"d=example.org", b"d=", "permerror", Kind.SIGNATURE_SYNTAX),
        (b"s=s1", b"s=", "permerror", Kind.SIGNATURE_SYNTAX),
        (b"s=s1", b"s=" + b".".join([b"a" * 60] * 4), "permerror", Kind.SIGNATURE_SYNTAX),
        (b"s=s1", b"s=2023_1.x", "permerror", Kind.NO_RECORD),
        (b"s=s1", b"s=20230601", "permerror", Kind.NO_RECORD),
        (b"s=s1", "s=sé".encode(), "permerror", Kind.SIGNATURE_SYNTAX),
        (b"s=s1", b"s=s\xe9", "permerror", Kind.SIGNATURE_SYNTAX),
        (b"bh=", b"bh=A", "permerror", Kind.SIGNATURE_SYNTAX),
        (b"bh=", b"bh=AAAA", "permerror", Kind.SIGNATURE_SYNTAX),  # 35 bytes
    ],
)
def test_it_judges_a_signature_by_its_tags(old: bytes, new: bytes, status: str, kind: ErrorKind | None) -> None:
    result = one(OURS, resigned(old, new))
    assert (result.status.value, result.error_kind) == (status, kind), result.error
    assert bool(result.error) is (kind is not None)
    assert result.error.isascii()


@pytest.mark.parametrize(
    ("b", "status", "kind"),
    [
        (b"", "permerror", Kind.SIGNATURE_SYNTAX),
        (b"AAA", "permerror", Kind.SIGNATURE_SYNTAX),
        (b"AAAA", "fail", Kind.SIGNATURE_MISMATCH),
        (b"!", "permerror", Kind.SIGNATURE_SYNTAX),
        (b"A" * 20_000, "permerror", Kind.SIGNATURE_SYNTAX),
    ],
    ids=["empty", "no base64", "short", "other characters", "longer than a field may be"],
)
def test_a_signature_of_the_wrong_size_fails(b: bytes, status: str, kind: ErrorKind) -> None:
    field = signed().removesuffix(MESSAGE)
    result = one(OURS, field.rpartition(b"\tb=")[0] + b"\tb=" + b + b"\r\n" + MESSAGE)
    assert (result.status.value, result.error_kind) == (status, kind)
    AuthResults("mx.example.net", methods=auth_methods([result])).compose()


def test_sha1_is_refused_by_policy_and_verified_where_a_policy_lets_it_through() -> None:
    digest = base64.b64encode(hashlib.sha1(b"At eight.\r\n").digest())
    unsigned = (
        b"DKIM-Signature: v=1; a=rsa-sha1; d=example.org; s=s1; h=from:subject; c=relaxed/relaxed; bh="
        + digest
        + b"; b="
    )
    data = HeaderSection(HEADER).signed_data(["from", "subject"], Canonicalization.RELAXED, unsigned)
    signature = RSA.sign(data, padding.PKCS1v15(), hashes.SHA1())
    message = unsigned + base64.b64encode(signature) + b"\r\n" + MESSAGE
    resolver = zone(DkimRecord.for_key(RSA, hashes=()))
    result = one(resolver, message)
    assert (result.status, result.error_kind) == (DkimStatus.POLICY, Kind.POLICY)
    assert resolver.queries == []
    assert one(resolver, message, policy=lambda sig: "").status is DkimStatus.PASS
    changed = message.replace(b"dinner", b"lunch")
    assert one(resolver, changed, policy=lambda sig: "").error_kind is Kind.SIGNATURE_MISMATCH


def record(**changes: object) -> DkimRecord:
    return dataclasses.replace(DkimRecord.for_key(ED25519), **changes)  # type: ignore[arg-type]  # as above


LARGE_EXPONENT = RSAPublicNumbers((1 << 40) + 1, RSA.public_key().public_numbers().n).public_key()


@pytest.mark.parametrize(
    ("records", "status", "kind"),
    [
        ([record(hashes=("sha1",))], "permerror", Kind.HASH_NOT_ALLOWED),
        ([record(hashes=("sha1", "sha256"))], "pass", None),
        ([record(services=("tlsrpt",))], "permerror", Kind.KEY_NOT_FOR_EMAIL),
        ([record(services=("tlsrpt", "email"))], "pass", None),
        ([record(services=("*",))], "pass", None),
        ([record(key_type="rsa")], "permerror", Kind.ALGORITHM_MISMATCH),
        ([record(public_key=b"")], "permerror", Kind.KEY_REVOKED),
        ([record(public_key=b"short")], "permerror", Kind.RECORD_SYNTAX),
        ([record(flags=("s",))], "pass", None),
        (["v=spf1 -all", DkimRecord.for_key(ED25519)], "pass", None),
        ([b"\xff\xfe", DkimRecord.for_key(ED25519)], "pass", None),
        (["v=spf1 -all"], "temperror", Kind.RECORD_SYNTAX),
        ([DkimRecord.for_key(ED25519), DkimRecord.for_key(RSA)], "temperror", Kind.MULTIPLE_RECORDS),
        (["v=DKIM1; p=!"], "permerror", Kind.RECORD_SYNTAX),
        (["v=DKIM1"], "permerror", Kind.RECORD_SYNTAX),
        (["v=DKIM1; p=" + "A" * 9000], "permerror", Kind.RECORD_SYNTAX),
        (["v=DKIM1; k=ed25519; k=rsa; p=AAAA"], "permerror", Kind.RECORD_SYNTAX),
        ([], "permerror", Kind.NO_RECORD),
    ],
)
def test_it_judges_a_signature_by_the_record(
    records: list[DkimRecord | str | bytes], status: str, kind: ErrorKind | None
) -> None:
    result = one(zone(*records, authentic=True), signed())
    assert (result.status.value, result.error_kind) == (status, kind), result.error
    assert result.authentic


@pytest.mark.parametrize("public_key", [WEAK_RSA, DkimRecord.for_key(LARGE_EXPONENT).public_key])
def test_keys_that_prove_nothing_or_cost_too_much_are_refused(public_key: bytes) -> None:
    result = one(zone(DkimRecord(public_key)), signed(key=RSA))
    assert (result.status, result.error_kind) == (DkimStatus.PERMERROR, Kind.WEAK_KEY)


def test_a_key_as_the_rfc_has_it_is_read_too() -> None:
    pkcs1 = RSA.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.PKCS1)
    assert one(zone(DkimRecord(pkcs1)), signed(key=RSA)).status is DkimStatus.PASS


def test_a_record_may_tie_the_identity_to_the_domain() -> None:
    message = resigned(b"i=jan@", b"i=jan@news.")
    assert one(zone(record()), message).status is DkimStatus.PASS
    result = one(zone(record(flags=("y", "s"))), message, ignore_test_mode=True)
    assert (result.status, result.error_kind) == (DkimStatus.PERMERROR, Kind.IDENTITY_MISMATCH)


def test_a_failure_while_a_domain_is_testing_is_none() -> None:
    testing = zone(record(flags=("y",)))
    changed = signed().replace(b"eight", b"nine")
    assert one(testing, signed()).status is DkimStatus.PASS
    result = one(testing, changed)
    assert (result.status, result.error_kind) == (DkimStatus.NONE, Kind.BODY_HASH_MISMATCH)
    assert one(testing, changed, ignore_test_mode=True).status is DkimStatus.FAIL


@pytest.mark.parametrize("kind", [DNSErrorKind.TEMPORARY, DNSErrorKind.TIMEOUT, DNSErrorKind.BOGUS])
def test_a_failure_of_dns_is_temporary(kind: DNSErrorKind) -> None:
    result = one(MockResolver(fail={NAME: kind}), signed())
    assert (result.status, result.error_kind) == (DkimStatus.TEMPERROR, Kind.DNS)
    assert "s1._domainkey.example.org." in result.error


class Silent(MockResolver):
    """Answers the first questions, never the others."""

    def __init__(self, *records: DkimRecord, answers: int = 0) -> None:
        super().__init__({NAME: [record.compose() for record in records]})
        self.answers = answers

    async def txt(self, name: str) -> Answer[bytes]:
        self.answers -= 1
        if self.answers < 0:
            await asyncio.Event().wait()
        return await super().txt(name)


def test_a_name_server_that_is_silent_holds_up_no_other_signature() -> None:
    other = sign(MESSAGE, "jan", DOMAIN, [Selector(parse_domain("s2"), ED25519)], now=NOW)
    results = verify_sync(Silent(record(), answers=1), signed(other + MESSAGE), now=NOW, timeout=0.05)
    assert [(result.status, result.error_kind) for result in results] == [
        (DkimStatus.PASS, None),
        (DkimStatus.TEMPERROR, Kind.DNS),
    ]


async def _cancel() -> None:
    task = asyncio.create_task(verify(Silent(), signed(), now=NOW))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_it_can_be_cancelled() -> None:
    asyncio.run(_cancel())


def test_it_looks_up_a_record_with_what_dnssec_says_of_it() -> None:
    found = asyncio.run(lookup(zone(record(), authentic=True), parse_domain("s1"), DOMAIN))
    assert (found.record, found.authentic, found.txt) == (record(), True, record().compose().encode())
    missing = asyncio.run(lookup(MockResolver(authentic=True), parse_domain("s1"), DOMAIN))
    assert (missing.record, missing.authentic, missing.error_kind) == (None, True, Kind.NO_RECORD)


def test_each_signature_has_its_own_result_and_each_record_is_looked_up_once() -> None:
    resolver = zone(record(), authentic=True)
    fields = signed().removesuffix(MESSAGE)
    changed = fields.replace(b"t=1900000000", b"t=1900000001")
    results = verify_sync(resolver, fields + changed + b"DKIM-Signature: nothing\r\n" + fields + MESSAGE, now=NOW)
    assert [result.status.value for result in results] == ["pass", "fail", "permerror", "pass"]
    assert results[2].sig is None
    assert resolver.queries == [NAME]


def test_it_verifies_ten_signatures_and_refuses_more() -> None:
    fields = signed().removesuffix(MESSAGE)
    results = verify_sync(OURS, fields * 1000 + MESSAGE, now=NOW)
    assert [result.status for result in results[:10]] == [DkimStatus.PASS] * 10
    assert {(r.status, r.error_kind, r.error) for r in results[10:]} == {
        (DkimStatus.POLICY, Kind.POLICY, "too many signatures")
    }
    assert len(results) == 1000
    assert len(auth_methods(results)) == 11


def test_it_reads_the_body_once_and_only_for_a_right_signature() -> None:
    class Counting(BytesSource):
        read = 0

        def read_at(self, offset: int, length: int, /) -> bytes:
            data = super().read_at(offset, length)
            self.read += len(data)
            return data

    message = HEADER + b"\r\n" + b"x" * 78 + b"\r\n" * 4_000_000
    selectors = [
        Selector(parse_domain("s1"), ED25519, header_relaxed=relaxed, body_relaxed=relaxed)
        for relaxed in (False, True, False)
    ]
    fields = sign(message, "jan", DOMAIN, selectors, now=NOW)
    source = Counting(fields + message)
    assert [r.status for r in verify_sync(OURS, source, now=NOW)] == [DkimStatus.PASS] * 3
    assert source.read < len(message) + 200_000
    broken = Counting((fields + message).replace(b"dinner", b"lunch!"))
    assert [r.status for r in verify_sync(OURS, broken, now=NOW)] == [DkimStatus.FAIL] * 3
    assert broken.read < 200_000


def test_the_event_loop_goes_on_while_a_large_body_is_hashed() -> None:
    message = signed(HEADER + b"\r\n" + b"x" * 60 + b" \t\r\n" * 2_000_000, body_relaxed=True)

    async def turns() -> int:
        task = asyncio.create_task(verify(OURS, message, now=NOW))
        count = 0
        while not task.done():
            await asyncio.sleep(0)
            count += 1
        assert task.result()[0].status is DkimStatus.PASS
        return count

    assert asyncio.run(turns()) > len(message) / BODY_BLOCK


def test_a_header_that_others_read_in_another_way_is_refused() -> None:
    for message in (signed().replace(b"To: a", b"To: a\n"), signed().replace(b"To: a", b"To: \ra")):
        result = one(OURS, message)
        assert (result.status, result.error_kind) == (DkimStatus.PERMERROR, Kind.HEADER_MALFORMED)
    result = one(OURS, b"X: " + b"x" * (1 << 20) + b"\r\n" + signed())
    assert (result.status, result.error_kind) == (DkimStatus.PERMERROR, Kind.HEADER_MALFORMED)


def test_internationalized_messages_may_have_internationalized_signatures() -> None:
    # RFC 8616: U-labels in d=, s= and i=.
    field = sign(MESSAGE, "jürgen", DOMAIN, [Selector(parse_domain("sé"), ED25519)], smtputf8=True)
    resolver = MockResolver({f"txt {parse_domain('sé').ascii}._domainkey.example.org.": [record().compose()]})
    result = one(resolver, field + MESSAGE, smtputf8=True)
    assert result.status is DkimStatus.PASS
    assert result.sig is not None
    assert result.sig.identity == "jürgen@example.org"
    written = AuthResults("mx.example.net", methods=auth_methods([result], smtputf8=True)).compose().decode()
    assert "header.i=jürgen@example.org" in written
    assert AuthResults("mx.example.net", methods=auth_methods([result])).compose().isascii()
    assert one(resolver, field + MESSAGE).error_kind is Kind.SIGNATURE_SYNTAX


def test_domains_may_be_written_in_u_labels_where_the_message_is() -> None:
    domain = parse_domain("bücher.example")
    utf8 = resigned(
        b"d=example.org; s=s1; i=jan@example.org;", "d=bücher.example; s=s1; i=a@x.bücher.example;".encode()
    )
    resolver = MockResolver({f"txt s1._domainkey.{domain.ascii}.": [record().compose()]})
    result = one(resolver, utf8, smtputf8=True, policy=lambda sig: "")
    assert result.sig is not None
    assert (result.sig.domain, result.sig.domain.unicode) == (domain, "bücher.example")
    written = AuthResults("mx.example.net", methods=auth_methods([result], smtputf8=True)).compose().decode()
    assert (
        "header.d=bücher.example\r\n\t (xn--bcher-kva.example)" in written or "header.d=bücher.example (xn--" in written
    )


def test_localserve_may_let_localhost_sign() -> None:
    localhost = parse_domain("localhost")
    message = signed(domain=localhost)
    resolver = MockResolver({"txt s1._domainkey.localhost.": [record().compose()]})
    assert one(resolver, message).error_kind is Kind.TOP_LEVEL_DOMAIN
    result = one(resolver, message, public_suffix=lambda domain: domain != localhost and is_public_suffix(domain))
    assert result.status is DkimStatus.PASS


def test_a_policy_of_ones_own_is_asked_before_dns() -> None:
    asked: list[Signature] = []
    resolver = zone(record())

    def refuse(sig: Signature) -> str:
        asked.append(sig)
        return "not from here"

    result = one(resolver, signed(), policy=refuse)
    assert (result.status, result.error_kind, result.error) == (DkimStatus.POLICY, Kind.POLICY, "not from here")
    assert [sig.domain for sig in asked] == [DOMAIN]
    assert resolver.queries == []


def test_an_expired_signature_fails_however_good() -> None:
    message = signed(expiration=timedelta(hours=1))
    assert one(OURS, message, now=NOW + 3600).status is DkimStatus.PASS
    assert one(OURS, message, now=NOW + 3601).error_kind is Kind.EXPIRED


def test_errors_are_told_in_authentication_results() -> None:
    (method,) = auth_methods([one(OURS, signed().replace(b"eight", b"nine"))])
    assert (method.result, method.comment, method.reason) == ("fail", "without dnssec", "body hash does not match")
    broken = one(OURS, b"DKIM-Signature: v=1; \xc3\xbc" + b"\xc3\xbc" * 300 + b"\"\\'=1\r\n" + MESSAGE)
    field = AuthResults("mx.example.net", methods=auth_methods([broken])).compose()
    assert field.isascii()
    assert len(field) < 600


def test_each_signature_is_observed_with_labels_of_our_own() -> None:
    seen: list[tuple[str, float, dict[str, str]]] = []
    metrics.use(lambda name, seconds, labels: seen.append((name, seconds, dict(labels))))
    try:
        unknown = resigned(b"a=ed25519-sha256", b"a=whatever-sha256")
        verify_sync(OURS, signed(unknown), now=NOW)
    finally:
        metrics.use(None)
    assert [(name, labels) for name, _, labels in seen] == [
        ("mox_dkim_verify_duration_seconds", {"algorithm": "ed25519-sha256", "status": "pass"}),
        ("mox_dkim_verify_duration_seconds", {"algorithm": "unknown", "status": "permerror"}),
    ]
    assert all(0 < seconds < 5 for _, seconds, _ in seen)
