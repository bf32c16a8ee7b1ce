"""What happened: a task, as it runs and as it ends."""

import pytest
from playwright.sync_api import Page, expect

from tests.ui.conftest import Dev
from tests.ui.steps import finished, run

pytestmark = pytest.mark.browser


def test_executions_arrive_while_one_looks(page: Page, dev: Dev) -> None:
    run(page, dev, "host=sim-0003", "sleep 3")
    expect(page.get_by_role("row").filter(has_text="sim-0003").filter(has_text="Running")).to_be_visible()
    expect(page.get_by_role("status").filter(has_text="1 running")).to_be_visible()
    expect(page.get_by_text("Not started after")).to_be_visible()

    finished(page, "1 ok")
    expect(page.get_by_text("Not started after")).to_have_count(0)


def test_cancel_says_what_it_does_and_the_task_ends_as_cancelled(page: Page, dev: Dev) -> None:
    run(page, dev, f"host={dev.hostname}", "sleep 60")
    page.get_by_role("row").filter(has_text="Running").first.wait_for()
    page.get_by_role("button", name="Cancel task").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel task").click()

    finished(page, "1 cancelled")
    expect(page.get_by_text("Cancelled").first).to_be_visible()


def test_the_dialog_that_asks_whether_to_cancel_has_two_different_answers(page: Page, dev: Dev) -> None:
    task_id = dev.api.run({"host": "sim-0002"}, "sleep 20")
    page.goto(f"{dev.url}/tasks/{task_id}")
    page.get_by_role("button", name="Cancel task").click()
    page.get_by_role("dialog").get_by_role("button", name="Let it run").click()
    expect(page.get_by_role("dialog")).to_have_count(0)

    assert dev.api.get(f"/tasks/{task_id}")["cancel_requested_at"] is None
    dev.api.post(f"/tasks/{task_id}/cancel")
