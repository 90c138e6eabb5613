"""Logging in and out over HTTP, and every way in which it is refused."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from django.conf import settings

from accounts.models import Account, LoginSession
from accounts.passwords import set_password
from mox_project import localserve
from server.models import LoginAttempt
from server.ratelimit import Limiter
from tests.system.conftest import MailboxUser
from tests.system.servers import Server, source_ip
from tests.system.web.client import ADMIN, WEBMAIL, Answer, WebClient, changed, wait_for

pytestmark = pytest.mark.database

HOUR = timedelta(hours=1)


@pytest.fixture
def client(server: Server) -> WebClient:
    return WebClient(server)


@pytest.fixture
def logged_in(client: WebClient, mailbox_user: MailboxUser) -> WebClient:
    assert client.log_in(mailbox_user.address, mailbox_user.password).status == 200
    return client


def timed(call: Callable[[], Answer]) -> tuple[float, Answer]:
    start = time.monotonic()
    answer = call()
    return time.monotonic() - start, answer


def test_a_login_opens_the_page_and_a_logout_closes_it(client: WebClient, mailbox_user: MailboxUser) -> None:
    assert 'id="login"' in client.get(WEBMAIL).text
    answer = client.log_in(mailbox_user.address, mailbox_user.password)
    assert (answer.status, list(answer.json)) == (200, ["csrf_token"])
    page = client.get(WEBMAIL)
    assert (page.status, 'id="login"' in page.text) == (200, False)
    assert mailbox_user.address in page.text
    old = dict(client.cookies)
    assert client.post(f"{WEBMAIL}logout").status == 204
    assert client.cookies == {}
    client.cookies = old  # a cookie that was copied is worth nothing now
    assert 'id="login"' in client.get(WEBMAIL).text


def test_cookies_are_for_this_endpoint_and_no_script_or_other_site(
    client: WebClient, mailbox_user: MailboxUser
) -> None:
    prepared = client.post(f"{WEBMAIL}login/prepare")
    cookie = prepared.set_cookies["webmaillogin"]
    assert cookie.value == prepared.json["login_token"]
    assert (cookie["path"], cookie["max-age"], cookie["httponly"], cookie["samesite"], cookie["secure"]) == (
        "/webmail/",
        "30",
        True,
        "Strict",
        "",
    )
    answer = client.log_in(mailbox_user.address, mailbox_user.password)
    assert answer.set_cookies["webmaillogin"]["max-age"] == "0"  # it served its attempt
    cookie = answer.set_cookies["webmailsession"]
    assert (cookie["path"], cookie["max-age"], cookie["httponly"], cookie["samesite"], cookie["secure"]) == (
        "/webmail/",
        "",
        True,
        "Strict",
        "",
    )
    assert cookie.value != answer.json["csrf_token"]


def test_over_tls_cookies_stay_on_tls(server: Server, mailbox_user: MailboxUser) -> None:
    client = WebClient(server, tls=True)
    assert client.post(f"{WEBMAIL}login/prepare").set_cookies["webmaillogin"]["secure"] is True
    answer = client.log_in(mailbox_user.address, mailbox_user.password)
    assert answer.set_cookies["webmailsession"]["secure"] is True


def test_any_spelling_of_the_address_logs_in(server: Server, mailbox_user: MailboxUser) -> None:
    localpart = mailbox_user.account.name
    for username in (f"{localpart.upper()}@LOCALHOST", f"{localpart}+lists@localhost", f" {localpart}@localhost "):
        assert WebClient(server).log_in(username, mailbox_user.password).status == 200, username


@pytest.mark.parametrize("username", ["{address}", "nobody-here@localhost", "x@elsewhere.example", "no address", ""])
def test_wrong_credentials_get_one_answer_after_a_second(
    client: WebClient, mailbox_user: MailboxUser, username: str
) -> None:
    password = "wrong password"
    seconds, answer = timed(lambda: client.log_in(username.format(address=mailbox_user.address), password))
    assert answer.error == (401, "user:loginFailed", "invalid credentials")
    assert 1 <= seconds < 5
    assert "webmailsession" not in answer.set_cookies


def test_without_the_cookie_no_credential_is_looked_at(client: WebClient, mailbox_user: MailboxUser) -> None:
    expected = (400, "user:error", "missing login token cookie")
    given = {"username": mailbox_user.address, "password": mailbox_user.password}
    token = client.post(f"{WEBMAIL}login/prepare").json["login_token"]
    client.cookies.clear()
    assert client.post(f"{WEBMAIL}login", {"login_token": token, **given}).error == expected
    client.post(f"{WEBMAIL}login/prepare")
    assert client.post(f"{WEBMAIL}login", {"login_token": "another", **given}).error == expected
    assert client.post(f"{WEBMAIL}login", {"login_token": "", **given}).error == expected
    assert not LoginAttempt.objects.filter(remote_ip=client.source).exists()


def test_a_login_token_serves_one_attempt(client: WebClient, mailbox_user: MailboxUser) -> None:
    client.log_in(mailbox_user.address, "wrong password")
    given = {"login_token": "x", "username": mailbox_user.address, "password": mailbox_user.password}
    assert client.post(f"{WEBMAIL}login", given).error[2] == "missing login token cookie"


def test_logins_that_are_disabled_say_why_to_their_owner_alone(client: WebClient, mailbox_user: MailboxUser) -> None:
    Account.objects.filter(pk=mailbox_user.account.pk).update(login_disabled="You moved to mail.example.")
    answer = client.log_in(mailbox_user.address, mailbox_user.password)
    assert answer.error == (401, "user:loginFailed", "You moved to mail.example.")
    assert client.log_in(mailbox_user.address, "wrong password").error[2] == "invalid credentials"


def test_the_eleventh_failure_of_a_minute_is_429_for_the_right_password_too(
    server: Server, mailbox_user: MailboxUser
) -> None:
    def attempt(password: str) -> Answer:
        return WebClient(server, source=source).log_in(mailbox_user.address, password)

    minute = -1
    while minute != int(time.time() // 60):  # windows are fixed: once more where the minute turned
        minute = int(time.time() // 60)
        source = source_ip()
        with ThreadPoolExecutor(10) as pool:
            failed = list(pool.map(attempt, ["wrong password"] * 10))
        assert {answer.error[1] for answer in failed} == {"user:loginFailed"}
        seconds, answer = timed(lambda: attempt(mailbox_user.password))
    assert answer.error == (429, "user:error", "too many authentication attempts")
    assert seconds < 1, "nobody is kept waiting for a refusal"
    assert WebClient(server).log_in(mailbox_user.address, mailbox_user.password).status == 200, "elsewhere all is well"


def test_failures_of_all_services_count_together(server: Server, mailbox_user: MailboxUser) -> None:
    minute = -1
    while minute != int(time.time() // 60):
        minute = int(time.time() // 60)
        source = source_ip()
        client = WebClient(server, source=source)
        limiter = Limiter(settings.MOX_CACHE_URL)
        for _ in range(10):  # of IMAP, say
            limiter.count_failed_login(source)
        answers = [
            client.log_in(mailbox_user.address, mailbox_user.password),
            client.log_in("admin", localserve.ADMIN_PASSWORD, ADMIN),
        ]
        client.cookies["webmailsession"], client.csrf = "a" * 22, "b" * 22
        answers.append(client.post(f"{WEBMAIL}logout"))
    assert {answer.error for answer in answers} == {(429, "user:error", "too many authentication attempts")}


def test_attempts_are_recorded_without_any_password(client: WebClient, mailbox_user: MailboxUser) -> None:
    client.request("GET", WEBMAIL)
    client.log_in(mailbox_user.address, "secret but wrong")
    client.log_in(mailbox_user.address, mailbox_user.password)
    deadline = time.monotonic() + 20
    while (rows := LoginAttempt.objects.filter(remote_ip=client.source)).count() < 2:
        assert time.monotonic() < deadline, list(rows)
        time.sleep(0.1)  # attempts are written a second later
    assert {(row.result, row.protocol, row.mechanism, row.account_name) for row in rows} == {
        ("badpassword", "webmail", "weblogin", mailbox_user.account.name),
        ("ok", "webmail", "weblogin", mailbox_user.account.name),
    }
    assert all("secret" not in str(row.__dict__) for row in rows)
    assert "secret but wrong" not in "".join(client.server.output)


# Calls with a session: webmail.md 2.7.


def test_a_call_without_a_csrf_header(logged_in: WebClient) -> None:
    logged_in.csrf = ""
    seconds, answer = timed(lambda: logged_in.post(f"{WEBMAIL}logout"))
    assert answer.error == (401, "user:noAuth", "missing required csrf header")
    assert seconds < 1


def test_a_call_without_a_session(client: WebClient) -> None:
    client.csrf = "x"
    answer = client.post(f"{WEBMAIL}logout")
    assert answer.error == (401, "user:noAuth", 'no session for "mail" web interface')


@pytest.mark.parametrize(("token", "text"), [("nonsense", "malformed session"), ("a" * 22, "unknown session token")])
def test_a_call_with_a_token_that_is_none(client: WebClient, token: str, text: str) -> None:
    client.csrf, client.cookies["webmailsession"] = "x", token
    seconds, answer = timed(lambda: client.post(f"{WEBMAIL}logout"))
    assert answer.error == (401, "user:badAuth", text)
    assert seconds >= 1


def test_a_call_with_the_csrf_token_of_another_session(logged_in: WebClient, mailbox_user: MailboxUser) -> None:
    other = WebClient(logged_in.server)
    other.log_in(mailbox_user.address, mailbox_user.password)
    logged_in.csrf = other.csrf
    seconds, answer = timed(lambda: logged_in.post(f"{WEBMAIL}logout"))
    assert answer.error == (401, "user:badAuth", "mismatch between csrf and session tokens")
    assert seconds >= 1
    assert 'id="login"' not in logged_in.get(WEBMAIL).text, "the session goes on"


def test_a_call_with_a_session_that_was_unused_for_a_day(logged_in: WebClient, mailbox_user: MailboxUser) -> None:
    LoginSession.objects.filter(account=mailbox_user.account).update(expires=datetime.now(UTC))
    seconds, answer = timed(lambda: logged_in.post(f"{WEBMAIL}logout"))
    assert answer.error == (401, "user:badAuth", "session expired (after 24 hours inactivity)")
    assert seconds >= 1
    page = logged_in.get(WEBMAIL)
    assert "Your session ended" in page.text
    assert "webmailsession" not in logged_in.cookies, "the cookie is taken back"


def test_an_expired_session_does_not_lock_its_owner_out(logged_in: WebClient, mailbox_user: MailboxUser) -> None:
    LoginSession.objects.filter(account=mailbox_user.account).update(expires=datetime.now(UTC))

    def call(_: int) -> int:
        tab = WebClient(logged_in.server, source=logged_in.source)
        tab.cookies, tab.csrf = dict(logged_in.cookies), logged_in.csrf
        return tab.post(f"{WEBMAIL}logout").status

    with ThreadPoolExecutor(12) as pool:  # the calls of a tab that was left open
        assert set(pool.map(call, range(12))) == {401}
    assert logged_in.log_in(mailbox_user.address, mailbox_user.password).status == 200


def test_a_session_is_extended_by_use(logged_in: WebClient, mailbox_user: MailboxUser) -> None:
    session = LoginSession.objects.filter(account=mailbox_user.account)
    now = datetime.now(UTC)
    session.update(last_used=now - 23 * HOUR, expires=now + HOUR)
    logged_in.get(WEBMAIL)
    assert session.get().expires > now + 23 * HOUR


def test_a_new_password_ends_the_session(logged_in: WebClient, mailbox_user: MailboxUser) -> None:
    set_password(mailbox_user.account, "an entirely new one")
    assert logged_in.post(f"{WEBMAIL}logout").error == (401, "user:badAuth", "unknown session token")


def test_a_webmail_session_does_not_open_the_admin_pages(logged_in: WebClient) -> None:
    logged_in.cookies["webadminsession"] = logged_in.cookies["webmailsession"]
    answer = logged_in.get(f"{ADMIN}django/")
    assert (answer.status, 'id="login"' in answer.text) == (403, True)


def test_a_session_of_a_removed_account_is_gone(server: Server, new_user: Callable[[], MailboxUser]) -> None:
    user = new_user()
    client = WebClient(server)
    client.log_in(user.address, user.password)
    assert LoginSession.objects.filter(account=user.account).count() == 1
    LoginSession.objects.filter(account=user.account).delete()
    assert 'id="login"' in client.get(WEBMAIL).text


# Methods and bodies.


@pytest.mark.parametrize("path", ["login", "login/prepare"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_calls_are_posts(client: WebClient, path: str, method: str) -> None:
    answer = client.request(method, WEBMAIL + path)
    assert (answer.status, answer.headers["allow"]) == (405, "POST")
    if method != "HEAD":
        assert answer.error == (405, "user:error", f"method {method} is not allowed here")


def test_pages_are_read(client: WebClient) -> None:
    assert client.request("HEAD", WEBMAIL).status == 200
    assert client.request("POST", WEBMAIL).status == 405


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"{", "application/json", 400),
        (b"\xff", "application/json", 400),
        (b"[]", "application/json", 400),
        (b'"text"', "application/json", 400),
        (b"{}", "application/json", 400),
        (b'{"login_token":"x","username":"a","password":"b","admin":true}', "application/json", 400),
        (b'{"login_token":"x","username":["a"],"password":"b"}', "application/json", 400),
        (b'{"login_token":"x","username":"a\\u0000","password":"b"}', "application/json", 400),
        (b'{"login_token":"x","username":"\\ud800","password":"b"}', "application/json", 400),
        (b'{"login_token":"x","username":"a","password":"' + b"p" * 5000 + b'"}', "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b"login_token=x&username=a&password=b", "application/x-www-form-urlencoded", 415),
        (b"<login/>", "text/xml", 415),
        (b"", "", 400),
    ],
)
def test_a_body_that_cannot_be_is_refused_in_the_common_shape(
    client: WebClient, body: bytes, content_type: str, status: int
) -> None:
    answer = client.request("POST", f"{WEBMAIL}login", body, {"Content-Type": content_type} if content_type else {})
    assert answer.error[:2] == (status, "user:error")
    assert answer.headers["content-type"] == "application/json"


def test_a_misspelt_field_is_named(client: WebClient) -> None:
    answer = client.post(f"{WEBMAIL}login", {"login_token": "x", "user": "a", "password": "b"})
    assert answer.json["error"]["fields"] == {"user": ["unknown field"]}


def test_behind_a_proxy_that_changes_the_path_the_hint_says_so(server: Server, mailbox_user: MailboxUser) -> None:
    # A proxy on loopback is trusted, and says whom it speaks for.
    client = WebClient(server, source="127.0.0.1")
    proxied = {"X-Forwarded-For": "203.0.113.5", "X-Forwarded-Proto": "https"}
    with changed("webmail", forwarded=True):
        wait_for(client, WEBMAIL, 400)
        assert "X-Forwarded-For is missing" in client.get(WEBMAIL).text
        prepared = client.post(f"{WEBMAIL}login/prepare", **proxied)
        assert prepared.set_cookies["webmaillogin"]["secure"] is True
        client.cookies.clear()
        given = {"login_token": "x", "username": "a", "password": "b"}
        answer = client.post(f"{WEBMAIL}login", given, **proxied)
        assert answer.error[2] == "missing login token cookie (the reverse proxy must keep the path /webmail/)"
        assert client.log_in(mailbox_user.address, mailbox_user.password, **proxied).status == 200
        session = LoginSession.objects.get(account=mailbox_user.account)
        assert session.remote_ip == "203.0.113.5"
    wait_for(client, WEBMAIL, 200)
