"""What needs a second person, what leaves no free choice, and what stops all: on the real routes."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.programs import PASSWORD
from tests.ui.conftest import Dev, Visitor
from tests.ui.steps import finished, forgiven, heading, newcomer

pytestmark = pytest.mark.browser

APPROVE = {"effect": "approve", "actions": ["tasks.run"], "hosts": {"all": True}}


@pytest.fixture
def other(browser: Browser) -> Iterator[Page]:
    """A page of somebody else."""
    context = browser.new_context(locale="en-US", reduced_motion="reduce")
    yield Visitor(context).page()
    context.close()


def ask(page: Page) -> None:
    page.get_by_role("button", name="Ask for approval: 1 host").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label(re.compile("Why")).fill("for the test")
    dialog.get_by_role("button", name="Ask for approval: 1 host").click()
    heading(page, "Access")


def press(page: Page, name: str) -> None:
    """Press a button, and the one of its dialog."""
    page.get_by_role("button", name=name).click()
    page.get_by_role("dialog").get_by_role("button", name=name).click()


def approve(page: Page, dev: Dev, requester: str) -> None:
    page.goto(f"{dev.url}/access")
    card = page.get_by_role("row").filter(has_text=requester)
    card.get_by_role("button", name="Approve").click()
    page.get_by_role("dialog").get_by_role("button", name="Approve").click()
    expect(card.filter(has_text="Approved")).to_be_visible()


def test_one_asks_another_approves_and_the_first_runs_it(page: Page, other: Page, dev: Dev) -> None:
    newcomer(other, dev, "rita", "operator", rule={**APPROVE, "patterns": ["echo second*"]})
    other.goto(f"{dev.url}/run?host=sim-0001&command=echo second person")
    ask(other)
    expect(other.get_by_text("rita: waiting for a second person")).to_be_visible()
    expect(other.get_by_role("button", name="Approve")).to_have_count(0)
    approve(page, dev, "rita")
    other.reload()
    press(other, "Run now")

    finished(other, "1 ok")
    heading(other, "echo second person")


def test_a_retry_that_a_second_person_has_to_approve_is_asked_for(page: Page, other: Page, dev: Dev) -> None:
    asked = {"target": {"host": "sim-0001"}, "argv": ["false"], "timeout": 7, "user": "root"}
    task_id = dev.api.post("/tasks", asked)["task"]["task_id"]
    dev.api.finished(task_id)
    rule = {"effect": "approve", "actions": ["tasks.run"], "hosts": {"all": True}}
    newcomer(other, dev, "rena", "operator", rule=rule)
    other.goto(f"{dev.url}/tasks/{task_id}")
    again = other.get_by_role("button", name="Retry…")
    again.click()
    dialog = other.get_by_role("dialog")
    expect(dialog).to_be_visible()
    other.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(again).to_be_focused()
    again.click()
    with other.expect_request("**/targets/preview") as previewed:
        dialog.get_by_role("button", name="Run on 1 host").click()
    said = previewed.value.post_data_json or {}
    assert (said.get("argv"), said.get("timeout")) == (["false"], 7)
    yes = dialog.get_by_role("button", name="Ask for approval: 1 host")
    expect(yes).to_be_disabled()
    dialog.get_by_label(re.compile("Why")).fill("once more")
    yes.click()
    heading(other, "Access")
    approve(page, dev, "rena")
    other.reload()
    press(other, "Run now")

    finished(other, "1 failed")


def test_a_template_is_made_and_run_with_parameters_and_by_approval(page: Page, other: Page, dev: Dev) -> None:
    page.goto(f"{dev.url}/access?tab=templates")
    page.get_by_role("button", name="New template").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Name").fill("say")
    dialog.get_by_label(re.compile("^Command")).fill("/usr/bin/printf\n%s-%s\n{word}\n{times}")
    parameters = '[{"name": "word", "type": "text"}, {"name": "times", "type": "integer", "min": 1, "max": 5}]'
    dialog.get_by_label(re.compile("^Parameters")).fill(parameters)
    dialog.get_by_role("button", name="New template").click()
    expect(page.get_by_role("row").filter(has_text="say")).to_be_visible()

    newcomer(other, dev, "remo", "operator", rule=APPROVE)
    other.goto(f"{dev.url}/run?host={dev.hostname}")
    other.get_by_label(re.compile("^What")).select_option("say")
    other.get_by_label(re.compile("^word")).fill("hello you")
    other.get_by_label(re.compile("^times")).fill("3")
    ask(other)
    approve(page, dev, "remo")
    other.reload()
    press(other, "Run now")
    finished(other, "1 ok")
    expect(other.locator("pre").filter(has_text="hello you-3")).to_be_visible()
    about = other.locator("section").filter(has=other.get_by_role("heading", name="About"))
    expect(about).to_contain_text("Templatesay")
    expect(about).to_contain_text('{"times":3,"word":"hello you"}')
    expect(about).to_contain_text("Approved byadmin")


def test_all_is_stopped_nothing_can_be_sent_and_it_is_lifted(page: Page, dev: Dev) -> None:
    page.goto(f"{dev.url}/system")
    page.get_by_role("button", name="Stop everything").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label(re.compile("Why")).fill("a worm")
    dialog.get_by_role("button", name="Stop everything").click()
    banner = page.get_by_role("status").filter(has_text="Everything is stopped by admin: a worm.")
    expect(banner).to_be_visible()
    expect(page.get_by_role("button", name="Stop everything")).to_be_hidden()
    page.goto(f"{dev.url}/run?host=sim-0001&command=uptime")
    submit = page.get_by_role("button", name="Run on 1 host")
    expect(submit).to_be_disabled()
    expect(submit).to_have_accessible_description("Everything is stopped: nothing is sent until that is lifted")
    banner.get_by_role("button", name="Lift").click()
    dialog.get_by_label(re.compile("Why")).fill("it is gone")
    dialog.get_by_role("button", name="Lift").click()

    expect(banner).to_be_hidden()
    expect(submit).to_be_enabled()


def test_one_changes_the_own_password_and_makes_a_small_token(visitor: Visitor, dev: Dev) -> None:
    page = visitor.page()
    newcomer(page, dev, "pam", "approver")
    page.goto(f"{dev.url}/access?tab=account")
    page.get_by_role("button", name="Change").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Present password").fill("wrong")
    dialog.get_by_label("New password").fill(PASSWORD + ", too")
    dialog.get_by_role("button", name="Change").click()
    expect(dialog.get_by_role("alert")).to_have_text("User or password is wrong.")
    dialog.get_by_label("Present password").fill(PASSWORD)
    dialog.get_by_role("button", name="Change").click()
    expect(dialog).to_have_count(0)

    page.get_by_role("link", name="API tokens").click()
    page.get_by_role("button", name="New token").click()
    dialog.get_by_label("Name").fill("small")
    dialog.get_by_label("Permissions").select_option(["hosts.read"])
    dialog.get_by_label(re.compile("Addresses")).fill("127.0.0.0/8")
    dialog.get_by_role("button", name="New token").click()
    token = page.get_by_role("row").filter(has_text="small")
    expect(token).to_contain_text("hosts.read")
    expect(token).to_contain_text("127.0.0.0/8")
    forgiven(visitor, "401")
