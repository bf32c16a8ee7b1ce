"""What happened: a task, as it runs and as it ends."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.ui.conftest import Dev, Visitor
from tests.ui.steps import finished, run
from tests.ui.task_answers import NODES, after, answered_by, row

pytestmark = pytest.mark.browser


def test_executions_arrive_while_one_looks(page: Page, dev: Dev) -> None:
    run(page, dev, "host=sim-0003", "sleep 3")
    page.get_by_role("link", name="Hosts", exact=True).click()
    expect(page.get_by_role("row").filter(has_text="sim-0003").filter(has_text="Running")).to_be_visible()
    expect(page.get_by_role("status").filter(has_text="1 running")).to_be_visible()
    expect(page.get_by_text("Not started after")).to_be_visible()

    finished(page, "1 ok")
    expect(page.get_by_text("Not started after")).to_have_count(0)


def test_cancel_says_what_it_does_and_the_task_ends_as_cancelled(page: Page, dev: Dev) -> None:
    run(page, dev, f"host={dev.hostname}", "sleep 60")
    finished(page, "1 running")
    page.get_by_role("button", name="Cancel task").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel task").click()

    finished(page, "1 cancelled")
    expect(page.get_by_text("Cancelled").first).to_be_visible()


def test_what_is_asked_on_a_page_is_not_asked_on_the_next(page: Page, dev: Dev) -> None:
    page.goto(f"{dev.url}/tasks")
    run(page, dev, f"host={dev.hostname}", "sleep 60")
    finished(page, "1 running")
    page.get_by_role("button", name="Cancel task").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    page.go_back()

    expect(page.get_by_role("heading", name="Run a command")).to_be_visible()
    expect(page.get_by_role("dialog")).to_have_count(0)
    [task] = dev.api.get("/tasks", state="running", q="sleep 60")["items"]
    dev.api.post(f"/tasks/{task['task_id']}/cancel")
    dev.api.finished(task["task_id"])


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
    visitor = Visitor(context)
    visitor.enter(dev)
    page = visitor.page()
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


def test_a_number_and_a_part_of_the_bar_lead_to_their_hosts_and_back(page: Page, dev: Dev) -> None:
    states = {"web-1": "failed", "web-2": "rejected", "web-3": "timed_out", "web-4": "succeeded", "web-5": "lost"}
    task_id = answered_by(page, dev, [row(name, state) for name, state in states.items()])
    page.goto(f"{dev.url}/tasks/{task_id}")
    finished(page, re.compile(r"^5 of 5 · 1 ok · 3 failed · 1 did not answer · 1\.0 s$"))
    failed = page.get_by_role("button", name="3 failed")
    expect(failed).to_have_attribute("aria-pressed", "false")
    failed.focus()
    page.keyboard.press("Enter")
    hosts = page.get_by_role("table").get_by_role("row").filter(has_text="web-")
    expect(hosts).to_have_text([re.compile(name) for name in ("web-1", "web-3", "web-2")])
    expect(failed).to_have_attribute("aria-pressed", "true")
    expect(failed).to_be_focused()
    assert page.url.endswith("?tab=hosts&state=failed%2Ctimed_out%2Cinterrupted%2Crejected")
    page.keyboard.press("Enter")
    expect(hosts).to_have_count(5)

    segment = page.get_by_role("group", name="Hosts by state").get_by_role(
        "button", name="Failed: 1, Rejected by the host: 1"
    )
    box = segment.bounding_box()
    assert box is not None
    assert min(box["width"], box["height"]) >= 24
    segment.click()
    expect(hosts).to_have_text([re.compile(name) for name in ("web-1", "web-2")])
    expect(segment).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="Clear the filter").click()
    expect(hosts).to_have_count(5)
    page.go_back()
    expect(hosts).to_have_count(2)
    page.reload()
    expect(hosts).to_have_count(2)


def test_states_that_do_not_add_up_to_the_targets_are_said_in_red(page: Page, dev: Dev) -> None:
    task_id = answered_by(page, dev, [row("web-1", "succeeded"), row("web-2", "succeeded")], targets=3)
    page.goto(f"{dev.url}/tasks/{task_id}")

    expect(page.get_by_role("alert")).to_have_text("The states do not add up to the targets!")


def test_how_fast_it_goes_and_how_long_it_takes_is_said_from_a_tenth_on(page: Page, dev: Dev) -> None:
    rows = [row(f"web-{number:02}", "succeeded" if number < 4 else "running") for number in range(50)]
    task_id = answered_by(page, dev, rows)
    page.goto(f"{dev.url}/tasks/{task_id}")
    finished(page, "4 of 50")
    expect(page.get_by_role("status").filter(has_text="left")).to_have_count(0)
    rows = [row(f"web-{number}", "succeeded" if number < 5 else "running") for number in range(10)]
    began = (datetime.now(UTC) - timedelta(minutes=2)).isoformat()
    task_id = answered_by(page, dev, rows, accepted_at=began)
    page.goto(f"{dev.url}/tasks/{task_id}")

    finished(
        page,
        re.compile(r"5 of 10 · 5 ok · 5 running · \d min \d+ s · \d hosts a minute · about \d min \d+ s left"),
    )


def test_each_part_of_the_page_has_an_address(page: Page, dev: Dev) -> None:
    task_id = dev.api.run({"hosts": ["sim-0001", "sim-0002"]}, "echo parts")
    dev.api.finished(task_id)
    page.goto(f"{dev.url}/tasks/{task_id}")
    parts = page.get_by_role("navigation", name="Parts of this page")
    expect(parts.get_by_role("link", name="Outputs")).to_have_attribute("aria-current", "page")
    expect(page.locator("pre")).to_have_text("parts\n")
    for name, shown in (("Hosts", "sim-0002"), ("Live", "Nothing to follow"), ("Events", "execution.finished")):
        parts.get_by_role("link", name=name).click()
        expect(parts.locator("[aria-current=page]")).to_have_text(name)
        assert page.url.endswith(f"?tab={name.lower()}")
        expect(page.get_by_text(shown).filter(visible=True).first).to_be_visible()
        expect(page.locator("pre").filter(visible=True)).to_have_count(0)
    page.reload()
    expect(parts.locator("[aria-current=page]")).to_have_text("Events")
    page.go_back()
    expect(page.get_by_text("Nothing to follow")).to_be_visible()
    parts.get_by_role("link", name="Outputs").click()
    assert page.url.endswith(f"/tasks/{task_id}")
    expect(page.locator("pre").filter(visible=True)).to_have_text("parts\n")


def test_another_task_is_another_page(page: Page, dev: Dev) -> None:
    first = dev.api.run({"hosts": ["sim-0001", "sim-0002"]}, "false")
    dev.api.finished(first)
    second = dev.api.post(f"/tasks/{first}/retry", {"states": ["failed"]})["task"]["task_id"]
    dev.api.finished(second)
    page.goto(f"{dev.url}/tasks/{second}?tab=hosts")
    page.get_by_role("link", name=first).click()
    expect(page.get_by_role("link", name=second)).to_be_visible()
    expect(page.get_by_text(f"cpctl tasks show {first}")).to_be_visible()
    page.go_back()
    expect(page.get_by_text(f"cpctl tasks show {second}")).to_be_visible()


def test_the_hosts_of_a_large_task_are_shown_a_part_at_a_time(page: Page, dev: Dev) -> None:
    rows = [row(f"web-{number:05}", "failed" if number % 1000 == 7 else "succeeded") for number in range(10_000)]
    task_id = answered_by(page, dev, rows)
    page.goto(f"{dev.url}/tasks/{task_id}?tab=hosts")
    hosts = page.get_by_role("table").get_by_role("row").filter(has_text="web-")
    expect(page.get_by_text("1–100 of 10000")).to_be_visible()
    expect(hosts).to_have_count(100)
    expect(hosts.nth(9)).to_contain_text("web-09007")  # what failed stands first
    assert page.evaluate(NODES) < 5_000
    page.get_by_role("button", name="Next").click()
    expect(page.get_by_text("101–200 of 10000")).to_be_visible()
    expect(hosts.first).to_contain_text("web-00091")
    page.get_by_role("button", name="10 failed").click()
    expect(hosts).to_have_count(10)
    expect(page.get_by_role("button", name="Next")).to_have_count(0)
    page.get_by_role("link", name="Outputs").click()
    expect(page.get_by_text("9990 hosts")).to_be_visible()
    assert page.evaluate(NODES) < 5_000


def test_a_row_stays_where_it_is_while_the_pointer_is_on_the_table(page: Page, dev: Dev) -> None:
    task_id = dev.api.run({"hosts": ["sim-0001", "sim-0002", dev.hostname]}, "sleep 4; exit 1")
    page.goto(f"{dev.url}/tasks/{task_id}?tab=hosts")
    hosts = page.get_by_role("table").get_by_role("row").filter(has=page.get_by_role("link"))
    expect(hosts).to_have_count(3)
    before = hosts.get_by_role("link").all_text_contents()
    hosts.first.hover()
    finished(page, "3 of 3")
    expect(hosts.get_by_role("link")).to_have_text(before)


def test_the_hosts_of_a_task_are_filtered_by_group(page: Page, dev: Dev) -> None:
    task_id = dev.api.run({"all": True}, "echo groups")
    dev.api.finished(task_id)
    db = [one["hostname"] for one in dev.api.every("/hosts") if "db" in one["groups"]]
    page.goto(f"{dev.url}/tasks/{task_id}?tab=hosts")
    hosts = page.get_by_role("table").get_by_role("row").filter(has=page.get_by_role("link"))
    expect(hosts).to_have_count(6)
    page.get_by_label("Groups").select_option("db")
    expect(hosts.get_by_role("link")).to_have_text(sorted(db))
    assert page.url.endswith("?tab=hosts&group=db")
    page.reload()
    expect(hosts.get_by_role("link")).to_have_text(sorted(db))
    expect(page.get_by_label("Groups")).to_have_value("db")


def test_events_say_how_long_each_step_took(page: Page, dev: Dev) -> None:
    times = {"sent_at": after(12), "accepted_at": after(52), "finished_at": after(3152)}
    task_id = answered_by(page, dev, [row("web-1", "succeeded", **times)])
    page.goto(f"{dev.url}/tasks/{task_id}?tab=events")
    expect(page.get_by_text("queued 12 ms · delivered 40 ms · ran 3.1 s").filter(visible=True)).to_have_count(1)
    expect(page.get_by_role("row").filter(has_text="execution.finished").first).to_be_visible()
    task_id = answered_by(page, dev, [row(f"web-{n}", "succeeded", sent_at=after(10 * n)) for n in range(1, 4)])
    page.goto(f"{dev.url}/tasks/{task_id}?tab=events")
    expect(page.get_by_text("the middle of 3 hosts: queued 20 ms · answered after 980 ms")).to_be_visible()


def test_cancelling_says_what_it_cannot_undo_and_whom_it_does_not_reach(page: Page, dev: Dev) -> None:
    states = {"web-1": "succeeded", "web-2": "running", "web-3": "running", "web-4": "accepted", "web-5": "queued"}
    task_id = answered_by(page, dev, [row(name, state) for name, state in states.items()])

    def basic(route: Route) -> None:
        event = route.fetch().json()
        route.fulfill(json={**event, "body": {**event["body"], "basic": ["web-1", "web-4"]}})

    page.route(re.compile(r"/api/v1/events/\d+$"), basic)
    page.goto(f"{dev.url}/tasks/{task_id}")
    page.get_by_role("button", name="Cancel task").click()
    dialog = page.get_by_role("dialog")

    expect(dialog.get_by_role("paragraph").filter(has_text=".")).to_have_text(
        [
            "1 has finished and stays as it is.",
            "2 may be running and get the signal.",
            "1 basic agent is not reached: its command runs to its end, or to its timeout.",
            "1 has not been sent it, and will not be.",
            "What already happened on a host is not undone.",
        ]
    )
    expect(dialog.locator("pre").last).to_have_text(f"cpctl tasks cancel {task_id}")


def test_a_task_of_the_past_is_read_once_and_judged_by_its_moment(page: Page, dev: Dev) -> None:
    task_id = dev.api.run({"hosts": ["sim-0001", "sim-0002"]}, "sleep 4")
    seq = dev.api.get(f"/tasks/{task_id}")["seq"]
    dev.api.finished(task_id)
    page.goto("about:blank")  # the fleet follows its stream
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.clock.install()
    page.goto(f"{dev.url}/tasks/{task_id}?at={seq}")
    finished(page, re.compile(r"^0 of 2 · 2 waiting · 0\.0"))
    expect(page.get_by_text("No answer yet.")).to_be_visible()
    expect(page.get_by_role("button", name="Cancel task")).to_have_accessible_description("not while the past is shown")
    run_on = page.get_by_role("link", name="Run on these…")
    expect(run_on).to_be_disabled()
    expect(run_on).to_have_accessible_description("not while the past is shown")
    before = len(asked)
    page.clock.fast_forward(3_600_000)  # it has expired by now, and had not then
    finished(page, re.compile(r"^0 of 2 · 2 waiting · 0\.0"))
    expect(page.get_by_text("it has expired")).to_have_count(0)
    assert [url for url in asked[before:] if "/ui/" not in url] == []
    assert not any("/api/v1/stream" in url for url in asked)
    assert all(f"at={seq}" in url for url in asked if f"/api/v1/tasks/{task_id}" in url)
    page.get_by_role("link", name="Live").click()
    expect(page.get_by_text("Nothing to follow")).to_be_visible()
    page.get_by_role("link", name="Hosts", exact=True).click()
    expect(page.get_by_role("row").filter(has_text="Queued")).to_have_count(2)
    assert f"at={seq}" in page.url
