"""A browser for the tests of pages: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from server import statements

MakePage = Callable[..., Page]

PROBLEMS = ("error", "warning")
# What browsers print for answers that are no successes; the tests look at those themselves.
EXPECTED = "Failed to load resource: the server responded with a status of"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    executable = shutil.which("chromium")
    if executable is None:
        pytest.skip("chromium is not installed")
    with pytest.MonkeyPatch.context() as patch, sync_playwright() as playwright:
        # Playwright keeps an event loop in the tests' thread, on which nothing of theirs runs; Django cannot know.
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
        # Tests may run as root, where Chromium has no sandbox; the pages are our own.
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        # Under that loop Django has connections of its own, and the one that the thread remembers is another.
        patch.setattr(statements._of_thread, "database", None)
        yield browser
        browser.close()


@pytest.fixture
def new_page(browser: Browser) -> Iterator[MakePage]:
    """Opens pages in contexts of their own; at the end no page may have met an error, or blocked what it asked for.

    ``**options``: of a browser context, such as viewport and color_scheme.
    """
    problems: list[str] = []
    contexts = []

    def make(**options: object) -> Page:
        context = browser.new_context(ignore_https_errors=True, **options)  # type: ignore[arg-type]  # any of its options
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: problems.append(f"a dialog opened: {dialog.message}"))
        page.on(
            "console",
            lambda message: (
                problems.append(message.text)
                if message.type in PROBLEMS and not message.text.startswith(EXPECTED)
                else None
            ),
        )
        return page

    yield make
    for context in contexts:
        context.close()
    assert problems == []
