"""What the SMTP client writes into MAIL and RCPT, and messages that a server cannot be given."""

from __future__ import annotations

import pytest

from protocols.names import IPDomain
from protocols.smtpclient import Delivery
from protocols.smtpsyntax import Path
from tests.unit.smtp_sink import (
    ACCEPTED,
    CONTENT,
    DATA,
    DONE,
    GO,
    MAIL,
    OK,
    QUIT,
    SENT,
    B,
    Sink,
    converse,
    deliver,
    opening,
    outcome,
    path,
)


@pytest.mark.parametrize(
    ("extensions", "has_8bit", "parameters"),
    [
        ((), False, ""),
        ((), True, ""),
        (("8BITMIME",), False, " BODY=7BIT"),
        (("8BITMIME",), True, " BODY=8BITMIME"),
        (("SIZE",), False, f" SIZE={len(CONTENT)}"),
        (("SIZE 0", "8BITMIME"), True, f" SIZE={len(CONTENT)} BODY=8BITMIME"),
        (("size 10000", "SMTPUTF8 whatever", "REQUIRETLS"), False, f" SIZE={len(CONTENT)}"),
        (("SIZE nonsense",), False, f" SIZE={len(CONTENT)}"),
    ],
)
def test_mail_has_the_parameters_that_were_announced(
    extensions: tuple[str, ...], has_8bit: bool, parameters: str
) -> None:
    script = opening(*extensions) + MAIL.strip() + parameters + "\n" + OK + B + OK + DATA + GO + SENT + DONE + QUIT
    assert outcome(deliver(script, has_8bit=has_8bit)) == {"b@far.example": ACCEPTED}


def test_a_pedantic_client_sends_no_8bit_content_to_a_server_without_8bitmime() -> None:
    delivery = deliver(opening() + QUIT, has_8bit=True, pedantic=True)
    assert outcome(delivery) == {"b@far.example": "permanent: server does not support 8BITMIME"}
    assert [result.error.enhanced for result in delivery.results if result.error] == ["5.6.3"]


def test_content_larger_than_the_servers_size_is_not_offered() -> None:
    (result,) = deliver(opening(f"SIZE {len(CONTENT) - 1}") + QUIT).results
    assert result.error is not None
    assert result.error.permanent
    assert result.error.enhanced == "5.3.4"


def test_addresses_are_written_in_a_labels_unless_the_transaction_is_smtputf8() -> None:
    script = (
        opening("SMTPUTF8 x y") + MAIL + OK + "C: RCPT TO:<b@xn--bcher-kva.example>\n" + OK + DATA + GO + SENT + DONE
    )
    assert outcome(deliver(script + QUIT, to=("b@bücher.example",))) == {"b@bücher.example": ACCEPTED}
    script = opening("SMTPUTF8 x y") + MAIL.strip() + " SMTPUTF8\n" + OK + "C: RCPT TO:<jö@bücher.example>\n" + OK
    delivery = deliver(script + DATA + GO + SENT + DONE + QUIT, to=("jö@bücher.example",), smtputf8=True)
    assert outcome(delivery) == {"jö@bücher.example": ACCEPTED}


def test_a_server_without_smtputf8_is_not_offered_what_needs_it() -> None:
    (result,) = deliver(opening() + QUIT, smtputf8=True).results
    assert result.error is not None
    assert not result.error.permanent
    assert result.error.enhanced == "5.6.7"


def test_an_address_that_needs_smtputf8_in_a_message_that_does_not_is_refused_here() -> None:
    script = opening("SMTPUTF8") + MAIL + OK + B + OK + DATA + GO + SENT + DONE + QUIT
    assert outcome(deliver(script, to=("jö@far.example", "b@far.example"))) == {
        "jö@far.example": "permanent: address outside ASCII needs SMTPUTF8",
        "b@far.example": ACCEPTED,
    }


@pytest.mark.parametrize("localpart", ["a\r\nRSET", "a\0b", "a\x7f"])
def test_no_address_can_bring_in_a_command(localpart: str) -> None:
    """Parsed paths cannot have these; one made by hand is refused all the same."""
    evil = Path(localpart, path("b@far.example").domain)

    async def talk(sink: Sink) -> Delivery:
        session = await sink.connect()
        delivery = await session.deliver(Path(), [evil], CONTENT, has_8bit=False)
        await session.quit()
        return delivery

    (result,) = converse(talk, opening() + QUIT).results
    assert result.error is not None
    assert str(result.error) == "address with control characters"
    assert outcome(deliver(opening() + QUIT, mail_from=evil)) == {
        "b@far.example": "permanent: address with control characters"
    }


def test_the_null_path_a_quoted_localpart_and_an_address_literal_are_written_as_they_must_be() -> None:
    literal = Path("b c", IPDomain(ip=path("x@[192.0.2.1]").domain.ip))
    script = (
        opening() + "C: MAIL FROM:<>\n" + OK + 'C: RCPT TO:<"b c"@[192.0.2.1]>\n' + OK + DATA + GO + SENT + DONE + QUIT
    )

    async def talk(sink: Sink) -> Delivery:
        session = await sink.connect()
        delivery = await session.deliver(Path(), [literal], CONTENT, has_8bit=False)
        await session.quit()
        return delivery

    (result,) = converse(talk, script).results
    assert result.accepted is not None


def test_a_message_that_requires_tls_is_not_offered_without_it() -> None:
    (result,) = deliver(opening("REQUIRETLS") + QUIT, require_tls=True).results
    assert result.error is not None
    assert (result.error.code, result.error.enhanced) == (554, "5.7.30")


def test_no_recipients_means_no_transaction() -> None:
    assert deliver(opening("PIPELINING") + QUIT, to=()) == Delivery(())
