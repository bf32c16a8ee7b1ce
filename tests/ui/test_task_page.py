"""What happened: a task, as it runs and as it ends."""

import re

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.ui.conftest import Dev, Visitor
from tests.ui.steps import finished, heading, run

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


@pytest.mark.parametrize(
    ("locale", "more", "less"), [("en-US", "Show the whole command", "Show less"), ("zh-CN", "显示完整命令", "收起")]
)
def test_a_long_command_is_shortened_to_whole_lines_and_can_be_read_as_a_whole(
    browser: Browser, dev: Dev, locale: str, more: str, less: str
) -> None:
    long = " && ".join(f"echo step-{number}" for number in range(40))
    task_id = dev.api.run({"host": "sim-0001"}, long)
    short = dev.api.run({"host": "sim-0001"}, "echo short")
    context = browser.new_context(viewport={"width": 360, "height": 740}, locale=locale)
    page = Visitor(context).page()
    page.goto(dev.login_url)
    heading(page, re.compile("^(Fleet|主机)$"))
    page.goto(f"{dev.url}/tasks/{task_id}")
    command = page.get_by_role("heading", level=1)
    expect(command).to_have_text(long)
    lines = "(e) => e.clientHeight / parseFloat(getComputedStyle(e).lineHeight)"
    assert command.evaluate(lines) == pytest.approx(5, abs=0.1)
    whole = page.get_by_role("button", name=more)
    expect(whole).to_have_attribute("aria-expanded", "false")
    whole.click()
    assert command.evaluate("(e) => e.scrollHeight - e.clientHeight < 12")  # letters reach over their line
    page.get_by_role("button", name=less).click()
    expect(whole).to_be_visible()

    page.goto(f"{dev.url}/tasks/{short}")
    expect(command).to_have_text("echo short")
    expect(whole).to_be_hidden()
    context.close()


def test_the_dialog_that_asks_whether_to_cancel_has_two_different_answers(page: Page, dev: Dev) -> None:
    task_id = dev.api.run({"host": "sim-0002"}, "sleep 20")
    page.goto(f"{dev.url}/tasks/{task_id}")
    page.get_by_role("button", name="Cancel task").click()
    page.get_by_role("dialog").get_by_role("button", name="Let it run").click()
    expect(page.get_by_role("dialog")).to_have_count(0)

    assert dev.api.get(f"/tasks/{task_id}")["cancel_requested_at"] is None
    dev.api.post(f"/tasks/{task_id}/cancel")
