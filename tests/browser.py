"""A real browser for tests of pages: Debian's Chromium, driven by playwright; absent, the tests skip."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks.chromium import FLAGS as FLAGS
from benchmarks.chromium import chromium_path as chromium_path


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = chromium_path()
    if path is None:
        pytest.skip("no chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield opened
        opened.close()


def check_accessible(page: Page) -> None:
    """Fail if axe finds a serious or critical fault on a page, in light or dark."""
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        found = Axe().run(page).response["violations"]
        faults = [
            (fault["id"], [node["html"][:120] for node in fault["nodes"][:3]])
            for fault in found
            if fault["impact"] in ("serious", "critical")
        ]
        assert faults == [], (page.url, scheme)


def check_fits(page: Page, width_px: int = 360) -> None:
    """Fail if a page is wider than a phone."""
    page.set_viewport_size({"width": width_px, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= width_px, page.url
    page.set_viewport_size({"width": 1100, "height": 900})


def tab_to(page: Page, text: str) -> None:
    """Press Tab until the focus is on an element with a text."""
    for _ in range(60):
        page.keyboard.press("Tab")
        focused = page.evaluate(
            "(({labels, innerText, ariaLabel, tagName}) => tagName === 'BODY' ? '' : "
            "labels?.[0]?.innerText || innerText || ariaLabel || '')(document.activeElement)"
        )
        if text in focused:
            return
    raise AssertionError(f"no Tab leads to {text!r} on {page.url}")
