"""Selectors' TXT records, tag lists and keys: read as receivers must, refused where they say nothing to trust."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from protocols.dkim import (
    DkimError,
    DkimRecord,
    ErrorKind,
    blank_tag,
    generate_ed25519,
    generate_rsa,
    load_private_key,
    parse_record,
    parse_tags,
    txt_strings,
    zone_text,
)
from protocols.dkim.record import BadRecord
from protocols.dkim.tags import decode_quoted_printable, encode_quoted_printable

ED25519 = generate_ed25519()


def test_it_composes_records_with_their_defaults_left_out() -> None:
    record = DkimRecord.for_key(ED25519)
    data = base64.b64encode(record.public_key).decode()
    assert record.compose() == f"v=DKIM1;h=sha256;k=ed25519;p={data}"
    full = DkimRecord(record.public_key, "ed25519", ("sha256",), ("email",), ("y", "s"), "a; note")
    assert full.compose() == f"v=DKIM1;h=sha256;k=ed25519;n=a=3B=20note;s=email;t=y:s;p={data}"
    for composed in (record, full):
        assert parse_record(composed.compose().encode()) == composed


def test_it_cuts_long_records_for_dns_and_for_people() -> None:
    text = DkimRecord.for_key(generate_rsa()).compose()
    strings = txt_strings(text)
    assert [len(piece) for piece in strings][:-1] == [255]
    assert "".join(strings) == text
    lines = zone_text(text).split("\n")
    assert lines[0] == "("
    assert lines[-1] == ")"
    assert "".join(line.strip('\t"') for line in lines[1:-1]) == text
    assert zone_text("v=DKIM1;p=") == '"v=DKIM1;p="'


def test_it_reads_records_as_laxly_as_the_rfc_allows() -> None:
    record = parse_record(b" v = DKIM1 ; p=\r\n YW Jj ; h = sha256 : SHA1; unknown=x; s= email : * ; g=*; t=y : s;")
    assert record == DkimRecord(b"abc", "rsa", ("sha256", "sha1"), ("email", "*"), ("y", "s"))
    assert record.service_allowed("email")
    assert not parse_record(b"p=YWJj; s=other").service_allowed("email")
    assert parse_record(b"p=YWJj; s=*").service_allowed("email")


@pytest.mark.parametrize(
    ("txt", "claims_dkim"),
    [
        (b"v=DKIM1", True),
        (b"v=DKIM1;", True),
        (b"v=DKIM1; p=YQ==; p=YQ==", True),
        (b"v=DKIM1; p=Y!==", True),
        (b"v=DKIM1; p=YQ==; \xff=", True),
        (b"v=DKIM1; p=" + b"A" * 9000, True),
        (b"p=YQ==; v=DKIM1", False),
        (b"v=DKIM2; p=YQ==", False),
        (b"v=DKIM10; p=YQ==", False),
        (b"v=spf1 -all", False),
        (b"some text", False),
        (b"", False),
        (b"k=rsa", False),
        (b"p=YQ==;;k=rsa", False),
        (b"1p=YQ==", False),
    ],
)
def test_it_tells_a_bad_record_from_one_that_is_no_dkim_record(txt: bytes, claims_dkim: bool) -> None:
    with pytest.raises(BadRecord) as caught:
        parse_record(txt)
    assert caught.value.claims_dkim is claims_dkim


def der(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize(
    ("record", "kind"),
    [
        (DkimRecord(b""), ErrorKind.KEY_REVOKED),
        (DkimRecord(b"x", "dsa"), ErrorKind.UNKNOWN_ALGORITHM),
        (DkimRecord(b"x"), ErrorKind.RECORD_SYNTAX),
        (DkimRecord(b"x" * 31, "ed25519"), ErrorKind.RECORD_SYNTAX),
        (DkimRecord(der(ec.generate_private_key(ec.SECP256R1()))), ErrorKind.ALGORITHM_MISMATCH),
    ],
    ids=["revoked", "unknown type", "no key", "short", "elliptic curve"],
)
def test_it_refuses_keys_that_no_signature_can_be_checked_with(record: DkimRecord, kind: ErrorKind) -> None:
    with pytest.raises(DkimError) as caught:
        record.key()
    assert caught.value.kind is kind


# An RSA key of 512 bits, which anyone can factor; cryptography makes none that small.
WEAK_RSA = base64.b64decode(
    "MFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBALMFmPmtEuTzNcmfyvFVFKzOQN/RTdEwU+zXRsN6i5aZ6MlF7cCfTSjWQVPBz0D8wcUTJBpW/2iGVDwN"
    "kgVeR3cCAwEAAQ=="
)


def test_it_refuses_weak_keys() -> None:
    with pytest.raises(DkimError) as caught:
        DkimRecord(WEAK_RSA).key()
    assert caught.value.kind is ErrorKind.WEAK_KEY


@pytest.mark.parametrize(
    ("pem", "kind"),
    [
        ("", ErrorKind.BAD_KEY),
        ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", ErrorKind.BAD_KEY),
        (
            ec.generate_private_key(ec.SECP256R1())
            .private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
            .decode(),
            ErrorKind.UNKNOWN_ALGORITHM,
        ),
        (
            ED25519.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(b"secret"),
            ).decode(),
            ErrorKind.BAD_KEY,
        ),
    ],
    ids=["empty", "garbage", "elliptic curve", "encrypted"],
)
def test_it_says_what_is_wrong_with_a_private_key(pem: str, kind: ErrorKind) -> None:
    with pytest.raises(DkimError) as caught:
        load_private_key(pem)
    assert caught.value.kind is kind


def test_it_deletes_the_signature_and_nothing_else() -> None:
    assert blank_tag(b"DKIM-Signature: bh=b=; b = a\r\n\tb= ;x=1\r\n", b"b") == b"DKIM-Signature: bh=b=; b =;x=1\r\n"
    assert blank_tag(b"DKIM-Signature: v=1; b=abc\r\n", b"b") == b"DKIM-Signature: v=1; b="


def test_a_tag_list_may_end_in_a_semicolon_and_has_each_tag_once() -> None:
    assert parse_tags("a=1; b = 2 3 ;", ErrorKind.SIGNATURE_SYNTAX) == {"a": "1", "b": "2 3"}
    for text in ("a=1;a=2", "a=1;;b=2", "a", "=1", "a=\x00", "ä=1"):
        with pytest.raises(DkimError):
            parse_tags(text, ErrorKind.SIGNATURE_SYNTAX)


@given(st.text(alphabet=st.characters(codec="utf-8")), st.booleans())
def test_quoted_printable_comes_back(text: str, utf8: bool) -> None:
    encoded = encode_quoted_printable(text, utf8=utf8)
    assert decode_quoted_printable(encoded) == text
    assert not set(encoded) & set("; \r\n\t\0")
    assert utf8 or encoded.isascii()
