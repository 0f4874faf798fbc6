"""The catalog's page in a real browser: search, filter, compare, open; by mouse, keyboard and phone."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import browser as browser
from browser import check_accessible, check_fits, tab_to
from playwright.sync_api import Browser, Page
from support import extract_flags

from pipelines.cli import main


@pytest.fixture(scope="module")
def shelf(labels: str, data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shelf")
    assert main(["push", labels, str(root / "team-a" / "deit")]) == 0
    assert main(["card", str(root / "team-a" / "deit"), "--name", "Ants <b>in</b> motion"]) == 0
    assert main(extract_flags(data, root / "team-b" / "crops", recipe="rrc", views="0:2", topk=1)) == 0
    assert main(["catalog", str(root)]) == 0
    return root


@pytest.fixture
def page(browser: Browser, shelf: Path) -> Iterator[Page]:
    context = browser.new_context(bypass_csp=True)
    opened = context.new_page()
    opened.set_default_timeout(20_000)
    opened.goto(f"file://{shelf}/index.html")
    yield opened
    context.close()


def shown(page: Page) -> list[str]:
    return page.locator(".archives > li:visible h3").all_inner_texts()


@pytest.mark.slow
def test_archives_are_searched_and_filtered(page: Page) -> None:
    both = ["Ants <b>in</b> motion", "team-b/crops"]
    assert shown(page) == both
    page.get_by_label("Search", exact=True).fill("motion ANTS")
    assert shown(page) == both[:1]
    assert page.locator("#count").inner_text() == "1 of 2 archives"
    page.get_by_label("Search", exact=True).fill("")
    page.get_by_label("Recipe").select_option("rrc")
    assert shown(page) == both[1:]
    page.get_by_label("Recipe").select_option("")
    page.get_by_label("Min. views").fill("3")
    assert shown(page) == both[:1]
    page.get_by_label("Min. views").fill("")
    page.get_by_label("Max. size in MB").fill("0.0000001")
    assert shown(page) == []


@pytest.mark.slow
def test_two_archives_are_compared_and_opened_by_keyboard(page: Page) -> None:
    boxes = page.get_by_role("checkbox")
    for number in range(2):
        boxes.nth(number).focus()
        page.keyboard.press("Space")
    rows = page.locator("#comparison tr.differs th").all_inner_texts()
    assert {"recipe", "views", "topk"} <= set(rows)
    assert "classes" not in rows
    assert page.evaluate("document.activeElement.id") == "comparison"
    page.evaluate("document.activeElement.blur()")
    tab_to(page, "Fetch it")
    page.keyboard.press("Enter")
    assert "teacher-cache pull" in page.locator("details[open] pre").inner_text()


@pytest.mark.slow
def test_the_page_is_accessible_fits_a_phone_and_asks_no_one(page: Page, shelf: Path) -> None:
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.reload()
    for number in range(2):
        page.get_by_role("checkbox").nth(number).check()
        page.locator("summary").nth(number).click()
    check_accessible(page)
    check_fits(page)
    assert requests == [f"file://{shelf}/index.html"]


@pytest.mark.slow
def test_the_policy_of_the_page_lets_its_own_script_run(browser: Browser, shelf: Path) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"file://{shelf}/index.html")
    assert page.get_by_label("Search", exact=True).is_visible()
    context.close()
