"""One host of a task: all that it printed, and why it ended as it did."""

import re
from contextlib import suppress
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Browser, Error, Page, Route, expect

from tests.ui.conftest import Dev, Visitor
from tests.ui.steps import downloaded, finished
from tests.ui.task_answers import after, answered_by, row

pytestmark = pytest.mark.browser

BOTH = {"hosts": ["sim-0001", "sim-0002"]}


def test_a_host_opens_beside_the_page_and_closes_by_escape_by_button_and_by_going_back(page: Page, dev: Dev) -> None:
    task_id = dev.api.run(BOTH, "echo beside")
    dev.api.finished(task_id)
    page.goto(f"{dev.url}/tasks/{task_id}?tab=hosts")
    link = page.get_by_role("link", name="sim-0002")
    pane = page.get_by_role("dialog", name="sim-0002")
    link.click()
    expect(pane.locator("pre")).to_have_text("beside\n")
    expect(pane.get_by_role("heading", name="sim-0002")).to_be_focused()
    assert page.url.endswith("?tab=hosts&host=sim-0002")
    page.keyboard.press("Escape")
    expect(pane).to_have_count(0)
    expect(link).to_be_focused()

    page.keyboard.press("Enter")
    pane.get_by_role("button", name="Close").click()
    expect(pane).to_have_count(0)
    link.click()
    expect(pane).to_be_visible()
    page.go_back()
    expect(pane).to_have_count(0)
    page.go_forward()
    expect(pane.locator("pre")).to_have_text("beside\n")
    page.reload()
    expect(pane.locator("pre")).to_have_text("beside\n")


def test_on_a_telephone_a_host_lies_over_the_page_which_is_out_of_reach_meanwhile(page: Page, dev: Dev) -> None:
    task_id = dev.api.run(BOTH, "echo over")
    dev.api.finished(task_id)
    page.set_viewport_size({"width": 360, "height": 740})
    page.goto(f"{dev.url}/tasks/{task_id}?tab=hosts&host=sim-0001")
    pane = page.get_by_role("dialog", name="sim-0001")
    expect(pane.locator("pre")).to_have_text("over\n")
    assert pane.bounding_box() == {"x": 0, "y": 0, "width": 360, "height": 740}
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 360
    assert page.evaluate(
        "() => [...document.querySelectorAll('main h1, main table')].every((e) => e.closest('[inert]'))"
    )
    pane.get_by_role("button", name="Close").click()
    expect(page.get_by_role("link", name="sim-0001")).to_be_visible()
    page.get_by_role("link", name="sim-0001").click()
    expect(pane).to_be_visible()


def test_a_line_has_an_address_that_shows_it_again(page: Page, dev: Dev) -> None:
    task_id = dev.api.run({"host": dev.hostname}, "seq 1 900; seq 1001 1900 >&2")
    dev.api.finished(task_id)
    page.goto(f"{dev.url}/tasks/{task_id}")
    said = page.locator("pre").filter(has_text=re.compile("^1\n2\n"))
    expect(said.locator(".line")).to_have_count(300)
    page.locator("section.reader").first.get_by_role("button", name="Next", exact=True).click()
    page.get_by_role("link", name="Line 305").click()
    assert page.url.endswith(f"/tasks/{task_id}#L305")
    expect(page.locator(".here")).to_have_text("305\n")
    page.get_by_role("link", name="Line 305").press("ArrowDown")
    expect(page.get_by_role("link", name="Line 306")).to_be_focused()

    other = page.context.new_page()
    other.goto(page.url)
    expect(other.locator(".here")).to_have_text("305\n")
    expect(other.locator(".here")).to_be_in_viewport()
    other.goto(f"{dev.url}/tasks/{task_id}?stream=stderr#L700")
    expect(other.locator(".here")).to_have_text("1700\n")
    expect(other.locator(".here")).to_be_in_viewport()
    other.close()


def test_an_output_is_searched_and_each_match_can_be_gone_to(page: Page, dev: Dev) -> None:
    task_id = dev.api.run(
        {"host": dev.hostname}, r"for i in $(seq 700); do printf 'x \033[31mErr\033[0mor %s\n' $i; done"
    )
    dev.api.finished(task_id)
    page.goto(f"{dev.url}/tasks/{task_id}")
    search = page.get_by_role("searchbox", name="Search this output").first
    search.fill("error 7")
    expect(page.get_by_text("1 of 12", exact=True)).to_be_visible()
    expect(page.locator("mark.current")).to_have_text(["Err", "or 7"])
    expect(page.locator("mark")).to_have_count(22)  # eleven on this page, each in two colours
    search.press("Shift+Enter")
    expect(page.get_by_text("12 of 12", exact=True)).to_be_visible()
    expect(page.locator("mark.current").last).to_have_text("or 7")
    expect(page.locator(".line").filter(has=page.locator("mark.current"))).to_have_text("x Error 700\n")
    expect(page.locator(".line").filter(has=page.locator("mark.current"))).to_be_in_viewport()
    page.get_by_role("button", name="Next match").first.click()
    expect(page.get_by_text("1 of 12", exact=True)).to_be_visible()
    search.fill("nowhere (")
    expect(page.get_by_text("not found")).to_be_visible()
    expect(page.locator("mark")).to_have_count(0)
    expect(page.get_by_role("button", name="Next match")).to_have_count(0)


def test_an_output_is_copied_as_it_is_seen_downloaded_as_it_is_and_wrapped_or_not(browser: Browser, dev: Dev) -> None:
    task_id = dev.api.run({"host": dev.hostname}, r"printf 'a\033[31mb\033[0m\342\200\256\n'")
    dev.api.finished(task_id)
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"], locale="en-US")
    visitor = Visitor(context)
    visitor.enter(dev)
    page = visitor.page()
    page.goto(f"{dev.url}/tasks/{task_id}")
    page.get_by_role("button", name="Copy", exact=True).first.click()
    expect(page.get_by_role("button", name="Copied").first).to_be_visible()
    assert page.evaluate("() => navigator.clipboard.readText()") == "abU+202E"
    saved = downloaded(page, page.get_by_role("button", name="Download").first)
    assert saved.path().read_bytes() == b"a\x1b[31mb\x1b[0m\xe2\x80\xae\n"
    wrap = page.get_by_role("button", name="Wrap lines").first
    expect(wrap).to_have_attribute("aria-pressed", "true")
    wrap.click()
    expect(wrap).to_have_attribute("aria-pressed", "false")
    expect(page.locator("pre").first).to_have_css("white-space", "pre")
    page.get_by_role("button", name="Copy this line").click()
    assert page.evaluate("() => navigator.clipboard.readText()") == f"cpctl tasks show {task_id}"
    page.get_by_role("button", name="Copy the id").click()
    assert page.evaluate("() => navigator.clipboard.readText()") == task_id
    assert visitor.complaints == []
    context.close()


def test_what_was_not_kept_leaves_a_visible_cut_where_it_was(page: Page, dev: Dev) -> None:
    task_id = dev.api.run({"host": "sim-0001"}, "echo cut")
    dev.api.finished(task_id)
    data = "first\nsecond\nlast\n"
    sizes = {
        "size_bytes": 15_938_355,
        "kept_bytes": len(data),
        "head_bytes": 13,
        "truncated": True,
        "sha256": "ab" * 32,
    }

    def cut(route: Route) -> None:
        found = route.fetch().json()
        route.fulfill(json=found if found["stream"] == "stderr" else {**found, **sizes, "data": data})

    page.route("**/output?*", cut)
    page.goto(f"{dev.url}/tasks/{task_id}")

    missing = f"15.2 MiB not kept · whole 15.2 MiB, SHA-256 {'ab' * 32}"
    expect(page.locator("pre > *")).to_have_text(["first\n", "second\n", missing, "last\n"])


def test_a_host_says_step_by_step_why_it_is_red_and_what_came_too_late(page: Page, dev: Dev) -> None:
    late = {"seq": 9, "outcome": "succeeded", "exit_code": 0}
    gone = row("sim-0001", "lost", reason="no word after it was sent; it may have run", sent_at=after(12), late=late)
    task_id = answered_by(page, dev, [gone, row("sim-0002", "succeeded")])
    kinds = [
        ("execution.late_result", 9, 60_000, None),
        ("execution.lost", 8, 3_012, "lost"),
        ("execution.sent", 7, 12, None),
    ]
    events = [
        {"seq": seq, "kind": kind, "recorded_at": after(ms), "actor": "dispatch", "outcome": outcome}
        for kind, seq, ms, outcome in kinds
    ]
    page.route(
        re.compile(r"/api/v1/events\?.*hostname=sim-0001"),
        lambda route: route.fulfill(json={"items": events, "next_cursor": None, "as_of": "e1.h1"}),
    )
    page.goto(f"{dev.url}/tasks/{task_id}?host=sim-0001")
    pane = page.get_by_role("dialog", name="sim-0001")

    steps = [
        re.compile(r"^task\.accepted "),
        re.compile(r"^execution\.sent .* 12 ms later · dispatch"),
        re.compile(r"^execution\.lost .*No answer: may have run · 3\.0 s later"),
        re.compile(r"^execution\.late_result .* 57 s later"),
    ]
    expect(pane.get_by_role("listitem")).to_have_text(steps)
    expect(pane).to_contain_text("A result with exit 0 (Succeeded) came later: it is kept, and the state stays. ")
    expect(pane).to_contain_text("queued 12 ms")


def test_a_host_that_is_none_of_the_task_is_said_to_be_none(page: Page, dev: Dev) -> None:
    task_id = dev.api.run(BOTH, "echo not there")
    dev.api.finished(task_id)
    page.goto(f"{dev.url}/tasks/{task_id}?host=sim-0003")

    expect(page.get_by_role("dialog")).to_contain_text("This host is not one of the task’s.")


def test_the_only_host_of_a_task_stands_in_the_place_of_its_outputs(page: Page, dev: Dev) -> None:
    task_id = dev.api.run({"host": "sim-0001"}, "sleep 3")
    page.goto(f"{dev.url}/tasks/{task_id}")
    expect(page.get_by_role("heading", name="sim-0001", level=2)).to_be_visible()
    expect(page.get_by_text("No answer yet.")).to_be_visible()
    finished(page, "1 ok")
    expect(page.get_by_role("listitem").filter(has_text="execution.finished")).to_contain_text("this result decides")
    expect(page.get_by_text("No answer yet.")).to_have_count(0)
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_an_output_that_may_not_be_read_is_not_asked_for(visitor: Visitor, page: Page, dev: Dev) -> None:
    def without(route: Route) -> None:
        me = route.fetch().json()
        me["permissions"].remove("tasks.output")
        route.fulfill(json=me)

    for target in (BOTH, {"host": "sim-0001"}):
        task_id = dev.api.run(target, "echo secret")
        dev.api.finished(task_id)
        page.route("**/auth/me", without)
        page.route(re.compile("/outputs?(\\?|$)"), lambda route: route.abort())
        page.goto(f"{dev.url}/tasks/{task_id}")
        expect(page.get_by_text("Needs the permission tasks.output")).to_be_visible()
    assert visitor.complaints == []


def test_an_older_answer_takes_no_step_away_and_none_is_older_than_the_row(page: Page, dev: Dev) -> None:
    task_id = dev.api.run({"host": "sim-0001"}, "sleep 4")
    asked: list[dict[str, list[str]]] = []
    older: list[Route] = []

    def answer(route: Route) -> None:
        asked.append(parse_qs(urlsplit(route.request.url).query))
        older.append(route)
        if len(asked) > 1:  # the first one was asked before it had ended
            older.pop().continue_()

    page.route(re.compile(rf"/api/v1/events\?.*{task_id}.*"), answer)
    page.goto(f"{dev.url}/tasks/{task_id}")
    steps = page.get_by_role("listitem")
    expect(steps.filter(has_text="execution.finished")).to_be_visible(timeout=15_000)
    with suppress(Error):  # nobody waits for it
        older.pop().fulfill(json={"items": [], "next_cursor": None, "as_of": "e1.h1"})
    page.evaluate("() => new Promise(requestAnimationFrame)")

    expect(steps.filter(has_text="execution.finished")).to_be_visible()
    row = dev.api.get(f"/tasks/{task_id}/executions/sim-0001")
    assert asked[-1]["min_seq"] == [str(row["pos"])]
