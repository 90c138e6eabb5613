"""The webapi as a program meets it: methods, errors in their order, credentials, tokens, files, idempotency."""

from __future__ import annotations

import base64
import concurrent.futures
import email
import email.policy
import http.client
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from accounts import apitokens, fromidlogins
from accounts.models import APIToken
from mailqueue.models import HoldRule, QueueMessage
from server import db
from store import blobs
from store import delivery as store_delivery
from store.db import write_tx
from store.delivery import Delivery
from store.messages import NewMessage
from store.models import Mailbox, Message
from tests.system.conftest import MailboxUser, make_user
from tests.system.servers import Server, source_ip
from tests.system.web.client import Answer, WebClient

pytestmark = pytest.mark.database

BASE = "/webapi/v0/"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
SCOPE = APIToken.Scope


class Program(WebClient):
    """A client of the API."""

    def __init__(self, server: Server, login: str = "", password: str = "") -> None:
        super().__init__(server)
        self.headers: dict[str, str] = {}
        if login or password:
            self.headers["Authorization"] = "Basic " + base64.b64encode(f"{login}:{password}".encode()).decode()

    def call(self, method: str, request: Any = None, **headers: str) -> Answer:
        """A call by form; ``request`` is text, or a value for JSON."""
        text = request if isinstance(request, str) else json.dumps(request or {})
        body = urlencode({"request": text}).encode()
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        return self.request("POST", BASE + method, body, {**form, **self.headers, **headers})

    def ok(self, method: str, request: Any = None) -> Any:
        answer = self.call(method, request)
        assert answer.status == 200, answer.text
        return answer.json

    def code(self, method: str, request: Any = None) -> str:
        answer = self.call(method, request)
        assert answer.status == 400, answer.text
        assert set(answer.json) >= {"Code", "Message"}
        code: str = answer.json["Code"]
        return code


@pytest.fixture
def user(new_account: Callable[[], Any]) -> Iterator[MailboxUser]:
    """Somebody whose messages stay in the queue until the test is over."""
    made = make_user(new_account)
    with db.write():
        rule = HoldRule.objects.create(account=made.account)
    yield made
    with db.write():
        QueueMessage.objects.filter(account=made.account).delete()
        rule.delete()


@pytest.fixture
def program(server: Server, user: MailboxUser) -> Program:
    return Program(server, user.address, user.password)


def letter(**values: Any) -> dict[str, Any]:
    return {"To": [{"Address": "them@far.example"}], "Subject": "hello", "Text": "The text.\n", **values}


def queued(user: MailboxUser) -> list[QueueMessage]:
    return list(QueueMessage.objects.filter(account=user.account).order_by("pk").select_related("blob"))


def content(row: QueueMessage) -> EmailMessage:
    with row.reader() as reader:
        message = email.message_from_bytes(reader.read(), policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    return message


# Sending.


def test_it_sends(program: Program, user: MailboxUser) -> None:
    with db.write():
        user.account.full_name = "Ünser Shop"
        user.account.save()
    request = letter(
        to=[{"Name": "Jane, Doe", "Address": "jane@bücher.example"}, {"Address": "them@far.example"}],
        CC=[{"Address": "cc@far.example"}],
        BCC=[{"Address": "hidden@far.example"}],
        ReplyTo=[{"Address": "desk@far.example"}],
        Subject="héllo wörld ☺ x",
        References=["<0@far.example>", "<1@far.example>"],
        Headers=[["List-Id", "news <news.example.org>"], ["X-Shop", "grün"]],
        Extra={"order": "7", "Größe": "☺"},
        Date="2026-01-05T09:00:00+01:00",
    )
    del request["To"]
    answer = program.call("Send", request)
    assert answer.status == 200, answer.text
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert answer.content.endswith(b"}\n")
    addresses = ["jane@bücher.example", "them@far.example", "cc@far.example", "hidden@far.example"]
    assert [each["Address"] for each in answer.json["Submissions"]] == addresses
    rows = queued(user)
    assert [each["QueueMsgID"] for each in answer.json["Submissions"]] == [row.pk for row in rows]
    assert [row.recipient for row in rows] == addresses
    assert {row.sender for row in rows} == {user.address}
    assert rows[0].extra == {"order": "7", "Größe": "☺"}
    message = content(rows[0])
    names = [name for name in message if name not in ("Received", "DKIM-Signature")]
    assert names == [
        *("From", "Reply-To", "To", "Cc", "Subject", "Date", "Message-Id", "References", "In-Reply-To"),
        *("MIME-Version", "List-Id", "X-Shop", "User-Agent", "Content-Type", "Content-Transfer-Encoding"),
    ]
    assert message["From"] == f"Ünser Shop <{user.address}>"
    assert message["Subject"] == "héllo wörld ☺ x"
    assert message["X-Shop"] == "grün"
    assert message["In-Reply-To"] == "<1@far.example>"
    assert message["Message-Id"] == answer.json["MessageID"]
    assert message["DKIM-Signature"]
    assert "127." not in message["Received"]
    assert "for" not in message["Received"].split()
    assert message.get_content() == "The text.\r\n"


def test_it_sends_files_of_both_kinds(program: Program, user: MailboxUser) -> None:
    request = letter(
        HTML="<img src=cid:logo>", AttachedFiles=[{"Name": "a.txt", "Data": base64.encodebytes(b"one" * 50).decode()}]
    )
    pdf = b"%PDF-1.7" + b"\r\n--y--\r\n" * 60_000  # more than is kept in memory
    parts = [
        ('name="request"', json.dumps(request).encode()),
        ('name="attachedfile"; filename="Rechnung für März.pdf"', pdf),
        ('name="inlinefile"; filename="logo.png"\r\nContent-ID: <logo>\r\nContent-Type: image/x-mine', PNG),
    ]
    body = b"".join(b"--x\r\nContent-Disposition: form-data; %s\r\n\r\n%s\r\n" % (h.encode(), c) for h, c in parts)
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = program.request("POST", f"{BASE}Send", body + b"--x--\r\n", {**form, **program.headers})
    assert answer.status == 200, answer.text
    (row,) = queued(user)
    message = content(row)
    found = [part for part in message.walk() if part.get_content_disposition()]
    assert [(part.get_content_type(), part.get_filename(), part["Content-Id"]) for part in found] == [
        ("image/x-mine", "logo.png", "<logo>"),
        ("text/plain", "a.txt", None),
        ("application/pdf", "Rechnung für März.pdf", None),
    ]
    assert found[0].get_content() == PNG
    assert found[2].get_content() == pdf
    assert "for" in message["Received"].split()


def test_it_takes_the_request_as_the_body(program: Program, user: MailboxUser) -> None:
    answer = program.post(f"{BASE}Send", letter(), **program.headers)
    assert answer.status == 200
    assert len(queued(user)) == 1


ONE = [{"Address": "them@far.example"}]
BAD = [{"Address": "a b@c"}]


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ({"From": ONE * 2}, "missingBody"),
        ({"Text": "x", "From": ONE * 2, "To": BAD}, "multipleFrom"),
        ({"Text": "x", "From": BAD}, "badAddress"),
        ({"Text": "x", "From": ONE, "BCC": BAD}, "badAddress"),
        ({"Text": "x", "From": ONE}, "badFrom"),
        ({"Text": "x", "From": [{"Address": "mox@localhost"}]}, "badFrom"),
        ({"Text": "x", "ReplyTo": BAD}, "noRecipients"),
        (letter(ReplyTo=BAD, MessageID="x"), "badAddress"),
        (letter(MessageID="x@y", Subject="a\r\nb"), "malformedMessageID"),
        (letter(Subject="a\r\nBcc: x@y"), "user"),
        (letter(To=[{"Name": "a\r\nb", "Address": "them@far.example"}]), "user"),
        (letter(MessageID="<a\r\n b@c>"), "user"),
        (letter(References=["<a@b>\r\nX: y"]), "user"),
        (letter(Headers=[["X-A\r\nX-B", "c"]]), "user"),
        (letter(Headers=[["X-A", "b\r\nX-B: c"]]), "user"),
        (letter(Headers=[["X-A", "tab\t"]]), "user"),
        (letter(Headers=[["Bcc", "x@far.example"]]), "user"),
        (letter(Headers=[["content-TYPE", "text/html"]]), "user"),
        (letter(Headers=[["References", "<a@b>"]], References=["<a@b>"]), "user"),
        (letter(Headers=[["ä", "b"]]), "user"),
        (letter(AttachedFiles=[{"Data": "%%%"}]), "user"),
        (letter(AttachedFiles=[{"Data": "QQ"}]), "user"),
        (letter(AttachedFiles=[{"Name": "a\nb", "Data": ""}]), "user"),
        (letter(InlineFiles=[{"ContentType": "a/b\r\nX: y", "Data": ""}]), "user"),
        (letter(InlineFiles=[{"ContentID": "<a\r\n>", "Data": ""}]), "user"),
        (letter(FutureRelease=(datetime.now(UTC) + timedelta(days=61)).isoformat()), "user"),
        ([], "protocol"),
        ("x", "protocol"),
        ({"Foo": 1}, "protocol"),
        ("[" * 100_000, "protocol"),
    ],
)
def test_it_says_the_first_thing_that_is_wrong(program: Program, user: MailboxUser, request_: Any, code: str) -> None:
    assert program.code("Send", request_ if isinstance(request_, str) else json.dumps(request_)) == code
    assert not queued(user)


def test_it_refuses_headers_of_uploads_that_break_out(program: Program, user: MailboxUser) -> None:
    for header in ('filename="a\tb"', "filename=a\r\nContent-ID: <a\tb>", "filename=a\r\nContent-Type: a/b\x01c"):
        parts = [('name="request"', json.dumps(letter())), (f'name="attachedfile"; {header}', "x")]
        body = "".join(f"--x\r\nContent-Disposition: form-data; {h}\r\n\r\n{c}\r\n" for h, c in parts) + "--x--\r\n"
        form = {"Content-Type": "multipart/form-data; boundary=x"}
        answer = program.request("POST", f"{BASE}Send", body.encode(), {**form, **program.headers})
        assert (answer.status, answer.json["Code"]) in ((400, "user"), (400, "protocol")), answer.text
    assert not queued(user)


def test_it_says_the_limits_before_what_is_wrong_with_the_message(program: Program, user: MailboxUser) -> None:
    with db.write():
        user.account.max_outgoing_messages_per_day = 2
        user.account.max_first_time_recipients_per_day = 1
        user.account.save()
    wrong = {"MessageID": "x"}
    many = [{"Address": f"a{number}@far.example"} for number in range(3)]
    assert program.code("Send", letter(To=many, **wrong)) == "messageLimitReached"
    assert program.code("Send", letter(To=many[:2], **wrong)) == "recipientLimitReached"
    program.ok("Send", letter())
    program.ok("Send", letter())
    assert program.code("Send", letter()) == "messageLimitReached"


def test_it_gives_each_recipient_a_sender_of_its_own(server: Server, user: MailboxUser) -> None:
    login = user.address.replace("@", "+fromid@")
    fromidlogins.set_logins(user.account, [login])
    program = Program(server, login, user.password)
    sent = program.ok("Send", letter(To=ONE * 2))
    ids = [submission["FromID"] for submission in sent["Submissions"]]
    assert [len(from_id) for from_id in ids] == [22, 22]
    assert [row.sender for row in queued(user)] == [user.address.replace("@", f"+{from_id}@") for from_id in ids]
    assert content(queued(user)[0])["From"] == login
    plain = Program(server, user.address, user.password).ok("Send", letter())
    assert plain["Submissions"][0]["FromID"] == ""


def test_it_holds_a_message_and_asks_for_tls(program: Program, user: MailboxUser) -> None:
    later = datetime.now(UTC).replace(microsecond=0) + timedelta(days=2)
    program.ok("Send", letter(FutureRelease=later.isoformat(), RequireTLS=True))
    program.ok("Send", letter(FutureRelease="2020-01-01T00:00:00Z", RequireTLS=False))
    held, now = queued(user)
    assert (held.next_attempt, held.require_tls) == (later, True)
    assert held.future_release_request == f"until;{later:%Y-%m-%dT%H:%M:%SZ}"
    assert (now.require_tls, content(now)["TLS-Required"]) == (False, "No")
    assert now.next_attempt <= datetime.now(UTC)


def test_it_keeps_a_copy_with_the_hidden_recipients(program: Program, user: MailboxUser) -> None:
    program.ok("Send", letter(BCC=[{"Address": "hidden@far.example"}], SaveSent=True))
    sent = Mailbox.objects.get(account=user.account, special_sent=True)
    copy = Message.objects.get(mailbox=sent)
    assert (copy.seen, copy.notjunk) == (True, True)
    shown = program.ok("MessageGet", {"MsgID": copy.pk})
    assert shown["Message"]["BCC"] == [{"Name": "", "Address": "hidden@far.example"}]
    assert shown["Meta"]["Flags"] == ["$notjunk", "\\seen"]
    raw = program.call("MessageRawGet", {"MsgID": copy.pk}).content
    assert raw.startswith(b"Bcc: <hidden@far.example>\r\nDKIM-Signature:")
    assert "Bcc" not in content(queued(user)[0])


def test_it_says_that_the_copy_did_not_fit_and_what_was_sent(program: Program, user: MailboxUser) -> None:
    with db.write():
        user.account.quota_message_size = 100
        user.account.save()
    answer = program.call("Send", letter(SaveSent=True), **{"Idempotency-Key": "k"})
    assert (answer.status, answer.json["Code"]) == (400, "sentOverQuota")
    assert answer.json["Submissions"][0]["QueueMsgID"] == queued(user)[0].pk
    again = program.call("Send", letter(SaveSent=True), **{"Idempotency-Key": "k"})
    assert (again.status, again.content) == (answer.status, answer.content)
    assert len(queued(user)) == 1


def test_it_sends_once_however_often_it_is_asked(program: Program, user: MailboxUser) -> None:
    key = {"Idempotency-Key": "order 7"}
    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: program.call("Send", letter(), **key), range(10)))
    assert {answer.status for answer in answers} <= {200, 409}
    assert {answer.json["Code"] for answer in answers if answer.status == 409} <= {"idempotencyInProgress"}
    replay = program.call("Send", letter(), **key)
    assert (replay.status, replay.headers["idempotency-replayed"]) == (200, "true")
    assert replay.json["Submissions"][0]["QueueMsgID"] == queued(user)[0].pk
    assert len(queued(user)) == 1
    other = program.call("Send", letter(Subject="other"), **key)
    assert (other.status, other.json["Code"]) == (422, "idempotencyMismatch")
    for bad in ("", "x" * 257):
        assert program.call("Send", letter(), **{"Idempotency-Key": bad}).json["Code"] == "badIdempotencyKey"
    refused = {"Idempotency-Key": "refused"}
    assert program.call("Send", letter(To=[]), **refused).json["Code"] == "noRecipients"
    assert program.call("Send", letter(), **refused).status == 200


# Who calls.


def test_it_asks_for_credentials_without_counting(server: Server) -> None:
    nobody = Program(server)
    for _ in range(20):
        answer = nobody.call("Send", letter())
        assert (answer.status, answer.headers["www-authenticate"]) == (401, 'Basic realm="webapi", charset="UTF-8"')
    assert "basic authentication" in answer.text
    assert nobody.request("POST", f"{BASE}Send", b"x", {"Authorization": "Basic %%%"}).status == 401


def test_it_refuses_after_ten_wrong_passwords(server: Server, user: MailboxUser) -> None:
    wrong = Program(server, user.address, "wrong password")
    assert {wrong.call("SuppressionList").status for _ in range(10)} == {401}
    limited = wrong.call("SuppressionList")
    assert (limited.status, limited.headers["content-type"]) == (429, "text/plain; charset=utf-8")
    right = Program(server, user.address, user.password)
    right.source = wrong.source
    assert right.call("SuppressionList").status == 429


def test_it_tells_who_may_not_log_in(server: Server, user: MailboxUser, program: Program) -> None:
    with db.write():
        user.account.login_disabled = "ask the office"
        user.account.save()
    answer = program.call("SuppressionList")
    assert (answer.status, answer.text) == (401, "ask the office\n")


def test_it_refuses_pages_of_other_sites(program: Program, user: MailboxUser) -> None:
    for headers in (
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example"},
    ):
        assert program.call("Send", letter(), **headers).status == 403
    assert not queued(user)
    own = {"Origin": f"http://{program.server.ip}:{program.server.http_port}", "Sec-Fetch-Site": "same-origin"}
    assert program.call("SuppressionList", **own).status == 200


def test_tokens_do_what_they_are_for_until_they_are_revoked(server: Server, user: MailboxUser) -> None:
    made = apitokens.create(user.account, "", [SCOPE.SEND], from_addresses=[user.address])
    bearer = Program(server)
    bearer.headers["Authorization"] = f"Bearer {made.text}"
    as_password = Program(server, user.address, made.text)
    for client in (bearer, as_password):
        client.ok("Send", letter())
        for method in ("MessageGet", "MessageDelete", "SuppressionList"):
            answer = client.call(method, {})
            assert (answer.status, answer.json["Code"]) == (403, "insufficientScope")
    assert '"messages:read"' in bearer.call("MessageRawGet", {"MsgID": 1}).json["Message"]
    other = user.address.replace("@", "+x@")
    assert bearer.code("Send", letter(From=[{"Address": other}])) == "badFrom"
    assert Program(server, other, made.text).call("Send", letter()).status == 401
    apitokens.revoke(user.account, made.token.prefix)
    assert [client.call("Send", letter()).status for client in (bearer, as_password)] == [401, 401]
    assert APIToken.objects.get(pk=made.token.pk).last_used is not None


def test_tokens_end_and_stay_in_their_networks(server: Server, user: MailboxUser) -> None:
    elsewhere = apitokens.create(user.account, "", [SCOPE.SEND], networks=["192.0.2.0/24"])
    expired = apitokens.create(user.account, "", [SCOPE.SEND], expires=db.now() + timedelta(days=1))
    with db.write():
        APIToken.objects.filter(pk=expired.token.pk).update(expires=db.now())
        user.account.no_webapi_password = True
        user.account.save()
    for made in (elsewhere, expired):
        assert Program(server, user.address, made.text).call("Send", letter()).status == 401
    assert Program(server, user.address, user.password).call("SuppressionList").status == 401


def test_it_sees_only_what_is_the_accounts(
    program: Program, user: MailboxUser, new_user: Callable[[], MailboxUser]
) -> None:
    program.ok("Send", letter(SaveSent=True))
    message = Message.objects.get(account=user.account)
    program.ok("SuppressionAdd", {"EmailAddress": "them@far.example"})
    other = new_user()
    stranger = Program(program.server, other.address, other.password)
    for method in ("MessageGet", "MessageRawGet", "MessagePartGet", "MessageDelete", "MessageFlagsAdd", "MessageMove"):
        wanted = {"MsgID": message.pk, **({"DestMailboxName": "Archive"} if method == "MessageMove" else {})}
        assert stranger.code(method, wanted) == "messageNotFound"
    assert stranger.ok("SuppressionList") == {"Suppressions": []}
    assert stranger.ok("SuppressionPresent", {"EmailAddress": "them@far.example"}) == {"Present": False}


# What HTTP says.


def test_it_answers_by_path_and_method(server: Server, program: Program) -> None:
    def status(method: str, path: str) -> tuple[int, str]:
        answer = program.request(method, path, headers=program.headers)
        return answer.status, answer.headers.get("location") or answer.headers.get("allow", "")

    assert status("GET", "/webapi") == (303, "/webapi/")
    assert status("GET", "/webapi/") == (303, "/webapi/v0/")
    assert status("POST", "/webapi/") == (405, "GET")
    assert status("GET", BASE) == (200, "")
    assert status("PUT", f"{BASE}Send") == (405, "GET, POST")
    assert status("OPTIONS", f"{BASE}Send") == (405, "GET, POST")
    for path in ("send", "Nothing", "Send/", "Send/x"):
        assert status("POST", BASE + path)[0] == 404
    page = Program(server).get(f"{BASE}MessageGet")
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    answer = program.call("SuppressionList")
    assert answer.headers["x-frame-options"] == "deny"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "same-origin"
    assert "access-control-allow-origin" not in answer.headers


def test_it_says_what_is_wrong_with_a_body(program: Program) -> None:
    def code(content_type: str, body: bytes, path: str = "Send") -> str:
        headers = {"Content-Type": content_type} if content_type else {}
        answer = program.request("POST", BASE + path, body, {**headers, **program.headers})
        assert answer.status == 400, answer.text
        return str(answer.json["Code"])

    form = "application/x-www-form-urlencoded"
    assert code("text/xml", b"{}") == "protocol"
    assert code("///", b"{}") == "protocol"
    assert code("", b"{}") == "protocol"
    assert code("multipart/form-data", b"--x--") == "protocol"
    assert code("multipart/form-data; boundary=x", b"nothing") == "protocol"
    assert code(form, b"") == "protocol"
    assert code(form, b"other=1") == "protocol"
    assert code(form, b"", f"Send?request={quote('{}')}") == "protocol"
    assert code("application/json", b"\xff\xfe") == "protocol"


def test_it_does_not_read_large_bodies_of_strangers(server: Server) -> None:
    connection = http.client.HTTPConnection(server.ip, server.http_port, timeout=20, source_address=(source_ip(), 0))
    connection.putrequest("POST", f"{BASE}Send")
    connection.putheader("Content-Length", str(100 << 20))
    connection.putheader("Content-Type", "application/json")
    connection.endheaders()
    response = connection.getresponse()  # although nothing of it was sent
    assert (response.status, response.getheader("connection")) == (401, "close")
    connection.close()


def test_it_refuses_what_is_larger_than_it_takes(program: Program, server: Server) -> None:
    connection = http.client.HTTPConnection(server.ip, server.http_port, timeout=20, source_address=(source_ip(), 0))
    connection.putrequest("POST", f"{BASE}Send")
    for name, value in {**program.headers, "Content-Type": "application/json", "Content-Length": str(1 << 40)}.items():
        connection.putheader(name, value)
    connection.endheaders()
    response = connection.getresponse()
    assert (response.status, json.loads(response.read())["Code"]) == (400, "messageTooLarge")
    connection.close()


def test_it_takes_chunks(program: Program, user: MailboxUser, server: Server) -> None:
    connection = http.client.HTTPConnection(server.ip, server.http_port, timeout=20, source_address=(source_ip(), 0))
    text = json.dumps(letter(Text="x" * 3_000_000)).encode()  # more than is kept in memory
    pieces = (text[at : at + 50_000] for at in range(0, len(text), 50_000))
    headers = {**program.headers, "Content-Type": "application/json"}
    connection.request("POST", f"{BASE}Send", pieces, headers, encode_chunked=True)
    assert connection.getresponse().status == 200
    connection.close()
    assert queued(user)[0].size > 3_000_000
    assert not list((server.directory / "tmp").iterdir())


# What was received.


def deliver(user: MailboxUser, raw: bytes) -> int:
    """Put a message into the Inbox; its id."""
    delivery = Delivery(user.account.pk, "", NewMessage(blobs.prepare(raw)))
    with write_tx(user.account.pk) as tx:
        return store_delivery.deliver(tx, delivery).message_id


def test_it_shows_a_message_however_broken(program: Program, user: MailboxUser) -> None:
    raw = (
        b"From: undisclosed:;, =?utf-8?q?J=C3=B6?= <jo@b\xc3\xbccher.example>, <broken\r\nTo: undisclosed:;\r\n"
        b"Subject: =?x-nothing?q?=ff?= \xff\r\nDate: never\r\n"
        b"References: <a@b>\r\n <c@d> <cut\r\nIn-Reply-To: <e@f>\r\n"
        b"Content-Type: multipart/mixed; boundary=x; name*=bad''%zz\r\n\r\n"
        b"--x\r\nContent-Type: text/plain; charset=none\r\n"
        b"Content-Transfer-Encoding: base64\r\n\r\n%%%=\r\n--x\r\nContent-Type: text/html\r\n"
        b'Content-Disposition: attachment; filename="=?utf-8?q?=C3=BC.html?="\r\n\r\n<script>\r\n--x--\r\n'
    )
    message_id = deliver(user, raw)
    shown = program.ok("MessageGet", {"MsgID": message_id})
    assert {"Name": "Jö", "Address": "jo@bücher.example"} in shown["Message"]["From"]
    assert shown["Message"]["To"] == []
    assert shown["Message"]["Date"] is None
    assert shown["Message"]["References"] == ["<e@f>", "<a@b>", "<c@d>"]
    assert shown["Structure"]["Parts"][1]["Filename"] == "ü.html"
    assert shown["Structure"]["Parts"][1]["ContentDisposition"] == "attachment"
    assert shown["Meta"] | {"Size": 0} == {
        "Size": 0,
        "DSN": False,
        "Flags": [],
        **dict.fromkeys(("MailFrom", "RcptTo", "MsgFrom", "RemoteIP"), ""),
        "MailFromValidated": False,
        "MsgFromValidated": False,
        "DKIMVerifiedDomains": [],
        "MailboxName": "Inbox",
    }
    part = program.call("MessagePartGet", {"MsgID": message_id, "PartPath": [1]})
    assert (part.content, part.headers["content-type"]) == (b"<script>", "application/octet-stream")
    assert part.headers["content-disposition"].startswith("attachment")
    assert program.call("MessageRawGet", {"MsgID": message_id}).content == raw
    for path in ([-1], [99], [1, 0]):
        assert program.code("MessagePartGet", {"MsgID": message_id, "PartPath": path}) == "partNotFound"
    whole = program.call("MessagePartGet", {"MsgID": message_id, "PartPath": []}).content
    assert whole == raw.partition(b"\r\n\r\n")[2]


def test_it_changes_flags_moves_and_removes(program: Program, user: MailboxUser) -> None:
    message_id = deliver(user, b"Subject: x\r\n\r\nbody\r\n")

    def flags() -> Any:
        meta = program.ok("MessageGet", {"MsgID": message_id})["Meta"]
        return meta["MailboxName"], meta["Flags"]

    assert flags() == ("Inbox", [])
    assert program.ok("MessageFlagsAdd", {"MsgID": message_id, "Flags": ["\\FLAGGED", "Invoice"]}) == {}
    before = Message.objects.get(pk=message_id).modseq
    assert program.ok("MessageFlagsAdd", {"MsgID": message_id, "Flags": ["\\flagged"]}) == {}
    assert Message.objects.get(pk=message_id).modseq == before
    assert flags() == ("Inbox", ["\\flagged", "invoice"])
    assert program.ok("MessageFlagsRemove", {"MsgID": message_id, "Flags": ["invoice", "absent"]}) == {}
    assert program.code("MessageFlagsAdd", {"MsgID": message_id, "Flags": ["a b"]}) == "user"
    assert program.code("MessageFlagsAdd", {"MsgID": message_id, "Flags": ["\\Recent"]}) == "user"
    assert program.code("MessageMove", {"MsgID": message_id, "DestMailboxName": "Nowhere"}) == "user"
    assert program.code("MessageMove", {"MsgID": message_id, "DestMailboxName": "INBOX"}) == "user"
    assert program.ok("MessageMove", {"MsgID": message_id, "DestMailboxName": "Trash"}) == {}
    assert flags() == ("Trash", ["$notjunk", "\\flagged", "\\seen"])
    assert program.ok("MessageDelete", {"MsgID": message_id}) == {}
    for method in ("MessageDelete", "MessageFlagsAdd", "MessageMove"):
        more = {"DestMailboxName": "Inbox"} if method == "MessageMove" else {}
        assert program.code(method, {"MsgID": message_id, **more}) == "user"
        assert program.code(method, {}) == "user"
        assert program.code(method, {"MsgID": 1 << 60}) == "messageNotFound"
    assert program.code("MessageGet", {"MsgID": message_id}) == "messageNotFound"


def test_it_keeps_the_suppression_list(program: Program, user: MailboxUser) -> None:
    wanted = {"EmailAddress": "Jane.Doe+shop@bücher.example", "Manual": True, "Reason": "asked"}
    assert program.ok("SuppressionAdd", wanted) == {}
    assert program.code("SuppressionAdd", {"EmailAddress": "janedoe-x@xn--bcher-kva.example"}) == "error"
    (listed,) = program.ok("SuppressionList")["Suppressions"]
    assert listed | {"ID": 0, "Created": ""} == {
        "ID": 0,
        "Created": "",
        "Account": user.account.name,
        "BaseAddress": "janedoe@bücher.example",
        "OriginalAddress": "Jane.Doe+shop@bücher.example",
        "Manual": True,
        "Reason": "asked",
    }
    assert program.ok("SuppressionPresent", {"EmailAddress": "JANEDOE@bücher.example"}) == {"Present": True}
    assert program.ok("SuppressionRemove", {"EmailAddress": "j.anedoe@bücher.example"}) == {}
    assert program.code("SuppressionRemove", {"EmailAddress": "janedoe@bücher.example"}) == "error"
    for method in ("SuppressionAdd", "SuppressionRemove", "SuppressionPresent"):
        assert program.code(method, {"EmailAddress": "x"}) == "badAddress"


def test_what_is_sent_arrives(server: Server, new_user: Callable[[], MailboxUser]) -> None:
    """By way of the queue, its worker and SMTP."""
    user = new_user()
    program = Program(server, user.address, user.password)
    sent = program.ok("Send", letter(To=[{"Address": user.address}], Text="hi ☺"))
    inbox = Mailbox.objects.get(account=user.account, name="Inbox")
    deadline = time.monotonic() + 30
    while not (found := Message.objects.filter(mailbox=inbox).first()):
        assert time.monotonic() < deadline, "nothing arrived"
        time.sleep(0.05)
    shown = program.ok("MessageGet", {"MsgID": found.pk})
    assert (shown["Message"]["Text"], shown["Message"]["MessageID"]) == ("hi ☺\n", sent["MessageID"])
    assert (shown["Meta"]["MailFrom"], shown["Meta"]["DKIMVerifiedDomains"]) == (user.address, ["localhost"])
    assert shown["Meta"]["RcptTo"] == user.address


DOCUMENTATION = Path(__file__).parents[2] / "docs" / "webapi.md"
EXAMPLES = re.findall(r"```(sh|python)\n(.*?)```", DOCUMENTATION.read_text(), re.DOTALL)


@pytest.mark.parametrize(("language", "example"), [pytest.param(*each, id=str(at)) for at, each in enumerate(EXAMPLES)])
def test_the_documented_examples_work(
    server: Server, user: MailboxUser, tmp_path: Path, language: str, example: str
) -> None:
    (tmp_path / "logo.png").write_bytes(PNG)
    (tmp_path / "invoice.pdf").write_bytes(b"%PDF-1.7")
    here = example.replace("http://localhost:1080", f"http://{server.ip}:{server.http_port}")
    here = here.replace("mox@localhost", user.address)
    program = ["sh", "-ec"] if language == "sh" else [sys.executable, "-c"]
    run = subprocess.run([*program, here], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60)
    assert "@localhost>" in run.stdout
    assert '"Code"' not in run.stdout
    assert len(queued(user)) == 1
