"""Chains of certificates: to a trusted root, in their time, for a server, for its name; in the terms of TLS reports."""

from __future__ import annotations

import ssl
from ipaddress import IPv6Address, ip_address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocols.names import parse_domain, parse_domain_lax
from protocols.pkix import MAX_CERTIFICATES, Roots, ServerName, TLSProblem, has_name, peer_chain, verify_chain
from tests.unit.certificates import Certified, certify, root, server_context

MX = parse_domain("mx.far.example")


@pytest.fixture(scope="module")
def roots() -> Roots:
    return Roots(root().pem, system=False)


@pytest.fixture(scope="module")
def intermediate() -> Certified:
    return certify(issuer=root(), common_name="intermediate", authority=True)


def verdict(chain: list[Certified], roots: Roots, name: ServerName = MX) -> tuple[str, str]:
    """Result and reason; both empty if nothing is wrong."""
    problem = verify_chain([certified.der for certified in chain], name, roots)
    if problem is None:
        return "", ""
    assert problem.text
    return problem.result_type, problem.reason


def test_it_trusts_a_server_whose_chain_leads_to_a_root(roots: Roots, intermediate: Certified) -> None:
    assert verdict([certify("mx.far.example", issuer=root())], roots) == ("", "")
    leaf = certify("mx.far.example", issuer=intermediate)
    assert verdict([leaf, intermediate], roots) == ("", "")
    assert verdict([leaf, intermediate, root()], roots) == ("", "")
    assert verdict([leaf, root(), certify("other.example"), intermediate], roots) == ("", "")  # in any order


@pytest.mark.parametrize(
    "key", [rsa.generate_private_key(65537, 2048), ed25519.Ed25519PrivateKey.generate()], ids=["rsa", "ed25519"]
)
def test_it_trusts_keys_of_other_kinds(key: rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey, roots: Roots) -> None:
    assert verdict([certify("mx.far.example", issuer=root(), key=key)], roots) == ("", "")


def test_a_self_signed_certificate_is_trusted_if_it_is_a_root_itself() -> None:
    alone = certify("mx.far.example")
    assert verdict([alone], Roots(alone.pem, system=False)) == ("", "")


def test_it_says_why_a_chain_is_not_trusted(roots: Roots, intermediate: Certified) -> None:
    not_trusted = "certificate-not-trusted"
    leaf = certify("mx.far.example", issuer=intermediate)
    other = certify(common_name="other root", authority=True)
    no_authority = certify(issuer=root(), common_name="no authority")
    assert verdict([certify("mx.far.example")], roots) == (not_trusted, "self-signed")
    assert verdict([certify("mx.far.example", issuer=other), other], roots) == (not_trusted, "self-signed-in-chain")
    assert verdict([leaf], roots) == (not_trusted, "unknown-issuer")
    assert verdict([certify("mx.far.example", issuer=no_authority), no_authority], roots) == (not_trusted, "not-a-ca")
    client = certify("mx.far.example", issuer=root(), usage=ExtendedKeyUsageOID.CLIENT_AUTH)
    assert verdict([client], roots) == (not_trusted, "incompatible-key-usage")
    assert verdict([certify("mx.far.example", issuer=root())], Roots(system=False)) == (not_trusted, "unknown-issuer")


def test_a_certificate_without_a_purpose_or_for_any_serves_as_well(roots: Roots) -> None:
    for usage in (None, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE):
        assert verdict([certify("mx.far.example", issuer=root(), usage=usage)], roots) == ("", "")


def test_it_says_when_a_certificate_is_out_of_its_time(roots: Roots) -> None:
    assert verdict([certify("mx.far.example", issuer=root(), days=(-2, -1))], roots) == ("certificate-expired", "")
    assert verdict([certify("mx.far.example", issuer=root(), days=(1, 2))], roots) == (
        "certificate-expired",
        "certificate-not-yet-valid",
    )


def test_a_forged_signature_is_a_failure(roots: Roots) -> None:
    forger = certify(common_name="root", authority=True)  # the same name, another key
    result, reason = verdict([certify("mx.far.example", issuer=forger)], roots)
    assert (result, reason) == ("validation-failure", "openssl-verify-7")


@pytest.mark.parametrize(
    ("names", "name", "good"),
    [
        (["mx.far.example"], "mx.far.example", True),
        (["MX.Far.Example"], "mx.far.example", True),
        (["a.example", "mx.far.example"], "mx.far.example", True),
        (["far.example"], "mx.far.example", False),
        (["*.far.example"], "mx.far.example", True),
        (["*.far.example"], "far.example", False),
        (["*.far.example"], "a.mx.far.example", False),
        (["*.example"], "mx.far.example", False),
        (["*"], "localhost", False),
        (["m*.far.example"], "mx.far.example", False),
        (["mx.*.example"], "mx.far.example", False),
        (["*.*.example"], "mx.far.example", False),
        (["xn--bcher-kva.example"], "bücher.example", True),
        (["*.xn--bcher-kva.example"], "mx.bücher.example", True),
        (["mx_1.far.example"], "mx_1.far.example", True),
        (["mx.far.example\0.evil.example"], "mx.far.example", False),
        (["mx.far.example."], "mx.far.example", False),
        (["192.0.2.1"], "192.0.2.1", True),
        (["192.0.2.1"], "192.0.2.2", False),
        (["2001:db8::1"], "2001:db8:0:0:0:0:0:1", True),
        (["mx.far.example"], "192.0.2.1", False),
        (["192.0.2.1"], "mx.far.example", False),
    ],
)
def test_a_certificate_is_for_the_names_in_it_and_no_others(
    names: list[str], name: str, good: bool, roots: Roots
) -> None:
    try:
        wanted: ServerName = ip_address(name)
    except ValueError:
        wanted = parse_domain_lax(name)
    certified = certify(*names, issuer=root())
    assert has_name(certified.certificate, wanted) == good
    assert verdict([certified], roots, wanted) == ("", "") or not good
    assert verdict([certified], roots, wanted) == ("certificate-host-mismatch", "") or good


def test_the_common_name_counts_for_nothing(roots: Roots) -> None:
    certified = certify(issuer=root(), common_name="mx.far.example")
    assert verdict([certified], roots) == ("certificate-host-mismatch", "")


def test_names_that_are_of_no_kind_we_know_do_no_harm(roots: Roots) -> None:
    other = x509.SubjectAlternativeName(
        [
            x509.DirectoryName(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])),
            x509.OtherName(NameOID.COMMON_NAME, b"\x0c\x01x"),
            x509.RFC822Name("a@far.example"),
            x509.DNSName("mx.far.example"),
        ]
    )
    assert verdict([certify(issuer=root(), extensions=[other])], roots) == ("", "")


def test_a_chain_that_is_empty_too_long_or_unreadable_is_refused(roots: Roots) -> None:
    assert verify_chain([], MX, roots) == TLSProblem(
        "certificate-not-trusted", "no-certificate", "server has no certificate"
    )
    leaf = certify("mx.far.example", issuer=root())
    assert verdict([leaf] * (MAX_CERTIFICATES + 1), roots) == ("validation-failure", "chain-too-long")
    problem = verify_chain([b"\x30\x03\x02\x01\x01"], MX, roots)
    assert problem is not None
    assert problem.reason == "bad-certificate"


LEAF = certify("mx.far.example", "192.0.2.1", issuer=root()).der


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, len(LEAF) - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_a_damaged_certificate_is_a_problem_and_never_an_exception(changes: list[tuple[int, int]]) -> None:
    damaged = bytearray(LEAF)
    for offset, value in changes:
        damaged[offset] = value
    problem = verify_chain([bytes(damaged)], MX, Roots(root().pem, system=False))
    assert problem is not None or bytes(damaged) == LEAF
    verify_chain([LEAF, bytes(damaged)], IPv6Address("::1"), Roots(root().pem, system=False))


def test_the_systems_roots_are_used_and_our_own_besides() -> None:
    own = Roots(root().pem)
    assert verdict([certify("mx.far.example", issuer=root())], own) == ("", "")
    with pytest.raises(ValueError, match="PEM"):
        Roots("nonsense")


def test_the_chain_is_had_as_the_server_sent_it(intermediate: Certified) -> None:
    leaf = certify("mx.far.example", issuer=intermediate)
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.check_hostname = False
    client_context.verify_mode = ssl.CERT_NONE
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_context(leaf, intermediate, root()).wrap_bio(to_server, to_client, server_side=True)
    client = client_context.wrap_bio(to_client, to_server)
    for side in (client, server, client, server):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    assert peer_chain(client) == [leaf.der, intermediate.der, root().der]
