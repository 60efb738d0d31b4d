"""The page of `report` in a real browser, from disk with the network off: it works, fits, and keeps nobody out."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.reporting.gathered import gather
from pipelines.reporting.page import Choice, write_report
from tests.support.report_runs import HOSTILE, HOSTILE_USER, hostile_runs
from tests.support.shared import made_once

pytestmark = pytest.mark.browser
NAMES = ("chromium", "chromium-browser", "google-chrome")
WIDTHS = (360, 1440)
SERIOUS = ("serious", "critical")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"needs a browser ({', '.join(NAMES)}); `make browser` installs Debian's")
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright, which .[dev] brings")
    # Chromium refuses to be root inside its own sandbox; CI's containers have no other user
    sandbox = [] if os.geteuid() else ["--no-sandbox"]
    with sync_api.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=found, args=sandbox)
        yield started
        started.close()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = made_once(tmp_path_factory, "report-runs", hostile_runs)
    path = tmp_path_factory.mktemp("browser") / "report.html"
    found = gather([made / "runs" / name for name in ("id", "v", "v-seed1")], title="a <title>")
    write_report(path, found, Choice(people=40, items=30, features=(made / "g.h5",), device="cpu"))
    return path


@pytest.fixture(params=[(width, scheme) for width in WIDTHS for scheme in ("light", "dark")], ids=str)
def page(browser: Any, written: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The page, opened; at the end nothing has been asked of any network, and the console has stayed empty."""
    width, scheme = request.param
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, offline=True)
    opened, told, asked = context.new_page(), [], []
    opened.on("console", lambda message: told.append(message.text))
    opened.on("pageerror", lambda error: told.append(str(error)))
    opened.on("request", lambda found: asked.append(found.url))
    opened.goto(written.as_uri())
    yield opened
    context.close()
    assert told == []
    assert [url for url in asked if not url.startswith("data:")] == [written.as_uri()]


def overflow(page: Any) -> int:
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def open_all(page: Any) -> None:
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")


def test_nothing_of_a_title_has_run(page: Any) -> None:
    assert page.title() == "a <title>"
    assert page.locator("bdi", has_text=HOSTILE[0]).count() > 0


def test_search_finds_a_user_and_says_how_many(page: Any) -> None:
    people = page.locator("details.person")
    assert people.count() == 40
    page.get_by_label("Find a user by id, or by a title").fill(HOSTILE_USER.upper())
    assert page.locator("details.person:visible").count() == 1
    assert HOSTILE_USER in page.locator("details.person:visible").inner_text()
    assert page.locator("#persons-found").inner_text() == "1 of 40 found"
    page.get_by_label("Find a user by id, or by a title").fill("nobody has this")
    assert page.locator("details.person:visible").count() == 0
    page.get_by_label("Find a user by id, or by a title").fill("")
    assert page.locator("details.person:visible").count() == 40


def test_a_click_on_a_title_opens_its_neighbours(page: Any) -> None:
    page.get_by_label("Find an item by id or title").fill("nothing that is there")  # which hides all items
    link = page.locator("details.person[open] a[href^='#item-']").first
    target = page.locator(link.get_attribute("href"))
    assert target.get_attribute("open") is None
    for close in (True, False):  # a second click opens it again
        link.click()
        target.locator("li").first.wait_for(state="visible")
        assert target.locator("section").count() == 2
        assert target.locator("section").first.locator("li").count() == 5
        if close:
            target.locator("summary").click()
            assert target.get_attribute("open") is None


def test_the_keyboard_alone_reaches_and_opens(page: Any) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    person = page.locator("details.person").nth(1)
    person.locator("summary").focus()
    page.keyboard.press("Enter")
    assert person.get_attribute("open") is not None


def test_pictures_are_drawn(page: Any) -> None:
    shown = page.locator("details.person[open] .pic:not(.none)").first
    assert shown.evaluate("(one) => getComputedStyle(one).backgroundImage").startswith('url("data:image/webp')
    decoded = """async (one) => {
        const image = new Image();
        image.src = getComputedStyle(one).backgroundImage.slice(5, -2);
        await image.decode();
        return image.naturalWidth;
    }"""
    assert shown.evaluate(decoded) > 30


def test_it_never_scrolls_sideways(page: Any) -> None:
    assert overflow(page) <= 0
    open_all(page)
    assert overflow(page) <= 0


def test_an_automated_check_finds_nothing_that_keeps_people_out(page: Any) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe, which .[dev] brings")
    open_all(page)
    found = axe.Axe().run(page).response
    assert len(found["passes"]) > 20  # it has looked
    grave = [(one["id"], one["impact"], one["nodes"][0]["html"]) for one in found["violations"]]
    assert not [one for one in grave if one[1] in SERIOUS], grave


def test_without_scripts_everything_can_still_be_read(browser: Any, written: Path) -> None:
    context = browser.new_context(java_script_enabled=False, offline=True)
    page = context.new_page()
    page.goto(written.as_uri())
    assert page.locator("details.person:visible").count() == 40
    assert page.locator("form.search:visible").count() == 0
    context.close()
