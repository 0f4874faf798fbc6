"""Every page of the service is usable with a keyboard, on a phone, and by a screen reader."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from browser import browser as browser
from browser import check_accessible, check_fits, tab_to
from playwright.sync_api import Browser, Page
from serving import ASK, SmallService
from support import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def service(data: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallService]:
    service = SmallService(tmp_path_factory.mktemp("service"), data, approval_gpu_hours=1e-9)
    for user in ("reader", "asker", "approver"):
        service.token(user)
    yield service.start()
    service.kill()


@pytest.fixture(scope="module")
def jobs(service: SmallService) -> dict[str, dict[str, Any]]:
    """A job that is done, and one that waits for approval."""
    client, approver = service.client("asker"), service.client("approver")
    done, waiting = client.request(**ASK, views="0:2"), client.request(**{**ASK, "topk": 3}, views="0:2")
    for job in (done, waiting):
        wait_until(lambda job=job: client.show(job["id"])["state"] == "waiting")  # type: ignore[misc]
    approver.act("approve", done["id"])
    assert client.wait(done["id"])["state"] == "done"
    catalog = service.folder / "archives" / "catalog.json"
    wait_until(catalog.exists)
    return {"done": client.show(done["id"]), "waiting": client.show(waiting["id"])}


def signed_in(browser: Browser, service: SmallService, user: str) -> Page:
    page = browser.new_page()
    page.goto(f"{service.url}/")
    tab_to(page, "Token")
    page.keyboard.type(service.token(user))
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Catalog").wait_for()
    return page


def test_every_page_is_accessible_and_fits_a_phone(
    browser: Browser, service: SmallService, jobs: dict[str, dict[str, Any]]
) -> None:
    page = browser.new_page()
    page.goto(f"{service.url}/requests")
    check_accessible(page)
    check_fits(page)
    page = signed_in(browser, service, "approver")
    addresses = ["/", "/requests", *(f"/requests/{job['id']}" for job in jobs.values())]
    for address in [*addresses, f"/explorer/{jobs['done']['archive']}/index.html"]:
        page.goto(service.url + address)
        check_accessible(page)
        check_fits(page)


def test_pages_say_which_views_there_are_and_how_many_units_are_planned(
    browser: Browser, service: SmallService, jobs: dict[str, dict[str, Any]]
) -> None:
    page = signed_in(browser, service, "reader")
    assert "0:2" in page.locator("#archives tbody td").all_inner_texts()
    page.goto(f"{service.url}/requests/{jobs['waiting']['id']}")
    units = jobs["waiting"]["plan"]["units"]
    assert page.locator("#figures").inner_text() == f"0 of {units} units"
    page.goto(f"{service.url}/requests/{jobs['done']['id']}")
    assert page.locator("#hours").inner_text() not in ("", "0")


def test_no_page_asks_another_host_or_meets_an_error(
    browser: Browser, service: SmallService, jobs: dict[str, dict[str, Any]]
) -> None:
    page = signed_in(browser, service, "reader")
    hosts, troubles = set(), []
    page.on("request", lambda request: hosts.add(request.url.split("/")[2]))
    page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
    for address in ("/", "/requests", f"/requests/{jobs['waiting']['id']}"):
        page.goto(service.url + address)
    page.goto(f"{service.url}/explorer/{jobs['done']['archive']}/samples/row/all/0.html")
    assert page.locator("img").count() > 0
    assert hosts == {f"127.0.0.1:{service.port}"}
    assert troubles == []


def test_the_keyboard_alone_asks_and_finds(
    browser: Browser, service: SmallService, jobs: dict[str, dict[str, Any]]
) -> None:
    page = signed_in(browser, service, "asker")
    tab_to(page, "Search")
    page.keyboard.type("no such archive")
    page.get_by_role("status").filter(has_text="0 archives").wait_for()  # the page filters as it finds time
    tab_to(page, "Requests")
    page.keyboard.press("Enter")
    page.wait_for_url("**/requests")
    tab_to(page, "Ask for labels")
    page.keyboard.press("Enter")
    tab_to(page, "Views")
    page.keyboard.press("Control+A")
    page.keyboard.type("0:2")
    page.get_by_label("Side of a view").fill(str(ASK["img_size"]))
    page.get_by_label("Classes kept").fill(str(ASK["topk"]))
    page.get_by_role("combobox", name="Recipe").select_option("deit")
    page.get_by_role("button", name="Ask").focus()
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/requests/{jobs['done']['id']}")
    assert "service://" in page.content()


def test_what_a_token_may_not_do_is_not_offered(
    browser: Browser, service: SmallService, jobs: dict[str, dict[str, Any]]
) -> None:
    page = signed_in(browser, service, "reader")
    page.goto(f"{service.url}/requests/{jobs['waiting']['id']}")
    assert page.get_by_role("button", name="Approve").count() == 0
    assert page.get_by_role("button", name="Cancel").count() == 0
    page.goto(f"{service.url}/requests")
    assert page.get_by_text("Ask for labels").count() == 0
    page.get_by_role("button", name="Sign out").click()
    page.get_by_role("button", name="Sign in").wait_for()
