"""The pages that are lists: tasks, the audit trail, the system."""

import re

import pytest
from playwright.sync_api import Page, expect

from tests.ui.conftest import Dev
from tests.ui.steps import heading, ping

pytestmark = pytest.mark.browser


def test_the_trail_shows_every_step_and_all_of_each(page: Page, dev: Dev) -> None:
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
    page.get_by_role("link", name="Tasks").click()
    heading(page, "Tasks")
    dev.api.finished(dev.api.run({"host": "sim-0004"}, "echo newest"))

    first = page.get_by_role("row").nth(1)
    expect(first).to_contain_text("echo newest")
    expect(first).to_contain_text("1 ok")


def test_the_system_page_shows_what_is_ready_and_how_far_the_read_tables_are(page: Page, dev: Dev) -> None:
    page.keyboard.press("g")
    page.keyboard.press("s")
    heading(page, "System")

    for name in ("database", "broker", "hosts", "tasks", "audit"):
        expect(page.get_by_role("row").filter(has_text=name).first).to_be_visible()


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
