"""Who signs in, and what becomes of a session that ends."""

import pytest
from playwright.sync_api import Page, expect

from tests.support.programs import PASSWORD
from tests.ui.answers import answer
from tests.ui.conftest import Dev, Visitor
from tests.ui.steps import at_fleet, finished, forgiven, heading, newcomer, sign_in

pytestmark = pytest.mark.browser


def test_a_stranger_signs_in_first_and_then_sees_what_was_asked_for(visitor: Visitor, dev: Dev) -> None:
    page = visitor.page()
    page.goto(f"{dev.url}/audit")
    heading(page, "Sign in")
    page.get_by_label("User").fill("admin")
    page.get_by_label("Password").fill("wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_have_text("User or password is wrong.")
    assert "next=" in page.url

    page.goto(dev.login_url)
    heading(page, "Fleet")
    assert "token" not in page.url
    page.get_by_role("button", name="Sign out").click()
    heading(page, "Sign in")
    forgiven(visitor, "401")


def test_a_sign_out_that_does_not_work_is_said(visitor: Visitor, page: Page, dev: Dev) -> None:
    at_fleet(page, dev)
    page.route("**/auth/logout", lambda route: route.abort())
    page.get_by_role("button", name="Sign out").click()

    expect(page.get_by_role("status").filter(has_text="The server cannot be reached.")).to_be_visible()
    heading(page, "Fleet")
    forgiven(visitor, "ERR_FAILED")


def test_a_sign_out_of_a_session_that_has_ended_is_one(visitor: Visitor, page: Page, dev: Dev) -> None:
    at_fleet(page, dev)
    expect(page.locator("#pill")).to_have_text("Live")
    visitor.context.clear_cookies()
    page.get_by_role("button", name="Sign out").click()

    heading(page, "Sign in")
    expect(page.get_by_role("dialog")).to_have_count(0)
    forgiven(visitor, "401")


def test_who_may_add_no_host_is_told_so_where_there_is_none(visitor: Visitor, dev: Dev) -> None:
    page = visitor.page()
    newcomer(page, dev, "vito", "viewer")
    answer(page, "hosts", {"items": [], "next_cursor": None, "as_of": dev.api.get("/hosts")["as_of"]})
    page.reload()
    add = page.locator(".empty").get_by_role("button", name="Add host")
    expect(add).to_have_attribute("aria-disabled", "true")
    expect(add).to_have_accessible_description("Needs the permission hosts.enrol")
    forgiven(visitor, "401")


def test_who_may_only_look_is_told_which_permission_each_control_needs(visitor: Visitor, dev: Dev) -> None:
    task_id = dev.api.run({"host": "sim-0003"}, "sleep 20")
    page = visitor.page()
    newcomer(page, dev, "vera", "viewer")
    add = page.get_by_role("button", name="Add host")
    expect(add).to_be_disabled()
    expect(add).to_have_accessible_description("Needs the permission hosts.enrol")
    page.goto(f"{dev.url}/tasks/{task_id}")
    cancel = page.get_by_role("button", name="Cancel task")
    expect(cancel).to_be_disabled()
    expect(page.get_by_text("Needs the permission tasks.cancel")).to_be_visible()
    cancel.focus()
    expect(cancel).to_be_focused()
    expect(cancel).to_have_accessible_description("Needs the permission tasks.cancel")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.goto(f"{dev.url}/run?host=sim-0003&command=uptime")
    expect(page.get_by_role("button", name="Run", exact=True)).to_be_disabled()
    expect(page.get_by_text("Needs the permission tasks.run")).to_have_count(2)  # the preview says so, too

    dev.api.post(f"/tasks/{task_id}/cancel")
    page.goto(f"{dev.url}/tasks/{task_id}")
    finished(page, "1 cancelled")
    expect(page.get_by_text("Needs the permission tasks.cancel")).to_be_hidden()
    forgiven(visitor, "401", "403")


def test_who_may_not_send_commands_is_told_so_by_resume_approve_and_retry(visitor: Visitor, dev: Dev) -> None:
    rollout = {"canary": ["sim-0001"], "wait": "approve"}
    approves = dev.api.run({"hosts": ["sim-0001", "sim-0002"]}, "true", rollout=rollout)
    paused = dev.api.run({"hosts": ["sim-0001", "sim-0002"]}, "sleep 60", rollout=rollout)
    dev.api.post(f"/tasks/{paused}/pause")
    failed = dev.api.run({"host": "sim-0003"}, "false")
    dev.api.finished(failed)
    page = visitor.page()
    newcomer(page, dev, "victor", "viewer")
    for task_id, name in ((approves, "Approve: go on"), (paused, "Resume"), (failed, "Retry…")):
        page.goto(f"{dev.url}/tasks/{task_id}")
        button = page.get_by_role("button", name=name)
        expect(button).to_be_disabled()
        expect(button).to_have_accessible_description("Needs the permission tasks.run")
        expect(page.get_by_text("Needs the permission tasks.run")).to_be_visible()
        button.focus()
        expect(button).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.get_by_role("dialog")).to_have_count(0)

    assert dev.api.get(f"/tasks/{paused}")["state"] == "paused"
    for task_id in (approves, paused):
        dev.api.post(f"/tasks/{task_id}/cancel")
        dev.api.finished(task_id)
    forgiven(visitor, "401")


def test_a_session_that_ends_asks_for_a_name_over_the_page_and_loses_nothing(
    visitor: Visitor, page: Page, dev: Dev
) -> None:
    at_fleet(page, dev)
    dev.api.post("/users", {"username": "ada", "role": "operator", "password": PASSWORD})
    page.get_by_role("button", name="Sign out").click()
    sign_in(page, "ada")
    page.goto(f"{dev.url}/run?host=sim-0001")
    page.get_by_label("Command").fill("echo kept")
    expect(page.get_by_role("button", name="Run on 1 host")).to_be_enabled()
    visitor.context.clear_cookies()
    page.get_by_role("button", name="Run on 1 host").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("User").fill("ada")
    dialog.get_by_label("Password").fill(PASSWORD)
    dialog.get_by_role("button", name="Sign in").click()

    finished(page, "1 ok")
    heading(page, "echo kept")
    forgiven(visitor, "401")


def test_who_has_signed_in_again_goes_on_where_they_were(visitor: Visitor, page: Page, dev: Dev) -> None:
    dev.api.post("/users", {"username": "alma", "role": "operator", "password": PASSWORD})
    at_fleet(page, dev)
    page.get_by_role("button", name="Sign out").click()
    sign_in(page, "alma")
    page.goto(f"{dev.url}/run?host=sim-0001")
    heading(page, "Run a command")
    visitor.context.clear_cookies()
    page.get_by_label("Command").fill("echo typed")
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("User").fill("alma")
    dialog.get_by_label("Password").fill(PASSWORD)
    dialog.get_by_role("button", name="Sign in").click()

    expect(dialog).to_have_count(0)
    expect(page.get_by_label("Command")).to_be_focused()
    forgiven(visitor, "401")


def test_a_session_of_the_embedded_mode_that_ends_goes_on_by_the_link_and_loses_nothing(
    visitor: Visitor, page: Page, dev: Dev
) -> None:
    page.goto(f"{dev.url}/run?host=sim-0001")
    page.get_by_label("Command").fill("echo kept by the link")
    expect(page.get_by_role("button", name="Run on 1 host")).to_be_enabled()
    visitor.context.clear_cookies()
    page.get_by_role("button", name="Run on 1 host").click()
    expect(page.get_by_role("dialog")).to_contain_text("the link that it printed")
    other = visitor.page()
    other.goto(dev.login_url)
    heading(other, "Fleet")
    page.evaluate("() => window.dispatchEvent(new Event('focus'))")

    finished(page, "1 ok")
    heading(page, "echo kept by the link")
    forgiven(visitor, "401")


def test_a_link_of_an_earlier_run_says_that_it_has_ended(visitor: Visitor, dev: Dev) -> None:
    page = visitor.page()
    page.goto(f"{dev.url}/login#token=of-an-earlier-run")
    expect(page.get_by_role("alert")).to_contain_text("This link has ended")
    expect(page.get_by_text("open the link that it printed")).to_be_visible()
    forgiven(visitor, "401")


def test_too_many_tries_say_how_long_to_wait_and_a_server_that_prints_no_link_tells_of_none(
    visitor: Visitor, dev: Dev
) -> None:
    page = visitor.page()
    refusal = {"code": "too_many_logins", "detail": "too many tries to sign in; wait, then try again"}
    headers = {"Retry-After": "61"}
    page.route("**/auth/login", lambda route: route.fulfill(status=429, json=refusal, headers=headers))
    page.goto(f"{dev.url}/login")
    heading(page, "Sign in")
    page.get_by_label("User").fill("admin")
    page.get_by_label("Password").fill("wrong")
    page.get_by_role("button", name="Sign in").click()

    expect(page.get_by_role("alert")).to_have_text("Too many tries to sign in. Try again in 2 minutes.")
    expect(page.get_by_text("control-plane dev")).to_be_hidden()
    forgiven(visitor, "429", "401")
