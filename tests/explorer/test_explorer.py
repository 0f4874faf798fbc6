"""The explorer: pages of an archive in a real browser, by mouse, keyboard, screen reader and phone."""

import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import browser as browser
from browser import check_accessible, check_fits, tab_to
from playwright.sync_api import Browser, Page

from pipelines.cli import main

PAGES = ["", "samples/label/all/0.html", "samples/views/1/0.html", "classes/0.html", "confusions.html"]


def _serving(*words: str) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-m", "pipelines.cli", "view", *words, "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().split()[0]


@pytest.fixture(scope="module")
def url(labels: str, data: str) -> Iterator[str]:
    process, address = _serving(labels, "--data", data)
    yield address
    process.terminate()
    assert process.wait(30) in (0, 130, -15)


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(bypass_csp=True)  # axe is a script, and the pages allow none
    opened = context.new_page()
    opened.set_default_timeout(20_000)
    yield opened
    context.close()


@pytest.mark.slow
def test_label_errors_are_found_by_following_links(url: str, page: Page) -> None:
    page.goto(url)
    assert page.locator("h1").inner_text() == "Labels of python:tiny"
    page.get_by_role("link", name="Possible label errors").click()
    cards = page.locator(".grid > li")
    assert cards.count() == 24
    shares = [float(text) for text in re.findall(r"true: \w+, (\d+\.\d)%", page.locator("main").inner_text())]
    assert shares[0] <= shares[-1]
    cards.first.locator("a").first.click()
    page.get_by_role("link", name="View 1").click()
    page.wait_for_url("**/view/*/1.html")
    page.wait_for_load_state("load")  # pictures included
    assert page.locator("h1").inner_text().startswith("View 1 of")
    assert page.locator("img.strip").evaluate("image => image.complete && image.naturalWidth > 100")
    assert "partner" in page.locator("img.strip").get_attribute("alt")
    page.locator("main p a").last.click()
    assert page.locator("h1").inner_text().startswith("View 1 of")


@pytest.mark.slow
def test_the_keyboard_alone_is_enough(url: str, page: Page) -> None:
    page.goto(url)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.innerText") == "Skip to the content"
    tab_to(page, "Views disagree")
    page.keyboard.press("Enter")
    page.wait_for_url("**/samples/views/all/0.html")
    tab_to(page, "/")
    page.keyboard.press("Enter")
    page.wait_for_url("**/sample/*/0.html")
    tab_to(page, "View 0")
    page.keyboard.press("Enter")
    page.wait_for_url("**/view/*/0.html")


@pytest.mark.slow
def test_pages_are_accessible_and_fit_a_phone(url: str, page: Page) -> None:
    for address in [*PAGES, "sample/9/0.html", "view/9/1.html"]:
        page.goto(url + address)
        check_accessible(page)
        check_fits(page)


@pytest.mark.slow
def test_static_pages_are_the_same_and_lead_nowhere_else(
    labels: str, data: str, tmp_path: Path, page: Page, capsys: pytest.CaptureFixture[str]
) -> None:
    site = tmp_path / "site"
    assert main(["view", labels, "--data", data, "--static", str(site), "--num-samples", "5"]) == 0
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(f"file://{site}/index.html")
    page.get_by_role("link", name="All samples").click()
    page.locator(".grid a").first.click()
    page.get_by_role("link", name="View 2").click()
    assert all(request.startswith(f"file://{site}/") for request in requests)
    for file in site.rglob("*.html"):
        for target in re.findall(r'(?:href|src)="([^"#]+)"', file.read_text()):
            assert (file.parent / target).exists(), (file, target)
    assert main(["view", labels, "--static", str(site)]) == 2
    assert "is not empty" in capsys.readouterr().err


def test_labels_alone_can_be_looked_at_and_wrong_addresses_are_refused(labels: str) -> None:
    process, url = _serving(labels)
    try:
        with urllib.request.urlopen(url + "sample/9/0.html") as answer:
            text = answer.read().decode()
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "row 9" in text
        assert "<img" not in text
        for address in ("sample/99/0.html", "view/1/7.html", "samples/no/all/0.html", "samples/row/x/0.html",
                        "image/1/image.jpg", "samples/row/all/9.html", "../../etc/passwd"):  # fmt: skip
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(url + address)
        request = urllib.request.Request(url, headers={"Host": "attacker.example"})
        with pytest.raises(urllib.error.HTTPError, match="421"):
            urllib.request.urlopen(request)
    finally:
        process.kill()
        process.wait()
