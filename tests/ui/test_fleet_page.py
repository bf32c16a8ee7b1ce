"""What is wrong: the fleet, a host, and a host that is added."""

import re

import pytest
from playwright.sync_api import Page, Route, expect

from tests.ui.conftest import SIMULATED, Dev
from tests.ui.steps import heading

pytestmark = pytest.mark.browser


def test_this_machine_is_online_with_all_the_others(page: Page, dev: Dev) -> None:
    row = page.get_by_role("row").filter(has_text=dev.hostname)

    expect(row).to_contain_text("Online")
    expect(page.get_by_role("button", name=re.compile(f"^{SIMULATED + 1} hosts"))).to_be_visible()
    page.get_by_label("Filter by name").fill("sim-0002")
    expect(page.get_by_role("row")).to_have_count(2)
    page.get_by_role("link", name="sim-0002").click()
    heading(page, "sim-0002")
    expect(page.get_by_text("Simulated GNU/Linux")).to_be_visible()
    expect(page.get_by_role("table").last.get_by_role("row").nth(1)).to_contain_text("%")


def test_what_a_host_says_of_itself_is_marked_everywhere(page: Page, dev: Dev) -> None:
    said = {"os": "Linux\u202e6", "kernel": "k\u200bl", "agent_version": "1.0\u2066", "addresses": ["10.0.0.1\u202d"]}
    said |= {"runs_as": "dep\u202eloy", "limits_missing": ["memory", "pids\u202e"]}

    def deceitful(route: Route) -> None:
        answer = route.fetch().json()
        hosts = [row | said for row in answer["items"]] if "items" in answer else None
        route.fulfill(json=answer | said if hosts is None else {**answer, "items": hosts})

    page.route(re.compile(r"/api/v1/hosts(\?|/sim-0001$)"), deceitful)
    page.route("**/stream?*", lambda route: route.fulfill(content_type="text/event-stream", body=""))
    page.goto(f"{dev.url}/hosts")
    expect(page.get_by_role("row").filter(has_text="sim-0001")).to_contain_text("1.0U+2066")
    page.goto(f"{dev.url}/hosts/sim-0001")
    for shown in ("LinuxU+202E6 · kU+200Bl", "1.0U+2066", "10.0.0.1U+202D", "depU+202Eloy only", "memory, pidsU+202E"):
        expect(page.get_by_text(shown)).to_be_visible()

    assert not re.search("[\u200b-\u200f\u202a-\u202e\u2066-\u2069]", page.locator("main").inner_text())


def test_what_is_run_on_a_host_comes_to_its_page_and_nothing_else_does(page: Page, dev: Dev) -> None:
    page.goto(f"{dev.url}/hosts/sim-0002")
    expect(page.get_by_role("row").filter(has_text="%").first).to_be_visible()
    dev.api.finished(dev.api.run({"host": "sim-0003"}, "echo elsewhere"))
    dev.api.finished(dev.api.run({"hosts": ["sim-0002", "sim-0003"]}, "echo on this host, too"))

    row = page.get_by_role("row").filter(has_text="echo on this host, too")
    expect(row).to_contain_text("2 ok")
    expect(page.get_by_role("row").filter(has_text="echo elsewhere")).to_have_count(0)


def test_a_host_is_added_by_a_token_that_is_made_once_it_is_asked_for_and_shown_once(page: Page) -> None:
    made: list[object] = []
    page.on("request", lambda request: made.append(request) if "/enrolment-tokens" in request.url else None)
    page.get_by_role("button", name="Add host").click()
    page.get_by_label(re.compile("^Hostname")).fill("web-9")
    page.get_by_label(re.compile("^Groups .separated")).fill("web, eu")
    assert made == []
    with page.expect_request("**/enrolment-tokens") as asked:
        page.get_by_role("button", name="Make a token").click()

    assert asked.value.post_data_json == {"hostname": "web-9", "groups": ["web", "eu"]}
    expect(page.locator("pre")).to_contain_text(
        re.compile("control-plane-agent enrol --server .* --token cpe_.* --hostname web-9")
    )
    expect(page.get_by_role("button", name="Make a token")).to_be_hidden()
    assert len(made) == 1
