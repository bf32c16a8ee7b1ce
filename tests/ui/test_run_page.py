"""Run this there: the target, its preview, and what is asked again before it is sent."""

import re
import shlex
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Page, Route, expect

from cpctl.cli import parser
from cpctl.run import _request
from tests.ui.conftest import SIMULATED, Dev, Visitor
from tests.ui.steps import at_fleet, finished, forgiven, heading, register, run

pytestmark = pytest.mark.browser


def test_a_group_is_run_in_two_clicks_and_equal_answers_are_one_card(page: Page, dev: Dev) -> None:
    at_fleet(page, dev)
    page.get_by_label("Groups").select_option("db")
    page.get_by_role("link", name="Run a command").click()
    expect(page.get_by_text("exactly 2 hosts")).to_be_visible()
    page.get_by_label("Command").fill("echo same")
    page.get_by_role("button", name="Run on 2 hosts").click()

    finished(page, "2 ok")
    expect(page.get_by_text("sim-[0001,0004]")).to_be_visible()
    expect(page.locator("pre").filter(has_text="same")).to_have_count(1)


def test_more_than_half_of_the_fleet_is_asked_for_again(page: Page, dev: Dev) -> None:
    guard = {"level": 3, "rules": ["all hosts"]}
    page.route(
        "**/targets/preview",
        lambda route: route.fulfill(json={**route.fetch().json(), "guard": guard}),
    )
    run(page, dev, "all=1", "uptime")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
    confirm = dialog.get_by_role("button", name=f"Run on {SIMULATED + 1} hosts")
    expect(confirm).to_be_disabled()
    dialog.get_by_label(re.compile("Type the number")).fill(str(SIMULATED + 1))
    expect(confirm).to_be_disabled()
    dialog.get_by_label(re.compile("Why")).fill("test")
    confirm.click()

    finished(page, f"{SIMULATED + 1} ok")
    expect(page.get_by_text("test", exact=True)).to_be_visible()


def test_what_asks_again_says_as_whom_and_what_becomes_of_hosts_that_are_away(
    request: pytest.FixtureRequest, page: Page, dev: Dev
) -> None:
    register(dev, "quiet-2")
    request.addfinalizer(lambda: dev.api.http.delete("/hosts/quiet-2"))
    run(page, dev, "host=quiet-2&user=nobody", "reboot")
    dialog = page.get_by_role("dialog")

    expect(dialog).to_contain_text("It runs as nobody.")
    expect(dialog).to_contain_text("1 host may be away (1 Pending): if it is, this is delivered when it returns.")
    dialog.get_by_role("button", name="Cancel").click()
    page.get_by_label("Hosts that are offline").select_option("skip")
    page.get_by_role("button", name="Run on 1 host").click()
    expect(dialog).to_contain_text("if it is, it is skipped.")


def test_a_button_that_is_off_says_what_it_waits_for(page: Page, dev: Dev) -> None:
    page.goto(f"{dev.url}/run")
    submit = page.get_by_role("button", name=re.compile("^Run"))
    expect(submit).to_have_accessible_description("Choose where it shall run.")
    page.get_by_label("One host").check()
    page.get_by_role("combobox", name="Hostname").fill("nosuch")
    expect(submit).to_have_accessible_description("Say what shall run: the command is empty.")
    page.get_by_label("Command").fill("uptime")
    expect(page.get_by_role("alert").filter(has_text="Left out: nosuch: not registered")).to_be_visible()
    expect(submit).to_have_accessible_description("There is no host to run it on.")
    page.get_by_role("combobox", name="Hostname").fill("sim-0001")

    expect(submit).to_be_enabled()
    expect(submit).to_have_accessible_description("")


def test_a_command_is_asked_for_again_with_marks_for_what_would_not_be_seen(page: Page, dev: Dev) -> None:
    guard = {"level": 2, "rules": []}
    page.route("**/targets/preview", lambda route: route.fulfill(json={**route.fetch().json(), "guard": guard}))
    run(page, dev, "host=sim-0001", "echo \u202eevil")

    expect(page.get_by_role("dialog").locator("pre")).to_have_text("echo U+202Eevil")


def test_a_preview_counts_the_states_of_its_hosts_as_they_are_and_says_how_long_it_holds(
    request: pytest.FixtureRequest, page: Page, dev: Dev
) -> None:
    register(dev, "quiet-1", "quiet")
    request.addfinalizer(lambda: dev.api.http.delete("/hosts/quiet-1"))
    page.goto(f"{dev.url}/run?group=quiet&command=uptime")
    preview = page.get_by_role("region", name="Preview")
    expect(preview).to_contain_text("1 Pending")
    expect(preview.get_by_role("timer")).to_have_text(re.compile(r"in \d min"))
    dev.api.post("/hosts/quiet-1/revoke", {"reason": "for this test"})

    expect(preview).to_contain_text("1 Revoked")


def test_a_preview_is_made_again_when_it_has_ended_and_when_what_was_sent_is_refused(
    visitor: Visitor, page: Page, dev: Dev
) -> None:
    page.clock.install()
    with page.expect_response("**/targets/preview"):
        page.goto(f"{dev.url}/run?host=sim-0001&command=uptime")
    submit = page.get_by_role("button", name="Run on 1 host")
    expect(submit).to_be_enabled()
    with page.expect_response("**/targets/preview"):
        page.clock.fast_forward(301_000)
    expect(submit).to_be_enabled()

    refusal = {"code": "changed_meanwhile", "detail": "look again"}
    page.route("**/api/v1/tasks", lambda route: route.fulfill(status=409, json=refusal), times=1)
    with page.expect_response("**/targets/preview"):
        submit.click()
    expect(page.get_by_role("alert").filter(has_text="look again")).to_be_visible()
    submit.click()
    finished(page, "1 ok")
    forgiven(visitor, "409")


def test_the_keyboard_alone_is_enough_to_run_a_command(page: Page, dev: Dev) -> None:
    at_fleet(page, dev)
    page.keyboard.press("g")
    page.keyboard.press("r")
    heading(page, "Run a command")
    page.get_by_role("radio", name="One host").focus()
    page.keyboard.press("Space")
    page.keyboard.press("Tab")
    page.keyboard.type("sim-0005")
    page.get_by_label("Command").focus()
    page.keyboard.type("hostname")
    expect(page.get_by_role("button", name="Run on 1 host")).to_be_enabled()
    page.keyboard.press("Control+Enter")

    finished(page, "1 ok")


def test_what_is_run_again_waits_as_long_has_the_same_reason_and_as_much_time(page: Page, dev: Dev) -> None:
    rollout = {"canary": 1, "wait": 90, "max_errors": 0, "max_concurrency": "100%"}
    hosts = ["sim-0001", "sim-0002"]
    more = {"rollout": rollout, "expires_in": 7200, "reason": "told twice"}
    task_id = dev.api.run({"hosts": hosts}, "true", **more)
    page.goto(f"{dev.url}/tasks/{task_id}")
    page.get_by_role("link", name="Run again…").click()
    expect(page.get_by_label("Then")).to_have_value("90")
    expect(page.get_by_label("Then").get_by_role("option", name="wait 1 min 30 s")).to_have_count(1)
    expect(page.get_by_text("to be started within")).to_be_visible()
    expect(page.get_by_text("2 h 0 min")).to_be_visible()
    with page.expect_request("**/api/v1/tasks") as asked:
        page.get_by_role("button", name="Run on 2 hosts").click()

    sent = asked.value.post_data_json
    assert {name: sent[name] for name in more} == more
    heading(page, "true")
    for started in (task_id, sent["task_id"]):
        dev.api.http.post(f"/tasks/{started}/cancel")


def test_an_address_with_a_task_is_filled_in_with_it(page: Page, dev: Dev) -> None:
    task_id = dev.api.run({"hosts": ["sim-0001", "sim-0002"]}, "true", reason="told twice", expires_in=7200)
    at_fleet(page, dev)
    page.goto(f"{dev.url}/run?from_task={task_id}")
    expect(page.get_by_role("button", name="Run on 2 hosts")).to_be_enabled()
    expect(page.get_by_label("Command")).to_have_value("true")
    expect(page.get_by_label(re.compile("^Reason|^Why"))).to_have_value("told twice")
    expect(page).to_have_url(re.compile(r"hosts=sim-0001%2Csim-0002.*expires_in=7200"))
    page.go_back()
    heading(page, "Fleet")

    unshown = dev.api.run({"host": "sim-0001"}, "env", env={"STAGE": "test"})
    page.goto(f"{dev.url}/run?from_task={unshown}")
    expect(page.get_by_role("alert").filter(has_text="Use Retry, or the API.")).to_be_visible()


@pytest.mark.parametrize("more", [{"env": {"STAGE": "test"}, "cwd": "/usr", "stdin": "twelve bytes"}, {"argv": ["id"]}])
def test_what_the_run_page_cannot_show_is_shown_by_the_task_and_not_offered_to_be_run_again(
    page: Page, dev: Dev, more: dict[str, object]
) -> None:
    task_id = dev.api.run({"host": "sim-0001"}, "env", **more)
    dev.api.finished(task_id)
    page.goto(f"{dev.url}/tasks/{task_id}")
    about = page.locator("section").filter(has=page.get_by_role("heading", name="About")).last

    shown = {"stdin": "12 B", "cwd": "/usr", "env": '{"STAGE":"test"}', "argv": '["id"]'}
    for name in more:
        expect(about).to_contain_text(f"{name}{shown[name]}")
    expect(about).to_contain_text("Use Retry, or the API.")
    expect(page.get_by_role("link", name="Run again…")).to_have_count(0)


def preview_of(page: Page) -> Any:
    return page.get_by_role("region", name="Preview")


def test_a_query_is_previewed_run_and_run_again(page: Page, dev: Dev) -> None:
    page.goto(f"{dev.url}/run?q={quote('sim group:db state:online')}&command=uptime")
    expect(page.get_by_role("radio", name="A query")).to_be_checked()
    terms = page.get_by_label(re.compile("Terms that must all hold"))
    expect(terms).to_have_value("sim group:db state:online")
    expect(preview_of(page)).to_contain_text("sim-[0001,0004]")
    with page.expect_request("**/api/v1/tasks") as asked:
        page.get_by_role("button", name="Run on 2 hosts").click()
    assert asked.value.post_data_json["target"] == {"query": "sim group:db state:online"}
    finished(page, "2 ok")
    expect(page.get_by_text("sim group:db state:online").first).to_be_visible()

    page.get_by_role("link", name="Run again…").click()
    expect(terms).to_have_value("sim group:db state:online")
    expect(page.get_by_role("button", name="Run on 2 hosts")).to_be_enabled()


def test_a_wrong_term_of_a_query_is_marked_where_it_is_typed_and_nothing_is_asked(page: Page, dev: Dev) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/targets/preview" in request.url else None)
    page.goto(f"{dev.url}/run?q={quote('sim foo:bar')}&command=uptime")
    terms = page.get_by_label(re.compile("Terms that must all hold"))
    wrong = page.get_by_role("alert").first
    reason = "unknown field foo; there are name, state, group, label, os, agent, is"
    expect(wrong).to_have_text(f"sim foo:bar This asks for no hosts: {reason}.")
    expect(wrong.locator("mark")).to_have_text("foo:bar")
    expect(terms).to_have_attribute("aria-invalid", "true")
    expect(terms).to_have_accessible_description(re.compile("unknown field foo"))
    expect(page.get_by_role("button", name=re.compile("^Run"))).to_be_disabled()

    terms.fill("sim-0001 state:")
    expect(wrong.locator("mark")).to_have_text("state:")
    expect(wrong).to_contain_text("a value is missing")
    assert asked == []
    page.get_by_role("radio", name="A group").check()
    expect(wrong).to_be_empty()
    page.get_by_role("radio", name="A query").check()
    expect(wrong).to_contain_text("a value is missing")
    terms.fill("sim-0001")

    expect(page.get_by_role("button", name="Run on 1 host")).to_be_enabled()
    expect(wrong).to_be_empty()
    expect(terms).not_to_have_attribute("aria-invalid", "true")


def test_a_run_is_shown_as_a_line_of_cpctl_that_asks_for_the_same(page: Page, dev: Dev) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    given = {
        "q": "sim os:'x',* -is:drift",
        "user": "nobody",
        "timeout": 7,
        "reason": "it's 'why'",
        "expires_in": 90,
    }
    how = {"when_offline": "skip", "max_concurrency": "50%", "max_errors": 0, "canary": "sim-0001,sim-0002", "wait": 60}
    command = "echo 'a  b' \"$HOME\" | wc -l\n# -- \u202emore"
    asked = {**given, **how, "command": command}
    page.goto(f"{dev.url}/run?{'&'.join(f'{name}={quote(str(value))}' for name, value in asked.items())}")
    preview = preview_of(page)
    expect(preview.locator("pre")).to_contain_text("cpctl run -t")
    expect(preview.locator("pre")).to_contain_text("wc -lU+000A\n# -- U+202Emore")
    preview.get_by_role("button", name="Copy").click()
    expect(preview.get_by_role("button", name="Copied")).to_be_visible()
    line = page.evaluate("() => navigator.clipboard.readText()")
    with page.expect_request("**/api/v1/tasks") as sent:
        page.get_by_role("button", name=re.compile(r"Run on \d host")).click()

    told = _request(parser().parse_args(shlex.split(line)[1:]))
    request = sent.value.post_data_json
    only_here = {"preview_id", "task_id"}
    assert {name: request[name] for name in request.keys() - only_here} == {
        name: told[name] for name in told.keys() - only_here
    }
    assert (request["target"], request["command"]) == ({"query": given["q"]}, command)
    heading(page, re.compile("^echo"))
    dev.api.http.post(f"/tasks/{request['task_id']}/cancel")


def test_where_nobody_is_online_the_preview_says_until_when_it_waits(
    request: pytest.FixtureRequest, page: Page, dev: Dev
) -> None:
    register(dev, "quiet-3", "silent")
    request.addfinalizer(lambda: dev.api.http.delete("/hosts/quiet-3"))
    page.clock.set_fixed_time("2026-01-31T10:00:00")
    page.goto(f"{dev.url}/run?q=group:silent&command=uptime&expires_in=7200")
    preview = preview_of(page)
    expect(preview).to_contain_text(
        re.compile(r"None of these hosts is online: the command waits for them until .*\d:\d\d")
    )
    page.get_by_label("Hosts that are offline").select_option("skip")
    expect(preview).to_contain_text("None of these hosts is online: all of them will be skipped.")
    page.goto(f"{dev.url}/run?q={quote('group:silent,db')}&command=uptime")
    expect(page.get_by_role("button", name="Run on 3 hosts")).to_be_enabled()

    expect(preview).not_to_contain_text("None of these hosts")


def test_all_hosts_of_a_long_preview_are_shown_on_demand(page: Page, dev: Dev) -> None:
    hosts = [f"web{number:03}" for number in range(0, 180, 2)]
    excluded = [{"hostname": f"old{number:03}", "reason": "revoked"} for number in range(0, 200, 2)]
    more = {"hosts": hosts, "count": len(hosts), "by_state": {"online": len(hosts)}, "excluded": excluded}
    page.route("**/targets/preview", lambda route: route.fulfill(json={**route.fetch().json(), **more}))
    page.goto(f"{dev.url}/run?q=sim&command=uptime")
    preview = preview_of(page)
    expect(preview).to_contain_text("098] …")
    expect(preview).not_to_contain_text("178")
    expect(preview).to_contain_text(re.compile(r"left outold\[000.*098\] …: revoked"))

    preview.get_by_role("button", name="all 90").click()
    expect(preview).to_contain_text("176,178]")
    expect(preview.get_by_role("button", name="all 90")).to_have_count(0)


@pytest.mark.parametrize("are_others", [False, True])
def test_a_preview_that_ran_out_unseen_goes_on_with_the_same_hosts_and_asks_about_others(
    visitor: Visitor, page: Page, dev: Dev, are_others: bool
) -> None:
    page.goto(f"{dev.url}/run?q=group:db&command=uptime")
    submit = page.get_by_role("button", name="Run on 2 hosts")
    expect(submit).to_be_enabled()
    refusal = {"code": "preview_expired", "detail": "preview the target again"}
    page.route("**/api/v1/tasks", lambda route: route.fulfill(status=409, json=refusal), times=1)
    if are_others:
        other = {"hosts": ["sim-0001", "sim-0005"], "digest": "another"}
        page.route("**/targets/preview", lambda route: route.fulfill(json={**route.fetch().json(), **other}), times=1)
    submit.click()
    if are_others:
        alert = page.get_by_role("alert").filter(has_text="joined: sim-0005; left: sim-0004")
        expect(alert).to_be_visible()
        expect(submit).to_be_enabled()
        heading(page, "Run a command")
    else:
        finished(page, "2 ok")
    forgiven(visitor, "409")


def test_what_was_confirmed_is_run_or_nothing(visitor: Visitor, page: Page, dev: Dev) -> None:
    """A dialog stays open for longer than a preview is good, which is made anew behind it, with another host."""
    told: list[dict[str, object]] = []

    def preview(route: Route) -> None:
        answer = route.fetch().json()
        if told:
            answer |= {"hosts": ["sim-0001", "sim-0004", "sim-0005"], "count": 3, "digest": "another"}
        else:
            answer |= {"expires_at": datetime.now(UTC).isoformat()}
        told.append(answer)
        route.fulfill(json=answer)

    sent: list[str] = []
    refusal = {"code": "preview_expired", "detail": "preview the target again"}
    page.route("**/targets/preview", preview)
    page.route("**/api/v1/tasks", lambda route: (sent.append("1"), route.fulfill(status=409, json=refusal)))
    page.goto(f"{dev.url}/run?q=group:db&command=reboot")
    page.get_by_role("button", name="Run on 2 hosts").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Type the number of hosts").fill("2")
    dialog.get_by_label("Why?").fill("to see")
    expect(page.get_by_text("joined: sim-0005")).to_be_attached(timeout=20_000)
    with page.expect_response("**/targets/preview"):
        dialog.get_by_role("button", name="Run on 2 hosts").click()

    heading(page, "Run a command")
    expect(page.get_by_role("button", name="Run on 3 hosts")).to_be_enabled()
    assert len(sent) == 1
    assert [c for c in visitor.complaints if "409" not in c] == []
    visitor.complaints.clear()


def test_in_the_past_the_page_says_why_nothing_is_run(page: Page, dev: Dev) -> None:
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(f"{dev.url}/run?q=sim&command=uptime&at=1")
    expect(preview_of(page)).to_contain_text("Nothing is run while the past is shown.")
    submit = page.get_by_role("button", name=re.compile("^Run"))
    expect(submit).to_have_accessible_description("not while the past is shown")

    assert [url for url in requests if "/targets/preview" in url] == []
