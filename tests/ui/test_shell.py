"""What is on every page: the search, the keys, the connection, the preferences."""

import re
from datetime import datetime, timedelta

import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect

from tests.ui.conftest import Dev, Visitor
from tests.ui.steps import at_fleet, forgiven, heading, newcomer

pytestmark = pytest.mark.browser


def search(page: Page) -> Locator:
    return page.get_by_role("combobox", name="Jump to…")


def option(page: Page, name: str) -> Locator:
    return page.get_by_role("listbox", name="Suggestions").get_by_role("option", name=name)


@pytest.mark.parametrize("path", ["/hosts", "/system"])
def test_the_start_of_a_hostname_leads_to_the_host(page: Page, dev: Dev, path: str) -> None:
    page.goto(dev.url + path)
    page.get_by_role("row").nth(1).wait_for()
    page.keyboard.press("/")
    expect(search(page)).to_be_focused()
    expect(search(page)).to_have_value("")
    page.keyboard.type("SIM-000")
    expect(option(page, "sim-0001")).to_have_attribute("aria-selected", "true")
    expect(search(page)).to_have_attribute("aria-expanded", "true")
    page.keyboard.press("ArrowDown")
    expect(option(page, "sim-0002")).to_have_attribute("aria-selected", "true")
    active = search(page).get_attribute("aria-activedescendant")
    assert active == option(page, "sim-0002").get_attribute("id")
    page.keyboard.press("Enter")

    heading(page, "sim-0002")
    expect(search(page)).to_have_value("")


def test_a_page_and_a_task_are_found_by_how_they_begin(page: Page, dev: Dev) -> None:
    at_fleet(page, dev)
    task_id = dev.api.run({"host": "sim-0001"}, "echo found")
    dev.api.finished(task_id)
    page.keyboard.press("/")
    page.keyboard.type("sys")
    expect(option(page, "System")).to_be_visible()
    page.keyboard.press("Enter")
    heading(page, "System")
    page.keyboard.press("/")
    page.keyboard.type(task_id)
    page.keyboard.press("Enter")
    heading(page, "echo found")
    page.get_by_role("link", name="Tasks").click()
    page.get_by_role("row").filter(has_text="echo found").first.wait_for()
    search(page).fill(task_id[:30])
    option(page, task_id).click()
    heading(page, "echo found")


def test_what_nothing_begins_with_is_said_and_escape_leaves_the_search(page: Page, dev: Dev) -> None:
    at_fleet(page, dev)
    page.keyboard.press("/")
    page.keyboard.type("nosuch")
    expect(option(page, "Nothing begins like this.")).to_be_visible()
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")
    expect(page.get_by_role("listbox", name="Suggestions")).to_have_count(0)
    expect(search(page)).to_be_focused()
    page.keyboard.press("Escape")
    expect(search(page)).not_to_be_focused()
    expect(search(page)).to_have_value("")
    heading(page, "Fleet")


def test_the_search_is_in_reach_on_a_telephone(page: Page, dev: Dev) -> None:
    at_fleet(page, dev)
    page.set_viewport_size({"width": 360, "height": 740})
    search(page).click()
    page.keyboard.type("sim-")
    expect(option(page, "sim-0003")).to_be_in_viewport(ratio=1)
    option(page, "sim-0003").click()
    heading(page, "sim-0003")


def test_running_tasks_are_in_the_title_of_the_tab(page: Page, dev: Dev) -> None:
    at_fleet(page, dev)
    running = dev.api.run({"host": "sim-0002"}, "sleep 20")
    expect(page).to_have_title(re.compile(r"^\([1-9]\d*\) Fleet · Control plane$"))
    dev.api.post(f"/tasks/{running}/cancel")
    dev.api.finished(running)
    expect(page).to_have_title("Fleet · Control plane")


def test_the_pill_says_where_the_page_is_and_connects_anew_when_it_is_told_to(page: Page, dev: Dev) -> None:
    with page.expect_request(re.compile(r"/stream\?topics=hosts%2Ctasks%2C")):  # of the page, and of the shell
        at_fleet(page, dev)
    pill = page.locator("#pill")
    expect(pill).to_have_text("Live")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/stream?" in request.url else None)
    pill.click()
    dialog = page.get_by_role("dialog", name="Connection")
    for term in ("Position", "The server’s time", "Behind by", "Build"):
        expect(dialog.get_by_role("term").filter(has_text=re.compile(f"^{term}$"))).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(pill).to_be_focused()
    assert asked == []
    pill.click()
    with page.expect_request("**/stream?*"):
        dialog.get_by_role("button", name="Reconnect now").click()
    expect(dialog).to_have_count(0)
    expect(pill).to_have_text("Live")


def test_who_may_follow_nothing_is_not_told_that_it_connects(visitor: Visitor, dev: Dev) -> None:
    page = visitor.page()
    newcomer(page, dev, "mona", "member", then="Nothing to show")
    expect(page.locator("#pill")).to_be_hidden()
    forgiven(visitor, "401")


def preference(page: Page, name: str) -> Locator:
    page.get_by_role("button", name="Preferences").click()
    return page.get_by_role("dialog", name="Preferences").get_by_label(name)


def test_a_theme_and_the_height_of_rows_are_kept(page: Page, dev: Dev) -> None:
    at_fleet(page, dev)
    colour = "() => getComputedStyle(document.body).backgroundColor"
    row = page.get_by_role("row").filter(has_text="sim-0001")
    row.wait_for()
    preference(page, "Theme").select_option("dark")
    page.keyboard.press("Escape")
    assert page.evaluate(colour) == "rgb(14, 19, 24)"
    preference(page, "Rows").select_option("close together")
    page.keyboard.press("Escape")
    page.reload()
    row.wait_for()
    assert page.evaluate(colour) == "rgb(14, 19, 24)"
    box = row.bounding_box()
    assert box is not None
    assert box["height"] < 34


def test_times_are_told_in_utc_where_that_is_wanted(browser: Browser, dev: Dev) -> None:
    task_id = dev.api.run({"host": "sim-0001"}, "echo when")
    dev.api.finished(task_id)
    recorded = dev.api.get("/events", task_id=task_id, kind="task.accepted")["items"][0]["recorded_at"]
    context = browser.new_context(locale="en-US", timezone_id="Asia/Shanghai")
    visitor = Visitor(context)
    visitor.enter(dev)
    page = visitor.page()
    page.goto(f"{dev.url}/audit?task_id={task_id}&kind=task.accepted")
    page.get_by_role("row").nth(1).get_by_role("button").click()
    told = page.get_by_role("definition").filter(has_text=re.compile(r"\d:\d\d:\d\d"))
    then = datetime.fromisoformat(recorded)
    expect(told).to_contain_text(f"{then + timedelta(hours=8):%I:%M:%S}".removeprefix("0"))
    with page.expect_navigation():
        preference(page, "Times").select_option("UTC")
    expect(told).to_have_text(re.compile(f"{then:%I:%M:%S}".removeprefix("0") + ".[AP]M UTC$"))
    assert visitor.complaints == []
    context.close()


def test_another_language_waits_for_what_is_typed(page: Page, dev: Dev) -> None:
    page.goto(f"{dev.url}/run?host=sim-0001")
    page.get_by_label("Command").fill("echo kept")
    preference(page, "Language").select_option("简体中文")
    expect(page.get_by_role("status").filter(has_text="is not lost")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_label("Command")).to_have_value("echo kept")
    page.goto(f"{dev.url}/tasks")
    heading(page, "任务")


def test_the_link_past_the_menu_keeps_what_is_typed(page: Page, dev: Dev) -> None:
    page.goto(f"{dev.url}/run?host=sim-0001")
    heading(page, "Run a command")
    page.get_by_label("Command").fill("echo kept")
    page.get_by_role("link", name="Skip to content").focus()
    page.keyboard.press("Enter")
    expect(page).to_have_url(f"{dev.url}/run?host=sim-0001#main")
    page.go_back()
    expect(page).to_have_url(f"{dev.url}/run?host=sim-0001")
    expect(page.get_by_label("Command")).to_have_value("echo kept")


def test_the_keys_are_listed_and_escape_closes_the_list(page: Page, dev: Dev) -> None:
    at_fleet(page, dev)
    page.keyboard.press("?")
    dialog = page.get_by_role("dialog", name="Keys")
    expect(dialog).to_contain_text("jumps to a host, a task or a page")
    page.keyboard.press("j")  # which moves nothing behind it
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    for key, name in (("t", "Tasks"), ("a", "Audit"), ("c", "Access"), ("f", "Fleet")):
        page.keyboard.press("g")
        page.keyboard.press(key)
        heading(page, name)


def test_rows_are_walked_by_keys_and_enter_opens_one(page: Page, dev: Dev) -> None:
    at_fleet(page, dev)
    page.get_by_role("row").filter(has_text="sim-0001").wait_for()
    rows = page.locator("tbody tr")
    page.keyboard.press("j")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("k")
    expect(rows.nth(1).get_by_role("link")).to_be_focused()
    box = rows.nth(1).get_by_role("checkbox")
    page.keyboard.press("x")
    expect(box).to_be_checked()
    name = rows.nth(1).get_by_role("link").inner_text()
    box.focus()
    page.keyboard.press("Enter")
    heading(page, name)


def test_keys_can_be_switched_off(page: Page, dev: Dev) -> None:
    at_fleet(page, dev)
    preference(page, "Keys").select_option("off")
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    page.keyboard.press("g")
    page.keyboard.press("s")
    page.keyboard.press("/")
    expect(search(page)).not_to_be_focused()
    expect(page.get_by_role("dialog")).to_have_count(0)
    heading(page, "Fleet")


def test_another_page_is_announced(page: Page, dev: Dev) -> None:
    at_fleet(page, dev)
    page.get_by_role("link", name="Audit").click()
    heading(page, "Audit")
    expect(page.locator("[aria-live=polite]")).to_have_text("Audit")
    expect(page.get_by_role("heading", name="Audit")).to_be_focused()


def test_who_signs_in_by_name_can_search_too(visitor: Visitor, dev: Dev) -> None:
    page = visitor.page()
    newcomer(page, dev, "tara", "viewer")
    page.keyboard.press("/")
    page.keyboard.type("sim-0004")
    expect(option(page, "sim-0004")).to_be_visible()
    page.keyboard.press("Enter")
    heading(page, "sim-0004")
    forgiven(visitor, "401")


def test_another_language_waits_for_a_secret_that_is_shown_once(page: Page, dev: Dev) -> None:
    page.goto(f"{dev.url}/access?tab=tokens")
    page.get_by_role("button", name="New token").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Name").fill("kept")
    dialog.get_by_label("Days").fill("3")
    dialog.get_by_role("button", name="New token").click()
    secret = page.locator("pre:visible")
    expect(secret).to_have_count(1)
    shown = secret.inner_text()
    preference(page, "Language").select_option("简体中文")
    expect(page.get_by_role("status").filter(has_text="is not lost")).to_be_visible()
    page.keyboard.press("Escape")

    expect(secret).to_have_text(shown)


def test_a_page_that_fails_to_load_says_so_on_no_other(visitor: Visitor, page: Page, dev: Dev) -> None:
    asked: list[Route] = []
    page.route("**/js/views/system.js", lambda route: asked.append(route))
    with page.expect_request("**/js/views/system.js"):
        page.goto(f"{dev.url}/hosts")
    page.get_by_role("link", name="System").click()
    page.get_by_role("link", name="Tasks").click()
    heading(page, "Tasks")
    with page.expect_event("requestfailed"):
        asked[0].abort()
    page.evaluate("() => new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)))")

    assert page.locator(".problem").count() == 0
    heading(page, "Tasks")
    visitor.complaints.clear()  # that it could not be loaded


def test_every_running_task_is_counted_however_many_pages_of_them_there_are(page: Page, dev: Dev) -> None:
    tasks = [dev.api.run({"host": "sim-0003"}, f"sleep 60 # {n}") for n in range(3)]
    one_each = re.compile(r"/api/v1/tasks\?state=running.*limit=")
    page.route(one_each, lambda route: route.continue_(url=re.sub(r"limit=\d+", "limit=1", route.request.url)))
    n = dev.api.get("/tasks", state="running,paused,cancelling", limit=1)["total"]
    page.goto(f"{dev.url}/system")

    assert n >= len(tasks)
    expect(page.locator("#running")).to_have_text(str(n))
    for task_id in tasks:
        dev.api.post(f"/tasks/{task_id}/cancel")
        dev.api.finished(task_id)
    expect(page.locator("#running")).to_have_text("" if n == len(tasks) else str(n - len(tasks)))
