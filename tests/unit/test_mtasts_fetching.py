"""Policies fetched from HTTPS servers as they are and as attackers would have them: certificates, statuses, bodies."""

from __future__ import annotations

import asyncio

import pytest

from protocols.dns import MockResolver
from protocols.mtasts import ErrorKind, Mode, Policy, StsError, fetch_policy
from protocols.names import Domain
from protocols.pkix import Roots
from tests.policyhost import OK, POLICY, Handler, Host
from tests.unit.certificates import Certified, certify, root

DOMAIN = Domain("example.com")
HOST = "mta-sts.example.com"


def fetch(
    answer: bytes | Handler = OK,
    certified: Certified | None = None,
    *,
    host: Host | None = None,
    addresses: tuple[str, ...] = ("127.0.0.1",),
    timeout: float = 10,
    private: bool = True,
) -> tuple[Policy, str]:
    async def run() -> tuple[Policy, str]:
        async with (host or Host()).serving(answer, certified or certify(HOST, issuer=root())) as port:
            resolver = MockResolver({f"a {HOST}.": addresses})
            roots = Roots(root().pem, system=False)
            return await fetch_policy(resolver, DOMAIN, roots, timeout=timeout, port=port, private=private)

    return asyncio.run(run())


def test_it_fetches_the_policy() -> None:
    host = Host()
    policy, text = fetch(host=host)
    assert (policy.mode, policy.max_age, text) == (Mode.ENFORCE, 86_400, POLICY.decode())
    assert host.names == [HOST]
    (request,) = host.requests
    assert request.startswith(b"GET /.well-known/mta-sts.txt HTTP/1.1\r\nHost: mta-sts.example.com\r\n")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(POLICY), POLICY),
        b"HTTP/1.1 200 OK\r\n\r\n" + POLICY,
        b"HTTP/1.0 200 Fine\r\nContent-Type: text/html\r\n\r\n" + POLICY,
        b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK,
    ],
    ids=["chunked", "until the end", "old", "early hints"],
)
def test_it_takes_bodies_in_each_form(answer: bytes) -> None:
    assert fetch(answer)[1] == POLICY.decode()


@pytest.mark.parametrize(
    ("answer", "kind", "text"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", ErrorKind.NO_POLICY, "status 404"),
        (
            b"HTTP/1.1 301 Moved\r\nLocation: https://mta-sts.example.com/x\r\nContent-Length: 0\r\n\r\n",
            ErrorKind.POLICY_FETCH,
            "redirect not allowed",
        ),
        (b"HTTP/1.1 204 No Content\r\n\r\n", ErrorKind.POLICY_FETCH, "status 204"),
        (b"HTTP/1.1 500 Oops\r\n\r\n" + POLICY, ErrorKind.POLICY_FETCH, "status 500"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x: y\r\n" * 11_000, ErrorKind.POLICY_FETCH, "longer than 65536 bytes"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n" + POLICY,
            ErrorKind.POLICY_FETCH,
            "without sending complete",
        ),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000, ErrorKind.POLICY_FETCH, "too long|too large"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", ErrorKind.POLICY_FETCH, "bad Content-Length"),
        (b"220 mail.example.com ESMTP\r\n", ErrorKind.POLICY_FETCH, "before a response"),
        (b"", ErrorKind.POLICY_FETCH, "before a response"),
        (b"HTTP/1.1 200 OK\r\n\r\n\xff", ErrorKind.POLICY_SYNTAX, "not UTF-8"),
        (b"HTTP/1.1 200 OK\r\n\r\n<html>\r\n", ErrorKind.POLICY_SYNTAX, "expected name: value"),
    ],
    ids=[
        "not found",
        "redirect",
        "no content",
        "server error",
        "long",
        "cut off",
        "long header",
        "bad length",
        "no http",
        "nothing",
        "not utf-8",
        "html",
    ],
)
def test_it_refuses_other_answers(answer: bytes, kind: ErrorKind, text: str) -> None:
    with pytest.raises(StsError, match=text) as caught:
        fetch(answer)
    assert caught.value.kind is kind
    assert caught.value.problem is None
    assert str(caught.value).isascii()


@pytest.mark.parametrize(
    ("certified", "failure"),
    [
        (certify(HOST), "certificate-not-trusted+self-signed"),
        (certify("example.com", "mail.example.com", issuer=root()), "certificate-host-mismatch"),
        (certify(HOST, issuer=root(), days=(-2, -1)), "certificate-expired"),
        (
            certify(HOST, issuer=certify(common_name="unknown", authority=True)),
            "certificate-not-trusted+unknown-issuer",
        ),
    ],
    ids=["self-signed", "other name", "expired", "unknown issuer"],
)
def test_nothing_is_asked_of_a_host_with_a_bad_certificate(certified: Certified, failure: str) -> None:
    host = Host()
    with pytest.raises(StsError) as caught:
        fetch(OK, certified, host=host)
    assert caught.value.kind is ErrorKind.POLICY_FETCH
    assert caught.value.failure == ("sts-webpki-invalid", failure)
    assert not host.requests


def test_a_wildcard_certificate_will_do() -> None:
    assert fetch(certified=certify("*.example.com", issuer=root()))


def test_it_goes_on_to_the_next_address() -> None:
    assert fetch(addresses=("127.0.0.9", "127.0.0.1"))
    with pytest.raises(StsError, match=r"127.0.0.9 port \d+: ") as caught:
        fetch(addresses=("127.0.0.9",))
    assert caught.value.failure == ("sts-policy-fetch-error", "cannot-fetch-policy")


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "169.254.1.1", "100.64.0.1", "0.0.0.0", "224.0.0.1"])
def test_it_does_not_connect_to_where_strangers_have_no_business(address: str) -> None:
    host = Host()
    with pytest.raises(StsError, match="not an address of the public network") as caught:
        fetch(host=host, addresses=(address,), private=False)
    assert caught.value.failure == ("sts-policy-fetch-error", "cannot-fetch-policy")
    assert not host.connections


def test_a_host_that_says_nothing_ends_in_time() -> None:
    async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    with pytest.raises(StsError, match=r"no policy within 0\.3 seconds"):
        fetch(silent, timeout=0.3)


def test_a_name_without_addresses_or_answer_is_an_error() -> None:
    async def run(resolver: MockResolver) -> None:
        await fetch_policy(resolver, DOMAIN, Roots(root().pem, system=False))

    for resolver in (MockResolver(), MockResolver(fail=[f"a {HOST}.", f"aaaa {HOST}."])):
        with pytest.raises(StsError, match=r"mta-sts\.example\.com") as caught:
            asyncio.run(run(resolver))
        assert caught.value.kind is ErrorKind.POLICY_FETCH
