"""The pages as people use them: in a browser, by keyboard, on a phone, in the dark, and with mail that attacks them."""

from __future__ import annotations

import re
import smtplib

import pytest
from playwright.sync_api import Page, expect

from accounts.models import Account
from mox_project import localserve
from store import mailboxes
from store.db import write_tx
from tests.system.conftest import MailboxUser
from tests.system.servers import Server
from tests.system.web.client import ADMIN, WEBMAIL
from tests.system.web.conftest import MakePage

pytestmark = pytest.mark.usefixtures("browser")

PHONE = {"width": 390, "height": 844}
ATTACKS = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(2)>",
    '"><svg onload=alert(3)>',
    "'-alert(4)-'",
    "{{ 7 * 7 }} {% debug %}",
    "&lt;b&gt;not bold&lt;/b&gt;",
    "</title></head><base href=//evil.example>",
    "javascript:alert(5)",
)


def address(server: Server, path: str, *, tls: bool = False) -> str:
    return f"https://{server.ip}:{server.https_port}{path}" if tls else f"http://{server.ip}:{server.http_port}{path}"


def deliver(server: Server, user: MailboxUser, subject: str, sender: str = "Noor <noor@remote.example>") -> None:
    with smtplib.SMTP(server.ip, server.smtp_port) as smtp:
        message = f"From: {sender}\r\nTo: {user.address}\r\nSubject: {subject}\r\n\r\nHello.\r\n"
        smtp.sendmail("noor@remote.example", [user.address], message.encode())


def log_in(page: Page, user: MailboxUser) -> None:
    page.get_by_label("Email address").fill(user.address)
    page.get_by_label("Password").fill(user.password)
    page.get_by_role("button", name="Login").click()
    page.wait_for_selector("main ol, main .empty")


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_log_in_see_the_mail_log_out(server: Server, mailbox_user: MailboxUser, new_page: MakePage, tls: bool) -> None:
    deliver(server, mailbox_user, "Invoice 2026-118")
    page = new_page()
    page.goto(address(server, WEBMAIL, tls=tls))
    log_in(page, mailbox_user)
    assert page.title() == f"(1) Inbox - {mailbox_user.address} - Mox Webmail"
    tree = page.get_by_role("navigation", name="Mailboxes")
    expect(tree.get_by_role("link")).to_have_text(
        [re.compile(name) for name in ("Inbox", "Drafts", "Sent", "Archive", "Trash", "Junk")]
    )
    expect(tree.get_by_role("link", name="Inbox")).to_have_attribute("aria-current", "page")
    row = page.get_by_role("main").get_by_role("listitem")
    expect(row).to_contain_text("Noor")
    expect(row).to_contain_text("Invoice 2026-118")
    tree.get_by_role("link", name="Sent").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Sent")
    expect(page.get_by_role("main")).to_contain_text("No messages in this mailbox.")
    assert page.evaluate("localStorage.getItem('webmailcsrftoken')")
    page.get_by_role("button", name="Logout").click()
    page.get_by_label("Password").wait_for()
    assert page.evaluate("localStorage.getItem('webmailcsrftoken')") is None
    assert page.context.cookies() == []


def test_everything_works_by_keyboard(server: Server, mailbox_user: MailboxUser, new_page: MakePage) -> None:
    page = new_page()
    page.goto(address(server, WEBMAIL))
    keyboard = page.keyboard
    keyboard.type(mailbox_user.address)  # the first field has the focus
    keyboard.press("Tab")
    keyboard.type(mailbox_user.password)
    keyboard.press("Enter")
    page.wait_for_selector("main .empty")
    keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to messages")).to_be_focused()
    keyboard.press("Enter")
    expect(page.get_by_role("main")).to_be_focused()
    page.get_by_role("button", name="Logout").focus()
    keyboard.press("Enter")
    expect(page.get_by_label("Email address")).to_be_focused()


def test_a_wrong_password_is_told_where_it_is_corrected(
    server: Server, mailbox_user: MailboxUser, new_page: MakePage
) -> None:
    page = new_page()
    page.goto(address(server, WEBMAIL))
    page.get_by_label("Email address").fill(mailbox_user.address)
    password = page.get_by_label("Password")
    password.fill("wrong password")
    page.keyboard.press("Enter")
    busy = page.get_by_role("button", name="Logging in")
    expect(busy).to_be_disabled()
    expect(page.get_by_role("alert")).to_have_text(re.compile("Invalid credentials"))
    expect(password).to_be_focused()
    expect(password).to_have_attribute("aria-invalid", "true")
    expect(password).to_have_accessible_description(re.compile("Invalid credentials"))
    page.keyboard.type(mailbox_user.password)  # what was wrong is selected, and replaced
    page.keyboard.press("Enter")
    page.wait_for_selector("main .empty")


def test_several_tabs_share_one_login(server: Server, mailbox_user: MailboxUser, new_page: MakePage) -> None:
    first = new_page()
    first.goto(address(server, WEBMAIL))
    log_in(first, mailbox_user)
    second = first.context.new_page()
    second.goto(address(server, WEBMAIL))
    second.get_by_role("button", name="Logout").click()
    second.get_by_label("Password").wait_for()
    first.reload()
    first.get_by_label("Password").wait_for()


def test_a_browser_that_lost_its_token_gets_to_a_new_login(
    server: Server, mailbox_user: MailboxUser, new_page: MakePage
) -> None:
    page = new_page()
    page.goto(address(server, WEBMAIL))
    log_in(page, mailbox_user)
    page.evaluate("localStorage.clear()")
    page.get_by_role("button", name="Logout").click()
    page.get_by_label("Password").wait_for()
    log_in(page, mailbox_user)
    assert page.url == address(server, WEBMAIL)
    page.get_by_role("button", name="Logout").click()
    page.get_by_label("Password").wait_for()


def test_a_session_that_ended_says_so_and_goes_on_where_it_was(
    server: Server, mailbox_user: MailboxUser, new_page: MakePage
) -> None:
    page = new_page()
    page.goto(address(server, WEBMAIL))
    log_in(page, mailbox_user)
    page.get_by_role("navigation").get_by_role("link", name="Archive").click()
    mailbox_user.account.sessions.all().delete()
    page.reload()
    expect(page.get_by_role("status")).to_contain_text("Your session ended")
    log_in(page, mailbox_user)
    expect(page.get_by_role("heading", level=1)).to_have_text("Archive")


def test_html_in_subjects_and_names_is_text(server: Server, mailbox_user: MailboxUser, new_page: MakePage) -> None:
    for attack in ATTACKS:
        name = attack.replace("\\", "").replace('"', "'")
        deliver(server, mailbox_user, attack, f'"{name}" <noor@remote.example>')
    account_id = mailbox_user.account.pk
    for attack in ATTACKS:
        create_mailbox(mailbox_user.account, attack.replace("/", "|"))
    page = new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address(server, WEBMAIL))
    log_in(page, mailbox_user)
    subjects = page.locator(".m__subj").all_inner_texts()
    assert sorted(subjects) == sorted(ATTACKS)
    names = page.get_by_role("navigation").get_by_role("link").locator("span[dir=auto]").all_inner_texts()
    assert {attack.replace("/", "|") for attack in ATTACKS} <= set(names)
    for attack in ATTACKS:
        page.get_by_role("navigation").get_by_text(attack.replace("/", "|"), exact=True).click()
        expect(page.get_by_role("heading", level=1)).to_have_text(attack.replace("/", "|"))
    assert page.locator("main script, main img, nav script, nav img, base").count() == 0
    assert {url.split("/")[2] for url in asked} == {f"{server.ip}:{server.http_port}"}, "nothing is asked of others"
    assert Account.objects.filter(pk=account_id).exists()


def create_mailbox(account: Account, name: str) -> None:
    with write_tx(account.pk) as tx:
        mailboxes.create(tx.account(account.pk), name)


def test_a_sender_cannot_pose_as_another_address(server: Server, mailbox_user: MailboxUser, new_page: MakePage) -> None:
    deliver(server, mailbox_user, "pay", '"billing@bank.example" <evil@remote.example>')
    page = new_page()
    page.goto(address(server, WEBMAIL))
    log_in(page, mailbox_user)
    expect(page.locator(".m__who")).to_have_text("evil@remote.example")


@pytest.mark.parametrize("color_scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [{"width": 1280, "height": 800}, PHONE], ids=["wide", "phone"])
def test_pages_fit_and_can_be_read(
    server: Server,
    mailbox_user: MailboxUser,
    new_page: MakePage,
    color_scheme: str,
    viewport: dict[str, int],
) -> None:
    deliver(server, mailbox_user, "A subject that is much longer than any row of a list on a phone can show at a time")
    page = new_page(color_scheme=color_scheme, viewport=viewport)
    page.goto(address(server, WEBMAIL))
    assert_readable(page, viewport)
    log_in(page, mailbox_user)
    assert_readable(page, viewport)
    page.goto(address(server, f"{ADMIN}django/"))
    assert_readable(page, viewport)


def assert_readable(page: Page, viewport: dict[str, int]) -> None:
    """No scrolling sideways, AA contrast of all text, names for all controls, large targets on phones."""
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    contrasts = page.evaluate(_CONTRASTS)
    assert contrasts
    assert all(ratio >= 4.5 for _, ratio in contrasts), contrasts
    for control in page.get_by_role("button").or_(page.get_by_role("link")).or_(page.get_by_role("textbox")).all():
        assert control.evaluate("e => e.ariaLabel || e.labels?.length || e.textContent.trim()")
        box = control.bounding_box()
        if viewport == PHONE and box is not None and box["y"] > 0:
            assert box["height"] >= 40, control.evaluate("e => e.outerHTML")


# The contrast (WCAG 2.2) of each piece of visible text with the colour behind it.
_CONTRASTS = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true })
  const rgba = colour => {
    canvas.clearRect(0, 0, 1, 1)
    canvas.fillStyle = colour
    canvas.fillRect(0, 0, 1, 1)
    return canvas.getImageData(0, 0, 1, 1).data
  }
  const luminance = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    return .2126 * x + .7152 * y + .0722 * z
  }
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const colour = rgba(getComputedStyle(e).backgroundColor)
      if (colour[3] === 255) return colour
    }
    return [255, 255, 255]
  }
  const found = []
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement
    const text = walker.currentNode.textContent.trim()
    const box = element.getBoundingClientRect()
    if (!text || box.width < 2 || box.height < 2 || ['NOSCRIPT', 'SCRIPT', 'STYLE'].includes(element.tagName)) continue
    const [a, b] = [luminance(rgba(getComputedStyle(element).color)), luminance(behind(element))].sort((x, y) => y - x)
    found.push([text, (a + .05) / (b + .05)])
  }
  return found
}"""


def test_the_admin_is_used_with_the_same_login_page(server: Server, new_page: MakePage) -> None:
    page = new_page()
    page.goto(address(server, f"{ADMIN}django/server/listener/?q=local"))
    page.get_by_label("User name").fill("admin")
    page.get_by_label("Password").fill(localserve.ADMIN_PASSWORD)
    page.get_by_role("button", name="Login").click()
    page.get_by_role("link", name="local", exact=True).click()  # the page that was asked for
    expect(page.get_by_label("Name:", exact=True)).to_have_value("local")
    page.get_by_label("IPs:", exact=True).fill("nonsense")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.locator(".errorlist").first).to_contain_text("'nonsense' is not an IP address")
    page.get_by_role("link", name="Login attempts").first.click()
    page.locator("#searchbar").fill("admin")
    page.keyboard.press("Enter")
    expect(page.locator("#result_list tbody tr").first).to_contain_text("(admin)")
    page.get_by_role("button", name="Log out").click()
    page.get_by_label("User name").wait_for()
