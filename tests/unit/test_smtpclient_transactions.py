"""Transactions of the SMTP client as a server sees them, and what each recipient's result is."""

from __future__ import annotations

import asyncio

import pytest

from protocols.smtpclient import Delivery, Timeouts
from protocols.smtpsyntax import Path
from tests.unit.smtp_sink import (
    ACCEPTED,
    CONTENT,
    DATA,
    DONE,
    GO,
    LONE_DOT,
    MAIL,
    OK,
    ONE,
    PIPELINED,
    QUIT,
    RSET,
    SENT,
    STEPPED,
    THREE,
    B,
    C,
    D,
    Peer,
    Sink,
    converse,
    deliver,
    opening,
    outcome,
    path,
)


def test_it_sends_everything_up_to_data_at_once_to_a_server_with_pipelining() -> None:
    delivery = deliver(PIPELINED + MAIL + B + C + D + DATA + OK * 4 + GO + SENT + DONE + QUIT, to=THREE)
    assert outcome(delivery) == dict.fromkeys(THREE, ACCEPTED)


def test_it_waits_for_each_reply_of_a_server_without_pipelining() -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        for line in (MAIL, B, C, DATA):
            await peer.play(line)
            assert not peer.stream.buffered
            await peer.play(GO if line == DATA else OK)
        await peer.play(SENT + DONE + QUIT)
        await peer.left()

    assert outcome(deliver(script, to=THREE[:2])) == dict.fromkeys(THREE[:2], ACCEPTED)


@pytest.mark.parametrize("pipelining", [True, False])
def test_each_recipient_gets_the_reply_meant_for_it(pipelining: bool) -> None:
    """The second is refused; the third finds no room in the transaction and is delivered in another."""
    no, full = "S: 550 5.1.1 no c here\n", "S: 452 4.5.3 too many\n"
    if pipelining:
        script = PIPELINED + MAIL + B + C + D + DATA + OK * 2 + no + full + GO + SENT + DONE
        script += RSET + MAIL + D + DATA + OK * 3 + GO
    else:
        script = opening() + MAIL + OK + B + OK + C + no + D + full + DATA + GO + SENT + DONE
        script += RSET + OK + MAIL + OK + D + OK + DATA + GO
    assert outcome(deliver(script + SENT + "S: 250 2.0.0 queued as 2\n" + QUIT, to=THREE)) == {
        "b@far.example": ACCEPTED,
        "c@far.example": "permanent: 550 5.1.1 no c here",
        "d@far.example": "accepted: 250 2.0.0 queued as 2",
    }


def test_without_pipelining_no_further_rcpt_follows_too_many_recipients() -> None:
    first = MAIL + OK + B + OK + C + "S: 552 too many\n" + DATA + GO
    second = RSET + OK + MAIL + OK + C + OK + DATA + GO  # it took one before, and is not offered more
    third = second.replace("<c@", "<d@")
    stepped = opening()
    script = stepped + first + SENT + DONE + second + SENT + DONE + third + SENT + DONE + QUIT
    assert outcome(deliver(script, to=THREE)) == dict.fromkeys(THREE, ACCEPTED)


def test_a_long_list_is_not_offered_again_and_again_to_a_server_that_takes_two() -> None:
    recipients = tuple(f"r{number}@far.example" for number in range(7))
    offered: list[int] = []

    async def script(peer: Peer) -> None:
        await peer.greet("PIPELINING")
        left = len(recipients)
        while left:
            if offered:
                await peer.play(RSET)
            await peer.play(MAIL)
            count = 0
            while (await peer.line()).startswith(b"RCPT"):
                count += 1
            offered.append(count)
            taken = min(2, count)
            left -= taken
            replies = (
                ["250 OK"] * (len(offered) > 1) + ["250 OK"] * (1 + taken) + ["452 4.5.3 enough"] * (count - taken)
            )
            await peer.say(*replies, "354 go")
            await peer.content()
            await peer.play(DONE)
        await peer.play(QUIT)

    assert outcome(deliver(script, to=recipients)) == dict.fromkeys(recipients, ACCEPTED)
    assert offered == [7, 2, 2, 1]


def test_the_first_recipient_without_room_fails_for_now() -> None:
    script = PIPELINED + MAIL + B + DATA + OK + "S: 452 4.2.2 mailbox full\nS: 554 no valid recipients\n" + QUIT
    assert outcome(deliver(script)) == {"b@far.example": "temporary: 452 4.2.2 mailbox full"}


def test_552_to_rcpt_is_temporary_whatever_its_text() -> None:
    """RFC 5321 4.5.3.1.10: the older form of 452."""
    delivery = deliver(PIPELINED + MAIL + B + DATA + OK + "S: 552 5.2.2 full\n" + "S: 503 no\n" + QUIT)
    assert outcome(delivery) == {"b@far.example": "temporary: 552 5.2.2 full"}


def test_552_to_mail_is_permanent() -> None:
    delivery = deliver(STEPPED + MAIL.strip() + f" SIZE={len(CONTENT)}\n" + "S: 552 5.3.4 too big\n" + QUIT)
    assert outcome(delivery) == {"b@far.example": "permanent: 552 5.3.4 too big"}


# RCPTMAX and MAILMAX (RFC 9422).


@pytest.mark.parametrize("pipelining", [True, False])
@pytest.mark.parametrize(("most", "groups"), [(1, [B, C, D]), (2, [B + C, D]), (3, [B + C + D])])
def test_a_transaction_has_no_more_recipients_than_rcptmax(pipelining: bool, most: int, groups: list[str]) -> None:
    script = opening("PIPELINING", f"LIMITS RCPTMAX={most}") if pipelining else opening(f"LIMITS RCPTMAX={most}")
    for number, group in enumerate(groups):
        commands = (RSET if number else "") + MAIL + group
        if pipelining:
            script += commands + DATA + OK * commands.count("\n") + GO
        else:
            script += "".join(f"{line}\n{OK}" for line in commands.splitlines()) + DATA + GO
        script += SENT + DONE
    assert outcome(deliver(script + QUIT, to=THREE)) == dict.fromkeys(THREE, ACCEPTED)


def test_recipients_beyond_mailmax_are_left_for_another_connection() -> None:
    script = opening("PIPELINING", "LIMITS MAILMAX=2 RCPTMAX=1")
    script += MAIL + B + DATA + OK * 2 + GO + SENT + DONE
    script += RSET + MAIL + C + DATA + OK * 3 + GO + SENT + DONE + QUIT

    async def talk(sink: Sink) -> tuple[Delivery, bool]:
        session = await sink.connect()
        delivery = await session.deliver(path("a@client.example"), [*map(path, THREE)], CONTENT, has_8bit=False)
        usable = session.usable
        await session.quit()
        return delivery, usable

    delivery, usable = converse(talk, script)
    assert outcome(delivery) == {"b@far.example": ACCEPTED, "c@far.example": ACCEPTED, "d@far.example": "untried"}
    assert not usable


@pytest.mark.parametrize(
    "limits", ["RCPTMAX=0", "RCPTMAX=1 MAILMAX", "RCPTMAX=1000000", "RCPTMAX=1 MAILMAX=x", "=1", ""]
)
def test_limits_with_an_error_are_no_limits(limits: str) -> None:
    script = opening("PIPELINING", f"LIMITS {limits}") + MAIL + B + C + D + DATA + OK * 4 + GO + SENT + DONE + QUIT
    assert outcome(deliver(script, to=THREE)) == dict.fromkeys(THREE, ACCEPTED)


# What a server refuses while more is under way.


def test_mail_refused_by_a_server_that_then_leaves_is_told_with_its_reply() -> None:
    delivery = deliver(PIPELINED + MAIL + B + C + D + DATA + "S: 550 5.7.1 not you\ncloses\n", to=THREE)
    assert outcome(delivery) == dict.fromkeys(THREE, "permanent: 550 5.7.1 not you")


def test_mail_refused_by_a_server_that_reads_no_further_is_told_with_its_reply() -> None:
    """Closing with unread data resets the connection: the reply is in time all the same."""
    delivery = deliver(PIPELINED + MAIL + "S: 550 5.7.1 not you\nresets\n", to=THREE)
    assert outcome(delivery) == dict.fromkeys(THREE, "permanent: 550 5.7.1 not you")


def test_mail_refused_without_pipelining_ends_the_transaction() -> None:
    delivery = deliver(opening() + MAIL + "S: 451 4.7.1 later\n" + QUIT, to=THREE)
    assert outcome(delivery) == dict.fromkeys(THREE, "temporary: 451 4.7.1 later")


def test_what_follows_a_refused_mail_is_read_and_the_connection_goes_on() -> None:
    refused = MAIL + B + DATA + "S: 550 5.7.1 not you\nS: 503 mail first\nS: 503 mail first\n"
    again = RSET + "C: MAIL FROM:<>\n" + B + DATA + OK * 3 + GO + SENT + DONE

    async def talk(sink: Sink) -> list[dict[str, str]]:
        session = await sink.connect()
        first = await session.deliver(path("a@client.example"), [path(ONE[0])], CONTENT, has_8bit=False)
        assert session.usable
        second = await session.deliver(Path(), [path(ONE[0])], CONTENT, has_8bit=False)
        await session.quit()
        return [outcome(first), outcome(second)]

    assert converse(talk, PIPELINED + refused + again + QUIT) == [
        {"b@far.example": "permanent: 550 5.7.1 not you"},
        {"b@far.example": ACCEPTED},
    ]


def test_a_refused_mail_is_not_tried_again_for_the_recipients_of_further_transactions() -> None:
    script = opening("PIPELINING", "LIMITS RCPTMAX=1") + MAIL + B + DATA + "S: 550 no\nS: 503 no\nS: 503 no\n" + QUIT
    assert outcome(deliver(script, to=THREE)) == dict.fromkeys(THREE, "permanent: 550 no")


def test_all_recipients_refused_by_a_server_that_then_leaves_are_told_with_their_replies() -> None:
    script = (
        PIPELINED + MAIL + B + C + D + DATA + OK + "S: 550 5.1.1 no b\nS: 551 5.1.6 no c\nS: 450 4.2.1 no d\ncloses\n"
    )
    assert outcome(deliver(script, to=THREE)) == {
        "b@far.example": "permanent: 550 5.1.1 no b",
        "c@far.example": "permanent: 551 5.1.6 no c",
        "d@far.example": "temporary: 450 4.2.1 no d",
    }


def test_data_taken_though_all_recipients_were_refused_gets_a_lone_dot() -> None:
    refused = MAIL + B + DATA + OK + "S: 550 5.1.1 no b\n" + GO + LONE_DOT + "S: 554 no valid recipients\n"
    again = RSET + MAIL + C + DATA + OK * 3 + GO + SENT + DONE

    async def talk(sink: Sink) -> list[dict[str, str]]:
        session = await sink.connect()
        deliveries = [
            outcome(await session.deliver(path("a@client.example"), [path(to)], CONTENT, has_8bit=False))
            for to in THREE[:2]
        ]
        await session.quit()
        return deliveries

    assert converse(talk, PIPELINED + refused + again + QUIT) == [
        {"b@far.example": "permanent: 550 5.1.1 no b"},
        {"c@far.example": ACCEPTED},
    ]


def test_data_taken_though_mail_was_refused_gets_a_lone_dot() -> None:
    replies = "S: 550 no\nS: 503 no\n" + GO + LONE_DOT + "S: 503 no\n"
    assert outcome(deliver(PIPELINED + MAIL + B + DATA + replies + QUIT)) == {"b@far.example": "permanent: 550 no"}


def test_a_server_that_takes_a_recipient_after_it_refused_mail_gets_no_empty_message() -> None:
    script = PIPELINED + MAIL + B + DATA + "S: 550 no\n" + OK + GO
    assert outcome(deliver(script)) == {"b@far.example": "permanent: 550 no"}


@pytest.mark.parametrize("pipelining", [True, False])
def test_data_refused_is_the_result_of_those_that_were_accepted(pipelining: bool) -> None:
    no = "S: 554 5.7.1 no content of yours\n"
    if pipelining:
        script = PIPELINED + MAIL + B + C + DATA + OK * 2 + "S: 550 no c\n" + no + QUIT
    else:
        script = opening() + MAIL + OK + B + OK + C + "S: 550 no c\n" + DATA + no + QUIT
    assert outcome(deliver(script, to=THREE[:2])) == {
        "b@far.example": "permanent: 554 5.7.1 no content of yours",
        "c@far.example": "permanent: 550 no c",
    }


def test_all_recipients_refused_without_pipelining_means_no_data() -> None:
    script = opening() + MAIL + OK + B + "S: 550 no b\n" + C + "S: 450 no c\n" + QUIT
    assert outcome(deliver(script, to=THREE[:2])) == {
        "b@far.example": "permanent: 550 no b",
        "c@far.example": "temporary: 450 no c",
    }


@pytest.mark.parametrize(("code", "kind"), [(452, "temporary"), (554, "permanent")])
def test_the_end_of_data_refused_is_the_result_of_all(code: int, kind: str) -> None:
    script = PIPELINED + MAIL + B + C + DATA + OK * 3 + GO + SENT + f"S: {code} 5.7.1 looks like spam\n" + QUIT
    delivery = deliver(script, to=THREE[:2])
    enhanced = "5.7.1 looks like spam"
    assert outcome(delivery) == dict.fromkeys(THREE[:2], f"{kind}: {code} {enhanced}")
    assert all(result.error is not None and not result.error.sent for result in delivery.results)


# Connections that end.


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("closes\n", "temporary: connection closed by server during mail"),
        (OK + "closes\n", "temporary: connection closed by server during rcpt"),
        (OK * 2 + "closes\n", "temporary: connection closed by server during rcpt"),
        (OK * 3 + "closes\n", "temporary: connection closed by server during data"),
        (OK * 3 + GO + "closes\n", "temporary: connection closed by server during data"),
        ("resets\n", "temporary: connection closed by server during mail"),
        ("S: 421 4.3.2 going down\n", "temporary: 421 4.3.2 going down"),
        (OK * 2 + "S: 421 4.3.2 going down\n", "temporary: 421 4.3.2 going down"),
        (OK * 3 + "S: 421 4.3.2 going down\n", "temporary: 421 4.3.2 going down"),
    ],
)
def test_a_connection_that_ends_in_the_first_transaction_is_a_temporary_error(said: str, told: str) -> None:
    delivery = deliver(PIPELINED + MAIL + B + C + DATA + said, to=THREE[:2])
    assert [line[: len(told)] for line in outcome(delivery).values()] == [told, told]
    assert all(result.error is not None and not result.error.sent for result in delivery.results)


def test_refusals_stand_when_the_connection_ends_after_them() -> None:
    script = PIPELINED + MAIL + B + C + D + DATA + OK + "S: 550 5.1.1 no b\n" + OK + "closes\n"
    assert outcome(deliver(script, to=THREE)) == {
        "b@far.example": "permanent: 550 5.1.1 no b",
        "c@far.example": "temporary: connection closed by server during rcpt",
        "d@far.example": "temporary: connection closed by server during rcpt",
    }


def test_a_connection_that_ends_instead_of_the_last_reply_leaves_the_outcome_unknown() -> None:
    (result,) = deliver(PIPELINED + MAIL + B + DATA + OK * 2 + GO + SENT + "closes\n").results
    assert result.error is not None
    assert not result.error.permanent
    assert result.error.sent
    assert str(result.error) == "connection closed by server during end-of-data"


@pytest.mark.parametrize("reply", ["250 2.0.0 queued as 1", "354 more?", "25", "250\0OK"])
def test_only_a_reply_that_makes_sense_settles_what_was_sent(reply: str) -> None:
    script = PIPELINED + MAIL + B + DATA + OK * 2 + GO + SENT
    (result,) = deliver(script + (f"S: {reply}\n" + QUIT if reply.startswith("250 ") else f"S: {reply}\n")).results
    if reply.startswith("250 "):
        assert result.accepted is not None
    else:
        assert result.error is not None
        assert result.error.sent
        assert not result.error.permanent


@pytest.mark.parametrize("said", ["S: 421 idle too long\ncloses\n", "closes\n"])
def test_a_connection_that_ended_between_messages_is_not_held_against_the_next(said: str) -> None:
    """The server leaves after the first message, while the second is on its way."""
    script = PIPELINED + MAIL + B + DATA + OK * 2 + GO + SENT + DONE + RSET + MAIL + C + DATA + said

    async def talk(sink: Sink) -> list[dict[str, str]]:
        session = await sink.connect()
        deliveries = [
            outcome(await session.deliver(path("a@client.example"), [path(to)], CONTENT, has_8bit=False))
            for to in THREE[:2]
        ]
        assert not session.usable
        return deliveries

    assert converse(talk, script) == [{"b@far.example": ACCEPTED}, {"c@far.example": "untried"}]


@pytest.mark.parametrize("said", ["S: 421 4.4.2 idle too long\n", "S: 421 4.4.2 idle too long\ncloses\n", "closes\n"])
def test_a_server_that_said_goodbye_or_left_is_not_used_again(said: str) -> None:
    leave, left = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.play(PIPELINED + MAIL + B + DATA + OK * 2 + GO + SENT + DONE)
        await leave.wait()
        await peer.play(said)
        left.set()
        if not said.endswith("closes\n"):
            await peer.rest()

    async def talk(sink: Sink) -> None:
        session = await sink.connect(timeouts=Timeouts(quit=0.05))
        await session.deliver(path("a@client.example"), [path(ONE[0])], CONTENT, has_8bit=False)
        before = session.usable
        leave.set()
        await left.wait()
        await session.stream.look()
        assert (before, session.usable) == (True, False)
        await session.quit()

    converse(talk, script)


def test_an_unknown_outcome_is_that_of_its_own_transaction() -> None:
    """Nothing was sent to those of the next."""
    script = opening("PIPELINING", "LIMITS RCPTMAX=1") + MAIL + B + DATA + OK * 2 + GO + SENT + "closes\n"
    assert outcome(deliver(script, to=THREE[:2])) == {
        "b@far.example": "temporary: connection closed by server during end-of-data",
        "c@far.example": "untried",
    }


def test_a_connection_that_ends_in_its_first_transaction_is_no_use_to_those_of_the_next_either() -> None:
    """Else a server that lets nobody through would be asked once for each."""
    script = opening("PIPELINING", "LIMITS RCPTMAX=1") + MAIL + B + DATA + OK * 2 + GO + SENT + "S: 421 4.3.2 no\n"
    assert outcome(deliver(script, to=THREE)) == dict.fromkeys(THREE, "temporary: 421 4.3.2 no")


def test_a_refused_rset_ends_the_connection_and_says_nothing_of_the_message() -> None:
    script = opening() + MAIL + OK + B + OK + DATA + GO + SENT + DONE + RSET + "S: 500 what?\n"

    async def talk(sink: Sink) -> dict[str, str]:
        session = await sink.connect()
        await session.deliver(path("a@client.example"), [path(ONE[0])], CONTENT, has_8bit=False)
        delivery = await session.deliver(path("a@client.example"), [path(ONE[0])], CONTENT, has_8bit=False)
        assert not session.usable
        return outcome(delivery)

    assert converse(talk, script) == {"b@far.example": "untried"}


@pytest.mark.parametrize("code", [250, 354])
def test_replies_out_of_step_end_the_connection(code: int) -> None:
    """DATA answered with 250, RCPT with 354: whatever comes next may be the answer to something else."""
    if code == 250:
        script = PIPELINED + MAIL + B + DATA + OK * 3
        told = "temporary: unexpected reply to data: 250 OK"
    else:
        script = PIPELINED + MAIL + B + DATA + OK + GO * 2
        told = "temporary: unexpected reply to rcpt: 354 go"
    assert outcome(deliver(script)) == {"b@far.example": told}


@pytest.mark.parametrize("until", [MAIL, MAIL + B + DATA + OK, MAIL + B + DATA + OK * 2])
def test_a_silent_server_is_waited_for_only_so_long(until: str) -> None:
    delivery = deliver(PIPELINED + until + (B + DATA if until == MAIL else ""), timeouts=Timeouts(reply=0.05))
    (line,) = outcome(delivery).values()
    assert line.startswith("temporary: timeout during ")


def test_a_delivery_as_a_whole_has_a_deadline() -> None:
    delivery = deliver(PIPELINED + MAIL + B + DATA + OK, timeouts=Timeouts(delivery=0.05))
    assert outcome(delivery) == {"b@far.example": "temporary: timeout during rcpt"}
