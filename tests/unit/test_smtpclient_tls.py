"""TLS of the SMTP client: what each mode does with each kind of server, and what a TLS report will say of it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from protocols.names import parse_domain
from protocols.pkix import Roots, TLSProblem
from protocols.smtpclient import PKIX, CheckResult, Session, SMTPError, Timeouts, TLSFailure, TLSMode, TLSPolicy
from protocols.smtpclient.tlspolicy import handshake_problem
from tests.unit.certificates import Certified, certify, root, server_context
from tests.unit.smtp_sink import (
    CONTENT,
    QUIT,
    SENT,
    SOON,
    Peer,
    Script,
    Sink,
    converse,
    deliver,
    opening,
    outcome,
    path,
)

MX = parse_domain("mx.far.example")
STARTTLS = opening("STARTTLS", "PIPELINING", "AUTH PLAIN") + "C: STARTTLS\n"
GO = "S: 220 go\n"
EHLO = "C: EHLO client.example\nS: 250 far.example\n"
SECURED = STARTTLS + GO + "starttls\n" + EHLO
OPPORTUNISTIC = TLSPolicy(TLSMode.OPPORTUNISTIC)
REQUIRED = TLSPolicy(TLSMode.REQUIRED)
IMMEDIATE = TLSPolicy(TLSMode.IMMEDIATE)


@pytest.fixture(scope="module")
def leaf() -> Certified:
    return certify("mx.far.example", issuer=root())


@pytest.fixture(scope="module")
def context(leaf: Certified) -> ssl.SSLContext:
    return server_context(leaf)


@pytest.fixture(scope="module")
def pkix() -> PKIX:
    return PKIX(MX, Roots(root().pem, system=False))


def connected(sink_script: Script, policy: TLSPolicy, context: ssl.SSLContext | None, **options: object) -> Session:
    """The session after it connected and quit."""

    async def talk(sink: Sink) -> Session:
        session = await sink.connect(tls=policy, **options)
        await session.quit()
        return session

    return converse(talk, sink_script, context=context)


def failure(
    script: Script,
    policy: TLSPolicy,
    context: ssl.SSLContext | None = None,
    on_uvloop: bool = False,
    **options: object,
) -> TLSFailure:
    """What the client raises when it connects."""

    async def talk(sink: Sink) -> TLSFailure:
        with pytest.raises(TLSFailure) as caught:
            await sink.connect(tls=policy, **options)
        return caught.value

    error = converse(talk, script, context=context, on_uvloop=on_uvloop)
    assert not error.permanent
    assert error.enhanced == "4.7.5"
    assert error.remote_ip == error.local_ip == "127.0.0.1"
    return error


def verdict(error: TLSFailure) -> tuple[str, str]:
    return error.problem.result_type, error.problem.reason


def refusing(context: ssl.SSLContext) -> Script:
    """A server whose handshake fails, and which says why: asyncio's own would close without an alert."""

    async def script(peer: Peer) -> None:
        await peer.play(STARTTLS + GO)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_side=True)
        while True:
            incoming.write(await peer.stream.read_block(SOON))
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                await peer.say_bytes(outgoing.read())
            except ssl.SSLError:
                await peer.say_bytes(outgoing.read())
                return

    return script


@pytest.mark.parametrize("on_uvloop", [False, True])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_it_uses_tls_where_it_is_announced(leaf: Certified, version: ssl.TLSVersion, on_uvloop: bool) -> None:
    context = server_context(leaf)
    context.maximum_version = version

    async def talk(sink: Sink) -> None:
        session = await sink.connect(tls=OPPORTUNISTIC)
        assert session.tls is not None
        assert session.tls.version == {"TLSv1_2": "TLSv1.2", "TLSv1_3": "TLSv1.3"}[version.name]
        assert session.starttls_announced
        # Whatever was announced in the clear is forgotten: there is no PIPELINING now, and no AUTH.
        delivery = await session.deliver(path("a@client.example"), [path("b@far.example")], CONTENT, has_8bit=False)
        assert outcome(delivery) == {"b@far.example": "accepted: 250 OK"}
        await session.quit()

    transaction = (
        "C: MAIL FROM:<a@client.example>\nS: 250 OK\nC: RCPT TO:<b@far.example>\nS: 250 OK\nC: DATA\nS: 354 go\n"
    )
    converse(talk, SECURED + transaction + SENT + "S: 250 OK\n" + QUIT, context=context, on_uvloop=on_uvloop)


def test_it_goes_on_without_tls_where_none_is_announced() -> None:
    session = connected(opening() + QUIT, OPPORTUNISTIC, None)
    assert session.tls is None
    assert not session.starttls_announced
    assert session.tls_results == ()


def test_it_leaves_tls_alone_when_told_so() -> None:
    assert connected(opening("STARTTLS") + QUIT, TLSPolicy(TLSMode.SKIP), None).tls is None


def test_it_speaks_tls_from_the_first_byte(context: ssl.SSLContext, pkix: PKIX) -> None:
    policy = TLSPolicy(TLSMode.IMMEDIATE, sni="mx.far.example", checks=(pkix,))
    session = connected("starttls\n" + opening("STARTTLS") + QUIT, policy, context)
    assert session.tls_verified
    assert session.tls_results == (CheckResult("pkix", None),)


def test_it_asks_for_the_name_of_the_policy(leaf: Certified) -> None:
    asked: list[str | None] = []
    context = server_context(leaf)
    context.sni_callback = lambda _object, name, _context: asked.append(name)
    connected(SECURED + QUIT, TLSPolicy(TLSMode.OPPORTUNISTIC, sni="mx.far.example"), context)
    connected(SECURED + QUIT, OPPORTUNISTIC, context)
    assert asked == ["mx.far.example", None]


@pytest.mark.parametrize(
    "certified",
    [
        certify("mx.far.example"),
        certify("mx.far.example", issuer=root(), days=(-2, -1)),
        certify("other.example", issuer=root()),
    ],
    ids=["self-signed", "expired", "other name"],
)
def test_any_certificate_will_do_where_none_is_demanded(certified: Certified) -> None:
    assert connected(SECURED + QUIT, OPPORTUNISTIC, server_context(certified)).tls is not None
    session = connected(SECURED + QUIT, REQUIRED, server_context(certified))
    assert session.tls is not None
    assert not session.tls_verified  # which REQUIRETLS and a report want to know


@pytest.mark.parametrize(
    ("certified", "problem"),
    [
        (certify("mx.far.example"), ("certificate-not-trusted", "self-signed")),
        (certify("mx.far.example", issuer=root(), days=(-2, -1)), ("certificate-expired", "")),
        (certify("mx.far.example", issuer=root(), days=(1, 2)), ("certificate-expired", "certificate-not-yet-valid")),
        (certify("other.example", issuer=root()), ("certificate-host-mismatch", "")),
    ],
)
def test_a_certificate_that_does_not_meet_the_policy_ends_the_connection(
    certified: Certified, problem: tuple[str, str], pkix: PKIX
) -> None:
    """Nothing is sent under TLS, not even QUIT."""
    for mode in (TLSMode.REQUIRED, TLSMode.OPPORTUNISTIC):
        error = failure(STARTTLS + GO + "starttls\n", TLSPolicy(mode, checks=(pkix,)), server_context(certified))
        assert verdict(error) == problem
        assert error.results == (CheckResult("pkix", error.problem),)
    error = failure("starttls\n", TLSPolicy(TLSMode.IMMEDIATE, checks=(pkix,)), server_context(certified))
    assert verdict(error) == problem


def test_checks_that_are_only_observed_are_recorded_and_end_nothing(pkix: PKIX) -> None:
    policy = TLSPolicy(TLSMode.OPPORTUNISTIC, observed=(pkix,))
    session = connected(SECURED + QUIT, policy, server_context(certify("mx.far.example")))
    assert [(result.name, result.problem and result.problem.reason) for result in session.tls_results] == [
        ("pkix", "self-signed")
    ]
    assert not session.tls_verified


def test_all_checks_are_made_and_each_must_pass(context: ssl.SSLContext, leaf: Certified, pkix: PKIX) -> None:
    """PKIX and another, as MTA-STS and DANE together: both verdicts are known whichever fails."""
    no_match = TLSProblem("validation-failure", "dane-no-match", "no match between certificate and tlsa records")

    class Dane:
        name = "dane"

        def __init__(self, wanted: bytes) -> None:
            self._wanted = wanted

        def problem(self, chain: Sequence[bytes]) -> TLSProblem | None:
            return None if chain[0] == self._wanted else no_match

    session = connected(SECURED + QUIT, TLSPolicy(TLSMode.REQUIRED, checks=(pkix, Dane(leaf.der))), context)
    assert session.tls_verified
    assert session.tls_results == (CheckResult("pkix", None), CheckResult("dane", None))
    error = failure(STARTTLS + GO + "starttls\n", TLSPolicy(TLSMode.REQUIRED, checks=(pkix, Dane(b""))), context)
    assert error.problem is no_match
    assert error.results == (CheckResult("pkix", None), CheckResult("dane", no_match))


# Servers that do not do TLS, or badly.


def test_starttls_is_sent_even_if_not_announced_where_tls_is_required() -> None:
    """Someone on the way may have taken it off the list."""
    error = failure(opening() + "C: STARTTLS\nS: 502 5.5.1 no such command\n" + QUIT, REQUIRED)
    assert verdict(error) == ("starttls-not-supported", "")
    assert error.code == 502


def test_starttls_that_was_not_announced_is_used_where_tls_is_required(context: ssl.SSLContext) -> None:
    script = opening() + "C: STARTTLS\n" + GO + "starttls\n" + EHLO + QUIT
    assert connected(script, REQUIRED, context).tls is not None


def test_starttls_is_tried_at_a_server_without_ehlo_where_tls_is_required() -> None:
    script = "S: 220 far.example\nC: EHLO client.example\nS: 500 what?\nC: HELO client.example\nS: 250 far.example\n"
    error = failure(script + "C: STARTTLS\nS: 500 what?\n" + QUIT, REQUIRED)
    assert verdict(error) == ("starttls-not-supported", "")


@pytest.mark.parametrize("policy", [OPPORTUNISTIC, REQUIRED])
def test_starttls_refused_is_a_failure_with_the_code(policy: TLSPolicy) -> None:
    error = failure(STARTTLS + "S: 454 4.7.0 TLS not available\n" + QUIT, policy)
    assert verdict(error) == ("starttls-not-supported", "smtp-starttls-reply-code-454")
    assert error.lines == ("454 4.7.0 TLS not available",)


def test_data_before_the_handshake_is_an_attack() -> None:
    """What someone put behind the reply to STARTTLS would be read as if it came under TLS."""

    async def script(peer: Peer) -> None:
        await peer.play(STARTTLS)
        await peer.say("220 go", "250-far.example", "250 AUTH PLAIN")
        await peer.left()

    error = failure(script, REQUIRED)
    assert verdict(error) == ("validation-failure", "data-before-tls-handshake")


def test_a_server_that_does_not_speak_tls_after_all() -> None:
    async def script(peer: Peer) -> None:
        await peer.play(STARTTLS + GO)
        await peer.stream.read_block(SOON)
        await peer.say("500 what is this?")
        await peer.rest()

    assert verdict(failure(script, OPPORTUNISTIC)) == ("validation-failure", "tls-record-header-error")


def test_a_server_that_leaves_in_the_handshake() -> None:
    async def script(peer: Peer) -> None:
        await peer.play(STARTTLS + GO)
        await peer.stream.read_block(SOON)
        peer.stream.close()

    assert verdict(failure(script, OPPORTUNISTIC)) == ("validation-failure", "connection-closed-during-handshake")


def test_a_server_that_is_silent_in_the_handshake() -> None:
    async def script(peer: Peer) -> None:
        await peer.play(STARTTLS + GO)
        await peer.rest()

    error = failure(script, OPPORTUNISTIC, timeouts=Timeouts(tls_handshake=0.1))
    assert verdict(error) == ("validation-failure", "io-timeout-during-handshake")


def test_a_server_with_an_old_version_only(leaf: Certified) -> None:
    context = server_context(leaf, weak=True)
    with pytest.warns(DeprecationWarning, match="TLSv1 "):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1
    result, reason = verdict(failure(refusing(context), OPPORTUNISTIC))
    assert (result, reason) == ("validation-failure", "tls-remote-alert-70-protocol-version")


@pytest.mark.parametrize("on_uvloop", [False, True])
def test_a_server_that_wants_a_certificate_says_so_after_the_handshake(leaf: Certified, on_uvloop: bool) -> None:
    """In TLS 1.3 its alert comes when the client thinks that all is well: the success is taken back."""
    context = server_context(leaf)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=root().pem)
    result, reason = verdict(failure(refusing(context), OPPORTUNISTIC, on_uvloop=on_uvloop))
    assert (result, reason) == ("validation-failure", "tls-remote-alert-116-certificate-required")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    result, reason = verdict(failure(refusing(context), OPPORTUNISTIC, on_uvloop=on_uvloop))
    assert (result, reason) == ("validation-failure", "tls-remote-alert-40-handshake-failure")


def test_a_server_that_does_not_know_the_name(leaf: Certified) -> None:
    context = server_context(leaf)
    context.sni_callback = lambda _object, _name, _context: ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
    error = failure(refusing(context), TLSPolicy(TLSMode.REQUIRED, sni="mx.far.example"))
    assert verdict(error) == ("validation-failure", "tls-remote-alert-112-unrecognized-name")


def test_a_server_whose_key_is_short_is_better_than_one_without_tls() -> None:
    short = certify("mx.far.example", key=rsa.generate_private_key(65537, 1024))
    assert connected(SECURED + QUIT, OPPORTUNISTIC, server_context(short, weak=True)).tls is not None


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("eof", "connection-closed-during-handshake"),
        ("timeout", "io-timeout-during-handshake"),
        ("WRONG_VERSION_NUMBER", "tls-record-header-error"),
        ("SSLV3_ALERT_HANDSHAKE_FAILURE", "tls-remote-alert-40-handshake-failure"),
        ("TLSV1_ALERT_UNKNOWN_CA", "tls-remote-alert-48-unknown-ca"),
        ("TLSV1_UNRECOGNIZED_NAME", "tls-remote-alert-112-unrecognized-name"),
        ("TLSV13_ALERT_MISSING_EXTENSION", "tls-remote-alert-109-missing-extension"),
        ("TLSV1_ALERT_SOMETHING_NEW", "tls-remote-alert-unknown-something-new"),
        ("DH_KEY_TOO_SMALL", "tls-local-dh-key-too-small"),
        ("unexpected eof while reading", "tls-local-unexpected-eof-while-reading"),
    ],
)
def test_reasons_are_told_in_the_words_of_reports(reason: str, code: str) -> None:
    assert handshake_problem(reason).reason == code
    assert handshake_problem(reason).result_type == "validation-failure"


def test_ehlo_refused_under_tls_is_told_as_it_is(context: ssl.SSLContext) -> None:
    async def talk(sink: Sink) -> SMTPError:
        with pytest.raises(SMTPError) as caught:
            await sink.connect(tls=OPPORTUNISTIC)
        return caught.value

    script = STARTTLS + GO + "starttls\nC: EHLO client.example\nS: 502 5.5.1 no EHLO\n" + QUIT
    error = converse(talk, script, context=context)
    assert (error.code, error.command, error.permanent) == (502, "ehlo", True)


def test_a_message_that_requires_tls_goes_to_a_verified_server_that_can(context: ssl.SSLContext, pkix: PKIX) -> None:
    ehlo = "C: EHLO client.example\nS: 250-far.example\nS: 250-PIPELINING\nS: 250 REQUIRETLS\n"
    mail = "C: MAIL FROM:<a@client.example> REQUIRETLS\nC: RCPT TO:<b@far.example>\nC: DATA\n"
    replies = "S: 250 OK\nS: 250 OK\nS: 354 go\n" + SENT + "S: 250 OK\n"
    verified = TLSPolicy(TLSMode.REQUIRED, checks=(pkix,))
    start = STARTTLS + GO + "starttls\n"
    delivery = deliver(start + ehlo + mail + replies + QUIT, require_tls=True, tls=verified, context=context)
    assert outcome(delivery) == {"b@far.example": "accepted: 250 OK"}
    for policy, said in ((REQUIRED, ehlo), (verified, EHLO)):
        (result,) = deliver(start + said + QUIT, require_tls=True, tls=policy, context=context).results
        assert result.error is not None
        assert (result.error.code, result.error.enhanced, result.error.permanent) == (554, "5.7.30", False)


def test_a_large_message_goes_over_tls_as_it_is(context: ssl.SSLContext) -> None:
    content = b"".join(b"%d " % number + b"x" * 60 + b"\r\n" for number in range(20_000))

    async def script(peer: Peer) -> None:
        await peer.play(SECURED)
        for line in ("MAIL FROM:<a@client.example>", "RCPT TO:<b@far.example>"):
            await peer.play(f"C: {line}\nS: 250 OK")
        await peer.play("C: DATA\nS: 354 go")
        assert await peer.content() == content
        await peer.play("S: 250 OK\n" + QUIT)

    delivery = deliver(script, content=content, tls=OPPORTUNISTIC, context=context)
    assert outcome(delivery) == {"b@far.example": "accepted: 250 OK"}


def test_a_cancelled_handshake_ends_the_connection() -> None:
    reached = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.play(STARTTLS + GO)
        await peer.stream.read_block(SOON)
        reached.set()
        await peer.rest()

    async def talk(sink: Sink) -> None:
        connecting = asyncio.create_task(sink.connect(tls=OPPORTUNISTIC))
        await reached.wait()
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting

    converse(talk, script)
