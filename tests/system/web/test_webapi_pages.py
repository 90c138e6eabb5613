"""The webapi's pages in a browser: both themes, a phone, and a form that calls."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.system.conftest import MailboxUser
from tests.system.servers import Server
from tests.system.web.conftest import MakePage

SCREENS = os.environ.get("TEST_SCREENSHOTS", "")
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 900}


@pytest.mark.parametrize(("scheme", "viewport"), [("light", DESK), ("dark", PHONE)])
def test_pages_fit_and_obey_their_policy(
    server: Server, new_page: MakePage, scheme: str, viewport: dict[str, int]
) -> None:
    page = new_page(color_scheme=scheme, viewport=viewport)
    for name in ("", "Send", "MessageRawGet", "webhooks"):
        page.goto(f"http://{server.ip}:{server.http_port}/webapi/v0/{name}")
        assert page.locator("h1").is_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
        if SCREENS:
            page.screenshot(path=Path(SCREENS) / f"webapi-{name or 'index'}-{scheme}.png", full_page=name != "webhooks")


def test_the_form_calls_and_shows_the_answer(server: Server, new_page: MakePage, mailbox_user: MailboxUser) -> None:
    credentials = {"username": mailbox_user.address, "password": mailbox_user.password}
    page = new_page(http_credentials=credentials)
    page.goto(f"http://{server.ip}:{server.http_port}/webapi/v0/SuppressionPresent")
    page.get_by_label("Request").fill('{"EmailAddress": "it\'s@far.example"}')
    assert "it'\\''s@far.example" in page.locator("#curl").inner_text()
    page.get_by_role("button", name="Call").click()
    answer = page.locator("#answer pre")
    answer.wait_for()
    assert answer.inner_text().split(maxsplit=1)[0] == "200"
    assert '"Present": false' in answer.inner_text()
    page.get_by_role("button", name="Reset").click()
    assert "jane@example.net" in page.get_by_label("Request").input_value()
