"""Signatures that others verify: dkimpy as the receiver, and the message and keys of RFC 8463 appendix A."""

from __future__ import annotations

import base64
import io
import re
from datetime import timedelta

import dkim
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocols.dkim import (
    BodyHashes,
    Canonicalization,
    DkimError,
    DkimRecord,
    ErrorKind,
    Hash,
    HeaderSection,
    PrivateKey,
    Selector,
    blank_tag,
    generate_ed25519,
    generate_rsa,
    load_private_key,
    parse_record,
    parse_tags,
    private_key_pem,
    sign,
)
from protocols.dkim.keys import is_signature, make_signature
from protocols.message.source import BytesSource
from protocols.names import parse_domain

RSA = generate_rsa()
ED25519 = generate_ed25519()
DOMAIN = parse_domain("example.org")
NOW = 1_900_000_000

MESSAGE = (
    b"From: Jan <jan@example.org>\r\n"
    b"To: a@example.net,\r\n\tb@example.net\r\n"
    b"Subject:  dinner \t at  eight\r\n"
    b"Date: Fri, 11 Jul 2003 21:00:37 -0700\r\n"
    b"Message-Id: <1@example.org>\r\n"
    b"Received: from a\r\n"
    b"\r\n"
    b"Hi. \r\n\r\n  How \t are you?\t\r\n..\r\n\r\n\r\n"
)

# RFC 8463 appendix A.
FOOTBALL = (
    b"From: Joe SixPack <joe@football.example.com>\r\n"
    b"To: Suzie Q <suzie@shopping.example.net>\r\n"
    b"Subject: Is dinner ready?\r\n"
    b"Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)\r\n"
    b"Message-ID: <20030712040037.46341.5F8J@football.example.com>\r\n"
)
FOOTBALL_BODY = b"Hi.\r\n\r\nWe lost the game.  Are you hungry yet?\r\n\r\nJoe.\r\n"
FOOTBALL_SEED = base64.b64decode("nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=")
FOOTBALL_ED25519_RECORD = b"v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
FOOTBALL_RSA_RECORD = (
    b"v=DKIM1; k=rsa; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDkHlOQoBTzWRiGs5V6NpP3idY6Wk08a5qhdR6wy5bdOKb2jLQi"
    b"Y/J16JYi0Qvx/byYzCNb3W91y3FutACDfzwQ/BC/e/8uBsCR+yz1Lxj+PL6lHvqMKrM3rG4hstT5QjvHO9PzoxZyVYLzBfO2EeC3Ip3G+2kry"
    b"OTIKT+l/K4w3QIDAQAB"
)
FOOTBALL_ED25519 = (
    b"DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;\r\n"
    b" d=football.example.com; i=@football.example.com;\r\n"
    b" q=dns/txt; s=brisbane; t=1528637909; h=from : to :\r\n"
    b" subject : date : message-id : from : subject : date;\r\n"
    b" bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;\r\n"
    b" b=/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11Bus\r\n"
    b" Fa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw==\r\n"
)
FOOTBALL_RSA = (
    b"DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed;\r\n"
    b" d=football.example.com; i=@football.example.com;\r\n"
    b" q=dns/txt; s=test; t=1528637909; h=from : to : subject :\r\n"
    b" date : message-id : from : subject : date;\r\n"
    b" bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;\r\n"
    b" b=F45dVWDfMbQDGHJFlXUNB2HKfbCeLRyhDXgFpEL8GwpsRe0IeIixNTe3\r\n"
    b" DhCVlUrSjV4BwcVcOF6+FF3Zo9Rpo1tFOeS9mPYQTnGdaSGsgeefOsk2Jz\r\n"
    b" dA+L10TeYt9BgDfQNZtKdN1WO//KgIqXP7OdEFE4LjFYNcUxZQ4FADY+8=\r\n"
)


def selector(name: str, key: PrivateKey, **options: object) -> Selector:
    return Selector(parse_domain(name), key, **options)  # type: ignore[arg-type]  # options of each test


def tags_of(field: bytes) -> dict[str, str]:
    return parse_tags(field.partition(b":")[2].decode(), ErrorKind.SIGNATURE_SYNTAX)


def verified(signed: bytes, keys: dict[str, PrivateKey], index: int = 0) -> bool:
    """Whether dkimpy verifies the signature; ``keys`` by selector."""
    records = {f"{name}._domainkey.example.org.": DkimRecord.for_key(key).compose() for name, key in keys.items()}

    def txt(name: bytes, timeout: int = 5) -> bytes:
        return records[name.decode()].encode()

    try:
        return bool(dkim.DKIM(signed).verify(idx=index, dnsfunc=txt))
    except dkim.ValidationError:
        return False


@pytest.mark.parametrize(
    ("header_relaxed", "body_relaxed"), [(False, False), (False, True), (True, False), (True, True)]
)
@pytest.mark.parametrize("key", [RSA, ED25519], ids=["rsa", "ed25519"])
def test_others_verify_what_it_signs(key: PrivateKey, header_relaxed: bool, body_relaxed: bool) -> None:
    chosen = selector("s1", key, header_relaxed=header_relaxed, body_relaxed=body_relaxed)
    fields = sign(MESSAGE, "jan", DOMAIN, [chosen])
    assert verified(fields + MESSAGE, {"s1": key})
    assert not verified(fields + MESSAGE.replace(b"you?", b"you!"), {"s1": key})
    assert not verified(fields + MESSAGE.replace(b"dinner", b"lunch"), {"s1": key})
    # Relaxed is what survives a change of white space.
    assert verified(fields + MESSAGE.replace(b"Hi. ", b"Hi.  "), {"s1": key}) is body_relaxed
    assert verified(fields + MESSAGE.replace(b"Subject:  ", b"subject: "), {"s1": key}) is header_relaxed


@pytest.mark.parametrize("body", [b"", b"\r\n", b"no line end", b"white space \t", b"\r\n\r\nx\r\n\r\n"])
@pytest.mark.parametrize("relaxed", [False, True])
def test_others_verify_odd_bodies(body: bytes, relaxed: bool) -> None:
    message = MESSAGE.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" + body
    fields = sign(message, "jan", DOMAIN, [selector("s1", ED25519, body_relaxed=relaxed)])
    arrived = message if message.endswith(b"\r\n") else message + b"\r\n"  # SMTP knows whole lines only
    assert verified(fields + arrived, {"s1": ED25519})


def test_it_signs_with_several_selectors_in_their_order() -> None:
    selectors = [selector("2026a", ED25519), selector("2026b", RSA, header_relaxed=True, body_relaxed=True)]
    fields = sign(io.BytesIO(MESSAGE), "jan", DOMAIN, selectors)
    first, second = re.findall(rb"DKIM-Signature:.*?\r\n(?!\t)", fields, re.S)
    assert (tags_of(first)["a"], tags_of(second)["a"]) == ("ed25519-sha256", "rsa-sha256")
    assert "c" not in tags_of(first)
    assert tags_of(second)["c"] == "relaxed/relaxed"
    keys: dict[str, PrivateKey] = {"2026a": ED25519, "2026b": RSA}
    assert verified(fields + MESSAGE, keys, 0)
    assert verified(fields + MESSAGE, keys, 1)


def test_it_signs_fields_put_in_front_of_the_message() -> None:
    without_id = MESSAGE.replace(b"Message-Id: <1@example.org>\r\n", b"")
    prefix = b"Message-Id: <2@example.org>\r\n"
    fields = sign(without_id, "jan", DOMAIN, [selector("s1", ED25519)], prefix=prefix)
    assert verified(fields + prefix + without_id, {"s1": ED25519})
    assert not verified(fields + without_id, {"s1": ED25519})


def test_a_sealed_message_takes_no_further_field() -> None:
    sealed = sign(MESSAGE, "jan", DOMAIN, [selector("s1", ED25519)])
    open_ = sign(MESSAGE, "jan", DOMAIN, [selector("s1", ED25519, seal_headers=False)])
    for added in (b"Subject: another\r\n", b"From: eve@example.net\r\n"):
        # The last one of each name is signed: a new one goes above.
        assert not verified(sealed + added + MESSAGE, {"s1": ED25519})
    assert not verified(sealed + b"Reply-To: eve@example.net\r\n" + MESSAGE, {"s1": ED25519})
    assert verified(open_ + b"Subject: another\r\n" + MESSAGE, {"s1": ED25519})
    assert tags_of(sealed)["h"].replace("\r\n\t", "").startswith("From:From:To:To:Cc:Bcc:")


def test_it_writes_the_tags_of_the_signature() -> None:
    chosen = selector("s1", ED25519, headers=("From", "Subject"), expiration=timedelta(hours=72), seal_headers=False)
    field = sign(MESSAGE, "jan.smit", parse_domain("bücher.example"), [chosen], now=NOW)
    tags = tags_of(field)
    assert list(tags) == ["v", "d", "s", "i", "a", "t", "x", "h", "bh", "b"]
    assert tags["d"] == "xn--bcher-kva.example"
    assert tags["i"] == "jan.smit@xn--bcher-kva.example"
    assert tags["t"] == str(NOW)
    assert tags["x"] == str(NOW + 72 * 3600)
    assert tags["h"] == "From:Subject"


def test_it_folds_the_field_at_78_columns() -> None:
    field = sign(MESSAGE, "jan", DOMAIN, [selector("s1", RSA)])
    assert max(map(len, field.split(b"\r\n"))) <= 78


@pytest.mark.parametrize(
    ("localpart", "smtputf8", "written"),
    [
        ("a b", False, '"a=20b"@example.org'),
        ("a;b=c", False, '"a=3Bb=3Dc"@example.org'),
        ("jürgen", False, "j=C3=BCrgen@example.org"),
        ("jürgen", True, "jürgen@example.org"),
    ],
)
def test_it_escapes_the_localpart_in_the_identity(localpart: str, smtputf8: bool, written: str) -> None:
    field = sign(MESSAGE, localpart, DOMAIN, [selector("s1", ED25519)], smtputf8=smtputf8)
    assert tags_of(field)["i"] == written
    assert verified(field + MESSAGE, {"s1": ED25519}) or smtputf8  # dkimpy does not know RFC 8616


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (b"To: a@example.net\r\n\r\nbody\r\n", ErrorKind.HEADER_MALFORMED),
        (b"From: a@example.org\r\nfrom: b@example.org\r\n\r\nbody\r\n", ErrorKind.HEADER_MALFORMED),
        (b"From: a@example.org\nTo: b@example.org\r\n\r\nbody\r\n", ErrorKind.HEADER_MALFORMED),
        (b"From: a@example.org\r\nX: " + b"x" * (1 << 20) + b"\r\n\r\n", ErrorKind.HEADER_MALFORMED),
        (b"From: a@example.org\r\n" + b"Reply-To: b@example.org\r\n" * 4000 + b"\r\n", ErrorKind.HEADER_MALFORMED),
        (b" folded\r\nFrom: a@example.org\r\n\r\n", ErrorKind.HEADER_MALFORMED),
        (b"", ErrorKind.HEADER_MALFORMED),
    ],
    ids=[
        "no From",
        "two From",
        "bare line feed",
        "large header",
        "signature too long for verifiers",
        "its first line would be a part of the signature",
        "empty",
    ],
)
def test_it_refuses_a_message_that_cannot_be_signed_safely(message: bytes, kind: ErrorKind) -> None:
    with pytest.raises(DkimError) as caught:
        sign(message, "jan", DOMAIN, [selector("s1", ED25519)])
    assert caught.value.kind is kind


@pytest.mark.parametrize(
    ("chosen", "kind"),
    [
        (selector("s1", ED25519, headers=("To", "Subject")), ErrorKind.FROM_NOT_SIGNED),
        (selector("s1", RSA, hash=Hash.SHA1), ErrorKind.UNKNOWN_HASH),
        (selector("s1", ED25519, expiration=timedelta(hours=-1)), ErrorKind.EXPIRED),
    ],
    ids=["without From", "sha1", "expired at once"],
)
def test_it_refuses_a_selector_that_no_one_should_trust(chosen: Selector, kind: ErrorKind) -> None:
    with pytest.raises(DkimError) as caught:
        sign(MESSAGE, "jan", DOMAIN, [chosen])
    assert caught.value.kind is kind


def test_it_reads_the_body_in_blocks() -> None:
    class Counting(BytesSource):
        largest = 0

        def read_at(self, offset: int, length: int, /) -> bytes:
            Counting.largest = max(Counting.largest, length)
            return super().read_at(offset, length)

    message = MESSAGE + b"x" * 70 + b"\r\n" * (4 << 20)
    fields = sign(Counting(message), "jan", DOMAIN, [selector("s1", ED25519)])
    assert Counting.largest <= 1 << 20
    assert fields == sign(message, "jan", DOMAIN, [selector("s1", ED25519)], now=int(tags_of(fields)["t"]))


@pytest.mark.parametrize(
    ("field", "record"),
    [(FOOTBALL_ED25519, FOOTBALL_ED25519_RECORD), (FOOTBALL_RSA, FOOTBALL_RSA_RECORD)],
    ids=["ed25519", "rsa"],
)
def test_it_computes_what_the_example_signatures_of_rfc_8463_sign(field: bytes, record: bytes) -> None:
    tags = tags_of(field)
    hashes = BodyHashes([(Canonicalization.RELAXED, "sha256")])
    hashes.update(FOOTBALL_BODY)
    (body_hash,) = hashes.finish().values()
    assert base64.b64encode(body_hash).decode() == tags["bh"]
    names = [name.strip() for name in tags["h"].split(":")]
    data = HeaderSection(FOOTBALL).signed_data(names, Canonicalization.RELAXED, blank_tag(field, b"b"))
    signature = base64.b64decode("".join(tags["b"].split()))
    assert is_signature(parse_record(record).key(), data, signature)
    assert not is_signature(parse_record(record).key(), data + b" ", signature)


def test_it_makes_the_example_signature_of_rfc_8463() -> None:
    key = Ed25519PrivateKey.from_private_bytes(FOOTBALL_SEED)
    assert DkimRecord.for_key(key).public_key == parse_record(FOOTBALL_ED25519_RECORD).public_key
    names = [name.strip() for name in tags_of(FOOTBALL_ED25519)["h"].split(":")]
    data = HeaderSection(FOOTBALL).signed_data(names, Canonicalization.RELAXED, blank_tag(FOOTBALL_ED25519, b"b"))
    made = base64.b64encode(make_signature(key, data)).decode()
    assert made == "".join(tags_of(FOOTBALL_ED25519)["b"].split())


def test_keys_come_back_from_pem() -> None:
    for key in (RSA, ED25519):
        pem = private_key_pem(key)
        assert pem.startswith("-----BEGIN PRIVATE KEY-----\n")
        assert DkimRecord.for_key(load_private_key(pem)) == DkimRecord.for_key(key)
