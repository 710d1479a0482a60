"""A real, headless Chromium for the pages."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Page, sync_playwright

from tests.conftest import need

# Nothing but the page itself: no sandbox as root, no background look-ups.
ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)


@contextmanager
def open_page(width: int = 1280, height: int = 800, dark: bool = False, zone: str = "UTC") -> Iterator[Page]:
    """A page whose script errors fail the block."""
    program = shutil.which("chromium")
    need(None if program else "not installed: chromium")
    errors: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(ARGUMENTS))
        try:
            page = browser.new_page(
                viewport={"width": width, "height": height},
                color_scheme="dark" if dark else "light",
                timezone_id=zone,
            )
            page.on("pageerror", lambda error: errors.append(str(error)))
            yield page
        finally:
            browser.close()
    assert not errors, errors
