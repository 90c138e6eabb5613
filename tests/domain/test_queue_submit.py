"""What is taken for sending, and in which form it is queued: header, limits, ids, holds; and what is refused."""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import timedelta

import dkim as dkimpy
import pytest
from django.db.models import F

from accounts.dkim import signing_selectors
from accounts.fromidlogins import set_logins
from accounts.models import Account, Address, Domain
from mailqueue import errors, holds, submit
from mailqueue.models import FromID, HoldRule, OutgoingCount, OutgoingRecipient, QueueMessage
from protocols.dkim import public_key_data
from server import db
from tests.domain.queueing import address_of, message, path, request, row, send

pytestmark = pytest.mark.database


def content_of(queue_id: int) -> bytes:
    queued = row(queue_id)
    return bytes(queued.prefix) + bytes(queued.blob.data or b"")


def test_it_queues_a_row_for_each_recipient_and_the_content_once(account: Account) -> None:
    ids = send(account, "one@far.example", "two@Other.Example", "drei@bücher.example")
    first, second, third = (row(queue_id) for queue_id in ids)
    assert first.base_id == second.base_id == third.base_id == first.pk
    assert first.blob_id == second.blob_id == third.blob_id
    assert not first.blob.text_due  # nobody searches the queue
    assert (second.rcpt_domain, second.rcpt_domain_ascii) == ("other.example", "other.example")
    assert (third.rcpt_domain, third.rcpt_domain_ascii) == ("bücher.example", "xn--bcher-kva.example")
    assert first.sender == address_of(account)
    assert first.size == len(content_of(first.pk))


def test_it_adds_message_id_and_date_only_where_they_are_missing(account: Account) -> None:
    (bare,) = send(account, "them@far.example")
    assert row(bare).message_id.startswith("<")
    assert row(bare).message_id.endswith("@localhost>")
    assert f"\r\nMessage-Id: {row(bare).message_id}\r\nDate: " in content_of(bare).decode()
    content = message(
        address_of(account), extra="Message-ID: <own@here.example>\r\nDate: Tue, 3 Mar 2026 09:12:44 +0000\r\n"
    )
    (complete,) = send(account, "them@far.example", content=content)
    assert row(complete).message_id == "<own@here.example>"
    assert content_of(complete).lower().count(b"\r\nmessage-id:") == 1
    assert content_of(complete).count(b"\r\nDate:") == 1


def test_it_signs_with_the_key_of_the_from_domain(account: Account) -> None:
    (queue_id,) = send(account, "them@far.example")
    signed = content_of(queue_id)
    (selector,) = signing_selectors(Domain.objects.get(name="localhost"))

    def record(name: bytes, timeout: int = 5) -> bytes:
        import base64

        assert name.startswith(b"localserve._domainkey.localhost")
        return b"v=DKIM1; k=ed25519; p=" + base64.b64encode(public_key_data(selector.key))

    assert dkimpy.verify(signed, dnsfunc=record)
    assert not dkimpy.verify(signed.replace(b"The text", b"Another"), dnsfunc=record)
    assert not dkimpy.verify(signed.replace(b"Subject: hello\r\n", b"Subject: hello\r\nSubject: x\r\n"), dnsfunc=record)


def test_it_says_who_logged_in_only_where_somebody_did(account: Account) -> None:
    (told,) = send(account, "them@far.example", authenticated=True)
    expected = f"Authentication-Results: localhost; auth=pass smtp.mailfrom={address_of(account)}\r\n"
    assert expected.encode() in content_of(told).replace(b"\r\n\t", b" ")
    (untold,) = send(account, "them@far.example")
    assert b"Authentication-Results" not in content_of(untold)


@pytest.mark.parametrize(
    "content",
    [
        b"no header at all",
        b"From: <a@localhost>\r\nSubject: no body\r\n",
        b"",
        b"\r\nonly a body\r\n",
    ],
)
def test_it_refuses_what_has_no_header_and_body(account: Account, content: bytes) -> None:
    with pytest.raises(errors.BadMessage):
        send(account, "them@far.example", content=content)


def test_it_refuses_other_numbers_of_from_addresses_than_one(account: Account) -> None:
    own = address_of(account)
    for field in (
        f"From: <{own}>\r\nFrom: <{own}>\r\n",
        f"From: <{own}>, <other@localhost>\r\n",
        "Subject: none\r\n",
        f"From: friends: <{own}>;\r\n",
        "From: nonsense\r\n",
    ):
        with pytest.raises(errors.BadHeader):
            send(account, "them@far.example", content=f"{field}\r\nx\r\n".encode())


def test_it_refuses_addresses_of_others(account: Account, new_account: Callable[[], Account]) -> None:
    other = address_of(new_account())
    with pytest.raises(errors.BadFrom, match=other):
        send(account, "them@far.example", content=message(other))
    with pytest.raises(errors.BadFrom, match=other):
        send(account, "them@far.example", mail_from=other)
    with pytest.raises(errors.BadFrom, match=r"far\.example"):
        send(account, "them@far.example", content=message("me@far.example"))
    assert not QueueMessage.objects.filter(account=account).exists()


def test_it_takes_variants_of_an_own_address(account: Account) -> None:
    variant = address_of(account).replace("@", "+list@").upper()
    send(account, "them@far.example", content=message(variant), mail_from=variant)


def test_it_refuses_mail_from_a_disabled_domain(account: Account) -> None:
    domain = Domain.objects.create(name=f"{account.name}.example", disabled=True)
    Address.objects.create(account=account, domain=domain, localpart="me", canonical=f"me@{domain.name}")
    with pytest.raises(errors.BadFrom):
        send(account, "them@far.example", content=message(f"me@{domain.name}"))


def test_it_reads_the_wishes_in_the_header(account: Account) -> None:
    own = address_of(account)
    extra = "TLS-Required: No\r\nx-mox-extra-order-number: 17\r\nX-Mox-Extra-Shop: north\r\n"
    (queue_id,) = send(account, "them@far.example", content=message(own, extra=extra))
    assert row(queue_id).require_tls is False
    assert row(queue_id).extra == {"Order-Number": "17", "Shop": "north"}
    (strict,) = send(account, "them@far.example", content=message(own, extra=extra), require_tls=True)
    assert row(strict).require_tls is True
    with pytest.raises(errors.ExtraTwice, match="X-Mox-Extra-Shop"):
        send(account, "them@far.example", content=message(own, extra="X-Mox-Extra-Shop: a\r\nx-mox-extra-shop: b\r\n"))


def let_time_pass(account: Account, passed: timedelta) -> None:
    """As if the account had sent everything so much earlier."""
    OutgoingRecipient.objects.filter(account=account).update(submitted=F("submitted") - passed)
    OutgoingCount.objects.filter(account=account).update(since=F("since") - passed)


def test_it_limits_messages_in_24_hours(account: Account) -> None:
    account.max_outgoing_messages_per_day = 3
    account.save()
    send(account, "one@far.example", "two@far.example")
    with pytest.raises(errors.MessageLimitReached, match=r"3 messages.*max_outgoing_messages_per_day"):
        send(account, "one@far.example", "two@far.example")
    send(account, "one@far.example")
    assert QueueMessage.objects.filter(account=account).count() == 3
    let_time_pass(account, timedelta(hours=24, seconds=1))
    send(account, "one@far.example", "two@far.example")


def test_it_limits_recipients_that_are_new(account: Account) -> None:
    send(account, "known@far.example")
    let_time_pass(account, timedelta(days=2))
    account.max_first_time_recipients_per_day = 2
    account.save()
    send(account, "one@far.example", "two@far.example")
    with pytest.raises(errors.RecipientLimitReached, match="max_first_time_recipients_per_day"):
        send(account, "three@far.example")
    send(account, "one@far.example", "known@far.example")


def test_it_makes_a_unique_sender_for_each_message_of_such_a_login(account: Account) -> None:
    own = address_of(account)
    set_logins(account, [own])
    ids = send(account, "one@far.example", "two@far.example", login_address=own)
    first, second = (row(queue_id) for queue_id in ids)
    assert first.from_id != second.from_id
    assert first.sender_localpart == f"{account.name}+{first.from_id}"
    assert first.base_id == second.base_id == 0
    plain = row(send(account, "one@far.example")[0])
    assert (plain.from_id, plain.sender) == ("", own)
    chosen = own.replace("@", "+id17@")
    (queue_id,) = send(account, "one@far.example", login_address=own, mail_from=chosen)
    assert row(queue_id).from_id == "id17"
    with pytest.raises(errors.FromIDUsed, match="id17"):
        send(account, "one@far.example", login_address=own, mail_from=chosen)
    with pytest.raises(errors.FromIDNeedsOneRecipient):
        send(account, "one@far.example", "two@far.example", login_address=own, mail_from=own.replace("@", "+new@"))
    assert not FromID.objects.filter(from_id="new").exists()
    FromID.objects.filter(from_id="id17").delete()


def test_it_holds_what_a_rule_matches(account: Account) -> None:
    rule = HoldRule(account=account, recipient_domain="BÜCHER.example")
    (before,) = send(account, "them@bücher.example")
    assert holds.add_rule(rule) == 1
    matching, other = send(account, "them@bücher.example", "them@far.example")
    assert [row(queue_id).hold for queue_id in (before, matching, other)] == [True, True, False]
    assert holds.remove_rule(rule.pk)
    assert row(matching).hold
    assert not row(send(account, "them@bücher.example")[0]).hold


def test_it_waits_until_the_time_that_was_asked_for(account: Account) -> None:
    later = db.now() + timedelta(hours=3)
    (queue_id,) = send(account, "them@far.example", not_before=later, future_release_request="for;10800")
    assert row(queue_id).next_attempt == later


def test_it_keeps_large_content_in_a_file_and_leaves_none_behind_when_refused(account: Account) -> None:
    large = message(address_of(account)) + b"0123456789abcdef\r\n" * 10_000
    (queue_id,) = send(account, "them@far.example", content=large)
    assert row(queue_id).blob.storage_name
    prepared = submit.prepare(request(account, ["them@far.example"], None, received=lambda *_: b"Received: x\r\n"))
    assert prepared.blob.storage_name == ""
    filed = submit.prepare(
        submit.Request(
            account.pk, path(address_of(account)), [path("a@far.example")], io.BytesIO(large), lambda *_: b""
        )
    )
    from django.core.files.storage import storages

    assert storages["messages"].exists(filed.blob.storage_name)
    filed.discard()
    assert not storages["messages"].exists(filed.blob.storage_name)


def test_it_needs_a_recipient(account: Account) -> None:
    with pytest.raises(ValueError, match="at least one recipient"):
        send(account)
