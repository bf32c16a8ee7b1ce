"""How a task goes to its hosts: little by little, paused and resumed, and once more where it did not work."""

import re

import pytest
from playwright.sync_api import Page, Route, expect

from tests.ui.conftest import Dev, Visitor
from tests.ui.steps import finished, forgiven, heading, ping, stream_says

pytestmark = pytest.mark.browser

FIRST, SECOND = "sim-0001", "sim-0002"


def test_hosts_that_failed_are_tried_again_as_a_task_of_its_own(page: Page, dev: Dev) -> None:
    task_id = dev.api.run({"hosts": [FIRST, SECOND]}, "false")
    dev.api.finished(task_id)
    page.goto(f"{dev.url}/tasks/{task_id}")
    finished(page, "2 failed")
    page.get_by_role("button", name="Retry…").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("checkbox", name="Failed: 2")).to_be_checked()
    dialog.get_by_role("checkbox", name="Failed: 2").uncheck()
    expect(dialog.get_by_role("button", name="Run", exact=True)).to_be_disabled()
    dialog.get_by_role("checkbox", name="Failed: 2").check()
    dialog.get_by_role("button", name="Run on 2 hosts").click()

    page.wait_for_url(lambda url: "/tasks/" in url and task_id not in url)
    finished(page, "2 failed")
    expect(page.get_by_role("link", name=task_id)).to_be_visible()
    page.get_by_role("link", name=task_id).click()
    expect(page.get_by_text("Tried again as")).to_be_visible()


def test_a_rollout_stops_after_its_canary_until_somebody_resumes_it(page: Page, dev: Dev) -> None:
    page.goto(f"{dev.url}/run?hosts={FIRST},{SECOND}&command=true")
    page.get_by_text("Little by little…").click()
    page.get_by_label("First (number or hostnames)").fill(FIRST)
    page.get_by_label("Then").select_option("wait until somebody resumes it")
    page.get_by_role("button", name="Run on 2 hosts").click()
    heading(page, "true")
    expect(page.get_by_text(re.compile(f"1 of 2 let go · first {FIRST}"))).to_be_visible()
    finished(page, "1 ok · 1 waiting · the canary is done: somebody has to approve")
    page.get_by_role("button", name="Approve: go on").click()

    finished(page, "2 ok")
    expect(page.get_by_role("button", name="Approve: go on")).to_be_hidden()
    expect(page.get_by_role("button", name="Pause")).to_be_hidden()
    page.get_by_role("link", name="Run again…").click()
    expect(page.get_by_label("First (number or hostnames)")).to_have_value(FIRST)
    expect(page.get_by_label("Then")).to_have_value("approve")


def test_a_task_is_paused_by_a_button_that_then_resumes_it(page: Page, dev: Dev) -> None:
    task_id = dev.api.run({"hosts": [FIRST, SECOND]}, "sleep 60", rollout={"canary": [FIRST], "wait": 3600})
    page.goto(f"{dev.url}/tasks/{task_id}")
    expect(page.get_by_role("button", name="Pause")).to_have_attribute("title", f"cpctl tasks pause {task_id}")
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_text("Paused", exact=True)).to_be_visible()
    expect(page.get_by_role("button", name="Resume")).to_have_attribute("title", f"cpctl tasks resume {task_id}")
    page.get_by_role("button", name="Resume").click()

    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    assert dev.api.get(f"/tasks/{task_id}")["state"] == "running"
    dev.api.post(f"/tasks/{task_id}/cancel")
    finished(page, "2 cancelled")


def test_the_wait_after_a_canary_is_ended_by_a_button(page: Page, dev: Dev) -> None:
    task_id = dev.api.run({"hosts": [FIRST, SECOND]}, "true", rollout={"canary": [FIRST], "wait": 3600})
    page.goto(f"{dev.url}/tasks/{task_id}")
    finished(page, re.compile(r"1 ok · 1 waiting · the canary has succeeded: goes on at \d+:\d\d:\d\d"))
    expect(page.get_by_text(re.compile(f"1 of 2 let go · first {FIRST} · wait 1 h 0 min"))).to_be_visible()
    page.get_by_role("button", name="Go on now").click()

    finished(page, "2 ok")
    expect(page.get_by_role("button", name="Go on now")).to_be_hidden()


def test_what_every_host_has_already_is_not_offered_to_be_paused(page: Page, dev: Dev) -> None:
    task_id = dev.api.run({"host": SECOND}, "sleep 60")
    page.goto(f"{dev.url}/tasks/{task_id}")
    finished(page, "1 running")
    expect(page.get_by_role("button", name="Cancel task")).to_be_visible()
    expect(page.get_by_role("button", name="Pause")).to_be_hidden()
    refused = dev.api.http.post(f"/tasks/{task_id}/pause")

    assert (refused.status_code, refused.json()["code"]) == (409, "nothing_to_pause")
    dev.api.post(f"/tasks/{task_id}/cancel")
    finished(page, "1 cancelled")


def test_a_lost_host_that_has_answered_since_is_told_apart_and_not_tried_again_unless_it_is_ticked(
    visitor: Visitor, page: Page, dev: Dev
) -> None:
    task_id = dev.api.run({"hosts": [FIRST, SECOND]}, "true")
    dev.api.finished(task_id)
    late = {"seq": 7, "outcome": "succeeded", "exit_code": 0}
    lost = {"state": "lost", "exit_code": None, "reason": "no word after it was sent; it may have run"}

    def given_up(route: Route) -> None:
        found = route.fetch().json()
        if "items" in found:
            found["items"] = [
                {**row, **lost, "late": late if row["hostname"] == SECOND else None} for row in found["items"]
            ]
        else:
            found |= {"counts": {"lost": 2}, "outcome": "failed"}
        route.fulfill(json=found)

    page.route(re.compile(rf"/api/v1/tasks/{task_id}(/executions.*)?$"), given_up)
    stream_says(page, ping("?", events=0, seconds=0))
    page.goto(f"{dev.url}/tasks/{task_id}?tab=hosts")
    expect(page.get_by_role("row").filter(has_text=SECOND).first).to_contain_text("answered late: Succeeded")
    page.get_by_role("button", name="Retry…").click()
    dialog = page.get_by_role("dialog")
    page.set_viewport_size({"width": 360, "height": 740})
    assert dialog.evaluate("(e) => e.scrollWidth <= e.clientWidth")
    expect(dialog.get_by_role("checkbox", name="No answer: may have run: 1", exact=True)).to_be_checked()
    expect(dialog.get_by_role("checkbox", name="answered late: Succeeded")).not_to_be_checked()
    with page.expect_request("**/retry") as asked:
        dialog.get_by_role("button", name="Run on 1 host").click()

    sent = asked.value.post_data_json
    assert (sent["states"], sent["hosts"]) == (["lost"], [FIRST])
    expect(page.get_by_role("status").filter(has_text="Not among the hosts to try again.")).to_be_visible()
    forgiven(visitor, "409")


def test_a_rollout_that_cannot_be_says_which_field_and_shows_it(visitor: Visitor, page: Page, dev: Dev) -> None:
    page.goto(f"{dev.url}/run?host={FIRST}&command=true")
    page.get_by_text("Little by little…").click()
    at_once = page.get_by_label("At most at once (number or %)")
    at_once.fill("lots")
    page.get_by_role("button", name="Run on 1 host").click()

    expect(page.get_by_role("alert").filter(has_text="max_concurrency")).to_be_visible()
    expect(at_once).to_have_attribute("aria-invalid", "true")
    at_once.fill("")
    page.get_by_label("Then").select_option("wait a minute")
    page.get_by_role("button", name="Run on 1 host").click()
    expect(page.get_by_role("alert").filter(has_text="rollout.wait")).to_be_visible()
    forgiven(visitor, "422")


def test_a_task_that_has_expired_meanwhile_offers_neither_to_go_on_nor_to_resume(
    visitor: Visitor, page: Page, dev: Dev
) -> None:
    rollout = {"canary": [FIRST], "wait": "approve"}
    task_id = dev.api.run({"hosts": [FIRST, SECOND]}, "true", rollout=rollout)
    page.clock.install()
    page.goto(f"{dev.url}/tasks/{task_id}")
    approve = page.get_by_role("button", name="Approve: go on")
    expect(approve).to_be_visible()
    refusal = {"code": "task_expired", "detail": f"the task {task_id} has expired: nothing of it is sent any more"}
    page.route("**/resume", lambda route: route.fulfill(status=409, json=refusal))
    approve.click()
    said = page.get_by_role("status").filter(has_text="The task has expired")
    expect(said).to_contain_text("The task has expired: nothing of it is sent any more.Close")
    page.route("**/stream?*", lambda route: route.abort())
    page.clock.fast_forward(86_401_000)

    expect(page.get_by_text("it has expired: nothing more of it is sent")).to_be_visible()
    expect(approve).to_be_hidden()
    expect(page.get_by_text("somebody has to approve")).to_have_count(0)
    page.close()
    dev.api.post(f"/tasks/{task_id}/cancel")
    visitor.complaints.clear()
