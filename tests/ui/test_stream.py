"""How live a page is, and how old it looks."""

import re

import pytest
from playwright.sync_api import Page, Route, expect

from tests.ui.conftest import Dev, Visitor
from tests.ui.steps import at_fleet, forgiven, heading, hide, ping, stream_says

pytestmark = pytest.mark.browser


def test_an_old_page_still_has_its_whole_menu(visitor: Visitor, dev: Dev) -> None:
    page = visitor.page()
    page.clock.install()
    page.route("**/stream?*", lambda route: None)
    page.goto(dev.login_url)
    page.get_by_role("row").filter(has_text=dev.hostname).wait_for()
    page.clock.fast_forward(31_000)
    expect(page.get_by_role("status").filter(has_text="Not connected")).to_be_visible()

    expect(page.get_by_role("button", name="Sign out")).to_be_in_viewport(ratio=1)


def test_a_page_whose_stream_never_came_looks_old_all_the_same(visitor: Visitor, dev: Dev) -> None:
    page = visitor.page()
    page.clock.install()
    page.route("**/stream?*", lambda route: route.fulfill(status=429, json={"code": "too_many_streams"}))
    late: list[Route] = []
    page.route(re.compile("state=running"), lambda route: late.append(route))
    page.goto(dev.login_url)
    page.get_by_role("row").filter(has_text=dev.hostname).wait_for()
    banner = page.get_by_role("status").filter(has_text="Not connected. Data as of")
    expect(banner).to_have_count(0)
    page.clock.fast_forward(31_000)
    expect(banner).to_be_visible()
    with page.expect_response("**/stream?*"):  # which is tried again for what has come late
        late[0].continue_()
    page.clock.run_for(1000)

    expect(banner).to_be_visible()
    page.close()
    forgiven(visitor, "429")


def test_it_is_said_that_nothing_comes_and_since_when(visitor: Visitor, page: Page, dev: Dev) -> None:
    at_fleet(page, dev)
    pill = page.locator("#pill")
    expect(pill).to_have_text("Live")
    page.clock.install()
    page.route("**/stream?*", lambda route: None)  # a server that takes the request and says no more
    page.reload()
    page.get_by_role("row").first.wait_for()
    expect(pill).to_have_text("Connecting…")
    page.clock.fast_forward(31_000)

    expect(pill).to_have_text(re.compile(r"Offline since \d"))
    page.unroute_all()
    pill.click()
    page.get_by_role("button", name="Reconnect now").click()
    expect(pill).to_have_text("Live")


def test_read_tables_that_are_behind_are_not_called_live(page: Page, dev: Dev) -> None:
    at_fleet(page, dev)
    stream_says(page, ping("?", events=312, seconds=9))
    page.reload()

    expect(page.get_by_role("button", name="Catching up 312")).to_be_visible()


def test_a_page_of_another_build_is_loaded_when_nobody_looks_and_nothing_would_be_lost(page: Page, dev: Dev) -> None:
    stream_says(page, ping("another", events=0, seconds=0))
    page.goto(f"{dev.url}/run?host=sim-0001")
    expect(page.get_by_role("status").filter(has_text="a newer page")).to_have_count(1)
    page.get_by_label("Command").fill("echo kept")
    page.evaluate("() => (document.body.dataset.old = '')")
    hide(page)
    expect(page.get_by_label("Command")).to_have_value("echo kept")
    assert page.locator("body").get_attribute("data-old") == ""

    page.get_by_role("link", name="Fleet").click()
    heading(page, "Fleet")
    with page.expect_navigation():
        hide(page)
    expect(page.locator("body")).not_to_have_attribute("data-old", "")


def test_a_stream_that_is_cut_is_said_and_comes_back(page: Page, dev: Dev) -> None:
    at_fleet(page, dev)
    pill = page.locator("#pill")
    expect(pill).to_have_text("Live")
    page.context.set_offline(True)
    page.evaluate("() => document.dispatchEvent(new Event('visibilitychange'))")
    page.context.set_offline(False)

    expect(pill).to_have_text("Live")


def test_rows_of_a_server_that_is_gone_look_old_on_whichever_page(visitor: Visitor, dev: Dev) -> None:
    page = visitor.page()
    page.clock.install()
    page.route("**/stream?*", lambda route: route.abort())
    frame = ping("?", events=0, seconds=0)
    page.route("**/stream?*", lambda route: route.fulfill(content_type="text/event-stream", body=frame), times=1)
    page.goto(dev.login_url)
    page.get_by_role("row").filter(has_text=dev.hostname).wait_for()
    page.clock.run_for(100)
    expect(page.locator("#pill")).to_have_text(re.compile("Retry in"))
    expect(page.locator("body")).to_have_class("stale-data")
    shape = page.get_by_role("row").filter(has_text=dev.hostname).locator(".badge svg").first
    colour = "(e) => getComputedStyle(e).color"
    assert shape.evaluate(colour) == page.locator("#pill").evaluate(colour)  # which is muted
    page.clock.fast_forward(20_000)
    page.get_by_role("link", name="Audit").click()
    heading(page, "Audit")
    page.clock.fast_forward(12_000)

    expect(page.get_by_role("status").filter(has_text="Not connected. Data as of")).to_be_visible()
    page.close()
    forgiven(visitor, "ERR_FAILED")
