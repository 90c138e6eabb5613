"""Sessions in browsers: how long they last, how many there are, and what ends them."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import pytest
from django.contrib.auth.models import User

from accounts import sessions
from accounts.admins import BadAdminName, login_admin, set_admin_password
from accounts.login import LoginContext, LoginService
from accounts.models import Account, LoginSession
from accounts.passwords import PasswordRejected, set_password
from accounts.sessions import Kind, Refusal, SessionRefused, Terms, Tokens
from server.login_attempts import AttemptRecorder
from server.models import LoginAttempt, LoginResult
from server.ratelimit import Limiter

pytestmark = pytest.mark.database

DAY = Terms(timedelta(hours=24), 100)
START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)

_names = itertools.count(1)


def log_in(owner: Account | User, now: datetime = START, terms: Terms = DAY, kind: Kind = Kind.WEBMAIL) -> Tokens:
    return sessions.create(
        kind, owner, login_address="mox@localhost", terms=terms, remote_ip="192.0.2.1", user_agent="test", now=now
    )


def refusal(token: str, now: datetime, kind: Kind = Kind.WEBMAIL) -> Refusal | None:
    try:
        sessions.find(kind, token, now=now)
    except SessionRefused as exc:
        return exc.refusal
    return None


@pytest.fixture
def admin(database: None) -> User:
    name = f"operator{next(_names)}"
    set_admin_password(name, "correct horse")
    return User.objects.get(username=name)


def test_a_session_lasts_a_day_without_use(account: Account) -> None:
    token = log_in(account).session
    assert refusal(token, START + timedelta(hours=24) - MINUTE) is None
    assert refusal(token, START + timedelta(hours=24)) is Refusal.EXPIRED


def test_use_extends_it_and_that_is_written_every_five_minutes_at_most(account: Account) -> None:
    token = log_in(account).session
    written = []
    for minute in range(16):
        now = START + minute * MINUTE
        if sessions.extend(sessions.find(Kind.WEBMAIL, token, now=now), DAY.lifetime, now=now):
            written.append(minute)
    assert written == [5, 10, 15]
    assert refusal(token, START + 15 * MINUTE + timedelta(hours=24) - MINUTE) is None
    assert refusal(token, START + 15 * MINUTE + timedelta(hours=24)) is Refusal.EXPIRED


def test_of_two_requests_at_a_time_one_writes_the_extension(account: Account) -> None:
    token = log_in(account).session
    now = START + 5 * MINUTE
    both = [sessions.find(Kind.WEBMAIL, token, now=now) for _ in range(2)]
    assert [sessions.extend(session, DAY.lifetime, now=now) for session in both] == [True, False]


def test_the_101st_session_ends_the_one_that_would_expire_first(account: Account) -> None:
    tokens = [log_in(account, START + n * MINUTE, kind=(Kind.WEBMAIL, Kind.ACCOUNT)[n % 2]) for n in range(100)]
    now = START + 200 * MINUTE
    # The first is used, so that the second is the next to expire.
    assert sessions.extend(sessions.find(Kind.WEBMAIL, tokens[0].session, now=now), DAY.lifetime, now=now)
    newest = log_in(account, now)
    assert LoginSession.objects.filter(account=account).count() == 100
    assert refusal(tokens[0].session, now) is None
    assert refusal(tokens[1].session, now, Kind.ACCOUNT) is Refusal.UNKNOWN
    assert refusal(tokens[2].session, now) is None
    assert refusal(newest.session, now) is None


def test_expired_ones_go_before_any_that_lasts(account: Account) -> None:
    terms = Terms(timedelta(hours=1), 3)
    tokens = [log_in(account, START, terms), log_in(account, START, terms)]
    lasting = log_in(account, START + 30 * MINUTE, terms)
    now = START + 61 * MINUTE
    log_in(account, now, terms)
    assert refusal(lasting.session, now) is None
    assert [refusal(t.session, now) for t in tokens] == [Refusal.UNKNOWN, Refusal.UNKNOWN]
    assert LoginSession.objects.filter(account=account).count() == 2


def test_a_new_password_ends_all_sessions_but_the_one_that_set_it(account: Account) -> None:
    own, other = log_in(account), log_in(account, kind=Kind.ACCOUNT)
    set_password(account, "a new password", keep=sessions.find(Kind.WEBMAIL, own.session, now=START))
    assert refusal(own.session, START) is None
    assert refusal(other.session, START, Kind.ACCOUNT) is Refusal.UNKNOWN
    set_password(account, "another password")
    assert refusal(own.session, START) is Refusal.UNKNOWN


def test_a_rejected_password_ends_none(account: Account) -> None:
    token = log_in(account).session
    with pytest.raises(PasswordRejected):
        set_password(account, "short")
    assert refusal(token, START) is None


def test_a_session_is_of_one_kind_of_pages(account: Account) -> None:
    token = log_in(account).session
    assert refusal(token, START, Kind.ACCOUNT) is Refusal.UNKNOWN
    assert refusal(token, START, Kind.ADMIN) is Refusal.UNKNOWN


@pytest.mark.parametrize("token", ["", "x", "a" * 21, "a" * 23, "a" * 21 + "!", "é" * 22, "a" * 22 + "\n"])
def test_what_is_no_token_is_malformed(database: None, token: str) -> None:
    assert refusal(token, START) is Refusal.MALFORMED


def test_the_csrf_token_is_of_the_session_and_not_the_same(account: Account) -> None:
    tokens, others = log_in(account), log_in(account)
    session = sessions.find(Kind.WEBMAIL, tokens.session, now=START)
    sessions.check_csrf(session, tokens.csrf)
    for wrong in (tokens.session, others.csrf, "", "\ud800", tokens.csrf + "x"):
        with pytest.raises(SessionRefused, match="mismatch between csrf and session tokens"):
            sessions.check_csrf(session, wrong)


def test_the_database_holds_no_token(account: Account) -> None:
    tokens = log_in(account)
    row = LoginSession.objects.filter(account=account).values().get()
    stored = " ".join(repr(bytes(v)) if isinstance(v, bytes | memoryview) else str(v) for v in row.values())
    assert tokens.session not in stored
    assert tokens.csrf not in stored


def test_an_account_that_may_not_log_in_has_no_sessions(account: Account) -> None:
    token = log_in(account).session
    Account.objects.filter(pk=account.pk).update(login_disabled="moved to another server")
    assert refusal(token, START) is Refusal.UNKNOWN


def test_clean_up_takes_what_expired(account: Account) -> None:
    old, new = log_in(account), log_in(account, START + timedelta(hours=1))
    sessions.remove_expired(START + timedelta(hours=24))
    assert LoginSession.objects.filter(account=account).count() == 1
    assert refusal(old.session, START) is Refusal.UNKNOWN
    assert refusal(new.session, START) is None


def test_an_admin_user_has_ten_sessions_of_their_own(admin: User) -> None:
    terms = Terms(timedelta(hours=12), 10)
    tokens = [log_in(admin, START + n * MINUTE, terms, Kind.ADMIN) for n in range(11)]
    assert LoginSession.objects.filter(user=admin).count() == 10
    assert refusal(tokens[0].session, START, Kind.ADMIN) is Refusal.UNKNOWN
    assert refusal(tokens[1].session, START + timedelta(hours=12), Kind.ADMIN) is None


def test_an_admin_who_is_switched_off_is_out(admin: User) -> None:
    token = log_in(admin, kind=Kind.ADMIN).session
    admin.is_active = False
    admin.save()
    assert refusal(token, START, Kind.ADMIN) is Refusal.UNKNOWN


def test_a_new_admin_password_ends_the_sessions_and_gives_the_rights_back(admin: User) -> None:
    token = log_in(admin, kind=Kind.ADMIN).session
    User.objects.filter(pk=admin.pk).update(is_staff=False, is_superuser=False, is_active=False)
    assert set_admin_password(admin.username, "a new password") is False
    admin.refresh_from_db()
    assert (admin.is_staff, admin.is_superuser, admin.is_active) == (True, True, True)
    assert refusal(token, START, Kind.ADMIN) is Refusal.UNKNOWN


def test_admin_names_and_passwords_that_cannot_be_are_refused(database: None) -> None:
    with pytest.raises(BadAdminName, match="admin user 'a b'"):
        set_admin_password("a b", "long enough")
    with pytest.raises(PasswordRejected, match="shorter than 8"):
        set_admin_password("somebody", "short")
    assert not User.objects.filter(username__in=("a b", "somebody")).exists()


def test_admins_log_in_like_everybody_and_are_recorded(admin: User) -> None:
    recorder = AttemptRecorder(background=False)
    service = LoginService(Limiter("redis://127.0.0.1:1/0"), recorder)
    context = LoginContext("webadmin", "weblogin", f"2001:db8:{next(_names)}::1", "::1", user_agent="test")
    results = [
        login_admin(service, name, password, context)
        for name, password in (
            (admin.username, "correct horse"),
            (admin.username, "correct  horse"),
            ("nobody here", "correct horse"),
            (admin.username, "correct\u00a0horse"),  # OpaqueString maps other spaces to the ASCII one
        )
    ]
    assert [outcome.result for outcome in results] == [
        LoginResult.OK,
        LoginResult.BADPASSWORD,
        LoginResult.BADUSER,
        LoginResult.OK,
    ]
    assert results[0].user_id == admin.pk
    recorder.flush()
    rows = LoginAttempt.objects.filter(remote_ip=context.remote_ip)
    assert {row.account_name for row in rows} == {"(admin)"}
    assert sum(row.count for row in rows) == 4


def test_too_many_failures_are_refused_before_the_password_is_looked_at(admin: User) -> None:
    service = LoginService(Limiter("redis://127.0.0.1:1/0"), AttemptRecorder(background=False))
    context = LoginContext("webadmin", "weblogin", "192.0.2.77", "127.0.0.1")
    for _ in range(10):
        assert login_admin(service, admin.username, "wrong", context).result is LoginResult.BADPASSWORD
    assert login_admin(service, admin.username, "correct horse", context).result is LoginResult.RATELIMITED
