"""Chains: what breaks them, how far back signatures are still right, and what is added to them."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from protocols import arc
from protocols.arc import ArcResult, ArcStatus
from protocols.arc.chain import BrokenChain
from protocols.dkim import DkimError, DkimRecord, HeaderSection, Selector, generate_ed25519, generate_rsa
from protocols.dns import ErrorKind, MockResolver
from protocols.message import AuthResults, BadHeaderText
from protocols.message.source import BytesSource
from protocols.names import Domain, parse_domain

RSA = generate_rsa()
ED25519 = generate_ed25519()
NOW = 1_900_000_000
MESSAGE = b"From: Jan <jan@example.org>\r\nTo: a@example.net\r\nSubject: dinner\r\n\r\nAt eight.\r\n"
SELECTOR = Selector(parse_domain("s1"), ED25519, header_relaxed=True, body_relaxed=True)
RESULTS = "dkim=pass header.d=example.org; spf=pass smtp.mailfrom=example.org"


def hop(number: int) -> Domain:
    return parse_domain(f"hop{number}.example")


def resolver(*, hops: int = 60, record: DkimRecord | None = None, **options: object) -> MockResolver:
    text = (record or DkimRecord.for_key(ED25519)).compose()
    records = {f"txt s1._domainkey.{hop(number).ascii}.": [text] for number in range(1, hops + 1)}
    return MockResolver(records, **options)  # type: ignore[arg-type]  # options of each test


EVERYBODY = resolver()


def sealed(message: bytes, number: int, *, selector: Selector = SELECTOR, chain: ArcResult | None = None) -> bytes:
    """The message with one more set, of the hop with this number."""
    chain = chain or arc.verify_sync(EVERYBODY, message, now=NOW)
    return arc.seal(message, selector, hop(number), f"mx.hop{number}.example", RESULTS, chain, now=NOW) + message


def forwarded(hops: int, message: bytes = MESSAGE, *, selector: Selector = SELECTOR) -> bytes:
    for number in range(1, hops + 1):
        message = sealed(message, number, selector=selector)
    return message


def judged(message: bytes, dns: MockResolver = EVERYBODY, now: int = NOW) -> ArcResult:
    return arc.verify_sync(dns, message, now=now)


THREE = forwarded(3)


def test_a_chain_of_three_passes() -> None:
    result = judged(THREE, resolver(authentic=True))
    assert (result.status, result.oldest_pass, result.authentic, result.error) == (ArcStatus.PASS, 0, True, "")
    assert [(one.instance, one.seal.domain, one.cv.value) for one in result.sets] == [
        (1, hop(1), "none"),
        (2, hop(2), "pass"),
        (3, hop(3), "pass"),
    ]
    results = result.sets[0].auth_results
    assert results is not None
    assert results.hostname == "mx.hop1.example"
    assert [(method.method, method.result) for method in results.methods] == [("dkim", "pass"), ("spf", "pass")]


def test_a_message_without_sets_has_no_chain() -> None:
    for message in (MESSAGE, b"", b"no header\nat all"):
        assert judged(message) == ArcResult(ArcStatus.NONE)


def test_the_fields_stand_in_their_order_and_are_folded() -> None:
    fields = arc.seal(MESSAGE, SELECTOR, hop(1), "mx.hop1.example", RESULTS, judged(MESSAGE), now=NOW)
    assert [field.name for field in HeaderSection(fields)] == [
        "ARC-Seal",
        "ARC-Message-Signature",
        "ARC-Authentication-Results",
    ]
    assert max(map(len, fields.split(b"\r\n"))) <= 78
    assert fields.endswith(
        b"ARC-Authentication-Results: i=1; mx.hop1.example; dkim=pass\r\n"
        b" header.d=example.org; spf=pass smtp.mailfrom=example.org\r\n"
    )
    (signature,) = HeaderSection(fields).named("arc-message-signature")
    assert b"h=From:From:To:To:Cc:Bcc:" in signature.value()


@pytest.mark.parametrize("key", [RSA, ED25519], ids=["rsa", "ed25519"])
@pytest.mark.parametrize("header_relaxed", [False, True])
@pytest.mark.parametrize("body_relaxed", [False, True])
def test_it_verifies_what_it_seals(key: object, header_relaxed: bool, body_relaxed: bool) -> None:
    selector = dataclasses.replace(
        SELECTOR,
        key=key,  # type: ignore[arg-type]  # of either type
        header_relaxed=header_relaxed,
        body_relaxed=body_relaxed,
    )
    dns = resolver(record=DkimRecord.for_key(selector.key))
    message = sealed(MESSAGE, 1, selector=selector)
    assert judged(message, dns).status is ArcStatus.PASS
    assert judged(message.replace(b"eight", b"nine"), dns).error == ("instance 1: signature: body hash does not match")
    assert judged(message.replace(b"dinner", b"lunch"), dns).error == (
        "instance 1: signature: signature does not match the header"
    )


def test_a_list_that_changes_a_message_breaks_older_signatures_and_not_the_chain() -> None:
    # What a list does: it verifies, changes the subject, and seals with the chain as it came.
    chain = judged(THREE)
    changed = THREE.replace(b"Subject: ", b"Subject: [list] ")
    resealed = sealed(changed, 4, chain=chain)
    assert (judged(resealed).status, judged(resealed).oldest_pass) == (ArcStatus.PASS, 4)
    later = sealed(resealed, 5)
    assert (judged(later).status, judged(later).oldest_pass) == (ArcStatus.PASS, 4)
    assert judged(changed).status is ArcStatus.FAIL


def test_a_body_that_was_changed_counts_for_older_signatures_too() -> None:
    resealed = sealed(THREE.replace(b"eight", b"nine"), 4, chain=judged(THREE))
    assert (judged(resealed).status, judged(resealed).oldest_pass) == (ArcStatus.PASS, 4)


def test_a_key_that_is_gone_breaks_the_chain() -> None:
    dns = resolver()
    dns.remove("txt s1._domainkey.hop3.example.")
    assert judged(THREE, dns).error == "instance 3: signature: no record at s1._domainkey.hop3.example."
    dns = resolver()
    dns.remove("txt s1._domainkey.hop1.example.")
    assert judged(THREE, dns).error == "instance 1: seal: no record at s1._domainkey.hop1.example."


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("name", [b"ARC-Seal", b"ARC-Message-Signature", b"ARC-Authentication-Results"])
def test_a_chain_with_a_field_missing_or_twice_fails(number: int, name: bytes) -> None:
    header = HeaderSection(THREE.partition(b"\r\n\r\n")[0] + b"\r\n")
    field = next(
        header.raw(one) for one in header.named(name.decode().lower()) if f"i={number};".encode() in one.value()
    )
    assert judged(THREE.replace(field, b"")).error == f"instance {number}: {name.decode()} is missing"
    assert judged(field + THREE).error == f"instance {number}: several {name.decode()}"


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        (b"cv=none", b"cv=pass", "instance 1: cv=pass, must be none"),
        (b"cv=none", b"cv=fail", "instance 1: chain had failed before"),
        (b"cv=none", b"cv=good", "instance 1: cv= is none of none, pass and fail"),
        (b"cv=none;", b"", "instance 1: tag cv= is missing"),
        (b"cv=none;", b"cv=none; h=from;", "instance 1: ARC-Seal has h="),
        (b"cv=none;", b"cv=none; x=1;", "instance 1: x= is not after t="),
        (b"h=From:", b"h=ARC-Seal:From:", "instance 1: ARC-Message-Signature covers a seal"),
        (b"bh=", b"l=1; bh=", "instance 1: signature: l= for length not acceptable"),
        (b"bh=", b"x=1900000001; q=mail; bh=", "instance 1: signature: q= does not allow dns/txt"),
        (b"bh=", b"bh=AAAA", "instance 1: bh= has 35 bytes, must be 32 for sha256"),
        (b"c=relaxed/relaxed", b"c=some", "instance 1: unknown c='some'"),
        (b"d=hop1.example", b"d=com", "instance 1: signature: d= is a public suffix"),
        (b"a=ed25519-sha256", b"a=dsa-sha256", "unknown algorithm dsa-sha256"),
        (b"a=ed25519-sha256", b"a=rsa-sha256", "record is for another algorithm than rsa"),
        (b"a=ed25519-sha256", b"a=ed25519-sha1", "bh= has 32 bytes, must be 20 for sha1"),
        (b"Results: i=1;", b"Results: i=0;", "ARC-Authentication-Results: no instance from 1 to 50"),
        (b"Results: i=1;", b"Results: i=51;", "ARC-Authentication-Results: no instance from 1 to 50"),
        (b"Results: i=1;", b"Results: i=2;", "instance 1: ARC-Authentication-Results is missing"),
        (b"Results: i=1;", b"Results:", "ARC-Authentication-Results: no instance from 1 to 50"),
        (b"ARC-Seal:", b"ARC-Seal: ;", "ARC-Seal: expected tag=value, found ''"),
        (b"ARC-Seal:", b"ARC-Seal: \xff;", "ARC-Seal: signature field is not UTF-8"),
        (b"From: ", b"From: \n", "bare carriage return or line feed in the header section"),
    ],
)
def test_it_says_what_is_wrong_with_a_set(old: bytes, new: bytes, error: str) -> None:
    one = forwarded(1)
    assert old in one
    result = judged(one.replace(old, new))
    assert result.status is ArcStatus.FAIL
    assert result.error.endswith(error)
    assert result.error.isascii()


def test_a_seal_covers_what_earlier_ones_said() -> None:
    changed = THREE.replace(b"mx.hop1.example", b"mx.hop9.example")
    assert judged(changed).error == "instance 3: seal: signature does not match the header"


def test_a_failure_of_dns_is_a_fail() -> None:
    dns = resolver(fail={"txt s1._domainkey.hop2.example.": ErrorKind.TIMEOUT})
    result = judged(THREE, dns)
    assert result.status is ArcStatus.FAIL
    assert result.error.startswith("instance 2: seal: dns: ")
    assert len(result.sets) == 3


def test_it_is_authentic_when_every_record_is() -> None:
    assert not judged(THREE, resolver(authentic=True, inauthentic=["txt s1._domainkey.hop1.example."])).authentic


def test_a_chain_has_at_most_fifty_sets() -> None:
    fifty = forwarded(50)
    result = judged(fifty)
    assert (result.status, len(result.sets), result.oldest_pass) == (ArcStatus.PASS, 50, 0)
    assert sealed(fifty, 51) == fifty  # nothing is added
    assert judged(b"ARC-Seal: i=51\r\n" + fifty).error == "more than 50 sets"


def test_a_failed_chain_is_sealed_once_and_never_again() -> None:
    broken = THREE.replace(b"dinner", b"lunch")
    chain = judged(broken)
    marked = sealed(broken, 4, chain=chain)
    assert b"cv=fail; d=hop4.example; i=4;" in marked
    assert judged(marked).error == "instance 4: chain had failed before"
    assert sealed(marked, 5) == marked
    # Its seal covers its own set only.
    others_changed = marked.replace(b"mx.hop1.example", b"mx.hop9.example")
    assert judged(others_changed).error == "instance 4: chain had failed before"


def test_a_chain_without_structure_is_sealed_as_failed() -> None:
    gap = b"ARC-Seal: i=7; a=rsa-sha256; cv=pass; b=AAAA; d=example.org; s=a\r\nARC-Seal: nothing\r\n" + MESSAGE
    marked = sealed(gap, 8)
    assert b"cv=fail; d=hop8.example; i=8;" in marked
    assert judged(marked).status is ArcStatus.FAIL


def test_it_refuses_to_seal_what_it_cannot() -> None:
    none = ArcResult(ArcStatus.NONE)
    with pytest.raises(DkimError):
        arc.seal(MESSAGE.replace(b"To: ", b"To: \n"), SELECTOR, hop(1), "mx", RESULTS, none)
    with pytest.raises(DkimError):  # its first line would be a part of our last field
        arc.seal(b" " + MESSAGE, SELECTOR, hop(1), "mx", RESULTS, none)
    with pytest.raises(DkimError):  # no verifier would take a signature that long
        arc.seal(b"Reply-To: a@example.net\r\n" * 4000 + MESSAGE, SELECTOR, hop(1), "mx", RESULTS, judged(MESSAGE))
    with pytest.raises(BadHeaderText):
        arc.seal(MESSAGE, SELECTOR, hop(1), "mx", "dkim=pass\0", none)
    with pytest.raises(BrokenChain):  # the caller's chain is of another message
        arc.seal(THREE.replace(b"cv=none", b"cv=pass"), SELECTOR, hop(1), "mx", RESULTS, judged(THREE))
    injected = arc.seal(MESSAGE, SELECTOR, hop(1), "mx", "dkim=pass\r\nSubject: other", none)
    assert HeaderSection(injected).named("subject") == ()


def test_the_result_is_told_in_authentication_results() -> None:
    def written(result: ArcResult) -> str:
        field = AuthResults("mx", methods=[arc.auth_method(result)]).compose().decode()
        return " ".join(field.removeprefix("Authentication-Results: mx;").split())

    assert written(judged(THREE)) == "arc=pass (i=3)"
    assert written(judged(MESSAGE)) == "arc=none"
    assert written(judged(THREE.replace(b"eight", b"nine"))) == (
        'arc=fail (i=3) reason="instance 3: signature: body hash does not match"'
    )


def test_results_that_cannot_be_read_leave_the_chain_whole() -> None:
    fields = arc.seal(MESSAGE, SELECTOR, hop(1), "mx", "((( =", ArcResult(ArcStatus.NONE), now=NOW)
    result = judged(fields + MESSAGE)
    assert (result.status, result.sets[0].auth_results) == (ArcStatus.PASS, None)


def test_it_reads_the_body_once_and_only_for_a_right_signature() -> None:
    class Counting(BytesSource):
        read = 0

        def read_at(self, offset: int, length: int, /) -> bytes:
            data = super().read_at(offset, length)
            self.read += len(data)
            return data

    simple = dataclasses.replace(SELECTOR, header_relaxed=False, body_relaxed=False)
    message = sealed(sealed(MESSAGE + b"x" * 70 + b"\r\n" * 2_000_000, 1), 2, selector=simple)
    source = Counting(message)
    assert asyncio.run(arc.verify(EVERYBODY, source, now=NOW)).oldest_pass == 0
    assert source.read < len(message) + 200_000
    broken = Counting(message.replace(b"dinner", b"lunch"))
    assert asyncio.run(arc.verify(EVERYBODY, broken, now=NOW)).status is ArcStatus.FAIL
    assert broken.read < 200_000


def test_ten_names_at_most_are_looked_up_at_once() -> None:
    class Crowd(MockResolver):
        now = most = 0

        async def _lookup(self, name: str, rtype: str) -> object:  # type: ignore[override]  # as the base has it
            self.now += 1
            self.most = max(self.most, self.now)
            await asyncio.sleep(0)
            self.now -= 1
            return await super()._lookup(name, rtype)

    text = DkimRecord.for_key(ED25519).compose()
    crowd = Crowd({f"txt s1._domainkey.{hop(number).ascii}.": [text] for number in range(1, 31)})
    assert judged(forwarded(30), crowd).status is ArcStatus.PASS
    assert crowd.most == 10
    assert len(crowd.queries) == 30
