"""Everything as it was: a moment in the address, and the bar that leads to others."""

import re
from datetime import datetime, timedelta

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.support.servers import wait_until
from tests.ui.conftest import Dev, Visitor
from tests.ui.steps import forgiven, heading, newcomer, register

pytestmark = pytest.mark.browser

ONLY_NOW = "not while the past is shown"


def bar(page: Page) -> Locator:
    return page.get_by_role("region", name="The past")


def position_of(page: Page) -> int:
    """Which the address has, once the bar says the same."""
    seq = int(re.findall(r"at=(\d+)", page.url)[0])
    expect(bar(page).get_by_role("status")).to_contain_text(f"position {seq:,}")
    return seq


def newest(dev: Dev) -> int:
    return int(dev.api.get("/events", limit=1)["items"][0]["seq"])


def done(dev: Dev, command: str) -> str:
    task_id = dev.api.run({"host": "sim-0001"}, command)
    dev.api.finished(task_id)
    return task_id


def test_between_two_tasks_only_the_first_is_there_and_a_step_at_a_time_the_second_comes(page: Page, dev: Dev) -> None:
    done(dev, "echo first-of-two")
    between = newest(dev)
    second = done(dev, "echo second-of-two")
    accepted = dev.api.get("/events", task_id=second, kind="task.accepted")["items"][0]["seq"]
    page.goto(f"{dev.url}/tasks?at={between}")
    heading(page, "Tasks")
    rows = page.locator("main :is(tbody tr, li)")  # what was under way then has a card
    expect(rows.filter(has_text="first-of-two")).to_be_visible()
    expect(rows.filter(has_text="second-of-two")).to_have_count(0)

    assert position_of(page) == between
    step = bar(page).get_by_role("button", name="One event on")
    for seq in range(between + 1, accepted + 1):
        expect(rows.filter(has_text="second-of-two")).to_have_count(0)
        step.click()
        expect(page).to_have_url(re.compile(f"at={seq}$"))
    expect(rows.filter(has_text="second-of-two")).to_have_count(1)
    expect(rows.filter(has_text="second-of-two")).to_contain_text("Running")
    expect(step).to_be_focused()
    bar(page).get_by_role("button", name="One event back").click()
    expect(rows.filter(has_text="second-of-two")).to_have_count(0)
    page.keyboard.press("]")
    expect(rows.filter(has_text="second-of-two")).to_have_count(1)
    page.keyboard.press("[")
    expect(rows.filter(has_text="second-of-two")).to_have_count(0)

    with page.expect_navigation():
        bar(page).get_by_role("button", name="Return to now").click()
    expect(page).to_have_url(re.compile("/tasks$"))
    for name in ("first-of-two", "second-of-two"):
        expect(rows.filter(has_text=name)).to_be_visible()
    expect(bar(page)).to_have_count(0)
    expect(page.locator("#pill")).to_have_text("Live")
    page.go_back()  # to the past, whose steps are one entry
    expect(rows.filter(has_text="second-of-two")).to_have_count(0)
    assert position_of(page) == accepted - 1


def test_a_host_is_shown_as_it_was(page: Page, dev: Dev) -> None:
    register(dev, "replayed", "before")
    registered = newest(dev)
    dev.api.http.delete("/hosts/replayed").raise_for_status()
    wait_until(lambda: dev.api.get("/hosts/replayed")["state"] == "retired", timeout_s=20, what="it is retired")
    retired = newest(dev)
    page.goto(f"{dev.url}/hosts/replayed")
    expect(page.get_by_text("Retired", exact=True).first).to_be_visible()
    page.goto(f"{dev.url}/hosts/replayed?at={registered}")
    expect(page.get_by_text("Pending", exact=True).first).to_be_visible()
    for count in range(1, retired - registered + 1):
        page.keyboard.press("]")  # steps that are asked for faster than pages come are taken one after the other
        if count % 4 == 0:
            expect(page).to_have_url(re.compile(f"at={registered + count}$"))
    expect(page.get_by_text("Retired", exact=True).first).to_be_visible()
    page.goto(f"{dev.url}/hosts?at={registered}")
    expect(page.get_by_role("row").filter(has_text="replayed")).to_contain_text("Pending")
    with page.expect_navigation():
        bar(page).get_by_role("button", name="Return to now").click()
    page.get_by_role("row").filter(has_text="sim-0001").wait_for()
    expect(page.get_by_role("row").filter(has_text="replayed")).to_have_count(0)


def test_the_audit_page_leads_to_a_time_and_to_an_event(visitor: Visitor, page: Page, dev: Dev) -> None:
    task_id = done(dev, "echo look-back")
    event = dev.api.get("/events", task_id=task_id, kind="task.accepted")["items"][0]
    page.goto(f"{dev.url}/audit")
    page.get_by_role("button", name="Look at the past").click()
    dialog = page.get_by_role("dialog", name="Look at the past")
    dialog.get_by_label("Position").fill("99999999")
    dialog.get_by_role("button", name="Go").click()
    expect(dialog.get_by_role("alert").filter(has_text="This lies in the future.")).to_be_visible()
    expect(dialog.get_by_label("Position")).to_have_attribute("aria-invalid", "true")
    expect(dialog.get_by_label("Position")).to_have_value("99999999")
    dialog.get_by_label("Position").fill(f"{event['seq']:,}")
    with page.expect_navigation():
        dialog.get_by_label("Position").press("Enter")
    assert position_of(page) == event["seq"]
    expect(page.locator("tbody tr").first).to_contain_text("task.accepted")
    expect(page.get_by_role("button", name="Look at the past")).to_be_hidden()

    page.goto(f"{dev.url}/audit?seq={event['seq']}&task_id={task_id}")
    with page.expect_navigation():
        page.get_by_role("link", name="See everything as of here").click()
    assert position_of(page) == event["seq"]
    expect(page).to_have_url(re.compile(f"seq={event['seq']}.*&at={event['seq']}"))
    page.get_by_role("link", name="Tasks").click()
    heading(page, "Tasks")
    assert position_of(page) == event["seq"]
    expect(page.get_by_role("listitem").filter(has_text="look-back")).to_contain_text("Running")
    forgiven(visitor, "422")


def test_a_time_is_a_moment_and_times_on_a_page_are_told_from_then(page: Page, dev: Dev) -> None:
    done(dev, "echo timed")
    page.clock.install()
    page.goto(f"{dev.url}/tasks?at={newest(dev)}")
    row = page.get_by_role("row").filter(has_text="echo timed")
    expect(row.locator("time")).to_have_text("now")
    page.clock.run_for(5000)
    expect(row.locator("time")).to_have_text("now")  # as it was then, however long one looks

    field = bar(page).get_by_label("Date and time")
    shown = datetime.fromisoformat(field.input_value())
    bar(page).get_by_role("button", name="One hour back").click()
    expect(bar(page).get_by_role("status")).to_contain_text("Nothing is recorded before")
    expect(row).to_have_count(0)
    back = datetime.fromisoformat(field.input_value())
    assert shown - back == timedelta(hours=1)
    bar(page).get_by_role("button", name="One minute on").click()
    expect(field).to_have_value((back + timedelta(minutes=1)).isoformat())
    bar(page).get_by_role("button", name="One event on").click()
    expect(bar(page).get_by_role("status")).to_contain_text("position 1:")
    bar(page).get_by_role("button", name="One event back").click()
    expect(bar(page).get_by_role("status")).to_contain_text("This is the oldest event.")


def test_a_moment_in_the_future_is_refused_at_its_field_and_nothing_is_lost(
    visitor: Visitor, page: Page, dev: Dev
) -> None:
    done(dev, "echo kept-there")
    at = newest(dev)
    page.goto(f"{dev.url}/tasks?q=kept-there&at={at}")
    rows = page.locator("tbody tr")
    expect(rows.filter(has_text="kept-there").first).to_be_visible()
    field = bar(page).get_by_label("Date and time")
    field.fill("2099-01-01T00:00:00")
    field.press("Enter")
    expect(bar(page).get_by_role("alert").filter(has_text="This lies in the future.")).to_be_visible()
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(field).to_have_accessible_description("This lies in the future.")
    expect(field).to_have_value(re.compile("^2099-01-01T00:00"))
    position = bar(page).get_by_label("Position")
    position.fill("yesterday")
    position.press("Enter")
    expect(bar(page).get_by_role("alert").filter(has_text="This is no moment to look back to.")).to_be_visible()
    expect(position).to_have_value("yesterday")
    assert page.url.endswith(f"at={at}")
    expect(rows.filter(has_text="kept-there").first).to_be_visible()
    position.fill(str(at - 1))
    position.press("Enter")
    expect(page).to_have_url(re.compile(f"at={at - 1}$"))
    expect(bar(page).get_by_role("alert")).to_have_text(["", ""])
    forgiven(visitor, "422", "400")


def test_an_address_with_a_moment_that_is_none_says_so_in_the_bar(visitor: Visitor, page: Page, dev: Dev) -> None:
    page.goto(f"{dev.url}/tasks?at=yesterday")
    expect(bar(page).get_by_role("alert").filter(has_text="This is no moment to look back to.")).to_be_visible()
    expect(bar(page).get_by_label("Position")).to_have_value("yesterday")
    position = bar(page).get_by_label("Position")
    position.fill("1")
    position.press("Enter")
    expect(bar(page).get_by_role("status")).to_contain_text("position 1:")
    forgiven(visitor, "400")


def test_what_happened_is_played_event_by_event_until_now(page: Page, dev: Dev) -> None:
    task_id = done(dev, "echo played")
    events = dev.api.get("/events", task_id=task_id)["items"]
    page.clock.install()
    page.goto(f"{dev.url}/audit?task_id={task_id}&at={events[-1]['seq'] - 1}")
    rows = page.locator("tbody tr")
    expect(page.get_by_text("No event matches.")).to_be_visible()
    page.clock.pause_at(page.evaluate("() => Date.now()") + 1)  # how long it takes to press Pause plays no part
    bar(page).get_by_role("button", name="Play").click()
    played = lambda: (page.clock.run_for(50), rows.count() > 0)[-1]  # noqa: E731 - asked again below
    wait_until(played, timeout_s=20, what="the first event is shown")
    bar(page).get_by_role("button", name="Pause").click()
    expect(bar(page).get_by_role("button", name="Play")).to_be_focused()
    paused = position_of(page)
    assert paused < events[0]["seq"]
    page.clock.resume()
    bar(page).get_by_label("Speed").select_option("100 events at a time")
    bar(page).get_by_role("button", name="Play").click()
    expect(bar(page).get_by_role("status")).to_contain_text("Nothing has happened since.")
    expect(rows).to_have_count(len(events))
    expect(bar(page).get_by_role("button", name="Play")).to_be_visible()
    assert position_of(page) >= events[0]["seq"]


def test_playing_reads_at_most_four_times_a_second(page: Page, dev: Dev) -> None:
    done(dev, "echo slowly")
    page.clock.install()
    page.goto(f"{dev.url}/hosts?at={newest(dev) - 3}")
    page.locator("tbody tr").first.wait_for()
    position_of(page)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/api/v1/" in request.url else None)
    page.clock.pause_at(page.evaluate("() => Date.now()") + 1)
    bar(page).get_by_role("button", name="Play").click()
    ended = bar(page).get_by_role("status").filter(has_text="Nothing has happened since.")
    for tenths in range(1, 1000):
        page.clock.run_for(100)
        assert len(asked) <= 2 + tenths * 100 / 250  # the first two at once: an event, and the hosts as of it
        if ended.is_visible():
            break

    assert len(asked) == 3 * 2 + 1


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("/hosts", ["Add host"]),
        ("/hosts/sim-0001", []),
        ("/run?host=sim-0001&command=uptime", ["Run"]),
        ("/tasks/{running}", ["Cancel task"]),
        ("/tasks/{failed}", ["Retry…"]),
        ("/audit", []),
        ("/access?tab=people", ["Add a person", "Disable"]),
        ("/access?tab=rules", ["New rule"]),
        ("/access?tab=tokens", ["New token"]),
        ("/access?tab=account", ["Change"]),
        ("/system", ["Stop everything"]),
    ],
)
def test_no_page_changes_anything_while_it_shows_the_past(page: Page, dev: Dev, path: str, names: list[str]) -> None:
    running = dev.api.run({"host": "sim-0002"}, "sleep 20") if "running" in path else ""
    failed = dev.api.run({"host": "sim-0001"}, "false") if "failed" in path else ""
    if failed:
        dev.api.finished(failed)
    if running:
        wait_until(
            lambda: dev.api.executions(running)["sim-0002"]["state"] == "running", timeout_s=20, what="it is running"
        )
    writes: list[str] = []
    page.on("request", lambda request: writes.append(request.url) if request.method != "GET" else None)
    address = path.format(running=running, failed=failed)
    page.goto(f"{dev.url}{address}{'&' if '?' in address else '?'}at={newest(dev)}")
    position_of(page)
    for name in names:
        button = page.get_by_role("main").get_by_role("button", name=name, exact=True).first
        expect(button).to_be_disabled()
        expect(button).to_have_accessible_description(re.compile(ONLY_NOW))
    # As they are now: what filters the list takes others away.
    for button in page.get_by_role("main").locator("button:not(.plain)").filter(visible=True).element_handles():
        button.dispatch_event("click")
        expect(page.get_by_role("dialog")).to_have_count(0)
    assert writes == []
    expect(page.locator("#pill")).to_be_hidden()
    if running:
        dev.api.post(f"/tasks/{running}/cancel")


def test_nothing_is_followed_in_the_past(visitor: Visitor, page: Page, dev: Dev) -> None:
    page.close()
    page = visitor.page()
    done(dev, "echo still")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/stream?" in request.url else None)
    page.goto(f"{dev.url}/tasks?at={newest(dev)}")
    position_of(page)
    done(dev, "echo later")
    expect(page.get_by_role("row").filter(has_text="echo still").first).to_be_visible()
    expect(page.get_by_role("row").filter(has_text="echo later")).to_have_count(0)
    assert asked == []


def test_who_may_not_read_events_steps_by_position(visitor: Visitor, dev: Dev) -> None:
    page = visitor.page()
    rule = {"effect": "allow", "actions": ["hosts.read"], "hosts": {"groups": ["db"]}}
    newcomer(page, dev, "hana", "member", rule=rule)
    at = newest(dev) - 2
    page.goto(f"{dev.url}/hosts?at={at}")
    page.locator("tbody tr").first.wait_for()
    assert position_of(page) == at
    bar(page).get_by_role("button", name="One event back").click()
    expect(page).to_have_url(re.compile(f"at={at - 1}$"))
    page.keyboard.press("]")
    expect(page).to_have_url(re.compile(f"at={at}$"))
    position_of(page)
    forgiven(visitor, "401")


def test_what_was_not_there_yet_is_not_called_unknown_alone(visitor: Visitor, page: Page, dev: Dev) -> None:
    before = newest(dev)
    task_id = done(dev, "echo not-yet")
    page.goto(f"{dev.url}/tasks/{task_id}?at={before}")
    words = "There is no such task. It may not have been there then."
    expect(page.get_by_role("main").get_by_role("alert")).to_contain_text(words)
    forgiven(visitor, "404")


def test_the_bar_fits_a_telephone_and_speaks_chinese(browser: Browser, dev: Dev) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 740}, locale="zh-CN", color_scheme="dark")
    visitor = Visitor(context)
    visitor.enter(dev)
    page = visitor.page()
    page.goto(f"{dev.url}/tasks?at={newest(dev)}")
    past = page.get_by_role("region", name="过去")
    expect(past.get_by_role("status")).to_contain_text("只读")
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 360
    for name in ("后退一个事件", "播放", "前进一个事件", "回到现在"):
        expect(past.get_by_role("button", name=name)).to_be_in_viewport(ratio=1)
    assert visitor.complaints == []
    context.close()
