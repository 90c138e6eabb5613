"""Django's admin with our login: what an operator can look at, what can be changed, and what never shows."""

from __future__ import annotations

import html
import itertools
import re
import smtplib
import time

import pytest
from django.contrib.auth.models import User

from accounts import webhooks
from accounts.admins import set_admin_password
from accounts.models import DKIMSelector, Domain, LoginSession, Transport
from mox_project import localserve
from server.models import Listener, ListenerEndpoint, LoginAttempt, ServerSettings
from store.models import Message
from tests.system.conftest import MailboxUser
from tests.system.servers import Server
from tests.system.web.client import ADMIN, Answer, WebClient

pytestmark = pytest.mark.database

DJANGO = f"{ADMIN}django/"
BROWSED = (
    "accounts/account",
    "accounts/address",
    "accounts/dkimselector",
    "accounts/domain",
    "accounts/loginsession",
    "accounts/route",
    "accounts/transport",
    "accounts/webhookendpoint",
    "queue/deliveryattempt",
    "queue/holdrule",
    "queue/hook",
    "queue/mtastspolicy",
    "queue/ownipstatus",
    "queue/queuedestination",
    "queue/queuemessage",
    "queue/retiredhook",
    "queue/retiredmessage",
    "queue/suppression",
    "queue/tlsresult",
    "server/loginattempt",
    "store/blob",
    "store/mailbox",
    "store/message",
)

_numbers = itertools.count(1)


@pytest.fixture
def admin(server: Server) -> WebClient:
    client = WebClient(server)
    assert client.log_in("", localserve.ADMIN_PASSWORD, ADMIN).status == 200, "an empty name is admin"
    return client


@pytest.fixture
def operator(database: None) -> User:
    """An admin user of this test's own."""
    name = f"operator{next(_numbers)}"
    set_admin_password(name, "correct horse battery")
    return User.objects.get(username=name)


def text_of(page: str) -> str:
    """What a reader sees."""
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page)))


def fields_of(page: str) -> dict[str, str]:
    """The main form of a page as a browser would send it back."""
    form = page.split('<form method="post"')[-1] if '<form method="post"' in page else page
    form = page[page.index('id="content') :] if 'id="content' in page else form
    fields: dict[str, str] = {}
    for tag in re.findall(r"<input [^>]+>", form):
        attributes = dict(re.findall(r'([a-z-]+)="([^"]*)"', tag))
        kind, name = attributes.get("type", "text"), attributes.get("name", "")
        if not name or kind == "submit" or (kind == "checkbox" and " checked" not in tag):
            continue
        fields[name] = html.unescape(attributes.get("value", "on" if kind == "checkbox" else ""))
    for name, content in re.findall(r'<textarea name="([^"]+)"[^>]*>(.*?)</textarea>', form, re.DOTALL):
        fields[name] = html.unescape(content).removeprefix("\n").strip()
    for name, content in re.findall(r'<select name="([^"]+)"[^>]*>(.*?)</select>', form, re.DOTALL):
        chosen = re.search(r'<option value="([^"]*)" selected', content)
        if chosen:
            fields[name] = html.unescape(chosen[1])
    return {name: value for name, value in fields.items() if "__prefix__" not in name}


def save(admin: WebClient, path: str, **changes: str) -> Answer:
    """Load a form, change fields (None-like "" switches a box off), and send it."""
    fields = fields_of(admin.get(path).text)
    fields |= changes
    return admin.submit(path, **{name: value for name, value in fields.items() if value != "(off)"})


def test_without_a_login_every_page_is_the_login(server: Server) -> None:
    client = WebClient(server)
    for path in (DJANGO, f"{DJANGO}server/listener/", f"{DJANGO}nothing/", f"{DJANGO}login/"):
        answer = client.get(path)
        assert (answer.status, 'id="login"' in answer.text) == (403, True), path
    assert client.submit(f"{DJANGO}server/listener/add/", name="x").status == 403
    assert not Listener.objects.filter(name="x").exists()


def test_the_login_is_recorded_and_limited_like_all_others(server: Server, operator: User) -> None:
    client = WebClient(server)
    start = time.monotonic()
    assert client.log_in(operator.username, "wrong horse", ADMIN).error == (
        401,
        "user:loginFailed",
        "invalid credentials",
    )
    assert time.monotonic() - start >= 1
    assert client.log_in("nobody", "wrong horse", ADMIN).error[2] == "invalid credentials"
    answer = client.log_in(operator.username, "correct horse battery", ADMIN)
    cookie = answer.set_cookies["webadminsession"]
    assert (cookie["path"], cookie["httponly"], cookie["samesite"]) == ("/admin/", True, "Strict")
    assert operator.username in client.get(DJANGO).text
    deadline = time.monotonic() + 20
    while (rows := LoginAttempt.objects.filter(remote_ip=client.source)).count() < 3:
        assert time.monotonic() < deadline
        time.sleep(0.1)  # attempts are written a second later
    assert {(row.account_name, row.protocol, row.mechanism) for row in rows} == {("(admin)", "webadmin", "weblogin")}
    assert {row.result for row in rows} == {"ok", "badpassword", "baduser"}


def test_an_account_for_mail_is_no_admin(server: Server, mailbox_user: MailboxUser) -> None:
    client = WebClient(server)
    assert client.log_in(mailbox_user.address, mailbox_user.password, ADMIN).status == 401


def test_a_user_without_staff_rights_is_no_admin(server: Server) -> None:
    name = f"plain{next(_numbers)}"
    set_admin_password(name, "correct horse battery")
    User.objects.filter(username=name).update(is_staff=False)
    assert WebClient(server).log_in(name, "correct horse battery", ADMIN).status == 401


def test_logout_ends_the_session(admin: WebClient) -> None:
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', admin.get(DJANGO).text)
    assert token is not None
    old = dict(admin.cookies)
    assert admin.submit(f"{DJANGO}logout/", csrfmiddlewaretoken=token[1]).status == 302
    admin.cookies = old
    assert admin.get(DJANGO).status == 403


def test_a_form_without_its_token_is_refused(admin: WebClient) -> None:
    listener = Listener.objects.get(name="local")
    answer = admin.submit(f"{DJANGO}server/listener/{listener.pk}/change/", name="changed")
    assert answer.status == 403
    assert "CSRF" in answer.text
    assert Listener.objects.filter(name="local").exists()


def test_cookies_of_forms_are_for_the_admin_pages_alone(admin: WebClient) -> None:
    page = admin.get(f"{DJANGO}server/listener/add/")
    cookie = page.set_cookies["webadmincsrf"]
    assert (cookie["path"], cookie["httponly"], cookie["samesite"]) == ("/admin/", True, "Strict")


@pytest.mark.parametrize("model", BROWSED)
def test_it_can_be_browsed_and_searched_but_not_changed(admin: WebClient, model: str) -> None:
    assert admin.get(f"{DJANGO}{model}/").status == 200
    if "?q=" in (page := admin.get(f"{DJANGO}{model}/").text) or 'id="searchbar"' in page:
        assert admin.get(f"{DJANGO}{model}/?q=mox").status == 200
        assert admin.get(f"{DJANGO}{model}/?q=%27%22%25_%5C").status == 200
    assert admin.get(f"{DJANGO}{model}/add/").status == 403
    first = re.search(rf'href="{re.escape(DJANGO)}{model}/([^/"]+)/change/', page)
    if first:
        detail = admin.get(f"{DJANGO}{model}/{first[1]}/change/")
        assert detail.status == 200
        assert 'name="_save"' not in detail.text
        assert admin.get(f"{DJANGO}{model}/{first[1]}/delete/").status == 403
    assert 'name="action"' not in page, "nothing is done in bulk"


def test_no_secret_and_no_content_of_mail_is_shown(admin: WebClient, mailbox_user: MailboxUser) -> None:
    domain = Domain.objects.get(name=localserve.DOMAIN)
    transport = Transport.objects.create(name=f"relay{next(_numbers)}", kind="smtp", password=b"relay-secret")
    account = mailbox_user.account
    webhooks.set_endpoint(account, "outgoing", "https://hooks.example/", authorization="Bearer hook-secret")
    with smtplib.SMTP(admin.server.ip, admin.server.smtp_port) as smtp:
        smtp.sendmail("x@remote.example", [mailbox_user.address], b"Subject: s\r\n\r\nbody-secret\r\n")
    message = Message.objects.get(account=account)
    pages = [
        f"accounts/transport/{transport.pk}",
        f"accounts/account/{account.pk}",
        f"accounts/webhookendpoint/{account.webhook_endpoints.get().pk}",
        f"accounts/dkimselector/{DKIMSelector.objects.filter(domain=domain)[0].pk}",
        f"store/message/{message.pk}",
        f"store/blob/{message.blob_id}",
        f"auth/user/{User.objects.get(username='admin').pk}",
        f"accounts/loginsession/{LoginSession.objects.filter(kind='admin').latest('pk').pk}",
    ]
    shown = "".join(admin.get(f"{DJANGO}{page}/change/").text for page in pages)
    shown += "".join(admin.get(f"{DJANGO}{model}/").text for model in BROWSED)
    for secret in (
        "relay-secret",
        "hook-secret",
        "body-secret",
        "PRIVATE KEY",
        "argon2",
        admin.cookies["webadminsession"],
    ):
        assert secret not in shown


def test_what_strangers_wrote_is_shown_as_text(admin: WebClient, mailbox_user: MailboxUser) -> None:
    WebClient(admin.server).log_in("<script>alert(1)</script>@localhost", "x" * 8)
    deadline = time.monotonic() + 20
    while not LoginAttempt.objects.filter(login_address__contains="<script>").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)  # attempts are written a second later
    page = admin.get(f"{DJANGO}server/loginattempt/?q=script").text
    assert "&lt;script&gt;alert(1)" in page
    assert "<script>alert" not in page


# What can be changed.


@pytest.fixture
def listener(database: None) -> Listener:
    """A listener on an address that nothing is bound to."""
    return Listener.objects.create(name=f"listener{next(_numbers)}", ips=["127.99.0.1"], tls_mode="manual")


def test_a_listener_can_be_made_with_its_endpoints(admin: WebClient) -> None:
    name = f"made{next(_numbers)}"
    answer = save(
        admin,
        f"{DJANGO}server/listener/add/",
        **{
            "name": name,
            "ips": "127.99.0.2\n127.99.0.3",
            "tls_mode": "manual",
            "smtp_enabled": "on",
            "endpoints-TOTAL_FORMS": "1",
            "endpoints-0-kind": "webmail",
            "endpoints-0-tls": "on",
            "endpoints-0-enabled": "on",
            "endpoints-0-port": "443",
            "endpoints-0-path": "/mail",
        },
    )
    assert answer.status == 302, text_of(answer.text)
    made = Listener.objects.get(name=name)
    assert (made.ips, made.smtp_enabled) == (["127.99.0.2", "127.99.0.3"], True)
    assert [(e.kind, e.port, e.path) for e in made.endpoints.all()] == [("webmail", 443, "/mail/")]
    assert "after the next start of the server" in text_of(admin.get(f"{DJANGO}server/listener/").text)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"ips": "localhost"}, "'localhost' is not an IP address"),
        ({"ips": ""}, "has no address: name one, or 0.0.0.0 or :: for all"),
        ({"ips": "0.0.0.0\n127.99.0.1"}, "0.0.0.0 covers 127.99.0.1 already"),
        ({"nat_ips": "127.0.0.1"}, "127.0.0.1 cannot be a public address"),
        ({"hostname": "not a name"}, "'not a name' is not a domain name"),
        ({"smtp_port": "70000"}, "less than or equal to 65535"),
        ({"tls_mode": "none", "imaps_enabled": "on"}, "needs TLS for IMAPS: choose an ACME provider or certificates"),
        ({"smtp_enabled": "on", "imap_enabled": "on", "imap_port": "25"}, "port 25 is for both SMTP and IMAP"),
        ({"ips": "127.0.0.1", "smtp_enabled": "on", "smtp_port": "1025"}, ""),
        (
            {
                "endpoints-TOTAL_FORMS": "1",
                "endpoints-0-kind": "metrics",
                "endpoints-0-enabled": "on",
                "endpoints-0-port": "8010",
                "endpoints-0-path": "metrics",
            },
            "path 'metrics' does not start with a slash",
        ),
        (
            {
                "ips": "0.0.0.0",
                "endpoints-TOTAL_FORMS": "1",
                "endpoints-0-kind": "metrics",
                "endpoints-0-enabled": "on",
                "endpoints-0-port": "8010",
                "endpoints-0-path": "/",
            },
            "metrics would be served to everybody on 0.0.0.0",
        ),
        (
            {
                "endpoints-TOTAL_FORMS": "2",
                "endpoints-0-kind": "webmail",
                "endpoints-0-enabled": "on",
                "endpoints-0-port": "80",
                "endpoints-0-path": "/mail/",
                "endpoints-1-kind": "admin",
                "endpoints-1-tls": "on",
                "endpoints-1-enabled": "on",
                "endpoints-1-port": "80",
                "endpoints-1-path": "/admin/",
            },
            "port 80 is for both HTTP and HTTPS",
        ),
    ],
)
def test_a_bad_listener_is_not_saved_and_told_why(
    admin: WebClient, listener: Listener, changes: dict[str, str], text: str
) -> None:
    if not text:  # the address of this worker's own server
        changes = {**changes, "ips": admin.server.ip}
        text = f"listener local has {admin.server.ip}:1025 for SMTP; choose another address or port"
    before = Listener.objects.filter(pk=listener.pk).values().get()
    answer = save(admin, f"{DJANGO}server/listener/{listener.pk}/change/", **changes)
    assert answer.status == 200, "the form is shown again"
    assert text in text_of(answer.text)
    assert Listener.objects.filter(pk=listener.pk).values().get() == before
    assert not listener.endpoints.exists()


def test_changing_the_path_of_an_endpoint_needs_no_restart(admin: WebClient, listener: Listener) -> None:
    endpoint = ListenerEndpoint.objects.create(listener=listener, kind="webmail", port=80, path="/webmail/")
    path = f"{DJANGO}server/listener/{listener.pk}/change/"
    assert save(admin, path, **{"endpoints-0-path": "/mail/"}).status == 302
    endpoint.refresh_from_db()
    assert endpoint.path == "/mail/"
    assert "next start" not in text_of(admin.get(f"{DJANGO}server/listener/").text)


def test_server_settings_are_one_row_that_can_be_changed(admin: WebClient) -> None:
    answer = admin.get(f"{DJANGO}server/serversettings/")
    assert answer.status == 302
    path = answer.headers["location"]
    assert admin.get(f"{DJANGO}server/serversettings/add/").status == 403
    assert save(admin, path, report_retention_days="100", monitor_dnsbls="a.example\nb.example").status == 302
    saved = ServerSettings.objects.get()
    assert (saved.report_retention_days, saved.monitor_dnsbls) == (100, ["a.example", "b.example"])
    assert saved.localserve, "what the form does not show stays"
    refused = save(admin, path, postmaster_account="nobody", log_levels='{"smtp": "loud"}', hostname="a b")
    shown = text_of(refused.text)
    assert refused.status == 200
    for text in ("There is no account 'nobody'", "unknown level loud", "'a b' is not a domain name"):
        assert text in shown, "all problems at once"
    assert ServerSettings.objects.get().hostname == localserve.DOMAIN


def test_an_admin_user_can_be_made_and_logs_in(admin: WebClient) -> None:
    name, password = f"made{next(_numbers)}", "correct horse battery"
    path = f"{DJANGO}auth/user/add/"
    short = save(admin, path, username=name, password1="short", password2="short")
    assert "the password is shorter than 8 characters" in text_of(short.text)
    unequal = save(admin, path, username=name, password1=password, password2=f"{password} ")
    assert "The passwords are not the same." in text_of(unequal.text)
    assert not User.objects.filter(username=name).exists()
    assert save(admin, path, username=name, password1=password, password2=password).status == 302
    made = User.objects.get(username=name)
    assert (made.is_staff, made.is_superuser) == (True, False)
    assert made.password.startswith("argon2$argon2id$")
    client = WebClient(admin.server)
    assert client.log_in(name, password, ADMIN).status == 200
    assert client.get(f"{DJANGO}auth/user/").status == 403, "users are for those who may do everything"
    assert client.get(f"{DJANGO}server/listener/").status == 403


def test_a_password_set_by_another_admin_ends_the_users_sessions(admin: WebClient, operator: User) -> None:
    client = WebClient(admin.server)
    client.log_in(operator.username, "correct horse battery", ADMIN)
    assert client.get(DJANGO).status == 200
    path = f"{DJANGO}auth/user/{operator.pk}/password/"
    assert save(admin, path, password1="another long one", password2="another long one").status == 302
    assert client.get(DJANGO).status == 403
    assert client.log_in(operator.username, "another long one", ADMIN).status == 200


def test_changing_ones_own_password_needs_the_old_one_and_keeps_this_session(server: Server, operator: User) -> None:
    client, other = WebClient(server), WebClient(server)
    for session in (client, other):
        session.log_in(operator.username, "correct horse battery", ADMIN)
    path = f"{DJANGO}password_change/"
    new = {"password1": "another long one", "password2": "another long one"}
    assert "This is not your password." in text_of(save(client, path, old_password="guess", **new).text)
    assert save(client, path, old_password="correct horse battery", **new).status == 302
    assert client.get(DJANGO).status == 200
    assert other.get(DJANGO).status == 403


def test_rights_do_not_grow_with_a_new_password(server: Server) -> None:
    name = f"limited{next(_numbers)}"
    set_admin_password(name, "correct horse battery")
    User.objects.filter(username=name).update(is_superuser=False)
    client = WebClient(server)
    client.log_in(name, "correct horse battery", ADMIN)
    new = {"password1": "another long one", "password2": "another long one"}
    assert save(client, f"{DJANGO}password_change/", old_password="correct horse battery", **new).status == 302
    assert User.objects.get(username=name).is_superuser is False


def test_switching_an_admin_off_ends_the_sessions(admin: WebClient, operator: User) -> None:
    client = WebClient(admin.server)
    client.log_in(operator.username, "correct horse battery", ADMIN)
    assert save(admin, f"{DJANGO}auth/user/{operator.pk}/change/", is_active="(off)").status == 302
    assert client.get(DJANGO).status == 403


def test_the_last_admin_cannot_lock_everybody_out(admin: WebClient) -> None:
    others = User.objects.filter(is_superuser=True).exclude(username="admin")
    pks = list(others.values_list("pk", flat=True))
    others.update(is_superuser=False)
    try:
        own = User.objects.get(username="admin")
        answer = save(admin, f"{DJANGO}auth/user/{own.pk}/change/", is_superuser="(off)")
        assert "admin is the last user who may do everything" in text_of(answer.text)
        assert User.objects.get(username="admin").is_superuser
        assert admin.get(f"{DJANGO}auth/user/{own.pk}/delete/").status == 403
    finally:
        User.objects.filter(pk__in=pks).update(is_superuser=True)
