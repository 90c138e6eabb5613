"""What the server machines accept and refuse, driven by our own client and by messages that no client should send."""

from __future__ import annotations

import base64
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.md5state import hmac_md5_states
from protocols.sasl import (
    SERVER_MECHANISMS,
    Authenticated,
    Challenge,
    ChannelBinding,
    CredentialKind,
    CredentialsNeeded,
    Failed,
    Failure,
    PasswordGiven,
    ScramHash,
    ServerMechanism,
    Step,
    UnknownMechanism,
    derive_scram_keys,
    server_mechanism,
)
from protocols.sasl.client import (
    ClientMechanism,
    Plain,
    SaslClientError,
    Scram,
    choose_mechanism,
    client_mechanism,
)
from protocols.sasl.server import Credentials

SALT = os.urandom(16)
KEYS: dict[CredentialKind, Credentials] = {
    CredentialKind.SCRAM_SHA_1: derive_scram_keys(ScramHash.SHA_1, "secret word", SALT, 4096),
    CredentialKind.SCRAM_SHA_256: derive_scram_keys(ScramHash.SHA_256, "secret word", SALT, 4096),
    CredentialKind.CRAM_MD5: hmac_md5_states(b"secret word"),
}
TLS12 = ChannelBinding(b"u" * 12, b"e" * 32, announce_plus=True)
TLS13 = ChannelBinding(None, b"e" * 32, announce_plus=False)
OTHER = ChannelBinding(b"U" * 12, b"E" * 32, announce_plus=True)


def converse(server: ServerMechanism, client: ClientMechanism) -> Step:
    """Let the two talk until the server is done; gives its last step, or the challenge that settled a failure."""
    step = server.start(client.next(None).data)
    while True:
        if isinstance(step, CredentialsNeeded):
            step = server.supply(KEYS[step.kind])
        elif isinstance(step, Challenge) and step.failure is None:
            step = server.next(client.next(step.data).data or b"")
        else:
            return step


@pytest.mark.parametrize("name", SERVER_MECHANISMS)
def test_each_mechanism_lets_the_right_password_in(name: str) -> None:
    server = server_mechanism(name.lower(), TLS12, plus_announced=True, hostname="mail.example.org")
    last = converse(server, client_mechanism(name, "jo@example.org", "secret word", TLS12))
    if server.cleartext:
        assert last == PasswordGiven("jo@example.org", "", "secret word")
    else:
        assert last == Authenticated("jo@example.org")


@pytest.mark.parametrize("name", ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "SCRAM-SHA-1", "CRAM-MD5"])
def test_a_wrong_password_is_refused(name: str) -> None:
    server = server_mechanism(name, TLS12, plus_announced=True)
    last = converse(server, client_mechanism(name, "jo@example.org", "secret sword", TLS12))
    if isinstance(last, Challenge):
        assert last.data == b"e=invalid-proof"
        assert last.failure is not None
        assert server.next(b"") == last.failure
        last = last.failure
    assert isinstance(last, Failed)
    assert last.failure is Failure.CREDENTIALS


def test_an_unknown_mechanism_is_named_with_those_there_are() -> None:
    with pytest.raises(UnknownMechanism, match=r"'GSSAPI'.*PLAIN"):
        server_mechanism("GSSAPI", None, plus_announced=False)


def test_client_without_initial_response_is_asked_for_one() -> None:
    for name in ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-1-PLUS"):
        assert server_mechanism(name, TLS12, plus_announced=True).start(None) == Challenge(b"")
    assert server_mechanism("LOGIN", None, plus_announced=False).start(None) == Challenge(b"Username:")


def test_cram_md5_challenges_differ_and_name_the_host() -> None:
    first, second = (server_mechanism("CRAM-MD5", None, False, "mail.example.org").start(None) for _ in range(2))
    assert isinstance(first, Challenge)
    assert first.data.startswith(b"<")
    assert first.data.endswith(b"@mail.example.org>")
    assert first != second


@pytest.mark.parametrize(
    ("name", "response"),
    [
        ("PLAIN", b"jo@example.org\0secret word"),
        ("PLAIN", b"\0jo\0secret\0word"),
        ("PLAIN", b"\0jo\xff\0secret word"),
        ("PLAIN", b"x" * 20_000),
        ("LOGIN", b"jo\0jo"),
        ("CRAM-MD5", b"jo"),
        ("CRAM-MD5", b"jo 1234"),
        ("CRAM-MD5", b" " + b"a" * 32),
        ("CRAM-MD5", b"jo " + b"A" * 32),
    ],
)
def test_malformed_responses_fail(name: str, response: bytes) -> None:
    server = server_mechanism(name, None, plus_announced=False)
    server.start(None)
    step = server.next(response)
    assert isinstance(step, Failed)
    assert step.failure is Failure.MALFORMED


def test_cram_md5_takes_no_initial_response() -> None:
    step = server_mechanism("CRAM-MD5", None, plus_announced=False).start(b"")
    assert isinstance(step, Failed)


def test_user_names_come_back_in_nfc() -> None:
    decomposed = "jose\u0301@example.org"
    plain = server_mechanism("PLAIN", None, plus_announced=False)
    assert plain.start(f"{decomposed}\0{decomposed}\0secret word".encode()) == PasswordGiven(
        "jos\u00e9@example.org", "jos\u00e9@example.org", "secret word"
    )
    server = server_mechanism("SCRAM-SHA-256", None, plus_announced=False)
    needed = server.start(f"n,,n={decomposed},r=0123456789".encode())
    assert needed == CredentialsNeeded(CredentialKind.SCRAM_SHA_256, "jos\u00e9@example.org")


def test_acting_as_another_user_is_refused() -> None:
    plain = converse(
        server_mechanism("PLAIN", None, False), Plain("jo@example.org", "secret word", authzid="al@example.org")
    )
    assert isinstance(plain, Failed)
    assert plain.failure is Failure.AUTHORIZATION
    scram = converse(
        server_mechanism("SCRAM-SHA-256", None, False),
        Scram(ScramHash.SHA_256, "jo@example.org", "secret word", authzid="al@example.org"),
    )
    assert isinstance(scram, Challenge)
    assert scram.failure is not None
    assert scram.failure.failure is Failure.AUTHORIZATION


def test_acting_as_oneself_is_accepted() -> None:
    client = Scram(ScramHash.SHA_1, "jo@example.org", "secret word", authzid="jo@example.org")
    assert converse(server_mechanism("SCRAM-SHA-1", None, False), client) == Authenticated("jo@example.org")


def refusal(step: Step) -> tuple[bytes, Failure]:
    assert isinstance(step, Challenge)
    assert step.failure is not None
    return step.data, step.failure.failure


def test_a_list_stripped_of_plus_on_its_way_is_noticed() -> None:
    client = Scram(ScramHash.SHA_256, "jo@example.org", "secret word", flag="y")
    last = converse(server_mechanism("SCRAM-SHA-256", TLS12, plus_announced=True), client)
    assert refusal(last) == (b"e=server-does-support-channel-binding", Failure.CHANNEL_BINDING)


@pytest.mark.parametrize("channel", [None, TLS13])
def test_flag_y_is_correct_where_plus_was_not_announced(channel: ChannelBinding | None) -> None:
    client = Scram(ScramHash.SHA_256, "jo@example.org", "secret word", flag="y")
    server = server_mechanism("SCRAM-SHA-256", channel, plus_announced=False)
    assert converse(server, client) == Authenticated("jo@example.org")


@pytest.mark.parametrize("name", ["SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"])
def test_under_tls13_a_binding_to_the_certificate_is_verified_all_the_same(name: str) -> None:
    plus = name.endswith("-PLUS")
    right = Scram(ScramHash.SHA_256, "jo@example.org", "secret word", channel=TLS13, plus=plus)
    assert converse(server_mechanism(name, TLS13, plus_announced=False), right) == Authenticated("jo@example.org")
    certificate_of_another = ChannelBinding(None, b"E" * 32, announce_plus=False)
    wrong = Scram(ScramHash.SHA_256, "jo@example.org", "secret word", channel=certificate_of_another, plus=plus)
    last = converse(server_mechanism(name, TLS13, plus_announced=False), wrong)
    assert refusal(last) == (b"e=channel-bindings-dont-match", Failure.CHANNEL_BINDING)


def test_the_bare_name_with_a_binding_is_accepted_if_it_fits() -> None:
    right = Scram(ScramHash.SHA_1, "jo@example.org", "secret word", channel=TLS12)
    assert converse(server_mechanism("SCRAM-SHA-1", TLS12, True), right) == Authenticated("jo@example.org")
    wrong = Scram(ScramHash.SHA_1, "jo@example.org", "secret word", channel=OTHER)
    last = converse(server_mechanism("SCRAM-SHA-1", TLS12, True), wrong)
    assert refusal(last) == (b"e=channel-bindings-dont-match", Failure.CHANNEL_BINDING)


@pytest.mark.parametrize(
    ("binding", "channel"), [("tls-exporter", TLS12), ("tls-unique", TLS13), ("tls-unique", None), ("made-up", TLS12)]
)
def test_a_binding_that_is_not_to_be_had_is_refused(binding: str, channel: ChannelBinding | None) -> None:
    step = server_mechanism("SCRAM-SHA-256", channel, True).start(f"p={binding},,n=jo,r=0123456789".encode())
    assert refusal(step) == (b"e=unsupported-channel-binding-type", Failure.CHANNEL_BINDING)


def test_plus_without_a_binding_is_refused() -> None:
    step = server_mechanism("SCRAM-SHA-256-PLUS", TLS12, True).start(b"n,,n=jo,r=0123456789")
    assert refusal(step)[1] is Failure.CHANNEL_BINDING


@pytest.mark.parametrize(
    ("message", "value"),
    [
        (b"", None),
        (b"n,", None),
        (b"x,,n=jo,r=0123456789", None),
        (b"n,,n=jo", None),
        (b"n,,r=0123456789,n=jo", None),
        (b"n,,n=,r=0123456789", None),
        (b"n,,n=jo,r=0123456", None),
        (b"n,,n=jo,r=01234\x80567", b"e=invalid-encoding"),
        (b"n,,n=jo,r=0123 4567", None),
        (b"p=,,n=jo,r=0123456789", None),
        (b"n,b=al,n=jo,r=0123456789", None),
        (b"n,,m=must,n=jo,r=0123456789", b"e=extensions-not-supported"),
        (b"n,,n=j=o,r=0123456789", b"e=invalid-username-encoding"),
        (b"n,,n=" + b"j" * 2000 + b",r=0123456789", None),
    ],
)
def test_bad_first_messages_fail(message: bytes, value: bytes | None) -> None:
    step = server_mechanism("SCRAM-SHA-256", None, False).start(message)
    if value is None:
        assert isinstance(step, Failed)
        assert step.failure is Failure.MALFORMED_FIRST
    else:
        assert refusal(step) == (value, Failure.MALFORMED_FIRST)


def test_optional_extensions_of_the_client_are_skipped() -> None:
    step = server_mechanism("SCRAM-SHA-256", None, False).start(b"n,,n=jo,r=0123456789,x=more,y=and more")
    assert step == CredentialsNeeded(CredentialKind.SCRAM_SHA_256, "jo")


@pytest.mark.parametrize("change", ["nonce", "no proof", "short proof", "proof is no base64", "order"])
def test_bad_final_messages_fail(change: str) -> None:
    server = server_mechanism("SCRAM-SHA-256", None, False)
    server.start(b"n,,n=jo,r=0123456789")
    first = server.supply(KEYS[CredentialKind.SCRAM_SHA_256])
    assert isinstance(first, Challenge)
    nonce = first.data.decode().split(",")[0]
    message = {
        "nonce": "c=biws,r=0123456789,p=" + base64.b64encode(bytes(32)).decode(),
        "no proof": f"c=biws,{nonce}",
        "short proof": f"c=biws,{nonce},p=AAAA",
        "proof is no base64": f"c=biws,{nonce},p=A",
        "order": f"{nonce},c=biws,p=AAAA",
    }[change]
    step = server.next(message.encode())
    failed = step.failure if isinstance(step, Challenge) else step
    assert isinstance(failed, Failed)
    assert failed.failure is (Failure.CREDENTIALS if change == "short proof" else Failure.MALFORMED_FINAL)


def test_success_needs_the_clients_empty_answer() -> None:
    server = server_mechanism("SCRAM-SHA-256", None, False)
    client = Scram(ScramHash.SHA_256, "jo", "secret word")
    server.start(client.next(None).data)
    first = server.supply(KEYS[CredentialKind.SCRAM_SHA_256])
    assert isinstance(first, Challenge)
    final = server.next(client.next(first.data).data or b"")
    assert isinstance(final, Challenge)
    assert final.data.startswith(b"v=")
    assert isinstance(server.next(b"more"), Failed)


@given(
    st.sampled_from(SERVER_MECHANISMS),
    st.lists(st.binary(max_size=80) | st.from_regex(rb"[npy]=?[a-z-]{0,9},(a=)?,n=.{0,9},r=[!-~]{0,20}.*"), max_size=4),
)
def test_no_input_raises(name: str, responses: list[bytes]) -> None:
    server = server_mechanism(name, TLS12, plus_announced=True)
    step = server.start(None)
    for response in responses:
        if not isinstance(step, Challenge):
            break
        step = server.next(response)
        if isinstance(step, CredentialsNeeded):
            step = server.supply(KEYS[step.kind])
        assert not isinstance(step, Authenticated)


def test_the_client_chooses_the_strongest_that_both_have() -> None:
    def chosen(offered: list[str], channel: ChannelBinding | None, allow_cleartext: bool = True) -> str:
        return choose_mechanism(offered, "jo", "secret word", channel, allow_cleartext=allow_cleartext).name

    assert chosen(list(SERVER_MECHANISMS), TLS12) == "SCRAM-SHA-256-PLUS"
    assert chosen(list(SERVER_MECHANISMS), None) == "SCRAM-SHA-256"
    assert chosen(["LOGIN", "PLAIN"], None) == "PLAIN"
    assert chosen(["plain", "cram-md5"], None, allow_cleartext=False) == "CRAM-MD5"
    with pytest.raises(SaslClientError):
        chosen(["PLAIN", "LOGIN"], None, allow_cleartext=False)


@pytest.mark.parametrize(
    "server_first",
    [
        b"r=other,s=AAAAAAAAAAAAAAAAAAAAAA==,i=4096",
        b"r=0123456789,s=AAAAAAAAAAAAAAAAAAAAAA==,i=4096",
        b"r=0123456789more,s=AAAAAAAAAAAAAAAAAAAAAA==,i=4095",
        b"r=0123456789more,s=AAAAAAAAAAAAAAAAAAAAAA==,i=100001",
        b"r=0123456789more,s=AAAAAAAAAAAAAAAAAAAAAA==,i=4e9",
        b"m=x,r=0123456789more,s=AAAAAAAAAAAAAAAAAAAAAA==,i=4096",
        b"e=other-error",
        b"",
    ],
)
def test_the_client_refuses_weak_and_foreign_server_messages(server_first: bytes) -> None:
    client = Scram(ScramHash.SHA_256, "jo", "secret word", nonce="0123456789")
    client.next(None)
    with pytest.raises(SaslClientError):
        client.next(server_first)


def test_the_client_refuses_a_server_that_does_not_know_the_password() -> None:
    client = Scram(ScramHash.SHA_256, "jo", "secret word", nonce="0123456789")
    client.next(None)
    client.next(b"r=0123456789more,s=AAAAAAAAAAAAAAAAAAAAAA==,i=4096")
    with pytest.raises(SaslClientError, match="signature"):
        client.next(b"v=" + base64.b64encode(bytes(32)))
