"""Everybody can use it: the rules of WCAG 2.2 AA that a program can judge, the keyboard alone, few colours, zoom."""

import re
from collections.abc import Iterator
from importlib.resources import files

import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect

from tests.ui.conftest import Dev, Visitor
from tests.ui.everywhere import GO, Place, Reader, Shown, places, probe, something
from tests.ui.steps import at_fleet, finished, forgiven, heading

pytestmark = pytest.mark.browser

AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text()
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
OF_COLOURS = ["color-contrast", "link-in-text-block"]
RUN_AXE = probe("axe")
LANGUAGES = ("en-US", "zh-CN")

WANTED = probe("wanted")
FOCUSED = probe("focused")
MOST_TABS = 400


@pytest.fixture(scope="module")
def shown(dev: Dev) -> Iterator[Shown]:
    made = something(dev.api, dev.hostname)
    yield made
    made.end(dev.api)


def signed_in(browser: Browser, dev: Dev, **options: object) -> tuple[Visitor, Page, Reader]:
    context = browser.new_context(reduced_motion="reduce", **options)  # type: ignore[arg-type]
    visitor = Visitor(context)
    page = visitor.page()
    reader = Reader(page)
    page.goto(dev.login_url)
    page.locator("main tbody tr").first.wait_for()
    return visitor, page, reader


def violations(page: Page, where: str) -> list[str]:
    """What breaks a rule here, in light colours and in dark ones."""
    if page.evaluate("() => typeof axe") == "undefined":
        page.evaluate(AXE)
    page.emulate_media(color_scheme="light")
    found = page.evaluate(RUN_AXE, {"type": "tag", "values": TAGS})
    page.emulate_media(color_scheme="dark")
    found += page.evaluate(RUN_AXE, {"type": "rule", "values": OF_COLOURS})
    return [f"{where}: {each}" for each in found]


@pytest.mark.parametrize(
    ("language", "width"),
    [
        ("en-US", 1280),
        pytest.param("zh-CN", 1280, marks=pytest.mark.everywhere),
        pytest.param("en-US", 360, marks=pytest.mark.everywhere),
    ],
)
def test_no_page_breaks_a_rule(browser: Browser, dev: Dev, shown: Shown, language: str, width: int) -> None:
    visitor, page, reader = signed_in(browser, dev, locale=language, viewport={"width": width, "height": 800})
    found: list[str] = []
    for place in places(shown):
        reader.go(place)
        found += violations(page, place.name)

    assert found == []
    assert visitor.complaints == []
    visitor.context.close()


@pytest.mark.everywhere
@pytest.mark.parametrize("language", LANGUAGES)
def test_no_dialog_breaks_a_rule(browser: Browser, dev: Dev, shown: Shown, language: str) -> None:
    """Whatever button opens one is found by pressing each; what a page would write is refused on the way."""
    visitor, page, reader = signed_in(browser, dev, locale=language)
    page.route(re.compile(r"/api/v1/(?!.*preview)"), refuse_to_write)
    wanted = ("host", "task", "task-running", "system", "access-")
    risky = Place("run-risky", f"/run?host={shown.host}&command=reboot", "main form button.primary:enabled")
    found: list[str] = []
    opened: set[str] = set()
    for place in [*(place for place in places(shown) if place.name.startswith(wanted)), risky]:
        reader.go(place)
        buttons = page.locator("main button:visible:enabled:not([aria-disabled=true])")
        for name in dict.fromkeys(text.strip() for text in buttons.all_inner_texts() if text.strip()):
            button = buttons.filter(has_text=name).first
            if f"{place.name.partition('-')[0]}: {name}" in opened or button.count() == 0:
                continue  # seen in another of its tabs, or another button has done away with it
            button.click()
            reader.settle()
            if page.locator("dialog[open]").count():
                opened.add(f"{place.name.partition('-')[0]}: {name}")
                found += violations(page, f"{place.name}: {name}")
                page.keyboard.press("Escape")
                expect(page.locator("dialog[open]")).to_have_count(0)
    visitor.context.clear_cookies()
    page.evaluate(GO, "/tasks")
    expect(page.locator("dialog[open]")).to_be_visible()
    found += violations(page, "signing in again")

    assert found == []
    assert len(opened) >= 8, opened
    forgiven(visitor, "409", "401")
    visitor.context.close()


def refuse_to_write(route: Route) -> None:
    if route.request.method == "GET":
        return route.fallback()
    return route.fulfill(status=409, json={"code": "not_now", "detail": "not now"})


@pytest.mark.parametrize("language", LANGUAGES)
def test_signing_in_breaks_no_rule(browser: Browser, dev: Dev, language: str) -> None:
    visitor = Visitor(browser.new_context(locale=language))
    page = visitor.page()
    page.goto(f"{dev.url}/login")
    page.locator("main h1").wait_for()

    assert violations(page, "login") == []
    visitor.context.close()


@pytest.mark.everywhere
@pytest.mark.parametrize("width", [1280, 360])
def test_every_control_is_reached_by_tab_and_is_seen_then(browser: Browser, dev: Dev, shown: Shown, width: int) -> None:
    visitor, page, reader = signed_in(browser, dev, viewport={"width": width, "height": 740})
    found: list[str] = []
    for place in places(shown):
        reader.go(place)
        found += [f"{place.name}: {wrong}" for wrong in walked(page)]

    assert found == []
    visitor.context.close()


def walked(page: Page) -> list[str]:
    """What is wrong with going through the page by Tab."""
    wanted = set(page.evaluate(WANTED))
    reached: set[str] = set()
    wrong: list[str] = []
    page.evaluate("() => { document.activeElement.blur(); getSelection().removeAllRanges(); scrollTo(0, 0); }")
    first = None
    for _ in range(MOST_TABS):
        page.keyboard.press("Tab")
        at = page.evaluate(FOCUSED)
        if at["key"] is None:
            if wanted <= reached:
                break
            continue
        if at["key"] == first and len(reached) > 1:
            break
        first = first or at["key"]
        reached.add(at["key"])
        wrong += [at["wrong"]] if at["wrong"] else []
    return [*dict.fromkeys(wrong), *(f"{name} is not reached" for name in sorted(wanted - reached))]


def tab_to(page: Page, target: Locator) -> None:
    expect(target).to_be_enabled()
    for _ in range(MOST_TABS):
        if target.evaluate("(e) => e === document.activeElement"):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"Tab does not lead to {target}")


def test_a_command_is_run_and_cancelled_by_the_keyboard_alone(page: Page, dev: Dev) -> None:
    at_fleet(page, dev)
    page.keyboard.press("g")
    page.keyboard.press("r")
    heading(page, re.compile("^Run"))
    tab_to(page, page.get_by_role("radio").first)
    page.keyboard.press("Space")
    tab_to(page, page.get_by_label("Hostname", exact=True))
    page.keyboard.type("sim-0003")
    tab_to(page, page.get_by_label("Command", exact=True))
    page.keyboard.type("sleep 600")
    tab_to(page, page.get_by_role("button", name="Run on 1 host"))
    page.keyboard.press("Enter")
    heading(page, "sleep 600")
    tab_to(page, page.get_by_role("button", name="Cancel task"))
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    tab_to(page, dialog.get_by_role("button", name=re.compile("^Cancel")).first)
    page.keyboard.press("Enter")

    finished(page, "1 cancelled")


TOLD_BY_COLOUR = probe("told_by_colour")


@pytest.mark.everywhere
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_what_colours_tell_is_told_where_the_system_has_its_own(
    browser: Browser, dev: Dev, shown: Shown, theme: str
) -> None:
    visitor, page, reader = signed_in(browser, dev, forced_colors="active", color_scheme=theme)
    found: list[str] = []
    for place in places(shown):
        reader.go(place)
        found += [f"{place.name}: {wrong}" for wrong in page.evaluate(TOLD_BY_COLOUR)]

    assert found == []
    visitor.context.close()


@pytest.mark.everywhere
def test_twice_the_size_needs_no_scrolling_sideways(browser: Browser, dev: Dev, shown: Shown) -> None:
    visitor, page, reader = signed_in(browser, dev, viewport={"width": 640, "height": 400}, device_scale_factor=2)
    wide: list[str] = []
    for place in places(shown):
        reader.go(place)
        width = page.evaluate("() => document.documentElement.scrollWidth")
        wide += [f"{place.name}: {width}"] if width > 640 else []

    assert wide == []
    visitor.context.close()
