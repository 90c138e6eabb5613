"""Logging in at a relay with each mechanism, against the server side of our own SASL; and relays that cheat."""

from __future__ import annotations

import base64
import ssl

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from protocols.md5state import hmac_md5_states
from protocols.sasl import (
    SERVER_MECHANISMS,
    Authenticated,
    Challenge,
    CredentialKind,
    CredentialsNeeded,
    Failed,
    Failure,
    PasswordGiven,
    ScramHash,
    Step,
    channel_binding,
    derive_scram_keys,
    server_mechanism,
)
from protocols.sasl.server import Credentials as Stored
from protocols.smtpclient import DEFAULT_MECHANISMS, Credentials, SMTPError, TLSMode, TLSPolicy
from tests.unit.certificates import Certified, certify, root, server_context
from tests.unit.smtp_sink import QUIT, Peer, Script, Sink, converse

USER, PASSWORD = "jo@relay.example", "secret wörd"
SALT = b"0123456789abcdef"
STORED: dict[CredentialKind, Stored] = {
    CredentialKind.SCRAM_SHA_1: derive_scram_keys(ScramHash.SHA_1, PASSWORD, SALT, 4096),
    CredentialKind.SCRAM_SHA_256: derive_scram_keys(ScramHash.SHA_256, PASSWORD, SALT, 4096),
    CredentialKind.CRAM_MD5: hmac_md5_states(PASSWORD.encode()),
}
ALL = (*DEFAULT_MECHANISMS, "PLAIN", "LOGIN")
IMMEDIATE = TLSPolicy(TLSMode.IMMEDIATE)


@pytest.fixture(scope="module")
def leaf() -> Certified:
    return certify("relay.example", issuer=root())


class Relay:
    """A server that wants a login; what it saw is in ``log``."""

    def __init__(self, *offered: str, leaf: Certified | None = None) -> None:
        self.offered = offered
        self.log: list[str] = []
        self._leaf = leaf

    async def __call__(self, peer: Peer) -> None:
        if self._leaf is not None:
            await peer.play("starttls")
        await peer.greet(*([f"AUTH {' '.join(self.offered)}"] if self.offered else []))
        while (line := await peer.line()) != b"QUIT":
            verb, name, *initial = line.decode().split(" ")
            assert verb == "AUTH"
            assert len(line) <= 510
            self.log.append(name)
            await self._exchange(peer, name, initial)
        await peer.say("221 bye")
        await peer.left()

    async def _exchange(self, peer: Peer, name: str, initial: list[str]) -> None:
        tls = peer.stream.tls
        binding = channel_binding(tls.ssl_object, self._leaf.der) if tls and self._leaf else None
        plus_announced = any(offered.endswith("-PLUS") for offered in self.offered)
        machine = server_mechanism(name, binding, plus_announced)
        if initial:
            response = b"" if initial == ["="] else base64.b64decode(initial[0])
            self._note(response)
            step: Step = machine.start(response)
        else:
            step = machine.start(None)
        while isinstance(step, Challenge | CredentialsNeeded):
            if isinstance(step, CredentialsNeeded):
                assert step.authcid == USER
                step = machine.supply(STORED[step.kind])
                continue
            await peer.say(f"334 {base64.b64encode(step.data).decode()}")
            answer = await peer.line()
            if answer == b"*":
                await peer.say("501 5.7.0 cancelled")
                return
            response = base64.b64decode(answer)
            self._note(response)
            step = machine.next(response)
        match step:
            case Authenticated(authcid=authcid) if authcid == USER:
                await peer.say("235 2.7.0 welcome")
            case PasswordGiven(authcid=authcid, password=password) if (authcid, password) == (USER, PASSWORD):
                await peer.say("235 2.7.0 welcome")
            case Failed(failure=Failure.UNAVAILABLE):
                await peer.say("454 4.7.0 later")
            case _:
                await peer.say("535 5.7.8 no")

    def _note(self, response: bytes) -> None:
        if response[:2] in (b"n,", b"y,", b"p="):
            self.log.append(response.split(b",")[0].decode())


def login(
    relay: Script,
    *mechanisms: str,
    password: str = PASSWORD,
    context: ssl.SSLContext | None = None,
    allow_cleartext: bool = False,
) -> str:
    """The mechanism that was used."""

    async def talk(sink: Sink) -> str:
        credentials = Credentials(USER, password, mechanisms or DEFAULT_MECHANISMS, allow_cleartext)
        tls = {"tls": IMMEDIATE} if context else {}
        session = await sink.connect(credentials=credentials, **tls)
        assert session.usable
        await session.quit()
        return session.mechanism

    return converse(talk, relay, context=context)


def refused(relay: Script, *mechanisms: str, **options: object) -> SMTPError:
    with pytest.raises(SMTPError) as caught:
        login(relay, *mechanisms, **options)  # type: ignore[arg-type]  # the options are login's own
    assert caught.value.command == "auth"
    assert PASSWORD not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "SCRAM-SHA-1", "CRAM-MD5"])
def test_it_logs_in_without_tls_by_what_does_not_send_the_password(mechanism: str) -> None:
    assert login(Relay(mechanism)) == mechanism


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("mechanism", SERVER_MECHANISMS)
def test_it_logs_in_over_tls_by_each_mechanism(mechanism: str, version: ssl.TLSVersion, leaf: Certified) -> None:
    context = server_context(leaf)
    context.maximum_version = version
    relay = Relay(mechanism, leaf=leaf)
    assert login(relay, *ALL, context=context) == mechanism
    binding = "p=tls-unique" if version is ssl.TLSVersion.TLSv1_2 else "p=tls-server-end-point"
    if mechanism.endswith("-PLUS"):
        assert relay.log == [mechanism, binding]


def test_the_first_of_our_list_that_the_server_offers_is_used(leaf: Certified) -> None:
    everything = Relay(*reversed(SERVER_MECHANISMS), leaf=leaf)
    assert login(everything, *ALL, context=server_context(leaf)) == "SCRAM-SHA-256-PLUS"
    assert login(Relay(*reversed(SERVER_MECHANISMS)), "CRAM-MD5", "SCRAM-SHA-256") == "CRAM-MD5"
    assert login(Relay("scram-sha-1", "plain"), "scram-sha-1") == "SCRAM-SHA-1"


def test_a_server_that_could_bind_learns_that_its_offer_was_taken_away(leaf: Certified) -> None:
    """Flag y: this side could bind, and saw no -PLUS (RFC 5802 section 6)."""
    relay = Relay("SCRAM-SHA-256", leaf=leaf)
    assert login(relay, context=server_context(leaf)) == "SCRAM-SHA-256"
    assert relay.log == ["SCRAM-SHA-256", "y"]


def test_a_downgrade_is_refused_by_the_server(leaf: Certified) -> None:
    class Downgraded(Relay):
        async def __call__(self, peer: Peer) -> None:
            self.offered = ("SCRAM-SHA-256",)
            await super().__call__(peer)

        async def _exchange(self, peer: Peer, name: str, initial: list[str]) -> None:
            self.offered = ("SCRAM-SHA-256", "SCRAM-SHA-256-PLUS")  # what the server thinks that it said
            await super()._exchange(peer, name, initial)

    error = refused(Downgraded(leaf=leaf), context=server_context(leaf))
    assert "server-does-support-channel-binding" in str(error)


def test_without_tls_or_plus_in_our_list_the_flag_is_n(leaf: Certified) -> None:
    relay = Relay("SCRAM-SHA-256")
    login(relay)
    assert relay.log == ["SCRAM-SHA-256", "n"]
    relay = Relay("SCRAM-SHA-256", leaf=leaf)
    login(relay, "SCRAM-SHA-256", context=server_context(leaf))
    assert relay.log == ["SCRAM-SHA-256", "n"]


def test_plus_that_only_another_hash_has_is_no_downgrade(leaf: Certified) -> None:
    relay = Relay("SCRAM-SHA-256", "SCRAM-SHA-1-PLUS", leaf=leaf)
    login(relay, "SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", context=server_context(leaf))
    assert relay.log == ["SCRAM-SHA-256", "n"]


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "SCRAM-SHA-1", "CRAM-MD5", "PLAIN", "LOGIN"])
def test_a_wrong_password_is_a_permanent_error_as_the_server_says(mechanism: str, leaf: Certified) -> None:
    error = refused(Relay(mechanism, leaf=leaf), *ALL, password="wrong", context=server_context(leaf))
    if mechanism.startswith("SCRAM"):
        assert "invalid-proof" in str(error)
    else:
        assert str(error) == "535 5.7.8 no"
        assert (error.code, error.permanent) == (535, True)


@pytest.mark.parametrize("offered", [("PLAIN",), ("PLAIN", "LOGIN", "XOAUTH2"), ()])
def test_no_mechanism_in_common_is_a_permanent_error(offered: tuple[str, ...], leaf: Certified) -> None:
    """PLAIN is used only where it is in the list."""
    error = refused(Relay(*offered, leaf=leaf), context=server_context(leaf))
    assert (error.permanent, error.enhanced) == (True, "5.7.9")
    assert f"server offers {' '.join(offered) or 'none'}" in str(error)


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_the_password_goes_over_a_connection_without_tls_only_when_that_is_allowed(mechanism: str) -> None:
    assert refused(Relay(mechanism), mechanism).permanent
    assert login(Relay(mechanism), mechanism, allow_cleartext=True) == mechanism


def test_plus_is_skipped_where_nothing_can_be_bound_to() -> None:
    """An Ed25519 certificate has no hash for tls-server-end-point, and TLS 1.3 no tls-unique."""
    alone = certify("relay.example", key=ed25519.Ed25519PrivateKey.generate())
    relay = Relay("SCRAM-SHA-256", "SCRAM-SHA-256-PLUS", leaf=alone)
    assert login(relay, context=server_context(alone)) == "SCRAM-SHA-256"
    assert relay.log == ["SCRAM-SHA-256", "n"]


def test_an_initial_response_too_long_for_a_command_is_sent_when_asked_for(leaf: Certified) -> None:
    password = "p" * 400

    class Patient(Relay):
        async def _exchange(self, peer: Peer, name: str, initial: list[str]) -> None:
            assert not initial
            await peer.say("334 ")
            assert base64.b64decode(await peer.line()) == f"\0{USER}\0{password}".encode()
            await peer.say("235 welcome")

    assert login(Patient("PLAIN", leaf=leaf), "PLAIN", password=password, context=server_context(leaf)) == "PLAIN"


# Servers that do not keep to the protocol.


def saying(*replies: str, ends: str = QUIT, mechanism: str = "SCRAM-SHA-256") -> Script:
    """A server that answers AUTH, and each response, with the next of these."""

    async def script(peer: Peer) -> None:
        await peer.greet(f"AUTH {mechanism}")
        assert (await peer.line()).startswith(b"AUTH ")
        await peer.say(replies[0])
        for reply in replies[1:]:
            await peer.line()
            await peer.say(reply)
        await peer.play(ends)
        await peer.left()

    return script


CANCELLED = "C: *\nS: 501 cancelled\n" + QUIT


def test_a_server_that_lets_in_without_a_proof_of_its_own_is_not_believed() -> None:
    """It may not know the password, and be after the mail."""
    error = refused(saying("235 welcome", ends=""))
    assert str(error) == "server ended authentication with SCRAM-SHA-256 early"
    assert not error.permanent


def test_a_server_with_a_wrong_signature_is_not_believed() -> None:
    class Forger(Relay):
        async def _exchange(self, peer: Peer, name: str, initial: list[str]) -> None:
            first = base64.b64decode(initial[0]).decode()
            nonce = first.rpartition("r=")[2] + "server"
            salt = base64.b64encode(SALT).decode()
            await peer.say(f"334 {base64.b64encode(f'r={nonce},s={salt},i=4096'.encode()).decode()}")
            await peer.line()
            await peer.say(f"334 {base64.b64encode(b'v=' + base64.b64encode(b'x' * 32)).decode()}")
            assert await peer.line() == b"*"
            await peer.say("501 cancelled")

    assert "does not know the password" in str(refused(Forger("SCRAM-SHA-256")))


@pytest.mark.parametrize(
    "challenge", ["334 not base64", "334 %%%%", "334 eHh4", "334", "334 cj14LHM9eHg9LGk9MQ==", "334 \xfc"]
)
def test_a_challenge_that_makes_no_sense_is_cancelled(challenge: str) -> None:
    error = refused(saying(challenge, ends=CANCELLED))
    assert not error.permanent
    assert str(error).startswith("authentication with SCRAM-SHA-256: ")


def test_a_server_that_asks_on_and_on_is_left() -> None:
    error = refused(saying(*["334 "] * 3, ends=CANCELLED, mechanism="LOGIN"), "LOGIN", allow_cleartext=True)
    assert "more than" in str(error)


@pytest.mark.parametrize(
    ("reply", "permanent"),
    [
        ("454 4.7.0 later", False),
        ("535 5.7.8 no", True),
        ("504 5.5.4 unknown mechanism", True),
        ("530 5.7.0 STARTTLS first", True),
    ],
)
def test_a_refusal_counts_as_its_code_says(reply: str, permanent: bool) -> None:
    error = refused(saying(reply))
    assert (str(error), error.permanent) == (reply, permanent)


def test_a_server_that_leaves_in_the_middle_is_a_temporary_error() -> None:
    assert (
        str(refused(saying("334 ", ends="closes", mechanism="CRAM-MD5"))) == "connection closed by server during auth"
    )


def test_what_a_server_says_within_the_exchange_cannot_bring_in_lines() -> None:
    """It comes in base64, and so may have anything in it."""
    evil = base64.b64encode(b"e=no\r\nX-Evil: yes\x1b[2J").decode()
    error = refused(saying(f"334 {evil}", "535 5.7.8 no"))
    assert str(error).isprintable()
    assert "X-Evil" in str(error)
