"""DANE against a zoo of certificate authorities: a model of what must match, OpenSSL's own DANE, damaged input."""

from __future__ import annotations

import hashlib
import itertools
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import example, given
from hypothesis import strategies as st

from protocols.dane import DANE, DANE_EE, DANE_TA, PKIX_EE, PKIX_TA, DaneResult, is_usable, verify
from protocols.dns import TLSA
from protocols.names import Domain
from protocols.pkix import Roots
from tests.unit.certificates import Certified, certify, root, server_context

MX = Domain("mx.far.example")
ALLOWED = (MX, Domain("far.example"))
INTERMEDIATE = certify(issuer=root(), common_name="intermediate", authority=True)
LEAF = certify("mx.far.example", issuer=INTERMEDIATE)
OTHER = certify("mx.far.example", issuer=certify(common_name="other root", authority=True))

CHAINS = {
    "full": (LEAF, INTERMEDIATE, root()),
    "ta not sent": (LEAF, INTERMEDIATE),
    "leaf alone": (LEAF,),
    "any order": (LEAF, root(), INTERMEDIATE),
    "extra certificates": (LEAF, OTHER, INTERMEDIATE, certify("x.example"), root(), certify("y.example")),
}
TARGETS = {"leaf": LEAF, "intermediate": INTERMEDIATE, "root": root(), "other": OTHER}
KINDS = list(itertools.product((DANE_TA, DANE_EE), (0, 1), (0, 1, 2)))


def tlsa(certified: Certified, usage: int, selector: int = 1, matching: int = 1) -> TLSA:
    """The record for a certificate, made without the code under test."""
    data = certified.der
    if selector == 1:
        key = certified.certificate.public_key()
        data = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return TLSA(usage, selector, matching, [lambda d: d, sha256, sha512][matching](data))


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def sha512(data: bytes) -> bytes:
    return hashlib.sha512(data).digest()


def check(record: TLSA | Sequence[TLSA], *chain: Certified, allowed: Sequence[Domain] = ALLOWED) -> DaneResult:
    records = [record] if isinstance(record, TLSA) else record
    return verify(records, [certified.der for certified in chain], allowed)


def expected(target: str, usage: int, matching: int, chain: Sequence[Certified]) -> bool:
    """Whether a record for a certificate vouches for a chain whose certificates are as they should be."""
    if usage == DANE_EE:
        return target == "leaf"
    if target == "other":
        return False
    # What the server does not send, the record must have in full; and each certificate below must be there.
    sent = TARGETS[target] in chain or matching == 0
    return sent and (target != "root" or INTERMEDIATE in chain)


@pytest.mark.parametrize("chain", list(CHAINS.values()), ids=list(CHAINS))
@pytest.mark.parametrize("target", list(TARGETS))
@pytest.mark.parametrize(("usage", "selector", "matching"), KINDS)
def test_the_zoo(chain: Sequence[Certified], target: str, usage: int, selector: int, matching: int) -> None:
    record = tlsa(TARGETS[target], usage, selector, matching)
    result = check(record, *chain)
    assert result.verified is expected(target, usage, matching, chain)
    assert result.record == (record if result.verified else None)
    assert result.verified or result.errors[0] == "no match between certificate and tlsa records"


BAD_LEAVES = {
    "expired": (certify("mx.far.example", issuer=INTERMEDIATE, days=(-2, -1)), "openssl 10 certificate has expired"),
    "not yet valid": (
        certify("mx.far.example", issuer=INTERMEDIATE, days=(1, 2)),
        "openssl 9 certificate is not yet valid",
    ),
    "wrong name": (
        certify("mx.other.example", issuer=INTERMEDIATE),
        "openssl 62 certificate is not for mx.far.example, far.example",
    ),
    "no name": (certify(issuer=INTERMEDIATE), "openssl 62 certificate is not for mx.far.example, far.example"),
    "for clients": (
        certify("mx.far.example", issuer=INTERMEDIATE, usage=ExtendedKeyUsageOID.CLIENT_AUTH),
        "certificate is not for TLS servers",
    ),
}


@pytest.mark.parametrize(("leaf", "error"), list(BAD_LEAVES.values()), ids=list(BAD_LEAVES))
@pytest.mark.parametrize(("selector", "matching"), list(itertools.product((0, 1), (0, 1, 2))))
def test_only_usage_3_is_for_certificates_that_are_not_as_they_should_be(
    leaf: Certified, error: str, selector: int, matching: int
) -> None:
    chain = (leaf, INTERMEDIATE, root())
    assert check(tlsa(leaf, DANE_EE, selector, matching), *chain).verified
    for target in (INTERMEDIATE, root(), leaf):
        result = check(tlsa(target, DANE_TA, selector, matching), *chain)
        assert not result.verified
        assert result.errors[0] == "no match between certificate and tlsa records"
        assert result.errors[1].startswith(error)


def test_a_chain_through_an_authority_that_is_none_does_not_count() -> None:
    no_authority = certify("mx.between.example", issuer=root())
    leaf = certify("mx.far.example", issuer=no_authority)
    for target in (no_authority, root()):
        result = check(tlsa(target, DANE_TA), leaf, no_authority, root())
        assert not result.verified
        assert re.search("openssl (24|79) ", result.errors[1])


def test_an_expired_intermediate_counts_only_below_the_anchor() -> None:
    expired = certify(issuer=root(), common_name="expired", authority=True, days=(-2, -1))
    leaf = certify("mx.far.example", issuer=expired)
    result = check(tlsa(root(), DANE_TA), leaf, expired, root())
    assert result.errors[1] == "openssl 10 certificate has expired"


def test_a_root_of_the_same_name_with_another_key_is_no_anchor() -> None:
    impostor = certify(common_name="root", authority=True)
    leaf = certify("mx.far.example", issuer=impostor)
    assert not check(tlsa(root(), DANE_TA), leaf, impostor, root()).verified
    assert not check(tlsa(root(), DANE_TA, 0, 0), leaf, impostor).verified
    assert not check(tlsa(root(), DANE_TA, 1, 0), leaf, impostor).verified
    assert check(tlsa(impostor, DANE_TA), leaf, impostor, root()).verified


@pytest.mark.parametrize("name", ["mx.far.example", "far.example", "*.far.example"])
def test_any_of_the_allowed_names_will_do(name: str) -> None:
    leaf = certify(name, issuer=INTERMEDIATE)
    assert check(tlsa(INTERMEDIATE, DANE_TA), leaf, INTERMEDIATE).verified
    assert not check(tlsa(INTERMEDIATE, DANE_TA), leaf, INTERMEDIATE, allowed=()).verified


def test_one_record_is_enough_and_the_errors_of_others_are_kept_where_none_is() -> None:
    expired = BAD_LEAVES["expired"][0]
    useless = [TLSA(3, 1, 1, b"short"), tlsa(OTHER, DANE_EE), TLSA(9, 1, 1, bytes(32)), tlsa(root(), DANE_TA)]
    chain = (expired, INTERMEDIATE, root())
    assert check([*useless, tlsa(expired, DANE_EE)], *chain).record == tlsa(expired, DANE_EE)
    assert check(useless, *chain).errors == (
        "no match between certificate and tlsa records",
        "openssl 10 certificate has expired",
    )
    assert check([], *chain).errors == ("no tlsa records",)
    assert check([TLSA(3, 1, 1, b"short")], *chain).errors == ("no tlsa records",)


def test_another_time_can_be_asked_about() -> None:
    tomorrow = datetime.now(UTC) + timedelta(days=3)
    result = verify([tlsa(root(), DANE_TA)], [c.der for c in CHAINS["full"]], ALLOWED, now=tomorrow)
    assert result.errors[1] == "openssl 10 certificate has expired"


@pytest.mark.parametrize("key", [rsa.generate_private_key(65537, 2048), ed25519.Ed25519PrivateKey.generate()])
def test_keys_of_other_kinds(key: rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey) -> None:
    authority = certify(common_name="authority", authority=True, key=key)
    leaf = certify("mx.far.example", issuer=authority, key=key)
    for selector, matching in itertools.product((0, 1), (0, 1, 2)):
        assert check(tlsa(leaf, DANE_EE, selector, matching), leaf).verified
        assert check(tlsa(authority, DANE_TA, selector, matching), leaf, authority).verified
    assert check(tlsa(authority, DANE_TA, 1, 0), leaf).verified  # a bare key, of which no certificate is sent
    assert check(tlsa(authority, DANE_TA, 0, 0), leaf).verified


@pytest.mark.parametrize(
    ("record", "usable"),
    [
        (tlsa(LEAF, 3, 1, 1), True),
        (tlsa(LEAF, 2, 0, 0), True),
        (tlsa(LEAF, 0), False),
        (tlsa(LEAF, 1), False),
        (TLSA(4, 1, 1, bytes(32)), False),
        (TLSA(255, 1, 1, bytes(32)), False),
        (TLSA(3, 2, 1, bytes(32)), False),
        (TLSA(3, 1, 3, bytes(32)), False),
        (TLSA(3, 1, 1, bytes(31)), False),
        (TLSA(3, 1, 1, b""), False),
        (TLSA(3, 1, 2, bytes(32)), False),
        (TLSA(3, 1, 2, bytes(64)), True),
        (TLSA(3, 0, 0, b""), False),
        (TLSA(3, 0, 0, tlsa(LEAF, 3, 1, 0).data), False),
        (TLSA(3, 1, 0, LEAF.der), False),
    ],
)
def test_records_without_a_meaning_are_not_used(record: TLSA, usable: bool) -> None:
    assert is_usable(record) is usable


ALL = frozenset(range(4))


def test_public_authorities_count_where_they_are_asked_for() -> None:
    """Usages 0 and 1, which SMTP has no use for, need a path to trusted roots besides."""
    roots, chain = Roots(root().pem, system=False), [certified.der for certified in (LEAF, INTERMEDIATE)]
    others = Roots(OTHER.pem, system=False)
    for record in (tlsa(LEAF, PKIX_EE), tlsa(INTERMEDIATE, PKIX_TA), tlsa(root(), PKIX_TA)):
        assert verify([record], chain, ALLOWED, usages=ALL, roots=roots).verified
        assert not verify([record], chain, ALLOWED, usages=ALL, roots=others).verified
        assert not verify([record], chain, ALLOWED, usages=ALL).verified
        assert not verify([record], chain, ALLOWED, roots=roots).verified
        assert not verify([record], chain, (Domain("x.example"),), usages=ALL, roots=roots).verified
    for record in (tlsa(LEAF, PKIX_TA), tlsa(INTERMEDIATE, PKIX_EE), tlsa(OTHER, PKIX_TA)):
        assert not verify([record], chain, ALLOWED, usages=ALL, roots=roots).verified


def test_the_check_speaks_in_the_terms_of_tls_reports() -> None:
    chain = [certified.der for certified in CHAINS["full"]]
    assert DANE((tlsa(LEAF, DANE_EE),), ALLOWED).problem(chain) is None
    problem = DANE((tlsa(OTHER, DANE_EE),), ALLOWED).problem(chain)
    assert problem is not None
    assert (problem.result_type, problem.reason) == ("validation-failure", "dane-no-match")
    problem = DANE((tlsa(root(), DANE_TA),), (Domain("x.example"),)).problem(chain)
    assert problem is not None
    assert problem.reason == "dane-no-match+errors"


def test_chains_that_are_none() -> None:
    record = tlsa(LEAF, DANE_EE)
    for chain in ([], [LEAF.der] * 21, [LEAF.der + bytes(200_000)]):
        result = verify([record], chain, ALLOWED)
        assert not result.verified
        assert result.errors
    # What comes behind a certificate for which DNS vouches does not matter.
    assert verify([record], [LEAF.der, b"\x30\x00"], ALLOWED).verified
    assert verify([tlsa(INTERMEDIATE, DANE_TA)], [LEAF.der, b"", INTERMEDIATE.der], ALLOWED).verified
    # The digest of nothing is not that of a key that cannot be read.
    assert not verify([TLSA(3, 1, 1, sha256(b""))], [b"\x30\x00"], ALLOWED).verified


@example([(58, 0)], (DANE_TA, 0, 0))  # cryptography reads it, OpenSSL does not
@given(st.lists(st.tuples(st.integers(0, len(LEAF.der) - 1), st.integers(0, 255)), max_size=6), st.sampled_from(KINDS))
def test_damaged_certificates_match_nothing_and_raise_nothing(
    changes: list[tuple[int, int]], kind: tuple[int, int, int]
) -> None:
    damaged = bytearray(LEAF.der)
    for offset, value in changes:
        damaged[offset] = value
    usage, selector, matching = kind
    target = LEAF if usage == DANE_EE else INTERMEDIATE
    result = verify([tlsa(target, usage, selector, matching)], [bytes(damaged), INTERMEDIATE.der], ALLOWED)
    if selector == 0 or usage == DANE_TA:
        assert result.verified is (bytes(damaged) == LEAF.der)
    verify([TLSA(usage, selector, 0, bytes(damaged))], [LEAF.der, bytes(damaged)], ALLOWED)


@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 255), st.binary(max_size=100))
def test_any_record_is_usable_or_not(usage: int, selector: int, matching: int, data: bytes) -> None:
    record = TLSA(usage, selector, matching, data)
    assert not verify([record], [LEAF.der, INTERMEDIATE.der], ALLOWED, usages=ALL).verified
    assert str(record)


def test_many_records_cost_little() -> None:
    records = [TLSA(2, n % 2, 1, n.to_bytes(32)) for n in range(1800)]
    chain = [LEAF.der] + [INTERMEDIATE.der] * 19
    started = time.process_time()
    assert not verify(records, chain, ALLOWED).verified
    assert time.process_time() - started < 0.5


# OpenSSL itself: s_client with the record, against a server with the chain.


class Server:
    """Presents a chain to whoever connects, until it is closed."""

    def __init__(self, chain: Sequence[Certified]) -> None:
        self._context = server_context(*chain)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
                with self._context.wrap_socket(connection, server_side=True) as stream:
                    stream.recv(1)
            except ssl.SSLError:
                continue
            except OSError:
                return

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def openssl_verifies(port: int, record: TLSA) -> bool:
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-brief", "-dane_tlsa_domain", MX.ascii]
    command += ["-dane_ee_no_namechecks", "-dane_tlsa_rrdata", str(record), "-verify_return_error"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)
    return "Verification: OK" in done.stderr and done.returncode == 0


DIGESTS = [(usage, selector, 1) for usage in (DANE_TA, DANE_EE) for selector in (0, 1)]
ORACLE = {
    "full": (CHAINS["full"], LEAF, DIGESTS),
    "ta not sent": (CHAINS["ta not sent"], LEAF, KINDS),
    "extra certificates": (CHAINS["extra certificates"], LEAF, DIGESTS),
    **{name: ((leaf, INTERMEDIATE, root()), leaf, DIGESTS) for name, (leaf, _) in BAD_LEAVES.items()},
}


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")
@pytest.mark.parametrize(("chain", "leaf", "kinds"), list(ORACLE.values()), ids=list(ORACLE))
def test_openssl_says_the_same(
    chain: Sequence[Certified], leaf: Certified, kinds: Sequence[tuple[int, int, int]]
) -> None:
    server = Server(chain)
    try:
        for usage, selector, matching in kinds:
            for target in (leaf, INTERMEDIATE, root()):
                if usage == DANE_TA and target is leaf:
                    continue  # OpenSSL wants an authority there; we take the certificate that DNS has for itself
                record = tlsa(target, usage, selector, matching)
                assert check(record, *chain).verified is openssl_verifies(server.port, record), record
    finally:
        server.close()
