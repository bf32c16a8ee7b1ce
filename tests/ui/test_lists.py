"""The pages that are lists: tasks, the audit trail, the system."""

import re

import pytest
from playwright.sync_api import Locator, Page, Route, expect

from tests.ui.conftest import Dev
from tests.ui.steps import at_fleet, heading, ping

pytestmark = pytest.mark.browser


def test_the_trail_shows_every_step_and_all_of_each(page: Page, dev: Dev) -> None:
    at_fleet(page, dev)
    task_id = dev.api.run({"host": "sim-0001"}, "true")
    dev.api.finished(task_id)
    page.get_by_role("link", name="Audit").click()
    heading(page, "Audit")
    row = page.get_by_role("row").filter(has_text="execution.finished").filter(has_text="sim-0001").first
    row.get_by_role("button").click()

    expect(page.locator("pre").filter(has_text=task_id)).to_contain_text('"outcome": "completed"')
    page.get_by_label(re.compile("^Kind")).fill("host")
    page.get_by_label(re.compile("^Kind")).press("Enter")
    expect(page.get_by_role("row").filter(has_text="execution.")).to_have_count(0)
    expect(page.get_by_role("row").filter(has_text="host.registered").first).to_be_visible()


def test_tasks_are_listed_newest_first_and_come_live(page: Page, dev: Dev) -> None:
    at_fleet(page, dev)
    page.get_by_role("link", name="Tasks").click()
    heading(page, "Tasks")
    dev.api.finished(dev.api.run({"host": "sim-0004"}, "echo newest"))

    first = page.get_by_role("row").nth(1)
    expect(first).to_contain_text("echo newest")
    expect(first).to_contain_text("1 ok")


def cards(page: Page) -> Locator:
    return page.get_by_role("listitem")


@pytest.mark.parametrize("width", [1280, 360])
def test_what_runs_is_on_top_and_can_be_cancelled(page: Page, dev: Dev, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    command = f"sleep 100 # {width}"
    task_id = dev.api.run({"hosts": ["sim-0003", "sim-0004"]}, command)
    page.goto(f"{dev.url}/tasks")
    card = cards(page).filter(has_text=command)
    expect(card).to_contain_text(re.compile(r"2 chosen hosts · 2 running · admin · \d"))
    expect(page.get_by_role("row").filter(has_text=command)).to_have_count(0)
    card.get_by_role("button", name="Cancel task").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.locator("pre").first).to_have_text(command)
    expect(dialog).to_contain_text("2 may be running and get the signal.")
    dialog.get_by_role("button", name="Cancel task").click()
    dev.api.finished(task_id)
    page.get_by_role("heading", level=1).hover()

    row = page.get_by_role("row").filter(has_text=command)
    expect(row).to_contain_text("Cancelled")
    expect(row).to_contain_text(re.compile(r"\d s$"))
    expect(card).to_have_count(0)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width


def test_no_card_goes_away_under_the_pointer(page: Page, dev: Dev) -> None:
    task_id = dev.api.run({"host": "sim-0003"}, "sleep 100 # pointed at")
    page.goto(f"{dev.url}/tasks")
    card = cards(page).filter(has_text="# pointed at")
    card.hover()
    dev.api.post(f"/tasks/{task_id}/cancel")
    expect(card).to_contain_text("Cancelled")
    expect(card.get_by_role("button", name="Cancel")).to_be_hidden()
    expect(page.get_by_role("row").filter(has_text="# pointed at")).to_have_count(0)
    page.get_by_role("heading", level=1).hover()

    expect(card).to_have_count(0)
    expect(page.get_by_role("row").filter(has_text="# pointed at")).to_have_count(1)


def test_of_the_past_what_ran_then_is_on_top_and_cannot_be_cancelled(page: Page, dev: Dev) -> None:
    task_id = dev.api.run({"host": "sim-0003"}, "sleep 1 # then")
    dev.api.finished(task_id)
    page.clock.install()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/api/v1/" in request.url else None)
    page.goto(f"{dev.url}/tasks?at={dev.api.get(f'/tasks/{task_id}')['seq']}")
    card = cards(page).filter(has_text="# then")
    expect(card).to_contain_text("1 waiting")
    expect(card.get_by_role("button", name="Cancel task")).to_have_attribute("aria-disabled", "true")
    asked.clear()
    page.clock.run_for(60_000)

    assert asked == []


def test_a_filter_is_in_the_address_and_what_it_leaves_out_is_said(page: Page, dev: Dev) -> None:
    failed = dev.api.run({"host": "sim-0002"}, "false # filtered")
    dev.api.finished(failed)
    dev.api.finished(dev.api.run({"host": "sim-0004"}, "true # filtered"))
    [retry] = [dev.api.post(f"/tasks/{failed}/retry", {"states": ["failed"]})["task"]["task_id"]]
    dev.api.finished(retry)
    page.goto(f"{dev.url}/tasks?q=filtered")
    rows = page.get_by_role("row").filter(has_text="# filtered")
    expect(rows).to_have_count(3)
    page.get_by_label("State").select_option("Failed")
    expect(rows).to_have_count(2)
    expect(page).to_have_url(re.compile(r"outcome=failed"))
    expect(rows.first.get_by_role("link", name=f"retry of {failed[:8]}")).to_have_attribute("href", f"/tasks/{failed}")
    page.get_by_text("More filters").click()
    page.get_by_label("Host", exact=True).fill("sim-0004")
    page.get_by_label("Host", exact=True).press("Enter")
    empty = page.get_by_text("No task matches this filter: Command: filtered · State: Failed · Host: sim-0004")
    expect(empty).to_be_visible()
    page.reload()
    expect(empty).to_be_visible()
    expect(page.get_by_label("Host", exact=True)).to_have_value("sim-0004")
    empty.get_by_role("link", name="Clear the filter").click()

    expect(page).to_have_url(f"{dev.url}/tasks")
    expect(rows).to_have_count(3)
    expect(page.get_by_label("State")).to_have_value("")
    expect(page.get_by_label("Filter by command")).to_have_value("")


def test_tasks_are_found_by_who_and_when(page: Page, dev: Dev) -> None:
    at_fleet(page, dev)
    dev.api.finished(dev.api.run({"host": "sim-0002"}, "echo when"))
    row = page.get_by_role("row").filter(has_text="echo when")
    for query, count in (("actor=admin", 1), ("actor=nobody", 0), ("from=2026-01-01T00:00:00Z", 1)):
        page.goto(f"{dev.url}/tasks?{query}")
        expect(page.get_by_label("Who")).to_be_visible()
        expect(row).to_have_count(count)
    expect(page.get_by_label("From")).not_to_have_value("")
    page.get_by_label("Until").fill("2026-01-02T00:00")
    page.get_by_label("Until").blur()

    expect(page).to_have_url(re.compile(r"to=2026-01-0[12]"))
    expect(page.get_by_text(re.compile("^No task matches this filter: From: .* · Until: "))).to_be_visible()


def test_what_comes_to_a_host_that_is_filtered_for_is_shown(page: Page, dev: Dev) -> None:
    page.goto(f"{dev.url}/tasks?hostname=sim-0005")
    expect(page.get_by_text("More filters")).to_be_visible()
    expect(page.locator("#pill")).to_have_text("Live")
    for hostname in ("sim-0004", "sim-0005"):
        dev.api.finished(dev.api.run({"host": hostname}, f"echo to {hostname}"))

    expect(page.get_by_role("row").filter(has_text="echo to sim-0005")).to_have_count(1)
    expect(page.get_by_role("row").filter(has_text="echo to sim-0004")).to_have_count(0)


def test_new_rows_wait_while_somebody_reads_further_down(page: Page, dev: Dev) -> None:
    for number in range(20):
        dev.api.run({"host": "sim-0001"}, f"echo {number}")
    dev.api.finished(dev.api.run({"host": "sim-0001"}, "echo read"))
    page.goto(f"{dev.url}/tasks")
    expect(page.get_by_role("row").filter(has_text="echo read")).to_be_visible()
    page.mouse.move(640, 700)
    page.mouse.wheel(0, 400)
    page.wait_for_function("() => window.scrollY > 100")
    later = dev.api.run({"host": "sim-0002"}, "sleep 3 # later")
    expect(page.locator("#running")).to_have_text(re.compile(r"\d"))
    expect(cards(page).filter(has_text="# later")).to_have_count(0)  # nor does it push down what is read
    dev.api.finished(later)
    news = page.get_by_role("button", name="1 new · show")
    expect(news).to_have_count(1)
    expect(page.get_by_role("row").filter(has_text="# later")).to_have_count(0)
    news.click()

    expect(page.get_by_role("row").filter(has_text="# later")).to_have_count(1)


def test_the_number_of_running_tasks_outlives_a_stream_that_starts_anew(page: Page, dev: Dev) -> None:
    running = dev.api.run({"host": "sim-0002"}, "sleep 20")
    reset = f'event: reset\ndata: {{"topic":"tasks"}}\nid: {dev.api.get("/tasks")["as_of"]}\n\n'
    frames = ping("?", events=0, seconds=0) + reset
    page.goto(f"{dev.url}/system")
    number = page.get_by_role("link", name="Tasks").locator("#running")
    expect(number).to_have_text("1")
    page.route("**/stream?*", lambda route: route.fulfill(content_type="text/event-stream", body=frames), times=1)
    with page.expect_response(re.compile(r"/tasks\?state=running")):
        page.get_by_role("link", name="Fleet").click()

    expect(number).to_have_text("1")
    dev.api.post(f"/tasks/{running}/cancel")
    expect(number).to_have_text("")


TAKE = """async (rows) => {
  const { take } = await import(document.querySelector("script[src]").src.replace("main.js", "stream.js"));
  take("events", rows);
  await new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)));
}"""


def test_what_a_list_shows_outlives_any_number_of_events_elsewhere(page: Page, dev: Dev) -> None:
    page.goto(f"{dev.url}/audit?hostname=sim-0005&kind=host.registered")
    row = page.get_by_role("row").filter(has_text="host.registered")
    expect(row).to_have_count(1)
    event = dev.api.get("/events", hostname="sim-0005", kind="host.registered")["items"][0]
    page.evaluate(TAKE, [{**event, "seq": event["seq"] + 100_000 + n, "hostname": "elsewhere"} for n in range(6_000)])

    expect(row).to_have_count(1)


def test_a_list_that_has_grown_too_long_by_what_came_is_read_anew(page: Page, dev: Dev) -> None:
    page.goto(f"{dev.url}/audit?hostname=sim-0005")
    page.get_by_role("row").filter(has_text="host.registered").wait_for()
    answer = dev.api.get("/events", hostname="sim-0005", limit=1)
    rows = [{**answer["items"][0], "seq": answer["items"][0]["seq"] + 100_000 + n} for n in range(2_100)]
    page.route("**/api/v1/events?*", lambda route: route.fulfill(json={**answer, "items": rows[:-101:-1]}))
    page.evaluate(TAKE, rows)

    expect(page.locator("main tbody tr")).to_have_count(100)


def test_nothing_is_said_to_match_a_filter_before_it_was_asked_for(page: Page, dev: Dev) -> None:
    dev.api.finished(dev.api.run({"host": "sim-0001"}, "echo of before"))
    page.goto(f"{dev.url}/tasks")
    page.get_by_role("row").filter(has_text="echo of before").wait_for()
    asked: list[Route] = []
    page.route(re.compile(r"/api/v1/tasks\?.*state=finished"), lambda route: asked.append(route))
    with page.expect_request(re.compile(r"q=nowhere.*state=finished")):
        page.locator("main input[type=search]").first.fill("nowhere")
        expect(page.get_by_role("row").filter(has_text="echo of before")).to_have_count(0)
        none = page.get_by_text(re.compile("No task matches"))
        assert not none.is_visible()
    assert not none.is_visible()
    asked[-1].continue_()

    expect(none).to_be_visible()


def test_an_open_event_keeps_the_focus_while_others_come(page: Page, dev: Dev) -> None:
    task_id = dev.api.run({"host": "sim-0001"}, "true")
    dev.api.finished(task_id)
    page.set_viewport_size({"width": 1280, "height": 3000})  # nothing is scrolled: what comes is shown at once
    page.goto(f"{dev.url}/audit?actor=admin&kind=task")
    row = page.get_by_role("row").filter(has_text="task.accepted").first
    row.get_by_role("button").click()
    open_event = page.locator("tr.detail")
    body = open_event.locator("pre").filter(has_text=task_id).first
    body.focus()
    rows = page.locator("tbody tr")
    count = rows.count()
    dev.api.finished(dev.api.run({"host": "sim-0002"}, "true"))
    expect(rows).not_to_have_count(count)

    expect(body).to_be_focused()
    expect(page.locator("tbody tr:has(+ tr.detail)")).to_contain_text("task.accepted")
