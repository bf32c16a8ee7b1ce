"""One host: how it is and why, how it was, what waits for it, and what an administrator changes about it."""

import itertools
import re
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from playwright.sync_api import Locator, Page, Route, expect

from tests.support.programs import BIN
from tests.support.servers import wait_until
from tests.ui.answers import answer
from tests.ui.conftest import Dev, Visitor
from tests.ui.steps import forgiven, heading, newcomer, register

pytestmark = pytest.mark.browser

HOST = "sim-0001"
NUMBERS = itertools.count(100)
WIDTHS = pytest.mark.parametrize("width", [1280, 360])


@pytest.fixture
def quiet(dev: Dev) -> Iterator[str]:
    """A host of a new name that is registered and never heard from."""
    name = f"quiet-{next(NUMBERS)}"
    register(dev, name, "quiet")
    yield name
    dev.api.http.delete(f"/hosts/{name}")  # others count the hosts


def told(page: Page, **said: object) -> None:
    """The host's page as if the server said this of it, and nothing more came."""

    def changed(route: Route) -> None:
        route.fulfill(json=route.fetch().json() | said)

    page.route(re.compile(rf"/api/v1/hosts/{HOST}$"), changed)
    page.route(f"**/api/v1/hosts/{HOST}?min_seq=*", lambda _: None)
    page.route("**/stream?*", lambda route: route.fulfill(content_type="text/event-stream", body=""))


def section(page: Page, name: str) -> Locator:
    return page.locator("section").filter(has=page.get_by_role("heading", name=name, exact=True))


@WIDTHS
def test_it_is_said_how_it_is_why_and_since_when(page: Page, dev: Dev, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    since = "2026-11-26T07:00:00.000000Z"
    told(page, state="offline", state_cause="no heartbeat for 3 intervals of 5 s", state_since_at=since)
    page.goto(f"{dev.url}/hosts/{HOST}")

    expect(page.get_by_text("Offline", exact=True).first).to_be_visible()
    expect(
        page.get_by_text(re.compile(r"^no heartbeat for 3 intervals of 5 s, since .*\d:\d\d:\d\d.* ago$"))
    ).to_be_visible()
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width


def test_drift_labels_and_a_basic_agent_are_told_in_words(page: Page, dev: Dev) -> None:
    said = {"groups": ["db", "web"], "groups_bound": ["web"], "drift": True, "basic": True, "boot_id": "b00t"}
    told(page, **said, labels={"rack": "r1", "site": "eu"}, key_id="0123456789abcdef")
    page.goto(f"{dev.url}/hosts/{HOST}")

    for words in ("assigned db, web · bound web", "rack=r1, site=eu", "basic: takes no cancel"):
        expect(page.get_by_role("definition").filter(has_text=words)).to_be_visible()
    expect(page.get_by_text("0123456789abcdef")).to_be_hidden()
    page.get_by_text("Boot and key").click()
    expect(page.get_by_role("definition").filter(has_text="b00t")).to_be_visible()
    expect(page.get_by_text("0123456789abcdef")).to_be_visible()


def test_names_and_keys_are_copied_to_the_letter(page: Page, dev: Dev) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto(f"{dev.url}/hosts/{HOST}")
    page.get_by_text("Boot and key").click()
    for name, value in (("hostname", HOST), ("Key", dev.api.get(f"/hosts/{HOST}")["key_id"])):
        page.get_by_role("button", name=f"Copy {name}").click()
        expect(page.get_by_role("button", name=f"Copy {name}")).to_have_text("✓ Copied")

        assert page.evaluate("() => navigator.clipboard.readText()") == value


def test_each_figure_has_its_age(page: Page, dev: Dev) -> None:
    heard = (datetime.now(UTC) - timedelta(minutes=5, seconds=30)).isoformat()
    told(page, cpu_usage=0.25, memory_usage=0.75, disk_usage=0.61, last_heartbeat_at=heard, uptime=7200)
    page.goto(f"{dev.url}/hosts/{HOST}")

    for figure in ("25 %", "75 %", "61 %", "2 h 0 min"):
        expect(section(page, "Now").get_by_role("definition").filter(has_text=f"{figure} · 5 min. ago")).to_be_visible()


@WIDTHS
def test_how_it_was_is_shown_for_a_range_that_is_in_the_address(page: Page, dev: Dev, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(f"{dev.url}/hosts/{HOST}")
    history = section(page, "History")
    expect(history.get_by_role("link", name="1 h")).to_have_attribute("aria-current", "page")
    expect(history.get_by_text(re.compile(r"^Online: \d"))).to_be_visible()
    expect(history.get_by_role("img")).to_have_accessible_name(re.compile(r"^Processor \d+ % to .* over 1 h"))
    with page.expect_request(re.compile(r"/heartbeats\?.*points=300")) as asked:
        history.get_by_role("link", name="24 h").click()

    [since] = re.findall(r"from=([^&]+)", asked.value.url)
    began = datetime.fromisoformat(since.replace("%3A", ":"))
    assert timedelta(hours=23, minutes=59) < datetime.now(UTC) - began < timedelta(hours=24, minutes=5)
    expect(page).to_have_url(re.compile(r"range=24h$"))
    page.reload()
    expect(history.get_by_role("link", name="24 h")).to_have_attribute("aria-current", "page")
    expect(history.get_by_role("img")).to_have_accessible_name(re.compile("over 24 h"))
    page.go_back()
    expect(history.get_by_role("link", name="1 h")).to_have_attribute("aria-current", "page")
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width


def test_a_gap_stays_a_gap(page: Page, dev: Dev) -> None:
    now = datetime.now(UTC)
    ages = (*range(50, 40, -1), *range(10, 0, -1))
    beats = [{"at": (now - timedelta(minutes=m)).isoformat(), "cpu_usage": 0.5, "memory_usage": 0.5} for m in ages]
    beats += [{"at": now.isoformat(), "cpu_usage": 0.5, "memory_usage": 0.5}]
    went = [("host.went_online", 10), ("host.went_offline", 40), ("host.went_online", 90)]
    events = [
        {"seq": 900 - m, "kind": kind, "recorded_at": (now - timedelta(minutes=m)).isoformat(), "hostname": HOST}
        for kind, m in went
    ]
    answer(page, f"hosts/{HOST}/heartbeats", {"items": beats})
    page.route(
        re.compile(r"/api/v1/events\?kind=host&"),
        lambda route: route.fulfill(json={"items": events, "next_cursor": None}),
    )
    page.goto(f"{dev.url}/hosts/{HOST}")

    history = section(page, "History")
    expect(history.get_by_text("Offline: 30 min 0 s")).to_be_visible()
    expect(history.locator("path.cpu")).to_have_attribute("d", re.compile("^M[^M]+M[^M]+$"))


@WIDTHS
def test_what_waits_for_it_stands_first_and_can_be_cancelled(page: Page, dev: Dev, quiet: str, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(f"{dev.url}/hosts/{quiet}")
    heading(page, quiet)
    command = "echo waits"
    dev.api.run({"host": quiet}, command)
    tasks = section(page, "Tasks")
    card = tasks.get_by_role("listitem").filter(has_text=command)
    expect(card).to_contain_text("Queued")
    expect(card).to_contain_text(re.compile(r"delivered when it returns, until \d+:\d\d"))
    expect(tasks.get_by_role("row").filter(has_text=command)).to_have_count(0)
    card.get_by_role("button", name="Cancel task").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text(command)
    dialog.get_by_role("button", name="Cancel task").click()
    page.get_by_role("heading", level=1).hover()

    expect(tasks.get_by_role("row").filter(has_text=command)).to_contain_text("Cancelled")
    expect(card).to_have_count(0)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width


def test_of_a_task_on_several_hosts_only_its_own_part_counts(page: Page, dev: Dev, quiet: str) -> None:
    task_id = dev.api.run({"hosts": [HOST, quiet]}, "echo both")
    wait_until(lambda: dev.api.executions(task_id)[HOST]["state"] == "succeeded", timeout_s=20, what=f"{HOST} is done")
    page.goto(f"{dev.url}/hosts/{HOST}")
    expect(section(page, "Tasks").get_by_role("row").filter(has_text="echo both")).to_contain_text("1 ok · 1 waiting")
    page.goto(f"{dev.url}/hosts/{quiet}")

    card = section(page, "Tasks").get_by_role("listitem").filter(has_text="echo both")
    expect(card).to_contain_text("delivered when it returns")
    dev.api.post(f"/tasks/{task_id}/cancel")


def test_its_events_have_the_time_since_the_one_before(page: Page, dev: Dev) -> None:
    dev.api.finished(dev.api.run({"host": HOST}, "echo steps"))
    page.goto(f"{dev.url}/hosts/{HOST}")
    rows = section(page, "Events").get_by_role("row")

    expect(rows.filter(has_text="execution.finished").first).to_contain_text(re.compile(r"\+\d+\.\d+ s"))
    expect(rows.filter(has_text="host.registered")).not_to_contain_text("+")
    expect(rows.filter(has_text="sim-0002")).to_have_count(0)


@WIDTHS
def test_groups_and_labels_are_changed_and_put_back(page: Page, dev: Dev, quiet: str, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(f"{dev.url}/hosts/{quiet}")
    page.get_by_role("button", name="Groups and labels…").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_label(re.compile("^Groups"))).to_have_value("quiet")
    dialog.get_by_label(re.compile("^Groups")).fill("quiet, attic")
    dialog.get_by_label(re.compile("^Labels")).fill("rack=r7\nowner=a=b")
    dialog.get_by_role("button", name="Save").click()

    expect(page.get_by_role("definition").filter(has_text="attic, quiet")).to_be_visible()
    expect(page.get_by_role("definition").filter(has_text="owner=a=b, rack=r7")).to_be_visible()
    toast = page.get_by_role("status").filter(has_text=f"{quiet} was changed")
    toast.get_by_role("button", name="Undo").click()
    expect(page.get_by_role("definition").filter(has_text="attic")).to_have_count(0)
    wait_until(lambda: dev.api.get(f"/hosts/{quiet}")["labels"] == {}, timeout_s=10, what="its labels are gone")


def test_a_change_is_told_as_a_line_of_cpctl_that_does_the_same(page: Page, dev: Dev, quiet: str) -> None:
    dev.api.http.patch(f"/hosts/{quiet}", json={"labels": {"rack": "r7", "owner": "me"}})
    wait_until(lambda: dev.api.get(f"/hosts/{quiet}")["labels"], timeout_s=10, what="it has labels")
    page.goto(f"{dev.url}/hosts/{quiet}")
    page.get_by_role("button", name="Groups and labels…").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label(re.compile("^Groups")).fill("attic cellar")
    dialog.get_by_label(re.compile("^Labels")).fill("rack=r7\nowner=it's me")
    line = dialog.locator("pre").inner_text()
    dialog.get_by_role("button", name="Cancel").click()
    shell = {"PATH": f"{BIN}:/bin:/usr/bin", "HOME": "/nonexistent", "CONTROL_PLANE_STATE_DIR": str(dev.state)}
    run = partial(subprocess.run, env=shell, check=True, capture_output=True, timeout=30)
    run(["sh", "-c", line])

    host = dev.api.get(f"/hosts/{quiet}")
    assert (host["groups"], host["labels"]) == (["attic", "cellar"], {"rack": "r7", "owner": "it's me"})
    for name in ("Revoke…", "Retire…"):
        page.get_by_role("button", name=name).click()
        expect(dialog.locator("pre")).to_have_text(f"cpctl hosts {name[:6].lower()} {quiet}")
        dialog.get_by_role("button", name="Cancel").click()
    line = str(page.get_by_role("button", name="Maintenance on").get_attribute("title"))
    run(["sh", "-c", line])
    expect(page.get_by_role("button", name="Maintenance off")).to_be_visible()


def test_what_is_refused_of_a_change_stays_to_be_mended(visitor: Visitor, page: Page, dev: Dev, quiet: str) -> None:
    page.goto(f"{dev.url}/hosts/{quiet}")
    page.get_by_role("button", name="Groups and labels…").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label(re.compile("^Groups")).fill("Not_A_Group!")
    dialog.get_by_role("button", name="Save").click()
    expect(dialog.get_by_role("alert")).to_contain_text("groups")
    dialog.get_by_role("button", name="Cancel").click()

    assert dev.api.get(f"/hosts/{quiet}")["groups"] == ["quiet"]
    forgiven(visitor, "422")


def test_maintenance_is_begun_undone_and_ended(page: Page, dev: Dev, quiet: str) -> None:
    page.goto(f"{dev.url}/hosts/{quiet}")
    mark = page.get_by_role("main").get_by_text("Maintenance", exact=True)
    page.get_by_role("button", name="Maintenance on").click()
    expect(mark).to_be_visible()
    page.get_by_role("status").filter(has_text="is in maintenance").get_by_role("button", name="Undo").click()
    expect(mark).to_have_count(0)
    page.get_by_role("button", name="Maintenance on").click()
    page.get_by_role("button", name="Maintenance off").click()

    expect(mark).to_have_count(0)
    wait_until(lambda: not dev.api.get(f"/hosts/{quiet}")["maintenance"], timeout_s=10, what="maintenance has ended")


@WIDTHS
def test_whoever_ends_a_host_types_its_name_and_then_it_can_only_be_read(
    page: Page, dev: Dev, quiet: str, width: int
) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(f"{dev.url}/hosts/{quiet}")
    page.get_by_role("button", name="Revoke…").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("this cannot be undone")
    revoke = dialog.get_by_role("button", name="Revoke…")
    expect(revoke).to_be_disabled()
    dialog.get_by_label(re.compile("^Type the hostname")).fill("quiet-x")
    expect(revoke).to_be_disabled()
    dialog.get_by_label(re.compile("^Type the hostname")).fill(quiet)
    dialog.get_by_label("Reason").fill("lost on a train")
    revoke.click()
    expect(page.get_by_text(re.compile("^lost on a train, since"))).to_be_visible()
    expect(page.get_by_role("link", name="Run…")).to_be_hidden()

    page.get_by_role("button", name="Retire…").click()
    dialog.get_by_label(re.compile("^Type the hostname")).fill(quiet)
    dialog.get_by_role("button", name="Retire…").click()
    expect(page.get_by_text("This host is retired: it can only be read, and its history stays.")).to_be_visible()
    for name in ("Groups and labels…", "Maintenance on", "Revoke…", "Retire…"):
        expect(page.get_by_role("button", name=name)).to_be_hidden()
    expect(section(page, "Events").get_by_role("row").filter(has_text="host.revoked")).to_be_visible()
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width


def test_whoever_may_not_change_it_is_told_what_it_takes(visitor: Visitor, dev: Dev) -> None:
    page = visitor.page()
    newcomer(page, dev, "hugo", "viewer")
    page.goto(f"{dev.url}/hosts/{HOST}")

    for name, permission in (("Groups and labels…", "hosts.edit"), ("Revoke…", "hosts.revoke")):
        button = page.get_by_role("button", name=name)
        expect(button).to_have_attribute("aria-disabled", "true")
        expect(button).to_have_accessible_description(f"Needs the permission {permission}")
    forgiven(visitor, "401")


def test_a_host_that_was_never_heard_from_says_what_to_do(page: Page, dev: Dev, quiet: str) -> None:
    page.goto(f"{dev.url}/hosts/{quiet}")

    expect(page.get_by_text("Registered, no heartbeat yet", exact=True)).to_be_visible()
    expect(page.locator("pre").filter(has_text="control-plane-agent run")).to_be_visible()
    expect(page.get_by_role("definition").filter(has_text="never heard from")).to_be_visible()


def test_a_mistyped_name_leads_to_the_nearest_ones(visitor: Visitor, page: Page, dev: Dev) -> None:
    page.goto(f"{dev.url}/hosts/sim-001")
    missing = page.get_by_role("alert").filter(has_text="There is no such host.")
    expect(missing.get_by_role("link").first).to_have_text(HOST)
    missing.get_by_role("link", name="sim-0002").click()

    heading(page, "sim-0002")
    expect(page.get_by_role("alert")).to_have_count(0)
    expect(section(page, "Now").get_by_role("definition").filter(has_text="%").first).to_be_visible()
    forgiven(visitor, "404")


def test_what_changes_between_the_reads_of_a_page_is_not_missed(page: Page, dev: Dev, quiet: str) -> None:
    held: list[Route] = []
    before = dev.api.get(f"/hosts/{quiet}")
    page.route(f"**/api/v1/hosts/{quiet}", lambda route: held.append(route), times=1)
    page.goto(f"{dev.url}/tasks")  # whose stream tells of no host
    expect(page.get_by_role("table")).to_be_visible()
    with page.expect_request(f"**/api/v1/hosts/{quiet}"):
        page.evaluate(
            "(href) => document.body.appendChild(Object.assign(document.createElement('a'), { href })).click()",
            f"/hosts/{quiet}",
        )
    dev.api.http.patch(f"/hosts/{quiet}", json={"groups": ["attic"]}).raise_for_status()
    dev.api.run({"host": "sim-0001"}, "sleep 1")
    expect(page.locator("#running")).not_to_be_empty()  # so far the stream has come
    held.pop().fulfill(json=before)

    expect(page.get_by_role("definition").filter(has_text="attic")).to_be_visible()


def test_of_the_past_all_is_as_it_was_and_nothing_is_asked_again(page: Page, dev: Dev, quiet: str) -> None:
    before = dev.api.http.patch(f"/hosts/{quiet}", json={"labels": {"rack": "r1"}}).json()["seq"]
    dev.api.http.patch(f"/hosts/{quiet}", json={"groups": ["attic"]}).raise_for_status()
    page.clock.install()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/api/v1/" in request.url else None)
    page.goto(f"{dev.url}/hosts/{quiet}?at={before}&range=24h")
    expect(page.get_by_role("definition").filter(has_text="quiet")).to_be_visible()
    expect(section(page, "Events").get_by_role("row").filter(has_text="host.registered").first).to_be_visible()
    expect(section(page, "History").get_by_text(re.compile("^Pending: "))).to_be_visible()
    expect(section(page, "Events").get_by_role("row").filter(has_text="host.groups_changed")).to_have_count(0)
    expect(page.get_by_role("button", name="Retire…")).to_have_attribute("aria-disabled", "true")

    assert all(f"at={before}" in url for url in asked if re.search("heartbeats|/events|/tasks", url))
    asked.clear()
    page.clock.run_for(90_000)
    assert asked == []


def test_who_may_see_no_tasks_asks_for_none_and_sees_the_host_live(page: Page, dev: Dev, quiet: str) -> None:
    me = dev.api.get("/auth/me") | {"permissions": ["hosts.read"]}
    page.route(re.compile("/auth/me"), lambda route: route.fulfill(json=route.fetch().json() | me))
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{dev.url}/hosts/{quiet}")
    expect(section(page, "Tasks").get_by_text("Needs the permission tasks.read")).to_be_visible()
    expect(page.locator("#pill")).to_have_text("Live")
    assert dev.api.http.patch(f"/hosts/{quiet}", json={"groups": ["moved"]}).is_success
    expect(page.get_by_role("definition").filter(has_text="moved")).to_be_visible()

    assert [url for url in asked if re.search(r"/api/v1/(tasks|events)|host%3A", url)] == []
