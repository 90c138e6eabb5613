"""Signatures between programs: opendkim and dkimpy verify ours, and we verify theirs."""

from __future__ import annotations

import base64
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import dkim
import pytest
from cryptography.hazmat.primitives import serialization

from protocols import arc
from protocols.dkim import DkimRecord, DkimStatus, Selector, generate_ed25519, generate_rsa, private_key_pem, sign
from protocols.dkim import verify_sync as verify
from protocols.dns import MockResolver
from protocols.names import parse_domain

from . import txt_programs
from .txt_programs import Finished

RSA: Final = generate_rsa()
ED25519: Final = generate_ed25519()
DOMAIN: Final = parse_domain("example.org")
RECORDS: Final = {
    "r._domainkey.example.org.": DkimRecord.for_key(RSA).compose(),
    "e._domainkey.example.org.": DkimRecord.for_key(ED25519).compose(),
}
RESOLVER: Final = MockResolver({f"txt {name}": [text] for name, text in RECORDS.items()})
DKIMVERIFY: Final = str(Path(sys.executable).with_name("dkimverify"))
BAD_SIGNATURE: Final = 70  # of opendkim-testmsg, EX_SOFTWARE

HEADER: Final = (
    b"Received: from client.example.org\r\n\tby mail.example.org; Fri, 11 Jul 2003 21:01:54 -0700\r\n"
    b"From: Jan \t<jan@example.org>\r\n"
    b"To: a@example.net,\r\n\tb@example.net\r\n"
    b"Subject:  dinner \t at  eight \r\n"
    b"Date: Fri, 11 Jul 2003 21:00:37 -0700\r\n"
    b"Message-Id: <1@example.org>\r\n"
)
BODIES: Final = {
    "text": b"Hi. \r\n\r\n  How \t are you?\t\r\n..\r\n\r\n\r\n",
    "8 bit": "Über größere Mengen \r\n".encode() + b"\xe4\xff\r\n",
    "without line end": b"the end",
    "empty": b"",
    "empty lines": b"\r\n\r\n",
    "white space": b" \t \r\n\t\r\n",
}

opendkim = pytest.mark.skipif(
    bool(reason := txt_programs.missing("opendkim-testmsg")), reason=reason or "opendkim-testmsg is there"
)


def messages() -> Iterator[bytes]:
    """Signed ones of all kinds, ended as they are after a transmission."""
    for body, header_relaxed, body_relaxed in itertools.product(BODIES.values(), (False, True), (False, True)):
        message = HEADER + b"\r\n" + body
        selectors = [
            Selector(parse_domain(name), key, header_relaxed=header_relaxed, body_relaxed=body_relaxed)
            for name, key in (("r", RSA), ("e", ED25519))
        ]
        for selector in selectors:
            signed = sign(message, "jan", DOMAIN, [selector]) + message
            yield signed if signed.endswith(b"\r\n") else signed + b"\r\n"


def changed(message: bytes) -> bytes:
    return message.replace(b"dinner", b"lunch")


@opendkim
def test_opendkim_verifies_what_it_signs(tmp_path: Path) -> None:
    signed = list(messages())
    runs = [(["opendkim-testmsg"], message) for message in [*signed, *map(changed, signed)]]
    results = txt_programs.run(RECORDS, runs, tmp_path)
    assert results[: len(signed)] == [Finished(0, b"", "")] * len(signed)
    assert {result.returncode for result in results[len(signed) :]} == {BAD_SIGNATURE}


@pytest.mark.skipif(bool(reason := txt_programs.missing(DKIMVERIFY)), reason=reason or "dkimverify is there")
def test_dkimverify_verifies_what_it_signs(tmp_path: Path) -> None:
    signed = list(messages())[::11]
    results = txt_programs.run(RECORDS, [([DKIMVERIFY], message) for message in signed], tmp_path)
    assert results == [Finished(0, b"signature ok\n", "")] * len(signed)
    assert txt_programs.run(RECORDS, [([DKIMVERIFY], changed(signed[0]))], tmp_path)[0].returncode == 1


def test_it_verifies_what_it_signs_itself() -> None:
    for message in messages():
        assert [result.status for result in verify(RESOLVER, message)] == [DkimStatus.PASS]
        assert [result.status for result in verify(RESOLVER, changed(message))] == [DkimStatus.FAIL]


@opendkim
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_it_verifies_what_opendkim_signs(tmp_path: Path, body: bytes) -> None:
    key = tmp_path / "key.pem"
    key.write_text(private_key_pem(RSA))
    argv = ["opendkim-testmsg", "-C", "-d", "example.org", "-s", "r", "-k", str(key)]
    message = HEADER + b"\r\n" + body
    (result,) = txt_programs.run({}, [(argv, message)], tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    # It writes its field with CRLF, the message as it reads it: with LF.
    signed = result.stdout.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    assert signed.startswith(b"DKIM-Signature: ")
    assert [result.status for result in verify(RESOLVER, signed)] == [DkimStatus.POLICY]
    # The program has no option for another hash than SHA-1; all the rest is to be right.
    resolver = MockResolver({"txt r._domainkey.example.org.": [DkimRecord.for_key(RSA, hashes=()).compose()]})
    for content, status in ((signed, DkimStatus.PASS), (changed(signed), DkimStatus.FAIL)):
        assert [result.status for result in verify(resolver, content, policy=lambda sig: "")] == [status]


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("canonicalize", list(itertools.product([b"simple", b"relaxed"], repeat=2)), ids=str)
@pytest.mark.parametrize("algorithm", ["rsa-sha256", "ed25519-sha256"])
def test_it_verifies_what_dkimpy_signs(body: bytes, canonicalize: tuple[bytes, bytes], algorithm: str) -> None:
    message = HEADER + b"\r\n" + body
    if algorithm == "rsa-sha256":
        selector, key = b"r", pkcs1_pem()
    else:
        selector, key = b"e", base64.b64encode(ED25519.private_bytes_raw())
    field = dkim.sign(
        message, selector, b"example.org", key, canonicalize=canonicalize, signature_algorithm=algorithm.encode()
    )
    assert [result.status for result in verify(RESOLVER, field + message)] == [DkimStatus.PASS]
    assert [result.status for result in verify(RESOLVER, changed(field + message))] == [DkimStatus.FAIL]


def test_dkimpy_verifies_chains_sealed_by_both_in_turn() -> None:
    message = HEADER + b"\r\n" + BODIES["text"]
    selector = Selector(parse_domain("r"), RSA, header_relaxed=True, body_relaxed=True)
    for hop in range(1, 7):
        chain = arc.verify_sync(RESOLVER, message)
        assert chain.status.value == ("none" if hop == 1 else "pass"), chain.error
        assert len(chain.sets) == hop - 1
        if hop % 2:
            added = arc.seal(message, selector, DOMAIN, "mx.example.org", f"arc={chain.status}; dkim=pass", chain)
        else:
            results = b"Authentication-Results: mx.example.org; arc=pass; dkim=pass header.d=example.org\r\n"
            added = b"".join(dkim.arc_sign(results + message, b"r", b"example.org", pkcs1_pem(), b"mx.example.org"))
        message = added + message
        assert theirs(message) == "pass"
        assert theirs(changed(message)) == "fail"
    assert arc.verify_sync(RESOLVER, changed(message)).status is arc.ArcStatus.FAIL


def theirs(message: bytes) -> str:
    """What dkimpy says of a chain."""
    status, _, _ = dkim.arc_verify(message, dnsfunc=lambda name, timeout=5: RECORDS[name.decode()].encode())
    text: bytes = status
    return text.decode()


def pkcs1_pem() -> bytes:
    return RSA.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
